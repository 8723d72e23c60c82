"""Instances in time and how well they are found: the detection evaluators of THUMOS'14 and of ActivityNet, by name.

mAP of detections is not one number (one evaluator gives up to six points more than another on the same
detections), so every result names the one that made it:

* `thumos_11_point`: THUMOS'14 as first released (`TH14evalDet`). In each video, and for each true instance in
  the given order, the unassigned detection of the largest overlap is right if the overlap is *above* the
  threshold. What is wrong and touches an ambiguous segment is dropped; what is right never is. Of equal scores the
  right detections of all videos come before the wrong ones: it joins a list of each. AP is the mean of the best
  precision at recalls of at least 0, 0.1, ..., 1.
* `thumos`: its update (`TH14evalDet_Updated`). The same assignment and the same rule for ambiguous segments; of equal
  scores the order of the videos counts, and in a video the given order. AP is the mean over all true instances of
  the precision at the detection that found them. The objective of our localization methods.
* `activitynet`: detections in descending order of their scores over all videos; each takes the free instance of
  the largest overlap that *reaches* the threshold. Of equal scores the order of the videos counts, and in a video
  the given order. AP of the interpolated precision (VOC 2011). Knows no ambiguous segments.

Overlap is intersection over union. A class without a true instance has no AP and is left out of the mean. N videos,
C classes, K thresholds, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretovid.trainables.data.dataset import Event
from paretovid.trainables.errors import DataError, NonFiniteError, UsageError, unknown_name
from paretovid.trainables.outcome import Detection

Evaluator = Literal["thumos", "thumos_11_point", "activitynet"]
EVALUATORS: tuple[Evaluator, ...] = ("thumos", "thumos_11_point", "activitynet")
THUMOS_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
Floats = NDArray[np.float64]


Detections = Sequence[Sequence[Detection]]
"""Per video."""
Instances = Sequence[Sequence[Event]]
"""Per video, in the order of the annotation."""
Segments = Sequence[Sequence[tuple[float, float]]]
"""Per video: start and end in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundTruth:
    """What the detections of N videos are measured against.

    One thing, not two: an evaluator that hears of the instances alone calls wrong what the data set leaves open.
    """

    events: Instances
    """True instances."""
    ambiguous: Segments
    """Where nobody can tell: a wrong detection that touches one counts neither way with THUMOS'14."""


def map_iou_name(thresholds: Sequence[float]) -> str:
    """What the mean over these thresholds is called: `map_iou_0.1_0.7`, or `map_iou_0.5` for one."""
    ends = [thresholds[0]] if len(thresholds) == 1 else [thresholds[0], thresholds[-1]]
    return "_".join(["map_iou", *(f"{end:g}" for end in ends)])


def clipped(events: Sequence[Event], duration_seconds: float) -> tuple[Event, ...]:
    """Events within a video's length: annotations may run beyond the end. What lies beyond it is left out."""
    return tuple(
        Event(
            label=event.label,
            start_seconds=max(0.0, event.start_seconds),
            end_seconds=min(event.end_seconds, duration_seconds),
        )
        for event in events
        if event.start_seconds < duration_seconds and event.end_seconds > 0
    )


def clipped_segments(
    segments: Sequence[tuple[float, float]], duration_seconds: float
) -> tuple[tuple[float, float], ...]:
    """The same of segments: (start, end) in seconds."""
    return tuple(
        (max(0.0, start), min(end, duration_seconds))
        for start, end in segments
        if start < duration_seconds and end > 0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The detections of one class at K thresholds, best score first."""

    videos: NDArray[np.int64]
    """`[D]`: the video of each detection."""
    right: NDArray[np.bool_]
    """`[K, D]`"""
    counted: NDArray[np.bool_]
    """`[K, D]`: false where a wrong detection is dropped as ambiguous."""
    order: NDArray[np.int64]
    """`[K, D]`: the detections in the order in which they are counted."""
    instances: NDArray[np.int64]
    """`[N]`: true instances of the class in each video."""


def judge(
    detections: Detections,
    ground_truth: GroundTruth,
    thresholds: Sequence[float],
    evaluator: Evaluator = "thumos",
) -> dict[int, Judged]:
    """Class to its detections, judged; only classes with a true instance.

    Raises `UsageError` for thresholds that are not between 0 and 1 and for lists of unequal length,
    `UnknownNameError` for another evaluator, `NonFiniteError` for a NaN, `DataError` for a detection or an event
    that ends before it starts, and if no video has an instance.
    """
    _check(detections, ground_truth, thresholds, evaluator)
    labels = sorted({event.label for events in ground_truth.events for event in events})
    if not labels:
        raise DataError("no video has a true instance", "The mAP of detections needs events in the manifest.")
    return {label: _judge_class(label, detections, ground_truth, thresholds, evaluator) for label in labels}


def _judge_class(
    label: int,
    detections: Detections,
    ground_truth: GroundTruth,
    thresholds: Sequence[float],
    evaluator: Evaluator,
) -> Judged:
    limits = np.asarray(thresholds, dtype=np.float64)
    videos: list[int] = []
    scores: list[float] = []
    right: list[NDArray[np.bool_]] = []
    counted: list[NDArray[np.bool_]] = []
    for video, (found, events, segments) in enumerate(
        zip(detections, ground_truth.events, ground_truth.ambiguous, strict=True)
    ):
        mine = sorted((d for d in found if d.label == label), key=lambda d: -d.score)
        if not mine:
            continue
        spans = np.array([(d.start_seconds, d.end_seconds) for d in mine])
        true = np.array([(e.start_seconds, e.end_seconds) for e in events if e.label == label]).reshape(-1, 2)
        hits = _assign(overlaps(true, spans), limits, evaluator)
        vague = np.asarray(segments, dtype=np.float64).reshape(-1, 2)
        touched = (overlaps(vague, spans) > 0).any(axis=0) & (evaluator != "activitynet")
        videos += [video] * len(mine)
        scores += [d.score for d in mine]
        right.append(hits)
        counted.append(hits | ~touched)
    empty = np.zeros((len(limits), 0), dtype=bool)
    flags = np.concatenate([empty, *right], axis=1)
    return Judged(
        videos=np.array(videos, dtype=np.int64),
        right=flags,
        counted=np.concatenate([empty, *counted], axis=1),
        order=_ranked(np.array(scores), flags, evaluator),
        instances=np.array(
            [sum(e.label == label for e in events) for events in ground_truth.events], dtype=np.int64
        ),
    )


def overlaps(first: Floats, second: Floats) -> Floats:
    """`[A, B]` intersection over union of intervals `[A, 2]` and `[B, 2]`."""
    starts = np.maximum(first[:, None, 0], second[None, :, 0])
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    hulls = np.maximum(first[:, None, 1], second[None, :, 1]) - np.minimum(
        first[:, None, 0], second[None, :, 0]
    )
    answer: Floats = np.maximum(ends - starts, 0.0) / hulls
    return answer


def _assign(overlap: Floats, limits: Floats, evaluator: Evaluator) -> NDArray[np.bool_]:
    """`[K, D]`: which detections are right, from `[G, D]` overlaps; detections in descending order of scores."""
    right = np.zeros((len(limits), overlap.shape[1]), dtype=bool)
    for hits, limit in zip(right, limits, strict=True):
        if evaluator == "activitynet":
            taken = np.zeros(len(overlap), dtype=bool)
            for d in range(overlap.shape[1]):
                free = np.where(taken, -1.0, overlap[:, d])
                if len(free) and free.max() >= limit:
                    taken[free.argmax()] = hits[d] = True
            continue
        for row in overlap:
            free = np.where(hits, -1.0, row)
            if free.max() > limit:
                hits[free.argmax()] = True
    return right


def _ranked(scores: Floats, right: NDArray[np.bool_], evaluator: Evaluator) -> NDArray[np.int64]:
    """`[K, D]`: the order of all videos' detections at each threshold. They come video by video, each by score."""
    if evaluator == "thumos_11_point":
        return np.stack([np.lexsort((~hits, -scores)) for hits in right])
    return np.tile(np.argsort(-scores, kind="stable"), (len(right), 1))


def _check(
    detections: Detections,
    ground_truth: GroundTruth,
    thresholds: Sequence[float],
    evaluator: str,
) -> None:
    if evaluator not in EVALUATORS:
        raise unknown_name("detection evaluator", evaluator, EVALUATORS)
    if not thresholds or not all(0 < threshold < 1 for threshold in thresholds):
        raise UsageError(f"overlap thresholds cannot be {list(thresholds)}", "Give numbers between 0 and 1.")
    lengths = {len(detections), len(ground_truth.events), len(ground_truth.ambiguous)}
    if len(lengths) != 1:
        raise UsageError(f"lists of {sorted(lengths)} videos do not compare", "One entry per video in each.")
    spans = [(d.start_seconds, d.end_seconds) for found in detections for d in found]
    spans += [(e.start_seconds, e.end_seconds) for events in ground_truth.events for e in events]
    spans += [span for each in ground_truth.ambiguous for span in each]
    scores = [d.score for found in detections for d in found]
    if not (np.isfinite(np.array(spans)).all() and np.isfinite(np.array(scores)).all()):
        raise NonFiniteError("an interval or a score is not finite", "The training diverged; lower the rate.")
    for start, end in spans:
        if end <= start:
            raise DataError(
                f"an interval from {start:g} to {end:g} s ends before it starts", "Repair its source."
            )


def average_precision(judged: Judged, evaluator: Evaluator = "thumos") -> Floats:
    """`[K]`: AP of one class at each threshold."""
    total = int(judged.instances.sum())
    result = np.zeros(len(judged.right))
    for k, order in enumerate(judged.order):
        kept = order[judged.counted[k, order]]
        hits = judged.right[k, kept]
        precision = np.cumsum(hits) / np.arange(1, len(kept) + 1)
        recall = np.cumsum(hits) / total
        if evaluator == "thumos":
            result[k] = (precision * hits).sum() / total
        elif evaluator == "thumos_11_point":
            # Recalls are fractions of whole numbers: without the slack, 3 / 10 would not reach 0.3.
            best = [precision[recall >= level - 1e-9].max(initial=0.0) for level in np.arange(11) / 10]
            result[k] = float(np.mean(best))
        else:
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            result[k] = (envelope * hits).sum() / total
    return result


def map_iou(
    detections: Detections,
    ground_truth: GroundTruth,
    thresholds: Sequence[float] = THUMOS_THRESHOLDS,
    evaluator: Evaluator = "thumos",
) -> dict[str, float]:
    """mAP at each threshold (`map_iou_0.5`) and their mean (`map_iou_0.1_0.7`), fractions. Raises as `judge`."""
    judged = judge(detections, ground_truth, thresholds, evaluator)
    each = np.mean([average_precision(j, evaluator) for j in judged.values()], axis=0)
    named = {map_iou_name([t]): float(value) for t, value in zip(thresholds, each, strict=True)}
    return {map_iou_name(thresholds): float(each.mean()), **named}


def resampled_map_iou(
    detections: Detections,
    ground_truth: GroundTruth,
    thresholds: Sequence[float],
    weights: NDArray[np.floating],
) -> Floats:
    """`[R]`: the mean over the thresholds of the `thumos` mAP under each row of `weights [R, N]`.

    A weight says how often a video is drawn; one that is drawn k times counts k times with its mean precision. A
    class that a resample happens to miss is left out of its mean.
    """
    judged = judge(detections, ground_truth, thresholds)
    total = np.zeros(len(weights))
    present = np.zeros(len(weights))
    for one in judged.values():
        instances = weights @ one.instances.astype(np.float32)
        drawn = weights[:, one.videos].astype(np.float32)
        precision = np.zeros(len(weights))
        seen: NDArray[np.int64] | None = None
        for k, order in enumerate(one.order):
            kept = order[one.counted[k, order]]
            # It differs only where ambiguous ones are dropped.
            if seen is None or not np.array_equal(seen, kept):
                seen, mine = kept, drawn[:, kept]
                # Half of its own copies stand before a copy.
                middle = (mine + 1) / 2
                before = np.cumsum(mine, axis=1) - mine + middle
            right = np.flatnonzero(one.right[k, kept])
            own = mine[:, right]
            right_before = np.cumsum(own, axis=1) - own + middle[:, right]
            precision += (right_before / before[:, right] * own).sum(axis=1, dtype=np.float64)
        total += precision / len(thresholds) / np.maximum(instances, 1)
        present += instances > 0
    return total / np.maximum(present, 1)
