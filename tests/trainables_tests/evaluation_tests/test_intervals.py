"""Intervals over videos: of their own mAP, of 95 %, from the seed, also where a resample misses a class."""

from __future__ import annotations

import numpy as np
import pytest

from paretovid.trainables.data.dataset import Event
from paretovid.trainables.evaluation.detection import THUMOS_THRESHOLDS, GroundTruth, resampled_map_iou
from paretovid.trainables.evaluation.intervals import (
    detection_interval,
    map_interval,
    resample_weights,
    resampled_maps,
)
from paretovid.trainables.evaluation.metrics import average_precision_paper
from paretovid.trainables.outcome import Detection


def random_case(videos: int = 30, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    targets = np.eye(classes)[rng.integers(0, classes, videos)]
    return rng.random((videos, classes)) + 0.3 * targets, targets


def one_instance(label: int) -> list[Event]:
    return [Event(label=label, start_seconds=0, end_seconds=10)]


def detections(*found: bool) -> list[list[Detection]]:
    """One of class 0 in each video, right or far from what is there."""
    return [
        [Detection(label=0, start_seconds=20.0 * (not right), end_seconds=10 + 20.0 * (not right), score=1.0)]
        for right in found
    ]


def test_a_resample_draws_as_many_videos_as_there_are_from_its_seed():
    weights = resample_weights(50, 300, seed=3)
    assert weights.shape == (300, 50) and weights.dtype == np.float32
    assert (weights.sum(axis=1) == 50).all() and (weights >= 0).all()
    assert np.array_equal(weights, resample_weights(50, 300, seed=3))
    assert not np.array_equal(weights, resample_weights(50, 300, seed=4))
    assert np.array_equal(resample_weights(50), resample_weights(50, 400, seed=0))
    # As often as not each video is drawn, and every one as often as another.
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.02)
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.3)
    # Row r holds the r-th of the generator's draws, and no row that of another.
    draws = np.random.default_rng(3).integers(0, 50, size=(300, 50))
    by_hand = [np.bincount(drawn, minlength=50) for drawn in draws]
    assert np.array_equal(weights, by_hand)


def test_a_resample_is_the_map_of_the_videos_that_it_draws():
    """Where no video is drawn twice it is exactly the paper's mAP over the classes that are left."""
    scores, targets = random_case()
    for kept in (slice(0, 30), slice(0, 30, 2), slice(5, 12)):
        weights = np.zeros((1, 30), np.float32)
        weights[0, kept] = 1
        left = targets[kept].sum(axis=0) > 0
        by_hand = average_precision_paper(scores[kept][:, left], targets[kept][:, left]).mean()
        assert resampled_maps(scores, targets, weights)[0] == pytest.approx(by_hand, abs=1e-6)


def test_a_class_that_a_resample_misses_is_left_out_and_one_that_the_split_has_not_counts_0():
    scores, targets = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]), np.array([[1.0, 0, 0], [0, 1.0, 0]])
    both, one = np.array([[1.0, 1.0]], np.float32), np.array([[2.0, 0.0]], np.float32)
    assert resampled_maps(scores, targets, both)[0] == pytest.approx(2 / 3)
    assert resampled_maps(scores, targets, one)[0] == pytest.approx(2 / 3), "not 1/3"
    nobody = np.zeros((1, 2), np.float32)
    assert resampled_maps(scores, targets, nobody)[0] == 0.0


def test_a_video_drawn_k_times_counts_k_times_with_its_mean_precision():
    scores, targets = np.array([[0.9], [0.8]]), np.array([[0.0], [1.0]])
    # A wrong one before the right one, both twice: 1 of 3 and 2 of 4, whose mean is about that of the middle copy.
    weights = np.array([[2.0, 2.0], [1.0, 3.0]], np.float32)
    assert resampled_maps(scores, targets, weights) == pytest.approx([1.5 / 3.5, 2 / 3])


def test_an_interval_holds_95_percent_of_the_resamples_unless_set_otherwise():
    scores, targets = random_case()
    weights = resample_weights(30, 1000)
    values = resampled_maps(scores, targets, weights)
    low, high = map_interval(scores, targets, weights)
    assert [(values < low).mean(), (values > high).mean()] == pytest.approx([0.025, 0.025], abs=0.002)
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    half = np.quantile(values, [0.25, 0.75])
    assert map_interval(scores, targets, weights, level=0.5) == pytest.approx(half)


def test_an_interval_of_detections_holds_95_percent_of_theirs():
    found = detections(*([True, False, True] * 10))
    ground_truth = GroundTruth(events=[one_instance(0)] * 30, ambiguous=[[]] * 30)
    weights = resample_weights(30, 1000)
    values = resampled_map_iou(found, ground_truth, THUMOS_THRESHOLDS, weights)
    assert len(set(values.round(6))) > 100
    wide, narrow = np.quantile(values, [0.025, 0.975]), np.quantile(values, [0.1, 0.9])
    assert detection_interval(found, ground_truth, weights) == pytest.approx(wide)
    assert detection_interval(found, ground_truth, weights, level=0.8) == pytest.approx(narrow)


def test_a_class_that_a_resample_of_detections_misses_is_left_out():
    found = detections(True, True)
    ground_truth = GroundTruth(events=[one_instance(0), one_instance(1)], ambiguous=[[], []])
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [0.0, 0.0]], np.float32)
    # Class 0 is found in video 0 (and once where it is not, after that); class 1 nowhere.
    assert resampled_map_iou(found, ground_truth, [0.5], weights) == pytest.approx([0.5, 1.0, 0.0, 0.0])
