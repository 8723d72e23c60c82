"""What a trial's curve is worth to a search: its points on validation, and the hypervolume that they add to all others.

Everything here follows from the curves of the finished trials alone: it is the same after a restart, and in whatever
order the results came in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from paretovid.platform.search.knob_space import Knobs, KnobSpace
from paretovid.trainables.documents import Fields, JsonValue
from paretovid.trainables.evaluation.pareto import Reference, reference_of, thinned
from paretovid.trainables.evaluation.results import OperatingPoint

MOST_POINTS = 24
"""Of a curve that a study keeps, whose attribute stays below 2,000 characters with them."""
CURVE = "curve"
"""Attribute of a trial that holds its curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCurve:
    """What one training reaches over its inference settings."""

    points: tuple[tuple[float, float], ...]
    """Quality (a fraction) and GFLOPs on validation of those that no other of the trial beats, cheapest first; at most
    `MOST_POINTS`, which keep its shape."""
    most_gflops: float
    """GFLOPs of the trial's most expensive point on either split, also of one that is beaten."""

    @classmethod
    def of(cls, points: Sequence[OperatingPoint]) -> TrialCurve:
        """The curve of a trial's operating points, at least one."""
        pairs = [(point.val.quality, point.val.gflops) for point in points]
        return cls.through(pairs, max(point.most_gflops for point in points))

    @classmethod
    def through(cls, pairs: Sequence[tuple[float, float]], most_gflops: float) -> TrialCurve:
        """The curve through pairs of quality and GFLOPs; those that are not finite are left out."""
        known = [pair for pair in pairs if all(map(math.isfinite, pair))]
        kept = thinned([gflops for _, gflops in known], [quality for quality, _ in known], MOST_POINTS)
        most_gflops = (
            most_gflops if math.isfinite(most_gflops) else max((cost for _, cost in known), default=0.0)
        )
        return cls(points=tuple(known[i] for i in kept), most_gflops=most_gflops)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data; `from_json` reads it."""
        return {"points": [list(pair) for pair in self.points], "most_gflops": self.most_gflops}

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue], where: str) -> TrialCurve:
        """What `to_json` wrote. Raises `DataError` that names the field."""
        fields = Fields(data, where, "Start the sweep again under another name=.")
        return cls(points=fields.pairs("points"), most_gflops=fields.number("most_gflops"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A finished trial, as a sampler sees it."""

    knobs: Knobs
    curve: TrialCurve


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What a sampler may know."""

    finished: tuple[Observed, ...]
    """By the trials' numbers."""
    running: tuple[Knobs, ...]
    """Of trials that have no result yet, by their numbers."""
    reference: Reference
    """What hypervolumes are measured from."""

    @property
    def contributions(self) -> list[float]:
        """What each finished trial's curve adds to all others', in GFLOPs times quality."""
        return contributions([each.curve.points for each in self.finished], self.reference)


def history_of(
    trials: Sequence[FrozenTrial], space: KnobSpace, beside: str, max_gflops: float | None
) -> History:
    """The history in a study's trials.

    Arguments:
        trials: all of the study's, also those that hold another point of an earlier trial.
        beside: the attribute of those, whose value is the id of that trial.
        max_gflops: GFLOPs per video above which no point is worth finding.

    A trial without a curve, of a study of an earlier version, has its reported point and those beside it as its curve.
    One that lacks a knob, as its line of the journal is damaged, is left out.
    """
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.params.keys() >= space.distributions.keys():
            source = trial.user_attrs.get(beside)
            found.setdefault(trial.number if source is None else int(source[1:]), []).append(trial)
    finished = tuple(_observed(found[number], space) for number in sorted(found))
    running = tuple(
        space.typed(trial.params)
        for trial in trials
        if trial.state == TrialState.RUNNING and trial.params.keys() >= space.distributions.keys()
    )
    most_gflops = max((each.curve.most_gflops for each in finished), default=0.0)
    corner = reference_of((), most_gflops if max_gflops is None else max_gflops)
    return History(finished=finished, running=running, reference=corner)


def _observed(trials: Sequence[FrozenTrial], space: KnobSpace) -> Observed:
    """Of the trials that hold the points of one."""
    stored = [trial for trial in trials if CURVE in trial.user_attrs]
    if stored:
        where = f"the curve of trial {stored[-1].number} of the study"
        curve = TrialCurve.from_json(stored[-1].user_attrs[CURVE], where)
    else:
        pairs = [(quality, gflops) for quality, gflops in (trial.values for trial in trials)]
        curve = TrialCurve.through(pairs, max(gflops for _, gflops in pairs))
    return Observed(knobs=space.typed(trials[0].params), curve=curve)


def contributions(curves: Sequence[Sequence[tuple[float, float]]], reference: Reference) -> list[float]:
    """The hypervolume that each curve adds to the front of all others, in GFLOPs times quality (a fraction).

    Exact, in one pass over all points, sorted by cost: between two costs the best curve adds what it lies above the
    second best. A curve that others cover adds 0.

    Arguments:
        curves: pairs of quality and GFLOPs.
        reference: points outside of it count nothing.
    """
    points = sorted(
        (gflops, quality, owner)
        for owner, curve in enumerate(curves)
        for quality, gflops in curve
        if gflops < reference.gflops and quality > reference.quality
    )
    added = [0.0] * len(curves)
    best, best_owner, second = reference.quality, -1, reference.quality
    for place, (gflops, quality, owner) in enumerate(points):
        if owner == best_owner:
            best = max(best, quality)
        elif quality > best:
            best, best_owner, second = quality, owner, best
        else:
            second = max(second, quality)
        end = points[place + 1][0] if place + 1 < len(points) else reference.gflops
        added[best_owner] += (end - gflops) * (best - second)
    return added
