"""Fronts, hypervolumes and knees on cases that can be checked by hand."""

import itertools
import math

import numpy as np
import pytest

from paretovid.trainables.errors import NonFiniteError
from paretovid.trainables.evaluation.pareto import (
    Reference,
    hypervolume,
    knee,
    non_dominated,
    reference_of,
    thinned,
)


def test_front_keeps_what_nothing_beats() -> None:
    costs, qualities = [1.0, 2.0, 2.0, 3.0, 4.0], [0.2, 0.5, 0.4, 0.5, 0.9]
    assert non_dominated(costs, qualities) == [0, 1, 4]


def test_of_equal_points_the_first_is_kept() -> None:
    assert non_dominated([1.0, 1.0], [0.5, 0.5]) == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_points_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        non_dominated([1.0, bad], [0.5, 0.5])


def test_front_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    costs, qualities = generator.integers(0, 8, 60).tolist(), generator.integers(0, 8, 60).tolist()

    def beaten(i: int) -> bool:
        return any(
            costs[j] <= costs[i]
            and qualities[j] >= qualities[i]
            and ((costs[j], qualities[j]) != (costs[i], qualities[i]) or j < i)
            for j in range(60)
            if j != i
        )

    assert sorted(non_dominated(costs, qualities)) == [i for i in range(60) if not beaten(i)]


def test_hypervolume_by_hand() -> None:
    reference = Reference(quality=0.1, gflops=10.0)
    # (4, 0.6): 6 x 0.5; (8, 0.8) adds 2 x 0.2; (9, 0.7) is beaten; (12, 0.9) is outside the corner.
    assert hypervolume([4, 8, 9, 12], [0.6, 0.8, 0.7, 0.9], reference) == pytest.approx(3.4)
    assert hypervolume([], [], reference) == 0.0


def test_hypervolume_equals_inclusion_and_exclusion() -> None:
    generator = np.random.default_rng(1)
    costs, qualities = generator.random(7).tolist(), generator.random(7).tolist()
    total = 0.0
    for size in range(1, 8):
        for subset in itertools.combinations(range(7), size):
            width = 1 - max(costs[i] for i in subset)
            total += (-1) ** (size + 1) * width * min(qualities[i] for i in subset)
    assert hypervolume(costs, qualities, Reference(gflops=1.0)) == pytest.approx(total)


def test_knee_is_the_bend() -> None:
    costs, qualities = [1.0, 2.0, 5.0, 10.0], [0.1, 0.8, 0.85, 0.9]
    assert knee(costs, qualities) == 1
    assert knee([3.0, 1.0], [0.9, 0.2]) == 1
    with pytest.raises(ValueError, match="knee"):
        knee([], [])


def test_thinning_keeps_the_ends_and_the_bend() -> None:
    costs = [1.0, 1.1, 2.0, 2.1, 9.0, 10.0]
    qualities = [0.1, 0.11, 0.8, 0.81, 0.89, 0.9]
    kept = thinned(costs, qualities, 3)
    assert kept[0] == 0 and kept[-1] == 5 and len(kept) == 3
    assert kept[1] in (2, 3)


def test_the_bend_is_measured_from_the_cheapest_to_the_best_point_of_the_front() -> None:
    # Against the line to the third point the second would stand out most; (20, 0.9) is beaten and has no say.
    assert knee([0.0, 1.0, 4.0, 10.0, 20.0], [0.0, 0.3, 0.62, 1.0, 0.9]) == 2
    assert knee([5.0, 6.0, 9.0], [0.5, 0.9, 1.0]) == 1, "wherever the front begins"
    assert knee([0.0, 1.0, 2.0, 4.0], [0.0, 0.5, 0.75, 1.0]) == 1, "of equals the cheaper one"


def test_a_corner_that_all_have_is_the_largest_of_them_and_else_it_is_the_most_expensive_point() -> None:
    near, far = Reference(quality=0.2, gflops=5.0), Reference(quality=0.1, gflops=3.0)
    assert reference_of([near, far], 99.0) == Reference(quality=0.1, gflops=5.0)
    assert reference_of([near], 99.0) == near
    for corners in ([near, None], [None], []):
        assert reference_of(corners, 99.0) == Reference(quality=0.0, gflops=99.0)
    assert near.to_json("map") == {"map": 0.2, "gflops": 5.0}


def test_what_does_not_pair_up_is_an_error_and_so_is_a_quality_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="2 costs but 1 qualities"):
        non_dominated([1.0, 2.0], [0.5])
    with pytest.raises(NonFiniteError, match="nan"):
        hypervolume([1.0], [math.nan], Reference(gflops=2.0))


def test_thinning_takes_out_what_covers_least_and_never_an_end() -> None:
    costs, qualities = [0.0, 1.0, 2.0, 6.0, 10.0], [0.0, 0.5, 0.55, 0.9, 1.0]
    # Losses of the middle ones: 1 x 0.5, 4 x 0.05, 4 x 0.35; then 5 x 0.5 and 4 x 0.4.
    assert thinned(costs, qualities, 5) == [0, 1, 2, 3, 4]
    assert thinned(costs, qualities, 4) == [0, 1, 3, 4]
    assert thinned(costs, qualities, 3) == [0, 1, 4]
    assert thinned(costs, qualities, 2) == thinned(costs, qualities, 1) == [0, 4]
