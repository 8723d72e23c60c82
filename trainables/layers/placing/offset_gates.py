"""Gates of a stack of levels whose "use" logit an inference knob shifts, and lines of such offsets.

B videos, T steps, L levels; level l >= 1 has a gate (`layers/gated_stack.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.layers.gated_stack import Decide
from paretovid.trainables.layers.placing.lines import offsets
from paretovid.trainables.outcome import InferenceKnob, Line, Outcome, Setting

_TOGETHER = 1025
"""Offsets of each gate on the line on which all move."""


@final
class OffsetGates:
    """What the gates of one run decide, and a note of how far each decision was from the other one."""

    def __init__(self) -> None:
        self._margins: dict[int, dict[int, Tensor]] = {}

    def decide(self, level: int, gate: nn.Module, offset: float) -> Decide:
        """The larger logit decides, after the offset has been added to that of using the level."""
        noted = self._margins.setdefault(level, {})

        def decide(step: int, seen: Tensor) -> Tensor:
            logits = gate(seen)
            noted[step] = logits[:, 0] - logits[:, 1]
            wants: Tensor = logits[:, 1] + offset > logits[:, 0]
            return wants

        return decide

    def noted(self, outcome: Outcome) -> Outcome:
        """The run's outcome with `margin/LEVEL [B, T]` in its trace: the logit of skipping minus that of using, NaN
        where the gate was not asked."""
        ran = outcome.trace["ran"]
        margins = {}
        for level, steps in self._margins.items():
            margin = torch.full(ran.shape[:2], torch.nan, device=ran.device)
            for step, values in steps.items():
                margin[:, step] = values
            margins[f"margin/{level}"] = margin.masked_fill(~ran[..., level - 1], torch.nan)
        return dataclasses.replace(outcome, trace=outcome.trace | margins)


def margin_evidence(outcome: Outcome) -> dict[str, Tensor]:
    """What `offset_lines` needs of a run: `[N]` by name, a value for every time that a gate was asked."""
    found = {name: values for name, values in outcome.trace.items() if name.startswith("margin/")}
    return {name: values[~values.isnan()] for name, values in found.items()}


def offset_lines(
    evidence: Mapping[str, Tensor], default: Setting, knobs: Sequence[InferenceKnob]
) -> list[Line]:
    """Offsets of all gates together, each at the same share of its logits, then of each alone; a line has no settings
    where logits are constant.

    Arguments:
        evidence: `[N]` by name, `margin_evidence` of runs, those of level l under `margin/l`.
        knobs: the offset of each gated level.
    """
    values = [
        offsets(evidence.get(f"margin/{level}", torch.zeros(0)), knob)
        for level, knob in enumerate(knobs, start=1)
    ]
    alone = [
        Line(name=knob.name, settings=tuple({**default, knob.name: offset} for offset in found))
        for knob, found in zip(knobs, values, strict=True)
    ]
    if len(knobs) == 1:
        return alone
    rows = [_spread(found) for found in values]
    together: list[Setting] = []
    for each in zip(*rows, strict=True):
        setting = {**default, **{knob.name: v for knob, v in zip(knobs, each, strict=True)}}
        together += [] if setting in together else [setting]
    name = ", ".join(knob.name for knob in knobs)
    return [Line(name=name, settings=tuple(together)), *alone]


def _spread(found: Sequence[float], count: int = _TOGETHER) -> list[float]:
    """`count` of the values, evenly by place, first and last included; zeros if there are none."""
    if not found:
        return [0.0] * count
    return [found[round(i * (len(found) - 1) / (count - 1))] for i in range(count)]
