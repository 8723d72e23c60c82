from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError
from paretovid.trainables.evaluation.metrics import (
    average_precision_activitynet,
    average_precision_paper,
    average_precision_present_only,
    bootstrap_map_difference,
    bootstrap_map_interval,
    map_by_category,
    map_charades,
    mean_average_precision,
    top1,
)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def random_case(seed: int, videos: int = 40, classes: int = 5, decimals: int = 9):
    rng = np.random.default_rng(seed)
    targets = np.eye(classes)[rng.integers(0, classes, videos)]
    return (rng.random((videos, classes)) + 0.4 * targets).round(decimals), targets


def test_by_hand():
    # Ranks of the positives are 1 and 3: precisions 1 and 2/3.
    scores, targets = column(0.9, 0.8, 0.7, 0.1), column(1, 0, 1, 0)
    assert average_precision_paper(scores, targets)[0] == pytest.approx((1 + 2 / 3) / 2)
    # Interpolation lifts a precision to the best one at a later rank: here ranks 2 and 3, 1/2 becomes 2/3.
    scores, targets = column(0.9, 0.8, 0.7), column(0, 1, 1)
    assert average_precision_paper(scores, targets)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision_activitynet(scores, targets)[0] == pytest.approx(2 / 3)


def test_ties_keep_the_order_of_videos_in_paper_and_share_a_threshold_in_present_only():
    scores = column(0.5, 0.5, 0.5, 0.5)
    assert average_precision_paper(scores, column(1, 0, 0, 0))[0] == 1.0
    assert average_precision_paper(scores, column(0, 0, 0, 1))[0] == 0.25
    for targets in (column(1, 0, 0, 0), column(0, 0, 0, 1)):
        assert average_precision_present_only(scores, targets)[0] == 0.25


def test_an_absent_class_counts_zero_in_paper_and_is_dropped_elsewhere():
    scores, targets = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    assert mean_average_precision(scores, targets, "paper") == 0.5
    assert mean_average_precision(scores, targets, "present_only") == 1.0
    assert mean_average_precision(scores, targets, "activitynet") == 1.0


@pytest.mark.parametrize("decimals", [9, 1])
@pytest.mark.parametrize("seed", range(5))
def test_present_only_is_scikit_learns(seed, decimals):
    scores, targets = random_case(seed, decimals=decimals)
    expected = [average_precision_score(targets[:, c], scores[:, c]) for c in range(5)]
    np.testing.assert_allclose(average_precision_present_only(scores, targets), expected)


def test_without_ties_and_absent_classes_paper_is_present_only_and_interpolated_is_not_below():
    scores, targets = random_case(3)
    paper = average_precision_paper(scores, targets)
    np.testing.assert_allclose(paper, average_precision_present_only(scores, targets))
    assert (average_precision_activitynet(scores, targets) >= paper - 1e-12).all()
    assert average_precision_activitynet(scores, targets).sum() > paper.sum()


def test_top1_counts_any_of_a_videos_labels():
    scores = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])
    assert top1(scores, np.array([[0, 1, 1], [0, 1, 1]])) == 0.5


def test_the_interval_holds_the_estimate_repeats_itself_and_shrinks_with_more_videos():
    scores, targets = random_case(0, videos=60)
    low, high = bootstrap_map_interval(scores, targets)
    assert low < mean_average_precision(scores, targets) < high
    assert (low, high) == bootstrap_map_interval(scores, targets)
    many_scores, many_targets = random_case(0, videos=960)
    many_low, many_high = bootstrap_map_interval(many_scores, many_targets)
    assert many_high - many_low < 0.5 * (high - low)


def test_the_interval_of_a_split_that_misses_a_class_is_about_its_own_map():
    scores, targets = random_case(1, videos=200)
    targets[:, 0] = 0.0
    targets[targets.sum(axis=1) == 0, 1] = 1.0
    low, high = bootstrap_map_interval(scores, targets)
    assert low < mean_average_precision(scores, targets) < high < 0.8


def test_paired_difference_is_zero_for_equal_scores_and_clear_for_better_ones():
    scores, targets = random_case(2)
    assert bootstrap_map_difference(scores, scores, targets) == (0.0, 0.0, 0.0)
    _, low, _ = bootstrap_map_difference(scores + targets, scores, targets)
    assert low > 0


def test_bad_input():
    scores, targets = random_case(0)
    with pytest.raises(UnknownNameError, match="paper"):
        mean_average_precision(scores, targets, "papr")
    with pytest.raises(NonFiniteError):
        mean_average_precision(scores * np.nan, targets)
    with pytest.raises(DataError, match="no video to evaluate"):
        mean_average_precision(scores[:0], targets[:0])
    with pytest.raises(DataError, match="no video has a label"):
        mean_average_precision(scores, targets * 0)
    with pytest.raises(ValueError, match="must both be"):
        top1(scores[:, :2], targets)


def test_charades_puts_videos_without_a_label_last():
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.95, 0.99], [0.2, 0.6]])
    targets = np.array([[1, 0], [0, 1], [0, 0], [1, 0]])
    # Of class 0 the order is 0, 1, 3: positives at ranks 1 and 3. Of class 1: 1, 3, 0.
    assert map_charades(scores, targets) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert mean_average_precision(scores, targets, "present_only") < map_charades(scores, targets)
    assert np.isnan(map_charades(scores, np.array([[1, 0], [0, 0], [0, 0], [1, 0]])))


def test_a_category_is_measured_over_the_videos_that_have_it():
    classes = ("run", "red", "jump", "blue")
    categories = {"run": "action", "jump": "action", "red": "attribute"}
    scores = np.array([[0.9, 0.3, 0.2, 0.0], [0.8, 0.4, 0.1, 0.0], [0.1, 0.9, 0.7, 0.0]])
    targets = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]])
    # Video 0, which has no action, would come before video 1 otherwise.
    assert map_by_category(scores, targets, classes, categories) == {"action": 1.0, "attribute": 1.0}
    assert map_by_category(scores, np.array([[0, 1, 0, 0]] * 3), classes, categories) == {"attribute": 1.0}


def test_intervals_are_percentiles_of_resampled_maps_scaled_by_the_classes_that_are_there():
    scores, targets = random_case(4, videos=30)
    targets[:, 0] = 0.0
    targets[targets.sum(axis=1) == 0, 1] = 1.0
    values = []
    for drawn in np.random.default_rng(7).integers(0, 30, size=(100, 30)):
        left = targets[drawn].sum(axis=0) > 0
        values.append(0.8 * average_precision_paper(scores[drawn][:, left], targets[drawn][:, left]).mean())
    for level, ends in ((0.95, [0.025, 0.975]), (0.6, [0.2, 0.8])):
        found = bootstrap_map_interval(scores, targets, resamples=100, seed=7, level=level)
        assert found == pytest.approx(np.quantile(values, ends))
    assert bootstrap_map_interval(scores, targets) == bootstrap_map_interval(
        scores, targets, resamples=500, seed=0, level=0.95
    )


def test_a_paired_difference_draws_the_same_videos_for_both():
    (first, targets), (second, _) = random_case(5, videos=30), random_case(6, videos=30)
    differences = []
    for drawn in np.random.default_rng(3).integers(0, 30, size=(80, 30)):
        left = targets[drawn].sum(axis=0) > 0
        maps = [
            average_precision_paper(s[drawn][:, left], targets[drawn][:, left]).mean()
            for s in (first, second)
        ]
        differences.append(maps[0] - maps[1])
    for level, ends in ((0.95, [0.025, 0.975]), (0.6, [0.2, 0.8])):
        found = bootstrap_map_difference(first, second, targets, resamples=80, seed=3, level=level)
        assert found == pytest.approx((np.mean(differences), *np.quantile(differences, ends)))
    assert bootstrap_map_difference(first, second, targets) == bootstrap_map_difference(
        first, second, targets, resamples=500, seed=0, level=0.95
    )


def test_each_class_is_ranked_by_its_own_scores():
    """Two classes in opposite orders, with as many positives as one has and the other has not."""
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for average_precision in (
        average_precision_paper,
        average_precision_present_only,
        average_precision_activitynet,
    ):
        assert average_precision(scores, targets).tolist() == [1.0, 1.0]
        assert average_precision(-scores, targets) == pytest.approx([(1 / 2 + 2 / 3) / 2, 1 / 3], abs=0.09)
    absent = average_precision_activitynet(scores, targets * [1, 0])
    assert absent[0] == 1.0 and np.isnan(absent[1])


def test_categories_come_in_order_whatever_the_order_of_their_classes():
    classes = ("e", "d", "c", "b", "a")
    categories = {name: f"of {name}" for name in classes}
    scores, targets = random_case(0)
    assert list(map_by_category(scores, targets, classes, categories)) == [f"of {name}" for name in "abcde"]
