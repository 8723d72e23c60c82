"""The front of one or several sweeps: chosen on validation, shown on test.

Which points are on the front, which of them suits a budget and where the knee is are decided on the
validation split alone. The figures that users see come from the test split, with an interval over videos.
Cost needs no labels, so a budget holds on both: a point that fits it on validation only is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretovid.platform.records.trial import (
    MAP,
    SPLITS,
    Measurement,
    PointRecord,
    Scores,
    SweepRecord,
    TrialRecord,
    objective_text,
    read_scores,
    read_sweep,
)
from paretovid.trainables.errors import DataError, UnknownNameError, UsageError
from paretovid.trainables.evaluation.intervals import detection_interval, map_interval, resample_weights
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, knee, non_dominated, reference_of

ALL_INTERVALS_UP_TO = 1000
"""Videos in a split up to which every point gets an interval; beyond, only the front and baselines do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontPoint:
    """One operating point as it is shown."""

    trial: TrialRecord
    record: PointRecord
    name: str
    """`method` for a point of a method; a baseline's own name, for example `uniform+coarse`."""
    shown: Measurement
    """On the split that is shown."""
    quality_ci: tuple[float, float] | None
    """95 % interval of the objective over videos."""
    on_front: bool = False
    seeds: int = 1
    """Trials in these sweeps with the same method, knobs and data, each with another seed."""

    @property
    def id(self) -> str:
        return self.record.id

    def to_json(self) -> dict[str, Any]:
        """The point as `front --json` prints it."""
        return {
            "id": self.id,
            "sweep": self.trial.sweep,
            "trial": self.trial.trial,
            "method": self.trial.method,
            "training_knobs": self.trial.training_knobs,
            "inference_knobs": self.record.inference_knobs,
            self.trial.objective: self.shown.quality,
            f"{self.trial.objective}_ci": None if self.quality_ci is None else list(self.quality_ci),
            "top1": self.shown.top1,
            "gflops": self.shown.gflops,
            "gflops_std": self.shown.gflops_std,
            "calls": self.shown.calls,
            "on_front": self.on_front,
            "seeds": self.seeds,
            "remarks": list(self.trial.remarks),
        }

    def baseline_json(self) -> dict[str, Any]:
        """The same for an entry of `baselines`."""
        return {"name": self.name, **self.to_json(), "deployable": self.trial.deployable}


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
    knee_id: tuple[str, str] | None = None
    """Sweep and id of the knee of the whole front, which bounds may have left out of this one."""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """The name of the quality that decides: `map`, `map_iou_0.1_0.7`."""
        return self.points[0].trial.objective

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        """The points on the front, cheapest on validation first."""
        chosen = (point for point in self.points if point.on_front)
        return tuple(sorted(chosen, key=lambda point: point.record.val.gflops))

    def best_baselines(self) -> tuple[FrontPoint, ...]:
        """One point per baseline: the best on validation; of equals the cheapest."""
        best: dict[str, FrontPoint] = {}
        for point in sorted(self.baselines, key=_dearest_quality):
            best.setdefault(point.name, point)
        return tuple(best.values())

    def to_json(self) -> dict[str, Any]:
        """The document that `front --json` prints."""
        return {
            "sweeps": list(self.sweeps),
            "split": self.split,
            "accounting": self.accounting,
            "hypervolume": self.hypervolume,
            "reference": self.reference.to_json(self.objective),
            "points": [point.to_json() for point in self.points],
            "baselines": [point.baseline_json() for point in self.baselines],
        }


def read_front(folders: Sequence[Path], **options: Any) -> Front:
    """`build_front` of the sweeps in these folders."""
    return build_front([read_sweep(folder) for folder in folders], **options)


def build_front(
    sweeps: Sequence[SweepRecord],
    *,
    split: str = "test",
    max_gflops: float | None = None,
    min_map: float | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> Front:
    """The front of `sweeps` and the baselines beside it.

    Arguments:
        split: whose figures are shown; the choice is made on validation whatever it is.
        max_gflops: leaves out points whose mean GFLOPs per video are above it.
        min_map: leaves out points whose objective (mAP, of whatever kind; a fraction) on validation is below it.

    Raises `UsageError` for sweeps that do not compare and for bounds that no point meets (says what there
    is), `DataError` if no trial has finished.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split: {split!r}", f"Allowed: {', '.join(SPLITS)}.")
    trials = [trial for sweep in sweeps for trial in sweep.trials]
    _check_finished(sweeps, trials)
    _check_comparable(trials)
    points = [p for p in _points(trials, split) if not p.trial.is_baseline]
    if not points:  # a sweep of nothing but baselines has a front, too
        points = [p for p in _points(trials, split) if p.trial.deployable]
    baselines = [p for p in _points(trials, split) if p.trial.is_baseline]
    reference = _reference(sweeps, [*points, *baselines])
    whole = [points[i] for i in _front_indices(points)]
    # Of the whole front whatever bounds are asked for: it is the one that `promote --knee` takes.
    bend = whole[knee([p.record.val.gflops for p in whole], [p.record.val.quality for p in whole])]
    points = _within(points, max_gflops, min_map)
    chosen = _front_indices(points)
    shown = _with_intervals(points, chosen, baselines, split, resample_count=resamples, seed=seed)
    front = [shown[0][i] for i in chosen]
    return Front(
        sweeps=tuple(sweep.name for sweep in sweeps),
        split=split,
        accounting=trials[0].accounting,
        hypervolume=hypervolume([p.shown.gflops for p in front], [p.shown.quality for p in front], reference),
        reference=reference,
        points=tuple(sorted(shown[0], key=lambda p: (p.shown.gflops, -p.shown.quality, p.trial.sweep, p.id))),
        baselines=tuple(shown[1]),
        knee_id=(bend.trial.sweep, bend.id),
        data=trials[0].data,
    )


def choose(
    front: Front,
    *,
    point: str | None = None,
    max_gflops: float | None = None,
    min_map: float | None = None,
    at_knee: bool = False,
) -> FrontPoint:
    """The operating point that a user means, by exactly one of four ways; all decide on validation.

    * `point`: its id (a baseline's is allowed). Raises `UnknownNameError` that lists near ones.
    * `max_gflops`: the best quality that costs at most this; of equals the cheaper.
    * `min_map`: the cheapest whose objective reaches this (fraction); of equals the better.
    * `at_knee`: the front's bend.
    """
    given = [point is not None, max_gflops is not None, min_map is not None, at_knee]
    if sum(given) != 1:
        raise UsageError(
            f"{sum(given)} ways to choose a point were given, but exactly one is needed",
            "Give one of --point ID, --max-gflops X, --min-map Y, --knee.",
        )
    if point is not None:
        return _by_id(front, point)
    if at_knee:
        return next(p for p in front.points if (p.trial.sweep, p.id) == front.knee_id)
    fitting = _within(list(front.points), max_gflops, min_map)
    return min(fitting, key=_dearest_quality if max_gflops is not None else _cheapest)


def _dearest_quality(p: FrontPoint) -> tuple[float, float, bool, str, str]:
    """Order by quality, best first; ties: cheaper, natural setting, name."""
    return (-p.record.val.quality, p.record.val.gflops, not p.record.natural, p.trial.sweep, p.id)


def _cheapest(p: FrontPoint) -> tuple[float, float, bool, str, str]:
    """Order by cost, cheapest first; ties: better, natural setting, name."""
    return (p.record.val.gflops, -p.record.val.quality, not p.record.natural, p.trial.sweep, p.id)


def _front_indices(points: Sequence[FrontPoint]) -> list[int]:
    """Places of the points that no other beats on validation, in GFLOPs and the objective; cheapest first."""
    order = sorted(range(len(points)), key=lambda i: _cheapest(points[i]))
    val = [points[i].record.val for i in order]
    return [order[k] for k in non_dominated([m.gflops for m in val], [m.quality for m in val])]


def baseline_name(trial: TrialRecord) -> str:
    """A baseline's name with its variant: `uniform`, `uniform+coarse`, `epitoma_sampled+motion+random`."""
    flags = sorted(name.removeprefix("with_") for name, value in trial.model.items() if value is True)
    words = [str(trial.model[name]) for name in sorted(trial.model) if isinstance(trial.model[name], str)]
    variant = [word for word in words if word and ":" not in word and "/" not in word]
    return "+".join(dict.fromkeys([trial.method, *flags, *variant]))


def _points(trials: Sequence[TrialRecord], split: str) -> Iterator[FrontPoint]:
    groups: dict[str, set[int]] = {}
    for trial in trials:
        groups.setdefault(_group(trial), set()).add(trial.seed)
    for trial in trials:
        for record in trial.points:
            yield FrontPoint(
                trial=trial,
                record=record,
                name=baseline_name(trial) if trial.is_baseline else trial.method,
                shown=record.on(split),
                quality_ci=None,
                seeds=len(groups[_group(trial)]),
            )


def _group(trial: TrialRecord) -> str:
    return repr((trial.method, sorted(trial.training_knobs.items()), sorted(map(repr, trial.model.items()))))


def _check_finished(sweeps: Sequence[SweepRecord], trials: Sequence[TrialRecord]) -> None:
    if trials:
        return
    names = ", ".join(sweep.name for sweep in sweeps)
    states = ", ".join(sorted({str(sweep.info.get("state", "unknown")) for sweep in sweeps}))
    raise DataError(
        f"no trial of {names or 'these sweeps'} has finished (state: {states})",
        "Type its `paretovid sweep` command again: it goes on. If every trial failed, its folder says why.",
    )


def _check_comparable(trials: Sequence[TrialRecord]) -> None:
    readers: Mapping[str, Callable[[TrialRecord], Any]] = {
        "data set": lambda t: f"{t.data['name']}@{t.data['fingerprint']}",
        "accounting": lambda t: t.accounting,
        "objective": lambda t: t.objective,
    }
    for what, read in readers.items():
        found = {read(trial): trial.sweep for trial in trials}
        if len(found) > 1:
            held = "; ".join(f"{sweep}: {value}" for value, sweep in found.items())
            raise UsageError(
                f"these sweeps do not compare, each has its own {what} ({held})", "Show them one by one."
            )


def _reference(sweeps: Sequence[SweepRecord], points: Sequence[FrontPoint]) -> Reference:
    dearest = max(max(p.record.val.gflops, p.record.test.gflops) for p in points)
    return reference_of([sweep.reference for sweep in sweeps], dearest)


def _within(points: list[FrontPoint], max_gflops: float | None, min_map: float | None) -> list[FrontPoint]:
    for name, bound in (("--max-gflops", max_gflops), ("--min-map", min_map)):
        if bound is not None and not (math.isfinite(bound) and bound > 0):
            raise UsageError(f"{name} must be a finite number above 0, not {bound}", "For example 0.05.")
    kept = points
    if max_gflops is not None:
        kept = [p for p in kept if max(p.record.val.gflops, p.record.test.gflops) <= max_gflops]
        if not kept:
            least = min(points, key=_cheapest)
            cost = max(least.record.val.gflops, least.record.test.gflops)
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
            best = min(affordable, key=_dearest_quality)
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


def _by_id(front: Front, wanted: str) -> FrontPoint:
    everything = [*front.points, *front.baselines]
    sweep, _, name = wanted.rpartition("/")
    found = [p for p in everything if p.id == name and sweep in ("", p.trial.sweep)]
    if len({(p.trial.sweep, p.id) for p in found}) > 1:
        raise UsageError(
            f"{len(found)} sweeps have a point {wanted!r}",
            f"Say which: {', '.join(f'{p.trial.sweep}/{p.id}' for p in found)}.",
        )
    if found:
        return found[0]
    near = sorted((p.id for p in everything), key=lambda known: (-_common_start(known, name), known))
    shown = ", ".join(list(dict.fromkeys(near))[:5])
    front_ids = ", ".join(p.id for p in front.front[:8])
    raise UnknownNameError(
        f"no operating point is called {wanted!r}", f"Near it: {shown}. On the front: {front_ids}."
    )


def _common_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _with_intervals(
    points: Sequence[FrontPoint],
    chosen: Sequence[int],
    baselines: Sequence[FrontPoint],
    split: str,
    *,
    resample_count: int,
    seed: int,
) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """The points and baselines again, with intervals and the front marked. Reads each trial's scores once."""
    on_front = {(points[i].trial.folder, points[i].id) for i in chosen}
    weights: Any = None
    made: dict[tuple[Path, str], tuple[float, float]] = {}
    for trial in {p.trial.folder: p.trial for p in [*points, *baselines]}.values():
        scores = read_scores(trial, split)
        if len(scores.scores) != len(trial.points):
            raise DataError(
                f"{trial.folder}: {len(trial.points)} points but scores of {len(scores.scores)}",
                "Remove the trial's folder and run the sweep again under another name=.",
            )
        if weights is None or weights.shape[1] != len(scores.targets):
            weights = resample_weights(len(scores.targets), resample_count, seed)
        for record in trial.points:
            key = (trial.folder, record.id)
            few = len(scores.targets) <= ALL_INTERVALS_UP_TO
            if few or trial.is_baseline or key in on_front:
                made[key] = _interval(trial, scores, record.index, weights)

    def finished(p: FrontPoint) -> FrontPoint:
        key = (p.trial.folder, p.id)
        return FrontPoint(
            trial=p.trial,
            record=p.record,
            name=p.name,
            shown=p.shown,
            quality_ci=made.get(key),
            on_front=key in on_front,
            seeds=p.seeds,
        )

    return [finished(p) for p in points], [finished(p) for p in baselines]


def _interval(trial: TrialRecord, scores: Scores, index: int, weights: Any) -> tuple[float, float]:
    """Of the trial's objective. Raises `DataError` if its scores lack what that is measured from."""
    if trial.objective == MAP:
        return map_interval(scores.scores[index], scores.targets, weights)
    if scores.detections is None or scores.truth is None:
        raise DataError(
            f"{trial.folder / 'scores.safetensors'} holds no instances, which {trial.objective} is measured from",
            "Remove the trial's folder and run the sweep under another name=.",
        )
    return detection_interval(scores.detections[index], scores.truth, weights)
