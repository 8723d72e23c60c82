"""Quality of scores: three mAPs by name, top-1, and intervals over videos.

mAP is not one number. The variants, named in every result:

* `paper`: what the reference code of LiteEval, AR-Net, AdaFocus and AdaMML computes. AP is the mean of the
  precision at each positive, in a stable descending order of the scores (a tie keeps the videos' order); a
  class without a positive counts 0; mean over all classes.
* `present_only`: videos with equal scores share one threshold, as in scikit-learn's
  `average_precision_score`; classes without a positive are dropped (FrameExit, mmaction2, SlowFast).
* `activitynet`: precision interpolated to its running maximum from the right (VOC 2011), mean over the
  classes that the ground truth holds.

Sets with several labels a video have further ones: `map_charades`, `map_by_category`.

N videos, C classes. Everything is a fraction between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paretovid.trainables.errors import DataError, NonFiniteError, unknown_name

Floats = NDArray[np.float64]


def _ranked_hits(scores: Floats, targets: Floats) -> Floats:
    """`[N, C]`: the targets of each class in descending order of its scores, ties in the videos' order."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.take_along_axis(targets, order, axis=0)


def _precision(hits: Floats) -> Floats:
    """`[N, C]`: precision after each rank."""
    return np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]


def average_precision_paper(scores: Floats, targets: Floats) -> Floats:
    """`[C]`: mean precision at the positives, 0 for a class without any."""
    hits = _ranked_hits(scores, targets)
    positives = hits.sum(axis=0)
    answer: Floats = (_precision(hits) * hits).sum(axis=0) / np.maximum(positives, 1)
    return answer


def average_precision_present_only(scores: Floats, targets: Floats) -> Floats:
    """`[C]`: AP with one threshold per distinct score, NaN for a class without a positive."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(targets, order, axis=0)
    ranked = np.take_along_axis(scores, order, axis=0)
    result = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(targets.sum(axis=0) > 0):
        ends = np.append(np.flatnonzero(np.diff(ranked[:, c])), len(ranked) - 1)
        found = np.cumsum(hits[:, c])[ends]
        recall_gain = np.diff(found, prepend=0.0) / found[-1]
        result[c] = (recall_gain * found / (ends + 1)).sum()
    return result


def average_precision_activitynet(scores: Floats, targets: Floats) -> Floats:
    """`[C]`: AP of the interpolated precision (VOC 2011), NaN for a class without a positive."""
    hits = _ranked_hits(scores, targets)
    positives = hits.sum(axis=0)
    envelope = np.maximum.accumulate(_precision(hits)[::-1], axis=0)[::-1]
    total = (envelope * hits).sum(axis=0)
    return np.where(positives > 0, total / np.maximum(positives, 1), np.nan)


_AVERAGE_PRECISION: dict[str, Callable[[Floats, Floats], Floats]] = {
    "paper": average_precision_paper,
    "present_only": average_precision_present_only,
    "activitynet": average_precision_activitynet,
}
VARIANTS = tuple(_AVERAGE_PRECISION)


def _checked(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    scores = np.asarray(scores, dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float64)
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must both be [videos, classes]")
    if not len(scores):
        raise DataError("no video to evaluate", "The split is empty; check the data set's manifest.")
    if not np.isfinite(scores).all():
        raise NonFiniteError("scores hold NaN or infinite values", "The training diverged; lower the rate.")
    return scores, targets


def mean_average_precision(scores: Floats, targets: Floats, variant: str = "paper") -> float:
    """mAP of scores `[N, C]` against 0/1 targets `[N, C]`.

    Raises `UnknownNameError` for another variant, `NonFiniteError` for NaN scores, `DataError` for an empty
    split or one in which no class has a positive.
    """
    if variant not in _AVERAGE_PRECISION:
        raise unknown_name("mAP variant", variant, VARIANTS)
    scores, targets = _checked(scores, targets)
    if not targets.any():
        raise DataError("no video has a label", "mAP needs at least one positive; check the labels.")
    return float(np.nanmean(_AVERAGE_PRECISION[variant](scores, targets)))


def map_charades(scores: Floats, targets: Floats) -> float:
    """The Charades evaluation of `[N, C]` scores: as `present_only`, but a video without any label comes last.

    NaN if a class has no positive, as the official script gives.
    """
    scores, targets = _checked(scores, targets)
    has_label = targets.any(axis=1, keepdims=True)
    # Below all others, which is what its minus infinity does to an order.
    ranked = np.where(has_label, scores, scores.min(axis=0, keepdims=True) - 1)
    return float(average_precision_present_only(ranked, targets).mean())


def map_by_category(
    scores: Floats, targets: Floats, classes: Sequence[str], categories: Mapping[str, str]
) -> dict[str, float]:
    """Category to the `present_only` mAP of its classes over the videos that have one of them (HVU, mmaction2).

    Arguments:
        scores, targets: `[N, C]`.
        classes: names of the C columns.
        categories: class name to category; classes without one are left out, and categories without a positive.
    """
    scores, targets = _checked(scores, targets)
    found = {}
    for category in sorted(set(categories.values())):
        columns = [i for i, name in enumerate(classes) if categories.get(name) == category]
        has_it = targets[:, columns].any(axis=1)
        if has_it.any():
            each = average_precision_present_only(scores[has_it][:, columns], targets[has_it][:, columns])
            found[category] = float(np.nanmean(each))
    return found


def top1(scores: Floats, targets: Floats) -> float:
    """Share of N videos whose highest score is one of their classes (HIT@1); both arguments `[N, C]`."""
    scores, targets = _checked(scores, targets)
    return float(targets[np.arange(len(scores)), scores.argmax(axis=1)].mean())


def _resampled_map(scores: Floats, targets: Floats) -> float:
    """Paper mAP of one resample. A class that the resample happens to miss is left out, not counted 0."""
    present = targets.sum(axis=0) > 0
    return float(average_precision_paper(scores[:, present], targets[:, present]).mean())


def _resamples(count: int, num_videos: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, num_videos, size=(count, num_videos))


def bootstrap_map_interval(
    scores: Floats, targets: Floats, resamples: int = 500, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the paper mAP of `[N, C]` scores over the N videos: (low, high), fractions."""
    scores, targets = _checked(scores, targets)
    # Classes that the whole split misses count 0 in the paper's mean, so they scale every resample alike.
    share = float((targets.sum(axis=0) > 0).mean())
    values = [share * _resampled_map(scores[i], targets[i]) for i in _resamples(resamples, len(scores), seed)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_map_difference(
    first: Floats, second: Floats, targets: Floats, resamples: int = 500, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Paired difference of paper mAPs, first - second, of `[N, C]` scores of the same videos: (mean, low, high)."""
    first, targets = _checked(first, targets)
    second, _ = _checked(second, targets)
    differences = [
        _resampled_map(first[i], targets[i]) - _resampled_map(second[i], targets[i])
        for i in _resamples(resamples, len(first), seed)
    ]
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean(differences)), float(low), float(high)
