"""Bootstrap intervals over videos for many operating points at once.

The same estimate as `metrics.bootstrap_map_interval` (percentiles of the paper mAP over resampled videos),
arranged so that a sweep's hundreds of points take seconds: a resample is a vector of weights, and what
ranks above a positive is a matrix product. A video drawn k times counts k times with its mean precision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paretovid.trainables.evaluation.detection import (
    THUMOS_THRESHOLDS,
    Detections,
    GroundTruth,
    resampled_map_iou,
)

Floats = NDArray[np.float64]


def resample_weights(num_videos: int, resamples: int = 400, seed: int = 0) -> NDArray[np.float32]:
    """`[R, N]`: how often each video is drawn in each resample. The same for all points, so they compare."""
    draws = np.random.default_rng(seed).integers(0, num_videos, size=(resamples, num_videos))
    offsets = np.arange(resamples)[:, None] * num_videos
    counts = np.bincount((draws + offsets).ravel(), minlength=resamples * num_videos)
    return counts.reshape(resamples, num_videos).astype(np.float32)


def resampled_maps(scores: Floats, targets: Floats, weights: NDArray[np.float32]) -> Floats:
    """`[R]`: paper mAP of `scores [N, C]` under each row of `weights [R, N]`.

    A class that a resample happens to miss is left out of its mean; one that the split has not counts 0.
    """
    videos, classes = np.nonzero(targets)
    order = np.argsort(-scores, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(scores))[:, None], axis=0)
    above = rank[:, classes] < rank[videos, classes]  # [N, positives]
    hits_above = above & (targets[:, classes] > 0)
    drawn = weights[:, videos]
    middle = (drawn + 1) / 2
    precision = (weights @ hits_above.astype(np.float32) + middle) / (
        weights @ above.astype(np.float32) + middle
    )
    member = (classes[:, None] == np.arange(targets.shape[1])).astype(np.float32)
    total = drawn @ member
    present = total > 0
    average = (precision * drawn) @ member / np.maximum(total, 1)
    share = float((targets.sum(axis=0) > 0).mean())
    answer: Floats = share * average.sum(axis=1, dtype=np.float64) / np.maximum(present.sum(axis=1), 1)
    return answer


def percentiles(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) of a figure from its values under resamples, `[R]`."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def map_interval(
    scores: Floats, targets: Floats, weights: NDArray[np.float32], level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the paper mAP over videos.

    Arguments:
        scores, targets: of N videos, `[N, C]`.
        weights: how often each resample has each video, `[R, N]`.
    """
    return percentiles(resampled_maps(scores, targets, weights), level)


def detection_values(
    detections: Detections, ground_truth: GroundTruth, weights: NDArray[np.float32]
) -> Floats:
    """`[R]`: the mAP over overlaps of 0.1 to 0.7 (`map_iou_0.1_0.7`) of N videos under each row of `weights [R, N]`."""
    values: Floats = resampled_map_iou(detections, ground_truth, THUMOS_THRESHOLDS, weights)
    return values


def detection_interval(
    detections: Detections, ground_truth: GroundTruth, weights: NDArray[np.float32], level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) over videos of the mAP over overlaps of 0.1 to 0.7 (`map_iou_0.1_0.7`).

    Arguments:
        weights: how often each resample has each of the N videos, `[R, N]`.
    """
    return percentiles(detection_values(detections, ground_truth, weights), level)
