"""Values of inference knobs that may be worth measuring, in order of cost.

Where they lie is read off what the network itself said of the validation videos: between two neighbouring quantiles of
a gate's logits few decisions change, and beyond the last ones none. Which of them are measured is decided by what they
cost (`evaluation/placement.py`), so that the lists here may be long: nothing in them is run for its own sake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretovid.trainables.layers.caps import CHEAP, STOP, capped
from paretovid.trainables.outcome import InferenceKnob, Line, Outcome, Setting

_QUANTILES = 128
_COUNTS = 48
"""Values of a cap, and of a number of reads."""
_BEYOND = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
"""How far behind the outermost logits offsets still go, in units of the logits' range. What a network sees depends on
what it decided before, so that at another offset its logits may leave the range that they have at the default one."""
_BETWEEN = 8
"""Steps from one quantile of logits to the next: a network that looks closer because it has looked closer may go from
hardly ever to nearly always between two of them."""
_CONSTANT = 1e-6
"""Logits that differ by less, relative to the largest, differ by rounding."""


def quantiles(values: Tensor) -> list[float]:
    """Different values that divide `values` (`[...]`, what is not finite left out), rising, more of them at both
    ends: a gate that opens at one step in a hundred is as interesting as one that opens at every second.

    Each is the shortest number that lies between its neighbours, as users read and type them. None if all of `values`
    are the same.
    """
    known = values[torch.isfinite(values)].double().cpu().numpy()
    if len(known) == 0 or np.ptp(known) <= _CONSTANT * max(1.0, float(np.abs(known).max())):
        return []
    shares = (1 - np.cos(np.linspace(0, np.pi, _QUANTILES + 1))) / 2
    return _readable(np.unique(np.quantile(known, shares)))


def _readable(found: NDArray[np.float64]) -> list[float]:
    """Rising numbers, each as short as its distance to its neighbours allows."""
    middles = (found[1:] + found[:-1]) / 2
    lows = [2 * found[0] - middles[0], *middles]
    highs = [*middles, 2 * found[-1] - middles[-1]]
    return [_shortest(low, value, high) for low, value, high in zip(lows, found, highs, strict=True)]


def _shortest(low: float, value: float, high: float) -> float:
    """The number of fewest digits strictly between `low` and `high`, near `value`, which is between them."""
    for digits in range(-6, 17):
        if low < (number := round(float(value), digits)) < high:
            return number
    return float(value)


def within_range(values: Sequence[float], knob: InferenceKnob) -> list[float]:
    """The values that a knob may have, each once, in their order; those beyond it become its ends."""
    return list(dict.fromkeys(min(max(value, knob.low), knob.high) for value in values))


def offsets(margins: Tensor, knob: InferenceKnob) -> list[float]:
    """Offsets of a gate, from those at which it opens nowhere to those at which it opens everywhere.

    Arguments:
        margins: `[...]`, by how much its logit of skipping is above that of using; NaN where it was not asked.

    None if the logits are constant.
    """
    inside = quantiles(margins)
    if not inside:
        return []
    low, high = inside[0], inside[-1]
    width = high - low
    below = [low - width * share for share in reversed(_BEYOND)]
    above = [high + width * share for share in _BEYOND]
    known = np.array([*below, *inside, *above])
    places = np.linspace(0, len(known) - 1, (len(known) - 1) * _BETWEEN + 1)
    return within_range(_readable(np.interp(places, np.arange(len(known)), known)), knob)


def whole_counts(most: int) -> list[int]:
    """Whole numbers from 1 to `most`, each or, of many, at even ratios."""
    if most < 1:
        return []
    return sorted({round(value) for value in np.geomspace(1, most, min(most, _COUNTS))})


# Caps


def cap_evidence(outcome: Outcome) -> dict[str, Tensor]:
    """What `cap_lines` needs of a run without a cap that recorded its reads (`caps.record`): `[B]` or `[1]` by name."""
    spent = outcome.trace["cap/spent"]
    return {
        "cap/spent": spent.amax(dim=1),
        "cap/cheapest": outcome.trace["cap/cheapest"].reshape(1),
        "cap/step": outcome.trace["cap/step"].reshape(1),
    }


def cap_lines(
    evidence: Mapping[str, Tensor],
    setting: Setting,
    *,
    rules: Sequence[str] = (STOP,),
    listed: Sequence[float] | None,
) -> list[Line]:
    """Caps on a setting, a line for each rule; none if nothing is to be capped.

    Arguments:
        evidence: `[N]` by name, `cap_evidence` of runs at this setting.
        listed: caps in steps that the configuration lists; None: between the cheapest answer and where nobody is
            refused.
    """
    step, cheapest = (float(evidence[f"cap/{name}"].max()) / 1e9 for name in ("step", "cheapest"))
    if listed is None:
        most = float(evidence["cap/spent"].max()) / 1e9
        # Rounded, as these are the values that users read and type; a cap at the most that is spent refuses nobody.
        raw = np.geomspace(cheapest, max(most, cheapest), _COUNTS)
        limits = [limit for limit in (float(f"{value:.3g}") for value in raw) if limit < most]
    else:
        limits = [float(f"{cap * step:.3g}") for cap in listed]
    limits = [limit for limit in dict.fromkeys(limits) if limit >= cheapest]
    return [
        Line(
            name=f"max_gflops, cap_rule={rule}",
            settings=tuple({**capped(setting, limit), "cap_rule": rule} for limit in limits),
            cuts_short=True,
            is_listed=listed is not None,
        )
        for rule in rules
        if limits
    ]


STOP_AND_CHEAP = (STOP, CHEAP)


def is_cut(setting: Setting) -> bool:
    """Whether a setting's cap is one that stops, so that a run without it answers it."""
    return bool(setting.get("max_gflops")) and setting.get("cap_rule", STOP) == STOP
