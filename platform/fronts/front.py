"""A front and its points, as they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paretovid.platform.fronts.confirmation import Confirmation
from paretovid.platform.records.judgement import StoppedTrial, stopped_text
from paretovid.platform.records.trial import objective_text
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.evaluation.results import DataReference, Metrics, OperatingPoint, TrialResult


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontPoint:
    """One operating point as it is shown."""

    trial: TrialResult
    record: OperatingPoint
    folder: Path
    """The trial's, with its scores and weights."""
    name: str
    """`method` for a point of a method; a baseline's own name, for example `uniform+coarse`."""
    split: str
    """The one that is shown."""
    quality_ci: tuple[float, float] | None
    """95 % interval of the objective over videos."""
    on_front: bool = False
    seeds: int = 1
    """Trials in these sweeps with the same method, knobs and data, each with another seed."""
    confirmation: Confirmation | None = None
    """What trainings with other seeds say of it, if its trial is to be confirmed."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def shown(self) -> Metrics:
        """The figures on the split that is shown."""
        return self.record.on(self.split)

    def to_json(self) -> dict[str, JsonValue]:
        """The point as `front --json` prints it."""
        return {
            "id": self.id,
            "sweep": self.trial.sweep,
            "trial": self.trial.trial,
            "method": self.trial.method,
            "training_knobs": dict(self.trial.training_knobs),
            "inference_knobs": dict(self.record.inference_knobs),
            self.trial.objective: self.shown.quality,
            f"{self.trial.objective}_ci": None if self.quality_ci is None else list(self.quality_ci),
            "top1": self.shown.top1,
            "gflops": self.shown.gflops,
            "gflops_std": self.shown.gflops_std,
            "calls": dict(self.shown.calls),
            "on_front": self.on_front,
            "seeds": self.seeds,
            "confirmation": None if self.confirmation is None else self.confirmation.to_json(),
            "remarks": list(self.trial.warnings),
        }

    def baseline_json(self) -> dict[str, JsonValue]:
        """The same for an entry of `baselines`."""
        return {"name": self.name, **self.to_json(), "deployable": self.trial.deployable}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStops:
    """The trials of one sweep that were stopped at a rung, and so have no point."""

    searched: int
    """Trials of the search that were asked for."""
    trials: tuple[StoppedTrial, ...]

    def __str__(self) -> str:
        return stopped_text(self.trials, self.searched)


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """All operating points of some sweeps, cheapest first, with those on the front marked."""

    sweeps: tuple[str, ...]
    split: str
    accounting: str
    hypervolume: float
    """Area that the front's points cover on the shown split, in GFLOPs times quality (fraction)."""
    reference: Reference
    points: tuple[FrontPoint, ...]
    baselines: tuple[FrontPoint, ...]
    stopped: Mapping[str, SweepStops] = field(default_factory=dict)
    """Sweep to its trials that were stopped at a rung, if any were."""
    knee_id: tuple[str, str] | None = None
    """Sweep and id of the knee of the whole front, which bounds may have left out of this one."""
    data: DataReference

    @property
    def objective(self) -> str:
        """The name of the quality that decides: `map`, `map_iou_0.1_0.7`."""
        return self.points[0].trial.objective

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        """The points on the front, cheapest on validation first."""
        chosen = (point for point in self.points if point.on_front)
        return tuple(sorted(chosen, key=lambda point: point.record.val.gflops))

    @property
    def confirmed(self) -> tuple[FrontPoint, ...]:
        """The points that are to be confirmed, and those on the front of a trial that is, cheapest on validation first;
        then the baselines'."""
        chosen = [p for p in self.points if p.confirmation and (p.confirmation.is_asked or p.on_front)]
        chosen.sort(key=lambda point: point.record.val.gflops)
        # In a sweep of nothing but baselines they are the points as well.
        own = {(p.trial.sweep, p.id) for p in chosen}
        others = [p for p in self.baselines if p.confirmation and p.confirmation.is_asked]
        return (*chosen, *(p for p in others if (p.trial.sweep, p.id) not in own))

    def best_baselines(self) -> tuple[FrontPoint, ...]:
        """One point per baseline: the best on validation; of equals the cheapest."""
        best: dict[str, FrontPoint] = {}
        for point in sorted(self.baselines, key=_best_first):
            best.setdefault(point.name, point)
        return tuple(best.values())

    def to_json(self) -> dict[str, JsonValue]:
        """The document that `front --json` prints; with `stopped` where a trial was stopped at a rung."""
        stopped: list[JsonValue] = [
            {"sweep": sweep, **each.to_json()}
            for sweep, stops in self.stopped.items()
            for each in stops.trials
        ]
        return {
            "sweeps": list(self.sweeps),
            "split": self.split,
            "accounting": self.accounting,
            "hypervolume": self.hypervolume,
            "reference": self.reference.to_json(self.objective),
            "points": [point.to_json() for point in self.points],
            "baselines": [point.baseline_json() for point in self.baselines],
            **({"stopped": stopped} if stopped else {}),
        }


def _best_first(p: FrontPoint) -> tuple[float, float, bool, str, str]:
    """Order by quality, best first; ties: cheaper, default setting, name."""
    return (-p.record.val.quality, p.record.val.gflops, not p.record.is_default, p.trial.sweep, p.id)


def _cheapest(p: FrontPoint) -> tuple[float, float, bool, str, str]:
    """Order by cost, cheapest first; ties: better, default setting, name."""
    return (p.record.val.gflops, -p.record.val.quality, not p.record.is_default, p.trial.sweep, p.id)


def _within(points: list[FrontPoint], max_gflops: float | None, min_map: float | None) -> list[FrontPoint]:
    for name, bound in (("--max-gflops", max_gflops), ("--min-map", min_map)):
        if bound is not None and not (math.isfinite(bound) and bound > 0):
            raise UsageError(f"{name} must be a finite number above 0, not {bound}", "For example 0.05.")
    kept = points
    if max_gflops is not None:
        kept = [p for p in kept if p.record.most_gflops <= max_gflops]
        if not kept:
            least = min(points, key=_cheapest)
            cost = least.record.most_gflops
            raise UsageError(
                f"no operating point costs {max_gflops:g} GFLOPs per video or less on validation and test",
                f"The cheapest is {least.id} with {rounded_up(cost)} GFLOPs and "
                f"{objective_text(least.trial.objective)} {100 * least.shown.quality:.1f} %: "
                f"give at least --max-gflops {rounded_up(cost)}.",
            )
    if min_map is not None:
        if min_map > 1:
            raise UsageError(
                f"--min-map is a fraction between 0 and 1, not {min_map:g}",
                f"Did you mean {min_map / 100:g}?",
            )
        affordable = kept
        kept = [p for p in kept if p.record.val.quality >= min_map]
        if not kept:
            best = min(affordable, key=_best_first)
            raise UsageError(
                f"no operating point reaches {objective_text(best.trial.objective)} {min_map:g} on validation"
                + (f" with {max_gflops:g} GFLOPs" if max_gflops is not None else ""),
                f"The best is {best.id}: {best.record.val.quality:.4f} at {best.record.val.gflops:.4g} GFLOPs.",
            )
    return kept


def rounded_up(value: float) -> str:
    """Three digits, never below `value`: the user can type it back."""
    digits = 2 - math.floor(math.log10(value))
    return f"{math.ceil(round(value * 10**digits, 6)) / 10**digits:.{max(digits, 0)}f}"
