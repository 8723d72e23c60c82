"""The detection evaluators on one set of hand-made cases: what each of them says, worked out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from paretovid.trainables.data.dataset import Event
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError, UsageError
from paretovid.trainables.evaluation.detection import (
    EVALUATORS,
    THUMOS_THRESHOLDS,
    GroundTruth,
    clipped,
    clipped_segments,
    map_iou,
    map_iou_name,
    overlaps,
    resampled_map_iou,
)
from paretovid.trainables.outcome import Detection


def event(start: float, end: float, label: int = 0) -> Event:
    return Event(label=label, start_seconds=start, end_seconds=end)


def found(start: float, end: float, score: float, label: int = 0) -> Detection:
    return Detection(label=label, start_seconds=start, end_seconds=end, score=score)


def known(events: Sequence[Any], ambiguous: Sequence[Any] | None = None) -> GroundTruth:
    return GroundTruth(events=events, ambiguous=[[]] * len(events) if ambiguous is None else ambiguous)


ONE = [[event(0, 10)]]
CASES = {
    # Detections, ground truth, ambiguous segments, threshold, and what thumos, thumos_11_point and activitynet say.
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
    # Equal scores: the first release lists what is right in any video first; the others take the given order.
    "tie": ([[found(20, 30, 1), found(0, 10, 1)]], ONE, None, 0.5, (0.5, 1, 0.5)),
    "tie, right one first": ([[found(0, 10, 1), found(20, 30, 1)]], ONE, None, 0.5, (1, 1, 1)),
    "tie over videos": ([[found(0, 5, 1)], [found(0, 10, 1)]], [[], *ONE], None, 0.5, (0.5, 1, 0.5)),
    "tie, ambiguous": ([[found(20, 30, 1), found(0, 10, 1)]], ONE, [[(20, 21)]], 0.5, (1, 1, 0.5)),
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
    detections, ground_truth, ambiguous, threshold, expected = CASES[case]
    said = map_iou(detections, known(ground_truth, ambiguous), [threshold], evaluator)  # type: ignore[arg-type]
    order = ("thumos", "thumos_11_point", "activitynet")
    assert said == {map_iou_name([threshold]): pytest.approx(expected[order.index(evaluator)])}


def test_an_interval_beyond_the_end_is_cut_to_the_video():
    beyond = [event(150, 160), event(100, 110), event(-5, 0)]  # those that only touch an end have no length
    events = clipped([event(90, 4000), *beyond, event(-5, 4)], 100)
    assert events == (event(90, 100), event(0, 4))
    assert map_iou([[found(90, 100, 1), found(0, 4, 1)]], known([events]), [0.7])["map_iou_0.7"] == 1
    assert clipped_segments([(90, 4000), (150, 160), (100, 110), (-5, 0), (-5, 4)], 100) == (
        (90, 100),
        (0, 4),
    )


def test_the_mean_over_thresholds_and_its_name():
    # Overlap 0.45: right up to the threshold of 0.4, of seven.
    said = map_iou([[found(0, 4.5, 1)]], known(ONE))
    assert said["map_iou_0.1_0.7"] == pytest.approx(4 / 7)
    assert [said[f"map_iou_{t:g}"] for t in THUMOS_THRESHOLDS] == [1, 1, 1, 1, 0, 0, 0]
    assert map_iou_name([0.1, 0.2, 0.5]) == "map_iou_0.1_0.5"
    assert THUMOS_THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def test_overlap_is_intersection_over_union():
    first, second = np.array([[0.0, 10.0], [0.0, 1.0]]), np.array([[5.0, 15.0], [20.0, 30.0]])
    assert overlaps(first, second) == pytest.approx(np.array([[1 / 3, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[]], known(ONE), [0.5], "thumos_12"), UnknownNameError, "thumos_11_point"),
        (([[]], known(ONE), [0.0]), UsageError, "between 0 and 1"),
        (([[]], known(ONE), []), UsageError, "between 0 and 1"),
        (([[], []], known(ONE), [0.5]), UsageError, "do not compare"),
        (([[]], known(ONE, [[], []]), [0.5]), UsageError, "do not compare"),
        (([[]], known(ONE, []), [0.5]), UsageError, "do not compare"),
        (([[]], known(ONE, [[(5, 5)]]), [0.5]), DataError, "ends before it starts"),
        (([[found(0, 10, 1)]], known([[]]), [0.5]), DataError, "no video has a true instance"),
        (([[found(0, 10, float("nan"))]], known(ONE), [0.5]), NonFiniteError, "not finite"),
        (([[found(5, 5, 1)]], known(ONE), [0.5]), DataError, "ends before it starts"),
    ],
)
def test_what_cannot_be_evaluated_is_reported(arguments, error, message):
    with pytest.raises(error) as caught:
        map_iou(*arguments)
    assert message in str(caught.value)


def random_case(seed: int, videos: int = 12) -> tuple[list[list[Detection]], list[list[Event]]]:
    rng = np.random.default_rng(seed)
    ground_truth = [
        [event(s, s + rng.uniform(1, 6), int(rng.integers(3))) for s in (0, 10, 20)] for _ in range(videos)
    ]
    detections = [
        [
            found(e.start_seconds + rng.normal(0, 1), e.end_seconds + 2 + rng.random(), rng.random(), label)
            for e in events
            for label in (e.label, int(rng.integers(3)))
        ]
        for events in ground_truth
    ]
    return detections, ground_truth


def drawn(each: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return [entry for entry, count in zip(each, counts, strict=True) for _ in range(count)]


@pytest.mark.parametrize("vague", [False, True])
def test_a_resample_is_the_map_of_the_videos_that_it_draws(vague: bool):
    detections, events = random_case(0)
    ambiguous = [[(9.0, 16.0)] if vague else [] for _ in events]
    counts = np.array([[1] * 12, [0, 1] * 6, [1, 0, 0] * 4])
    ground_truth = known(events, ambiguous)
    resampled = resampled_map_iou(detections, ground_truth, THUMOS_THRESHOLDS, counts.astype(np.float32))
    for value, row in zip(resampled, counts, strict=True):
        direct = map_iou(drawn(detections, row), known(drawn(events, row), drawn(ambiguous, row)))
        assert value == pytest.approx(direct["map_iou_0.1_0.7"], abs=1e-6)
    assert (map_iou(detections, ground_truth) != map_iou(detections, known(events))) == vague


def test_copies_of_a_video_share_their_mean_precision():
    # One wrong detection before one right one, both twice: of the right ones, 1 of 3 and 2 of 4 on average.
    detections = [[found(20, 30, 2), found(0, 10, 1)]]
    value = resampled_map_iou(detections, known(ONE), [0.5], np.array([[2.0]]))
    assert value[0] == pytest.approx(1.5 / 3.5)


def test_random_guesses_score_between_nothing_and_everything():
    for seed in range(5):
        detections, events = random_case(seed)
        values = {e: map_iou(detections, known(events), evaluator=e)["map_iou_0.1_0.7"] for e in EVALUATORS}
        assert 0.05 < min(values.values()) <= max(values.values()) < 0.95
        assert values["activitynet"] != values["thumos"]


def as_released(
    detections: Sequence[Any], events: Sequence[Any], ambiguous: Sequence[Any], limit: float, *, updated: bool
) -> float:
    """AP of class 0, step by step as the two releases of THUMOS'14 compute it, one detection at a time."""
    right: list[float] = []
    wrong: list[float] = []
    listed: list[tuple[float, bool]] = []
    for mine, true, vague in zip(detections, events, ambiguous, strict=True):
        ranked = sorted((d for d in mine if d.label == 0), key=lambda d: -d.score)
        taken: set[int] = set()
        for each in (e for e in true if e.label == 0):
            shares = [-1.0 if i in taken else share(each, d) for i, d in enumerate(ranked)]
            if shares and max(shares) > limit:
                taken.add(shares.index(max(shares)))
        for i, d in enumerate(ranked):
            touches = any(min(d.end_seconds, end) > max(d.start_seconds, start) for start, end in vague)
            if i in taken or not touches:
                listed.append((d.score, i in taken))
                (right if i in taken else wrong).append(d.score)
    if not updated:
        listed = [*((score, True) for score in right), *((score, False) for score in wrong)]
    listed.sort(key=lambda pair: -pair[0])
    total = sum(e.label == 0 for true in events for e in true)
    hits = [sum(hit for _, hit in listed[: i + 1]) for i in range(len(listed))]
    precisions = [count / (i + 1) for i, count in enumerate(hits)]
    if updated:
        answer: float = sum(p for p, (_, hit) in zip(precisions, listed, strict=True) if hit) / total
        return answer
    reached = [
        max(
            (p for p, count in zip(precisions, hits, strict=True) if 10 * count >= tenth * total), default=0.0
        )
        for tenth in range(11)
    ]
    return sum(reached) / 11


def share(first: Event, second: Detection) -> float:
    both = min(first.end_seconds, second.end_seconds) - max(first.start_seconds, second.start_seconds)
    hull = max(first.end_seconds, second.end_seconds) - min(first.start_seconds, second.start_seconds)
    return max(0.0, both) / hull


@pytest.mark.parametrize("seed", range(6))
def test_both_releases_of_thumos_on_random_cases_full_of_equal_scores(seed: int):
    rng = np.random.default_rng(seed)
    detections, events = random_case(seed)
    few = [[dataclasses.replace(d, score=float(rng.integers(3))) for d in found] for found in detections]
    ambiguous = [[(12.0, 13.0)] if rng.random() < 0.5 else [] for _ in events]
    ground_truth = known([[e for e in each if e.label == 0] for each in events], ambiguous)
    for evaluator, updated in (("thumos", True), ("thumos_11_point", False)):
        said = map_iou(few, ground_truth, [0.3], evaluator)["map_iou_0.3"]  # type: ignore[arg-type]
        assert said == pytest.approx(as_released(few, events, ambiguous, 0.3, updated=updated))
