"""The front of one or several sweeps: chosen on validation, shown on test.

Which points are on the front, which of them suits a budget and where the knee is are decided on the
validation split alone. The figures that users see come from the test split, with an interval over videos.
Cost needs no labels, so a budget holds on both: a point that fits it on validation only is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretovid.platform.fronts.confirmation import Confirmations, resampled
from paretovid.platform.fronts.front import Front, FrontPoint, SweepStops, _cheapest, _within
from paretovid.platform.records.trial import SweepResults, read_scores, read_sweep
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.evaluation.intervals import percentiles, resample_weights
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, knee, non_dominated, reference_of
from paretovid.trainables.evaluation.results import SPLITS, TrialResult

ALL_INTERVALS_UP_TO = 1000
"""Videos in a split up to which every point gets an interval; beyond, only the front and baselines do."""


def read_front(sweeps: Sequence[SweepPaths], **options: Any) -> Front:
    """`build_front` of these sweeps, as their stores have them now."""
    return build_front([read_sweep(sweep) for sweep in sweeps], **options)


def build_front(
    sweeps: Sequence[SweepResults],
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
    everything = list(_points(sweeps, split))
    points = [p for p in everything if not p.trial.is_baseline]
    if not points:  # a sweep of nothing but baselines has a front, too
        points = [p for p in everything if p.trial.deployable]
    baselines = [p for p in everything if p.trial.is_baseline]
    reference = _reference(sweeps, [*points, *baselines])
    whole = [points[i] for i in _front_indices(points)]
    # Of the whole front whatever bounds are asked for: it is the one that `promote --knee` takes.
    bend = whole[knee([p.record.val.gflops for p in whole], [p.record.val.quality for p in whole])]
    points = _within(points, max_gflops, min_map)
    chosen = _front_indices(points)
    confirmations = Confirmations(sweeps, split)
    shown = _with_intervals(
        points, chosen, baselines, split, confirmations, resample_count=resamples, seed=seed
    )
    front = [shown[0][i] for i in chosen]
    return Front(
        sweeps=tuple(sweep.name for sweep in sweeps),
        split=split,
        accounting=trials[0].accounting,
        hypervolume=hypervolume([p.shown.gflops for p in front], [p.shown.quality for p in front], reference),
        reference=reference,
        points=tuple(sorted(shown[0], key=lambda p: (p.shown.gflops, -p.shown.quality, p.trial.sweep, p.id))),
        baselines=tuple(shown[1]),
        stopped={
            sweep.name: SweepStops(searched=sweep.record.searched_trials, trials=sweep.stopped)
            for sweep in sweeps
            if sweep.stopped
        },
        knee_id=(bend.trial.sweep, bend.id),
        data=trials[0].data,
    )


def _front_indices(points: Sequence[FrontPoint]) -> list[int]:
    """Places of the points that no other beats on validation, in GFLOPs and the objective; cheapest first."""
    order = sorted(range(len(points)), key=lambda i: _cheapest(points[i]))
    val = [points[i].record.val for i in order]
    return [order[k] for k in non_dominated([m.gflops for m in val], [m.quality for m in val])]


def baseline_name(trial: TrialResult) -> str:
    """A baseline's name with its variant: `uniform`, `uniform+coarse`, `epitoma_sampled+motion+random`."""
    flags = sorted(name.removeprefix("with_") for name, value in trial.model.items() if value is True)
    words = [str(trial.model[name]) for name in sorted(trial.model) if isinstance(trial.model[name], str)]
    variant = [word for word in words if word and ":" not in word and "/" not in word]
    return "+".join(dict.fromkeys([trial.method, *flags, *variant]))


def _points(sweeps: Sequence[SweepResults], split: str) -> Iterator[FrontPoint]:
    groups: dict[str, set[int]] = {}
    trials = [(trial, sweep.folder_of(trial)) for sweep in sweeps for trial in sweep.trials]
    for trial, _ in trials:
        groups.setdefault(_group(trial), set()).add(trial.seed)
    for trial, folder in trials:
        for record in trial.points:
            yield FrontPoint(
                trial=trial,
                record=record,
                folder=folder,
                name=baseline_name(trial) if trial.is_baseline else trial.method,
                split=split,
                quality_ci=None,
                seeds=len(groups[_group(trial)]),
            )


def _group(trial: TrialResult) -> str:
    return repr((trial.method, sorted(trial.training_knobs.items()), sorted(map(repr, trial.model.items()))))


def _check_finished(sweeps: Sequence[SweepResults], trials: Sequence[TrialResult]) -> None:
    if trials:
        return
    names = ", ".join(sweep.name for sweep in sweeps)
    states = ", ".join(sorted({sweep.record.state for sweep in sweeps}))
    raise DataError(
        f"no trial of {names or 'these sweeps'} has finished (state: {states})",
        "Type its `paretovid sweep` command again: it resumes. If every trial failed, its folder says why.",
    )


def _check_comparable(trials: Sequence[TrialResult]) -> None:
    readers: Mapping[str, Callable[[TrialResult], Any]] = {
        "data set": lambda t: str(t.data),
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


def _reference(sweeps: Sequence[SweepResults], points: Sequence[FrontPoint]) -> Reference:
    most = max(p.record.most_gflops for p in points)
    return reference_of([sweep.reference for sweep in sweeps], most)


def _with_intervals(
    points: Sequence[FrontPoint],
    chosen: Sequence[int],
    baselines: Sequence[FrontPoint],
    split: str,
    confirmations: Confirmations,
    *,
    resample_count: int,
    seed: int,
) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """The points and baselines again, with intervals, what confirms them, and the front marked. Reads each trial's
    scores once."""
    on_front = {(points[i].folder, points[i].id) for i in chosen}
    weights: Any = None
    made: dict[tuple[Path, str], tuple[float, float]] = {}
    for folder, trial in {p.folder: p.trial for p in [*points, *baselines]}.items():
        scores = read_scores(folder, split, trial)
        if weights is None or weights.shape[1] != len(scores.targets):
            weights = resample_weights(len(scores.targets), resample_count, seed)
        for record in trial.points:
            key = (folder, record.id)
            few = len(scores.targets) <= ALL_INTERVALS_UP_TO
            if few or trial.is_baseline or key in on_front:
                values = resampled(trial.objective, folder, scores, record.index, weights)
                made[key] = percentiles(values)

    def finished(p: FrontPoint) -> FrontPoint:
        key = (p.folder, p.id)
        found = confirmations.of(p.trial, p.record)
        if found is not None and (found.is_asked or key in on_front):
            found = replace(found, quality_ci=confirmations.interval(p.trial, p.record, weights))
        return replace(p, quality_ci=made.get(key), on_front=key in on_front, confirmation=found)

    return [finished(p) for p in points], [finished(p) for p in baselines]
