"""What is reported of plans of a sweep: the front that each has chosen, what it cost, and the tables of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.document import Layout
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Row, Value
from benchmarks.harness.tables import Cell, Shown
from benchmarks.search_points import STRICT, WHOLE, share
from paretovid.trainables.evaluation.pareto import non_dominated
from paretovid.trainables.evaluation.results import OperatingPoint, TrialResult

LAYOUTS = {
    "sweeps": Layout("sweeps.*", ("",)),
    "trainings": Layout("trainings.*", ("",)),
    "fronts": Layout("fronts.*", ("",)),
}
COLLAPSED = 0.5
"""A training has collapsed if, at its default setting, it is less than so good on validation as the best one of its
plan and seed."""


@dataclass(frozen=True)
class Trained:
    """One finished training of a plan."""

    result: TrialResult
    cpu_seconds: float
    """Of the process that trained and measured it."""

    @property
    def epochs(self) -> int:
        """That it was trained for."""
        return int(self.result.training_config["epochs"])


Sweeps = Mapping[tuple[str, int], Sequence[Trained]]
"""Plan and seed to its trainings in order."""
Worths = Mapping[str, Sequence[int]]
"""Plan to how many short trainings' worth of epochs its sweeps may spend."""


def document_of(sweeps: Sweeps, epochs: int, worths: Worths, levels: Sequence[float]) -> Document:
    """Everything that is reported.

    Arguments:
        epochs: of one short training.
        worths: of a plan that has more trainings only the first that fit count.
        levels: GFLOPs at which the best point that costs no more is looked up.
    """
    found: dict[str, list[Row]] = {"sweeps": [], "trainings": [], "fronts": []}
    for (plan, seed), trainings in sweeps.items():
        own: Row = {"plan": plan, "seed": seed}
        best = max(each.result.points[0].val.quality for each in trainings)
        found["trainings"] += [
            {**own, "training": place, **_training(each, best)} for place, each in enumerate(trainings)
        ]
        for worth in worths[plan]:
            fitting = _within(trainings, worth * epochs)
            if fitting:
                found["sweeps"].append(
                    {"way": f"{plan}, {worth}", **own, "worth": worth, **_sweep(fitting, levels)}
                )
        found["fronts"] += [{**own, "training": place, **_point(point)} for place, point in front(trainings)]
    return dict(found)


def _within(trainings: Sequence[Trained], epochs: int) -> list[Trained]:
    """The first ones that spend no more epochs together."""
    found: list[Trained] = []
    for each in trainings:
        epochs -= each.epochs
        if epochs < 0:
            break
        found.append(each)
    return found


def front(trainings: Sequence[Trained]) -> list[tuple[int, OperatingPoint]]:
    """The points that validation chooses among all trainings, each with its training's place, the cheapest first."""
    known = [(place, point) for place, each in enumerate(trainings) for point in each.result.points]
    kept = non_dominated([p.val.gflops for _, p in known], [p.val.quality for _, p in known])
    return sorted((known[i] for i in kept), key=lambda each: each[1].val.gflops)


def at_level(points: Sequence[OperatingPoint], gflops: float) -> OperatingPoint | None:
    """The best on validation of those that cost no more there; None if all cost more."""
    return max(
        (point for point in points if point.val.gflops <= gflops),
        key=lambda point: point.val.quality,
        default=None,
    )


def _sweep(trainings: Sequence[Trained], levels: Sequence[float]) -> Row:
    points = [point for each in trainings for point in each.result.points]
    row: dict[str, Value] = {
        "trainings": len(trainings),
        "epochs": sum(each.epochs for each in trainings),
        "cpu_seconds": sum(each.cpu_seconds for each in trainings),
        "hypervolume": share(points, WHOLE),
        "strict": share(points, STRICT),
    }
    for level in levels:
        chosen = at_level(points, level)
        if chosen is not None:
            row[f"map_at_{level:g}"] = chosen.test.quality
    return row


def _training(trained: Trained, best: float) -> Row:
    result, default = trained.result, trained.result.points[0]
    return {
        **{f"knob.{name}": value for name, value in result.training_knobs.items()},
        "epochs": trained.epochs,
        "learning_rate": float(str(result.training_config["learning_rate"])),
        "weight_decay": float(str(result.training_config["weight_decay"])),
        "cpu_seconds": trained.cpu_seconds,
        "points": len(result.points),
        "val": default.val.quality,
        "test": default.test.quality,
        "test_gflops": default.test.gflops,
        "hypervolume": share(result.points, WHOLE),
        "strict": share(result.points, STRICT),
        "collapsed": default.val.quality < COLLAPSED * best,
    }


def _point(point: OperatingPoint) -> Row:
    return {
        **{f"setting.{name}": value for name, value in point.inference_knobs.items()},
        "val": point.val.quality,
        "val_gflops": point.val.gflops,
        "test": point.test.quality,
        "test_gflops": point.test.gflops,
    }


def tables(title: str, base: str, levels: Sequence[float]) -> tuple[Shown, ...]:
    """A line per plan and worth: its front, and what it has at the levels; differences are from the way `base`, seed by
    seed."""
    against = ("way", base)
    at_levels = tuple(
        cell
        for level in levels
        for cell in (
            Cell(f"map_at_{level:g}", f"mAP at {level:g}", percent=True, only_mean=True),
            Cell(f"map_at_{level:g}", "difference", percent=True, against=against),
        )
    )
    whole = (
        Cell("trainings", only_mean=True, digits=0),
        Cell("epochs", only_mean=True, digits=0),
        Cell("cpu_seconds", "CPU seconds", only_mean=True, digits=0),
        Cell("hypervolume", only_mean=True, digits=2),
        Cell("hypervolume", "difference", digits=2, against=against),
        Cell("strict", only_mean=True, digits=2),
        Cell("strict", "difference", digits=2, against=against),
    )
    return tuple(
        Shown(f"{title}, {what}", "sweeps", ("way",), cells)
        for what, cells in (("front", whole), ("at GFLOPs", at_levels))
    )
