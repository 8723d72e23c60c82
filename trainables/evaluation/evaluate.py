"""From a trained method to its operating points: scores, calls and GFLOPs at every setting, on one split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from paretovid.trainables.cost import CostTable, deterministic_eval
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.detection import (
    THUMOS_THRESHOLDS,
    GroundTruth,
    clipped,
    clipped_segments,
    map_iou,
    map_iou_name,
)
from paretovid.trainables.evaluation.metrics import (
    VARIANTS,
    map_by_category,
    map_charades,
    mean_average_precision,
    top1,
)
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.layers.caps import CHEAP, STOPPED_BY, cheap_settings, check_known
from paretovid.trainables.measurement import MAP, Metrics
from paretovid.trainables.method import (
    Method,
    PlacesSettings,
    RunsForOthers,
    Task,
)
from paretovid.trainables.outcome import Detection, Outcome, Setting
from paretovid.trainables.provider import FeatureProvider

CHEAPEST = 1
"""The decision to read the first source only. Reads that count as usage are above it."""
METRIC_NAMES = {"paper": "map", "present_only": "map_present", "activitynet": "map_interpolated"}
OBJECTIVES: dict[Task, str] = {"classification": MAP, "localization": map_iou_name(THUMOS_THRESHOLDS)}
"""What a task's quality is called, in every result and wherever one is shown."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One setting on one split. N videos, C classes, T steps."""

    setting: Setting
    scores: NDArray[np.float32]
    """`[N, C]`"""
    gflops: NDArray[np.float64]
    """`[N]`"""
    calls: dict[str, NDArray[np.int64]]
    """Component to `[N]`."""
    decisions: NDArray[np.int8]
    """`[N, T]`"""
    detections: tuple[tuple[Detection, ...], ...] | None = None
    """N videos' instances, of a method of localization."""
    stopped_by: NDArray[np.int8] | None = None
    """`[N]`, places in `STOPPED_BY`; None of a method that does not read by the step."""

    def metrics(
        self,
        targets: NDArray[Any],
        num_steps: NDArray[np.int64],
        used_above: int = CHEAPEST,
        instances: GroundTruth | None = None,
        dataset: Dataset | None = None,
    ) -> Metrics:
        """The figures of an operating point: all mAP variants, top-1, cost and usage.

        Arguments:
            targets: of N videos, `[N, C]`.
            num_steps: `[N]`.
            used_above: decisions above this count as usage; 0 for a method of one source, which has no cheaper one.
            instances: of the N videos; with detections, their mAP over overlaps (`thumos`) comes first.
            dataset: one with several labels a video has the figures of its own evaluation as well.
        """
        usage = (self.decisions > used_above).sum(axis=1) / num_steps
        scores = self.scores.astype(np.float64)
        qualities = {METRIC_NAMES[v]: mean_average_precision(scores, targets, v) for v in VARIANTS}
        if self.detections is not None:
            assert instances is not None, "detections are measured against the true instances"
            qualities = {**map_iou(self.detections, instances), **qualities}
        if dataset is not None and dataset.multi_label:
            qualities |= multi_label_figures(scores, targets, dataset)
        return Metrics(
            objective=OBJECTIVES["classification" if self.detections is None else "localization"],
            qualities=qualities,
            top1=top1(scores, targets),
            gflops=float(self.gflops.mean()),
            gflops_std=float(self.gflops.std()),
            gflops_p95=float(np.quantile(self.gflops, 0.95)),
            calls={name: float(count.mean()) for name, count in self.calls.items()},
            usage=float(usage.mean()),
            usage_std_over_mean=float(usage.std() / usage.mean()) if usage.any() else 0.0,
            videos=len(self.scores),
            stopped_by=None if self.stopped_by is None else _shares(self.stopped_by),
        )


def _shares(stopped_by: NDArray[np.int8]) -> dict[str, float]:
    """Share of the videos whose reading ended for each reason."""
    return {word: float(np.mean(stopped_by == i)) for i, word in enumerate(STOPPED_BY)}


def multi_label_figures(
    scores: NDArray[np.float64], targets: NDArray[Any], dataset: Dataset
) -> dict[str, float]:
    """`map_charades`, unless a class has no positive, and `map_category_<name>` where classes have categories.

    Arguments:
        scores, targets: of N videos, `[N, C]`.
    """
    charades = map_charades(scores, targets)
    found = {} if np.isnan(charades) else {"map_charades": charades}
    by_category = map_by_category(scores, targets, dataset.classes, dataset.class_groups)
    return found | {f"map_category_{name}": value for name, value in by_category.items()}


def run_settings(
    method: Method,
    split: FeatureSplit,
    settings: Iterable[Setting],
    *,
    components: Mapping[str, str],
    costs: CostTable,
    expand: bool = True,
    step_seconds: float = 1.0,
) -> list[tuple[Setting, Outcome]]:
    """One batch at each setting that is an operating point, and (`expand`) at those that a run answers as well: those
    under a cap last, first caps that stop; those that continue cheaply are run for the first setting alone.

    Without `expand` every setting that is asked for is answered.
    """

    def run(setting: Setting) -> Outcome:
        return _run(method, split, setting, components=components, costs=costs, step_seconds=step_seconds)

    answered: list[tuple[Setting, Outcome]] = []
    with deterministic_eval(method):
        for place, setting in enumerate(settings):
            outcome = run(setting)
            if (
                not (isinstance(method, RunsForOthers) and not method.is_operating_point(setting))
                or not expand
            ):
                answered.append((setting, outcome))
            if expand:
                further = method.stop_points(outcome, setting)
                answered += further
                if place == 0:
                    answered += [(each, run(each)) for each in cheap_settings(method, further)]
    return sorted(answered, key=_caps_last)


def _run(
    method: Method,
    split: FeatureSplit,
    setting: Setting,
    *,
    components: Mapping[str, str],
    costs: CostTable,
    step_seconds: float,
) -> Outcome:
    check_known(method, tuple(setting))
    provider = FeatureProvider(
        split.features,
        num_steps=split.num_steps,
        video_keys=split.video_keys,
        components=components,
        costs=costs,
        targets=None if method.deployable else split.targets,
        step_seconds=step_seconds,
    )
    return method.run(provider, setting)


def answer_settings(
    method: Method,
    split: FeatureSplit,
    settings: Sequence[Setting],
    *,
    components: Mapping[str, str],
    costs: CostTable,
    step_seconds: float = 1.0,
) -> list[tuple[Setting, Outcome]]:
    """One batch at each of these settings, those under a cap last. What one run answers of a method that
    `PlacesSettings` is run once.
    """
    runs: dict[str, tuple[Setting, list[int]]] = {}
    for place, setting in enumerate(settings):
        ran = method.runs_at(setting) if isinstance(method, PlacesSettings) else setting
        runs.setdefault(json.dumps(ran, sort_keys=True), (ran, []))[1].append(place)
    answers: dict[int, Outcome] = {}
    with deterministic_eval(method):
        for ran, places in runs.values():
            outcome = _run(method, split, ran, components=components, costs=costs, step_seconds=step_seconds)
            for place in places:
                setting = settings[place]
                if isinstance(method, PlacesSettings) and setting != ran:
                    answers[place] = method.answer(outcome, setting)
                else:
                    answers[place] = outcome
    return sorted(((s, answers[place]) for place, s in enumerate(settings)), key=_caps_last)


def _caps_last(answered: tuple[Setting, Outcome]) -> tuple[bool, bool]:
    """So that no curve of caps moves another point from its place among a trial's."""
    setting, _ = answered
    return bool(setting.get("max_gflops")), setting.get("cap_rule") == CHEAP


def measure(
    batches: Iterable[tuple[FeatureSplit, list[tuple[Setting, Outcome]]]], costs: CostTable, max_steps: int
) -> list[Measured]:
    """Joins the outcomes of batches into one `Measured` per setting, in the settings' order."""
    by_setting: dict[str, list[Outcome]] = {}
    settings: dict[str, Setting] = {}
    for _, answered in batches:
        for setting, outcome in answered:
            key = json.dumps(setting, sort_keys=True)
            settings[key] = setting
            by_setting.setdefault(key, []).append(outcome)
    return [_joined(settings[key], outcomes, costs, max_steps) for key, outcomes in by_setting.items()]


def _joined(setting: Setting, outcomes: list[Outcome], costs: CostTable, max_steps: int) -> Measured:
    names = sorted({name for outcome in outcomes for name in outcome.calls})
    calls = {
        name: np.concatenate([_calls(outcome, name) for outcome in outcomes]).astype(np.int64)
        for name in names
    }
    decisions = [
        torch.nn.functional.pad(outcome.decisions, (0, max_steps - outcome.decisions.shape[1]))
        for outcome in outcomes
    ]
    return Measured(
        setting=setting,
        scores=torch.cat([outcome.scores for outcome in outcomes]).cpu().numpy().astype(np.float32),
        gflops=costs.gflops({name: torch.from_numpy(count) for name, count in calls.items()}).numpy(),
        calls=calls,
        decisions=torch.cat(decisions).cpu().numpy().astype(np.int8),
        detections=_joined_detections(outcomes),
        stopped_by=_joined_ends(outcomes),
    )


def _joined_ends(outcomes: list[Outcome]) -> NDArray[np.int8] | None:
    ends = [outcome.stopped_by for outcome in outcomes if outcome.stopped_by is not None]
    return torch.cat(ends).cpu().numpy().astype(np.int8) if len(ends) == len(outcomes) else None


def _joined_detections(outcomes: list[Outcome]) -> tuple[tuple[Detection, ...], ...] | None:
    found: list[tuple[Detection, ...]] = []
    for outcome in outcomes:
        if outcome.detections is None:
            return None
        found += outcome.detections
    return tuple(found)


def true_instances(dataset: Dataset, records: Sequence[VideoRecord]) -> GroundTruth:
    """True instances and ambiguous segments of each video, cut to its length.

    Raises `DataError` if not one video has an instance.
    """
    events = tuple(clipped(record.events, record.duration_seconds) for record in records)
    if not any(events):
        raise DataError(
            f"{dataset.name} says of no video when something happens",
            "Localization is measured against the `events` of the manifest's videos (docs/data.md).",
        )
    return GroundTruth(
        events=events,
        ambiguous=tuple(clipped_segments(r.ambiguous, r.duration_seconds) for r in records),
    )


def _calls(outcome: Outcome, name: str) -> NDArray[np.int64]:
    if name not in outcome.calls:
        return np.zeros(len(outcome.scores), dtype=np.int64)
    return outcome.calls[name].cpu().numpy()


def same_answers(first: Measured, second: Measured) -> bool:
    """True if two settings led to the same answers at the same cost for every video."""
    return bool(
        np.array_equal(first.gflops, second.gflops)
        and np.allclose(first.scores, second.scores, atol=1e-6)
        and first.detections == second.detections
    )
