"""Who goes on at a rung: judged by curves at equal cost, as trials come."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paretovid.platform.search.rungs import MOST_OTHERS, compared, excesses
from paretovid.search_spaces.schema import LEAST_OTHERS

LOW, MIDDLE, HIGH = [(0.2, 1.0), (0.3, 2.0)], [(0.5, 1.0), (0.6, 2.0)], [(0.7, 1.0), (0.9, 2.0)]


def test_excess_is_what_the_best_point_lies_above_the_median_of_the_others_at_its_cost() -> None:
    assert excesses([LOW, MIDDLE, HIGH]) == pytest.approx([0.2 - 0.6, 0.5 - 0.45, 0.9 - 0.45])


def test_a_cheap_curve_is_compared_at_its_own_cost() -> None:
    """By quality alone it would be the last."""
    cheap = [(0.3, 0.5)]
    expensive = [[(0.1, 0.4), (0.7 + k / 100, 2.0)] for k in range(4)]
    own, *others = excesses([cheap, *expensive])
    assert own == pytest.approx(0.2)
    assert all(own > each for each in others)


def test_a_curve_that_has_nothing_so_cheap_reaches_nothing_there() -> None:
    assert excesses([[(0.3, 0.5)], [(0.9, 1.0)], [(0.8, 1.0)]])[0] == pytest.approx(0.3)


def test_a_curve_without_points_is_the_last() -> None:
    assert excesses([[], HIGH]) == [-math.inf, pytest.approx(0.9)]
    assert excesses([[], []]) == [-math.inf, -math.inf]


def test_excesses_do_not_depend_on_points_that_others_of_the_curve_beat() -> None:
    generator = np.random.default_rng(0)
    curves = [[(float(q), float(c)) for q, c in generator.random((8, 2))] for _ in range(6)]
    beaten = [[*curve, (0.0, max(cost for _, cost in curve) + 1)] for curve in curves]
    assert excesses(beaten) == pytest.approx(excesses(curves))


def test_the_first_go_on_whatever_they_are() -> None:
    others = [HIGH] * LEAST_OTHERS
    assert compared(LOW, others[:-1], 0.5) is None
    found = compared(LOW, others, 0.5)
    assert found is not None and (found.goes_on, found.place) == (False, LEAST_OTHERS + 1)


@pytest.mark.parametrize(("keep", "most"), [(0.5, 3), (0.2, 1), (0.21, 2), (0.9, 5)])
def test_the_kept_share_is_rounded_up(keep: float, most: int) -> None:
    others = [[(0.1 * k, 1.0)] for k in range(1, 5)]
    places = {}
    for quality in (0.05, 0.15, 0.25, 0.35, 0.45):
        found = compared([(quality, 1.0)], others, keep)
        assert found is not None
        places[found.place] = found.goes_on
    assert places == {place: place <= most for place in range(1, 6)}


def test_of_equals_the_earlier_are_better() -> None:
    found = compared(MIDDLE, [MIDDLE] * 4, 0.5)
    assert found is not None and found.place == 5 and not found.goes_on


def test_only_the_latest_are_compared() -> None:
    found = compared(MIDDLE, [HIGH] * 5 + [LOW] * MOST_OTHERS, 0.5)
    assert found is not None and found.place == 1
