"""Where the operating points of a trained network lie: few, and spread evenly over what it can cost.

A method offers **lines** of settings (`PlacesSettings.lines`), along which its cost rises. Of a given number of points

* the first is the default setting,
* at least half are on lines of the network's own decisions, unless these have fewer different ones; the rest are on
  lines that cut a run short,
* each further one goes where the largest gap between neighbouring costs is, on a logarithmic scale, of all lines of its
  kind,

and a line's points are at even ratios of cost from its cheapest setting to its most expensive one. Costs are measured
on the videos that are given, those of validation; the quality of an answer is never looked at. Many similar settings
would not make a front better, only luckier: the best of them on validation is the one whose errors happen to be few
there.

A method whose own decisions are all constant decides nothing: it is measured at its default setting alone.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretovid.trainables.cost import CostTable, deterministic_eval
from paretovid.trainables.method import Method, PlacesSettings
from paretovid.trainables.outcome import Line, Outcome, Setting

Costs = Callable[[Sequence[Setting]], list[NDArray[np.float64]]]
"""What each of N videos costs at each of these settings, `[N]` in GFLOPs, above 0."""

_ROUNDS = 6
"""Of looking for settings of a given cost: by turns where it is expected and halfway between two that are known."""
_NEAR = 0.25
"""A setting is where it should be if its cost is off by this share of the distance to the next one."""
_LEAST = 0.25
"""Neighbours on a line are at least so far apart, as a share of the distance that all points would have if they were on
one line: what is closer would only be one more draw of the same point."""
_ALIKE = 0.01
"""Settings of two lines are the same if their costs of a video differ by less on average, relative to the mean cost."""
_SAME = 1e-9
"""Costs that differ by less, as a share, differ by rounding."""


Answers = Callable[[Sequence[Setting]], Iterable[Sequence[tuple[Setting, Outcome]]]]
"""What a method answers at each of these settings, about a batch of videos after the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Which settings are measured."""

    settings: tuple[Setting, ...]
    """The default one first, each once."""
    warnings: tuple[str, ...] = ()


def place_settings(
    method: PlacesSettings, default: Setting, answers: Answers, costs: CostTable, points: int
) -> Placement:
    """At most `points` settings of a trained method, or as many as its configuration lists.

    Arguments:
        default: its default setting.
        answers: about the validation videos.
    """
    assert isinstance(method, Method)
    parts: dict[str, list[Tensor]] = {}
    for batch in answers(method.probes()):
        with deterministic_eval(method):
            for setting, outcome in batch:
                for name, values in method.evidence(outcome, setting).items():
                    parts.setdefault(name, []).append(values.cpu())
    evidence = {name: torch.cat(values) for name, values in parts.items()}

    def measured(settings: Sequence[Setting]) -> list[NDArray[np.float64]]:
        totals: dict[str, list[Tensor]] = {}
        for batch in answers(settings):
            for setting, outcome in batch:
                totals.setdefault(_key(setting), []).append(costs.gflops(outcome.calls))
        return [torch.cat(totals[_key(setting)]).cpu().numpy() for setting in settings]

    return placed(default, method.lines(evidence), measured, points)


def placed(default: Setting, lines: Sequence[Line], costs: Costs, points: int) -> Placement:
    """At most `points` settings of these lines; those that a configuration lists are all among them.

    Arguments:
        default: the default setting.
    """
    listed = [setting for line in lines if line.is_listed for setting in line.settings]
    taken = _distinct([default, *listed])
    left = max(0, points - len(taken))
    own = [line for line in lines if not line.cuts_short and not line.is_listed]
    constant = [line for line in own if len(line.settings) < 2]
    warnings = (_constant(constant),) if left and constant else ()
    if not left or (own and len(constant) == len(own)):
        return Placement(settings=tuple(taken), warnings=warnings)
    known = _Known(costs)
    open_walks = [_Walk(line, known, default) for line in lines if line.settings and not line.is_listed]
    _share_range(open_walks, points)
    decisions, cuts = ([w for w in open_walks if w.line.cuts_short is cut] for cut in (False, True))
    _fill(decisions, min(left, max(0, math.ceil(points / 2) - 1)) if cuts else left, taken)
    taken += [setting for walk in decisions for setting in walk.chosen()]
    _fill(cuts, left - _count(decisions), taken)
    if _count(open_walks) < left:  # what cuts could not use
        taken = [default, *listed, *(setting for walk in cuts for setting in walk.chosen())]
        _fill(decisions, left - _count(cuts), taken)
    chosen = [setting for walk in open_walks for setting in walk.chosen()]
    return Placement(settings=tuple(_distinct([default, *listed, *chosen])), warnings=warnings)


def _share_range(walks: Sequence[_Walk], points: int) -> None:
    """Tells every line how far neighbours are apart, and those that cut a run short what the cheapest of the network's
    own decisions costs: for less, a video is only read in part."""
    if not walks:
        return
    low = min((walk.low for walk in walks if not walk.line.cuts_short), default=-math.inf)
    for walk in walks:
        if walk.line.cuts_short and walk.high > low:
            walk.low = max(walk.low, low)
    width = max(walk.high for walk in walks) - min(walk.low for walk in walks)
    for walk in walks:
        walk.least = max(_LEAST * width / points, _SAME)


def _constant(lines: Sequence[Line]) -> str:
    return (
        f"{', '.join(line.name for line in lines)}: the network decides alike at every step of every validation video, "
        "so that no other value makes a difference that could be placed; measured at the default."
    )


def _key(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)


def _distinct(settings: Sequence[Setting]) -> list[Setting]:
    return list({_key(setting): setting for setting in settings}.values())


def _count(walks: Sequence[_Walk]) -> int:
    return sum(len(walk.picked) for walk in walks)


def _fill(walks: Sequence[_Walk], count: int, taken: Sequence[Setting]) -> None:
    """Picks `count` settings of several lines together that are not like those `taken`, or as many as they have."""
    wanted = {id(walk): len(walk.picked) for walk in walks}
    while True:
        while sum(wanted.values()) < count:
            able = [walk for walk in walks if wanted[id(walk)] < walk.most]
            if not able:
                break
            widest = max(able, key=lambda walk: walk.gap(wanted[id(walk)]))
            wanted[id(widest)] += 1
        before = list(taken)
        for walk in walks:
            walk.pick(wanted[id(walk)], before)
            before += walk.chosen()
        short = [walk for walk in walks if len(walk.picked) < wanted[id(walk)]]
        if not short:
            return
        for walk in short:  # it has fewer different costs than settings
            walk.most = wanted[id(walk)] = len(walk.picked)


@final
class _Known:
    """Costs that have been measured, each once."""

    def __init__(self, costs: Costs) -> None:
        self._measure = costs
        self._costs: dict[str, NDArray[np.float64]] = {}

    def logs(self, settings: Sequence[Setting]) -> list[float]:
        """Logarithms of their mean costs."""
        new = [each for each in _distinct(settings) if _key(each) not in self._costs]
        if new:
            self._costs |= dict(zip(map(_key, new), self._measure(new), strict=True))
        return [math.log(self._costs[_key(each)].mean()) for each in settings]

    def are_alike(self, first: Setting, second: Setting) -> bool:
        """Whether two settings that were measured decide alike: hardly any video costs more at one of them."""
        if _key(first) not in self._costs or _key(second) not in self._costs:
            return False
        one, other = self._costs[_key(first)], self._costs[_key(second)]
        return bool(np.abs(one - other).mean() < _ALIKE * one.mean())


@final
class _Walk:
    """One line, as far as its costs are known, and what has been picked of it."""

    def __init__(self, line: Line, known: _Known, default: Setting) -> None:
        self.line = line
        self._known = known
        self._logs: dict[int, float] = {}
        self.most = 0
        self.least = _SAME
        self.picked: list[int] = []
        (self._default,) = known.logs([default])
        self._default_key = _key(default)
        self._measure([0, len(line.settings) - 1])
        self.low, self.high = min(self._logs.values()), max(self._logs.values())
        self.most = len(line.settings) - any(_key(each) == self._default_key for each in line.settings)

    def chosen(self) -> list[Setting]:
        """In order of cost."""
        return [self.line.settings[place] for place in sorted(self.picked, key=lambda p: (self._logs[p], p))]

    def gap(self, count: int) -> float:
        """The largest gap between neighbouring costs if `count` of its settings were picked, and the default one with
        them, on a logarithmic scale."""
        if count == 0:
            # Before there is any of it, a line is as wide as it is with its ends.
            return max(self.high, self._default) - min(self.low, self._default) + (self.high - self.low)
        costs = sorted([*self.targets(count), min(max(self._default, self.low), self.high)])
        inner = max((after - before for before, after in itertools.pairwise(costs)), default=0.0)
        return max(inner, costs[0] - self.low, self.high - costs[-1])

    def targets(self, count: int) -> list[float]:
        """Logarithms of the costs that `count` settings should have: even from end to end, the default one among them
        counted already."""
        middle = self._default
        if middle <= self.low or middle >= self.high:
            # Its neighbour is the default setting, beyond one end.
            return [float(each) for each in self._outside(middle, count)]
        below, above = 0, 0
        for _ in range(count):
            if (middle - self.low) / (below + 1e-9) >= (self.high - middle) / (above + 1e-9):
                below += 1
            else:
                above += 1
        left = [self.low + (middle - self.low) * i / below for i in range(below)]
        return [*left, *(middle + (self.high - middle) * (i + 1) / above for i in range(above))]

    def _outside(self, middle: float, count: int) -> list[float]:
        width = self.high - self.low
        if count == 1:
            return [self.low if middle >= self.high else self.high]
        if middle == self.high:
            return [self.low + width * i / count for i in range(count)]
        if middle == self.low:
            return [self.low + width * (i + 1) / count for i in range(count)]
        return [float(each) for each in np.linspace(self.low, self.high, count)]

    def pick(self, count: int, taken: Sequence[Setting]) -> None:
        """Picks `count` settings, fewer if there are not so many of different cost that are not like those `taken`."""
        targets = self.targets(count) if count else []
        near = _NEAR * max((self.high - self.low) / max(1, count), _SAME)
        for turn in range(_ROUNDS):
            off = [each for each in targets if self._distance(each) > near]
            self._measure([self._expected(each, is_halfway=turn % 2 == 1) for each in off])
        self.picked = self._nearest(targets, taken)

    def _measure(self, places: Sequence[int]) -> None:
        new = sorted({place for place in places if place not in self._logs})
        logs = self._known.logs([self.line.settings[place] for place in new])
        self._logs |= dict(zip(new, logs, strict=True))

    def _distance(self, target: float) -> float:
        return min(abs(log - target) for log in self._logs.values())

    def _expected(self, target: float, *, is_halfway: bool) -> int:
        """The place between the measured ones around this cost: where it is expected, or halfway."""
        places = sorted(self._logs)
        logs = np.maximum.accumulate([self._logs[place] for place in places])
        if not is_halfway:
            return round(float(np.interp(target, logs, places)))
        after = int(np.clip(np.searchsorted(logs, target), 1, len(places) - 1))
        return (places[after - 1] + places[after]) // 2

    def _nearest(self, targets: Sequence[float], taken: Sequence[Setting]) -> list[int]:
        """To each target the place of nearest cost; no cost twice, and none like a setting that is taken."""
        settings = self.line.settings
        free = {
            place: log
            for place, log in self._logs.items()
            if abs(log - self._default) >= self.least
            and not any(self._known.are_alike(settings[place], each) for each in taken)
        }
        picked: list[int] = []
        for target in targets:
            if not free:
                break
            place = min(free, key=lambda p: (abs(free[p] - target), p))
            picked.append(place)
            cost = free[place]
            free = {p: log for p, log in free.items() if abs(log - cost) >= self.least}
        return picked
