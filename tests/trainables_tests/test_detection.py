"""The detection evaluators on one set of hand-made cases: what each of them says, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from paretovid.trainables.data.dataset import Event
from paretovid.trainables.detection import (
    EVALUATORS,
    THUMOS_THRESHOLDS,
    Detection,
    clipped,
    map_iou,
    map_iou_name,
    overlaps,
    resampled_map_iou,
)
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError, UsageError


def event(start: float, end: float, label: int = 0) -> Event:
    return Event(label=label, start_seconds=start, end_seconds=end)


def found(start: float, end: float, score: float, label: int = 0) -> Detection:
    return Detection(label=label, start_seconds=start, end_seconds=end, score=score)


ONE = [[event(0, 10)]]
CASES = {
    # Detections, truth, ambiguous segments, threshold, and what thumos, thumos_11_point and activitynet say.
    "exact": ([[found(0, 10, 1)]], ONE, None, 0.5, (1, 1, 1)),
    "no detection": ([[]], ONE, None, 0.5, (0, 0, 0)),
    "other class only": ([[found(0, 10, 1, label=1)]], ONE, None, 0.5, (0, 0, 0)),
    "other video only": ([[], [found(0, 10, 1)]], [[event(0, 10)], []], None, 0.5, (0, 0, 0)),
    # An overlap of exactly the threshold: THUMOS wants more, ActivityNet is content.
    "on the threshold": ([[found(0, 5, 1)]], ONE, None, 0.5, (0, 0, 1)),
    # The second one is wrong, but after all instances are found it costs nothing.
    "double, best first": ([[found(0, 10, 2), found(0, 9, 1)]], ONE, None, 0.5, (1, 1, 1)),
    # THUMOS gives the instance to the largest overlap, ActivityNet to the highest score.
    "double, best second": ([[found(0, 8, 2), found(0, 10, 1)]], ONE, None, 0.5, (0.5, 0.5, 1)),
    "miss before hit": ([[found(20, 30, 2), found(0, 10, 1)]], ONE, None, 0.5, (0.5, 0.5, 0.5)),
    "ambiguous miss": ([[found(20, 30, 2), found(0, 10, 1)]], ONE, [[(29, 40)]], 0.5, (1, 1, 0.5)),
    "ambiguous, touching ends": ([[found(20, 30, 2), found(0, 10, 1)]], ONE, [[(30, 40)]], 0.5, (0.5,) * 3),
    "ambiguous hit stays": ([[found(0, 10, 1)]], ONE, [[(0, 10)]], 0.5, (1, 1, 1)),
    # Equal scores: in a video THUMOS lists what is right first; ActivityNet takes the given order.
    "tie": ([[found(20, 30, 1), found(0, 10, 1)]], ONE, None, 0.5, (1, 1, 0.5)),
    "tie over videos": ([[found(0, 5, 1)], [found(0, 10, 1)]], [[], *ONE], None, 0.5, (0.5, 0.5, 0.5)),
    # Recall stops at 1/2: of the 11 levels 0 to 0.5 are reached.
    "one of two": ([[found(0, 10, 1)]], [[event(0, 10), event(20, 30)]], None, 0.5, (0.5, 6 / 11, 0.5)),
    # Precisions at the two hits: 1/2 and 2/3; interpolated, both 2/3.
    "rising precision": (
        [[found(40, 50, 3), found(0, 10, 2), found(20, 30, 1)]],
        [[event(0, 10), event(20, 30)]],
        None,
        0.5,
        (7 / 12, 2 / 3, 2 / 3),
    ),
    # One long detection over two instances finds only one of them.
    "one over two": ([[found(0, 20, 1)]], [[event(0, 12), event(12, 20)]], None, 0.3, (0.5, 6 / 11, 0.5)),
    # The first instance in the annotation takes the detection that suits the second better.
    # The first instance in the annotation takes the detection that suits the second better.
    "annotation order": (
        [[found(0.5, 10, 2), found(5, 10, 1)]],
        [[event(2, 10), event(0, 10)]],
        None,
        0.6,
        (0.5, 6 / 11, 1),
    ),
    "beyond the end": ([[found(90, 100, 1)]], [[event(90, 4000)]], None, 0.5, (0, 0, 0)),
    "a video without any instance": (
        [[found(0, 10, 1)], [found(0, 10, 2)]],
        [*ONE, []],
        None,
        0.5,
        (0.5,) * 3,
    ),
    # 1 for the class that is found, 0 for the other; a class without an instance counts nothing.
    "classes": (
        [[found(0, 10, 1), found(0, 10, 5, label=2)]],
        [[event(0, 10), event(0, 10, 1)]],
        None,
        0.5,
        (0.5,) * 3,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_hand_made_cases(case: str, evaluator: str):
    detections, truth, ambiguous, threshold, expected = CASES[case]
    said = map_iou(detections, truth, [threshold], evaluator, ambiguous)  # type: ignore[arg-type]
    order = ("thumos", "thumos_11_point", "activitynet")
    assert said == {map_iou_name([threshold]): pytest.approx(expected[order.index(evaluator)])}


def test_an_interval_beyond_the_end_is_cut_to_the_video():
    events = clipped([event(90, 4000), event(150, 160), event(-5, 4)], 100)
    assert events == (event(90, 100), event(0, 4))
    assert map_iou([[found(90, 100, 1), found(0, 4, 1)]], [events], [0.7])["map_iou_0.7"] == 1


def test_the_mean_over_thresholds_and_its_name():
    # Overlap 0.45: right up to the threshold of 0.4, of seven.
    said = map_iou([[found(0, 4.5, 1)]], ONE)
    assert said["map_iou_0.1_0.7"] == pytest.approx(4 / 7)
    assert [said[f"map_iou_{t:g}"] for t in THUMOS_THRESHOLDS] == [1, 1, 1, 1, 0, 0, 0]
    assert map_iou_name([0.1, 0.2, 0.5]) == "map_iou_0.1_0.5"


def test_overlap_is_intersection_over_union():
    first, second = np.array([[0.0, 10.0], [0.0, 1.0]]), np.array([[5.0, 15.0], [20.0, 30.0]])
    assert overlaps(first, second) == pytest.approx(np.array([[1 / 3, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[]], ONE, [0.5], "thumos_12"), UnknownNameError, "thumos_11_point"),
        (([[]], ONE, [0.0]), UsageError, "between 0 and 1"),
        (([[]], ONE, []), UsageError, "between 0 and 1"),
        (([[], []], ONE, [0.5]), UsageError, "do not compare"),
        (([[found(0, 10, 1)]], [[]], [0.5]), DataError, "no video has a true instance"),
        (([[found(0, 10, float("nan"))]], ONE, [0.5]), NonFiniteError, "not finite"),
        (([[found(5, 5, 1)]], ONE, [0.5]), DataError, "ends before it starts"),
    ],
)
def test_what_cannot_be_evaluated_is_told(arguments, error, message):
    with pytest.raises(error) as caught:
        map_iou(*arguments)
    assert message in str(caught.value)


def random_case(seed: int, videos: int = 12) -> tuple[list[list[Detection]], list[list[Event]]]:
    rng = np.random.default_rng(seed)
    truth = [
        [event(s, s + rng.uniform(1, 6), int(rng.integers(3))) for s in (0, 10, 20)] for _ in range(videos)
    ]
    detections = [
        [
            found(e.start_seconds + rng.normal(0, 1), e.end_seconds + 2 + rng.random(), rng.random(), label)
            for e in events
            for label in (e.label, int(rng.integers(3)))
        ]
        for events in truth
    ]
    return detections, truth


def drawn(each: Sequence, counts: Sequence[int]) -> list:
    return [entry for entry, count in zip(each, counts, strict=True) for _ in range(count)]


def test_a_resample_is_the_map_of_the_videos_that_it_draws():
    detections, truth = random_case(0)
    counts = np.array([[1] * 12, [0, 1] * 6, [1, 0, 0] * 4])
    resampled = resampled_map_iou(detections, truth, THUMOS_THRESHOLDS, counts.astype(np.float32))
    for value, row in zip(resampled, counts, strict=True):
        direct = map_iou(drawn(detections, row), drawn(truth, row))["map_iou_0.1_0.7"]
        assert value == pytest.approx(direct, abs=1e-6)


def test_copies_of_a_video_share_their_mean_precision():
    # One wrong detection before one right one, both twice: of the right ones, 1 of 3 and 2 of 4 on average.
    detections = [[found(20, 30, 2), found(0, 10, 1)]]
    value = resampled_map_iou(detections, ONE, [0.5], np.array([[2.0]]))
    assert value[0] == pytest.approx(1.5 / 3.5)


def test_random_guesses_score_between_nothing_and_everything():
    for seed in range(5):
        detections, truth = random_case(seed)
        values = {e: map_iou(detections, truth, evaluator=e)["map_iou_0.1_0.7"] for e in EVALUATORS}
        assert 0.05 < min(values.values()) <= max(values.values()) < 0.95
        assert values["activitynet"] != values["thumos"]
