from __future__ import annotations

import itertools
import json
import math
import random

import pytest

from paretovid.platform.search.curves import (
    MOST_POINTS,
    History,
    Observed,
    TrialCurve,
    contributions,
)
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.pareto import Reference, hypervolume
from paretovid.trainables.testing import synthetic_result

CORNER = Reference(gflops=10.0)


def area(curves: list[list[tuple[float, float]]], reference: Reference) -> float:
    points = [point for curve in curves for point in curve]
    return hypervolume([gflops for _, gflops in points], [quality for quality, _ in points], reference)


def test_a_curve_adds_what_the_front_loses_without_it() -> None:
    drawn = random.Random(0)
    for _ in range(50):
        reference = Reference(quality=drawn.choice([0.0, 0.2]), gflops=drawn.uniform(5, 12))
        # Few different values, so that many are equal.
        curves = [
            [(drawn.randint(0, 8) / 8, float(drawn.randint(1, 12))) for _ in range(drawn.randint(0, 6))]
            for _ in range(drawn.randint(1, 6))
        ]
        without = [area(curves[:i] + curves[i + 1 :], reference) for i in range(len(curves))]
        expected = [area(curves, reference) - each for each in without]
        assert contributions(curves, reference) == pytest.approx(expected, abs=1e-12)


def test_what_it_adds_does_not_hang_on_the_order_of_the_others() -> None:
    curves = [[(0.5, 1.0), (0.7, 4.0)], [(0.6, 2.0)], [(0.5, 1.0), (0.9, 8.0)], [(0.6, 2.0), (0.65, 3.0)]]
    by_curve = [
        {tuple(curve): added for curve, added in zip(order, contributions(order, CORNER), strict=True)}
        for order in itertools.permutations(curves)
    ]
    assert all(each == by_curve[0] for each in by_curve)


def test_without_curves_nothing_is_added() -> None:
    assert contributions([], CORNER) == [] and contributions([[], [(0.5, 11.0)]], CORNER) == [0.0, 0.0]


def test_a_curve_is_what_no_other_point_of_the_trial_beats() -> None:
    result = synthetic_result(points=[(0.5, 2.0), (0.6, 3.0), (0.4, 2.5), (0.3, 1.0), (0.2, 9.0)])
    curve = TrialCurve.of(result.points)
    assert curve == TrialCurve(points=((0.3, 1.0), (0.5, 2.0), (0.6, 3.0)), most_gflops=9.0)
    stored = json.loads(json.dumps(curve.to_json()))
    assert TrialCurve.from_json(stored, "here") == curve


def test_a_curve_stays_small_and_keeps_its_ends() -> None:
    pairs = [(1 - math.exp(-i / 70), 0.1 + i / 3) for i in range(200)]
    curve = TrialCurve.through(pairs, 99.0)
    assert len(curve.points) == MOST_POINTS
    assert (curve.points[0], curve.points[-1]) == (pairs[0], pairs[-1])
    assert len(json.dumps(curve.to_json())) < 2000
    reference = Reference(gflops=70.0)
    kept, whole = area([list(curve.points)], reference), area([pairs], reference)
    assert 0.97 * whole < kept < whole


def test_points_that_are_not_finite_are_no_part_of_it() -> None:
    curve = TrialCurve.through([(math.nan, 1.0), (0.5, math.inf), (0.4, 2.0)], math.inf)
    assert curve == TrialCurve(points=((0.4, 2.0),), most_gflops=2.0)


def test_a_stored_curve_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"the curve of trial 3.*points"):
        TrialCurve.from_json({"points": [[0.5]], "most_gflops": 1.0}, "the curve of trial 3")


def test_the_history_says_what_each_adds() -> None:
    finished = tuple(
        Observed(knobs={}, curve=TrialCurve.through(pairs, 10.0)) for pairs in ([(0.5, 2.0)], [(0.6, 4.0)])
    )
    history = History(finished=finished, running=(), reference=CORNER)
    assert history.contributions == pytest.approx([0.5 * 2, 0.1 * 6])
