from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest

from paretovid.platform.search import curve_sampler
from paretovid.platform.search.curve_sampler import (
    MOST_MODELLED,
    Cube,
    expected_gain,
    fitted,
    staircases,
    suggest_by_curves,
)
from paretovid.platform.search.curves import History, Observed, TrialCurve, contributions
from paretovid.platform.search.knob_space import Knobs, KnobSpace, key_of
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.evaluation.pareto import Reference

MIXED = KnobSpace(
    {
        "gamma": KnobConfig(low=0.01, high=0.5, log=True),
        "rate": KnobConfig(low=-1, high=3),
        "clips": KnobConfig(low=1, high=9, whole=True),
        "steps": KnobConfig(low=1, high=64, whole=True, log=True),
        "head": KnobConfig(choices=["a", "b", 3]),
    }
)
PLANE = KnobSpace({"x": KnobConfig(low=0, high=1), "y": KnobConfig(low=0, high=1)})
CORNER = Reference(gflops=1.0)


def reached(knobs: Knobs) -> TrialCurve:
    """The higher x, the higher the cost that it is best at; y changes nothing."""
    costs = [0.05 * 1.5**i for i in range(8)]
    off = [float(knobs["x"]) - math.log(cost / 0.05) / math.log(20) for cost in costs]
    best = [0.9 * (1 - math.exp(-5 * cost)) for cost in costs]
    return TrialCurve.through([(b - o**2, cost) for b, o, cost in zip(best, off, costs, strict=True)], 1.0)


def history(tried: Sequence[Knobs], running: Sequence[Knobs] = (), reference: Reference = CORNER) -> History:
    finished = tuple(Observed(knobs=knobs, curve=reached(knobs)) for knobs in tried)
    return History(finished=finished, running=tuple(running), reference=reference)


def scattered(count: int, seed: int = 0) -> list[Knobs]:
    return [{"x": float(x), "y": float(y)} for x, y in np.random.default_rng(seed).random((count, 2))]


# Places of configurations


def test_places_lead_back_to_their_configurations() -> None:
    cube, generator = Cube(MIXED), np.random.default_rng(0)
    places = np.concatenate([cube.random(200, generator), [[0.0] * 5, [1.0] * 5]])
    configurations = [cube.knobs(place) for place in places]
    for knobs, back in zip(configurations, map(cube.knobs, cube.units(configurations)), strict=True):
        assert back == pytest.approx(knobs) and list(map(type, back.values())) == list(
            map(type, knobs.values())
        )
    assert {each["head"] for each in configurations} == {"a", "b", 3}
    assert {each["clips"] for each in configurations} == set(range(1, 10))
    assert MIXED.within(configurations) == configurations
    ends = cube.units([MIXED.end(most_expensive=False), MIXED.end(most_expensive=True)])
    assert ends[:, :2].tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_a_logarithmic_knob_is_even_in_its_logarithm() -> None:
    (place,) = Cube(MIXED).units(
        [{"gamma": math.sqrt(0.01 * 0.5), "rate": 1, "clips": 5, "steps": 8, "head": "b"}]
    )
    assert place[[0, 1, 2, 4]].tolist() == pytest.approx([0.5] * 4)
    assert 0.5 < place[3] < 0.65


def test_two_choices_are_as_far_apart_as_any_other_two() -> None:
    first: Knobs = {"gamma": 0.1, "rate": 0.0, "clips": 3, "steps": 8, "head": "a"}
    cube = Cube(MIXED)
    places = cube.units([first, {**first, "head": "b"}, {**first, "head": 3}])
    squares = cube.differences(places, places)
    assert squares[4].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]] and not squares[:4].any()


def test_steps_stay_in_the_space_and_near() -> None:
    cube, generator = Cube(MIXED), np.random.default_rng(0)
    middle = np.repeat(
        cube.units([{"gamma": 0.5, "rate": 0, "clips": 5, "steps": 8, "head": "a"}]), 400, axis=0
    )
    near = cube.around(middle, 0.05, generator)
    assert near.min() >= 0 and near.max() <= 1
    assert near[:, 1].std() == pytest.approx(0.05, rel=0.2) and near[:, 0].max() == 1.0
    # A fifth is drawn anew, from all three.
    assert 0.05 < (near[:, 4] != middle[:, 4]).mean() < 0.25


def test_a_small_space_is_listed_whole() -> None:
    small = KnobSpace(
        {"clips": KnobConfig(low=1, high=4, whole=True, log=True), "head": KnobConfig(choices=["a", "b"])}
    )
    listed = Cube(small).every()
    assert listed is not None and Cube(MIXED).every() is None
    assert {key_of(Cube(small).knobs(place)) for place in listed} == {
        key_of({"clips": clips, "head": head}) for clips in (1, 2, 3, 4) for head in "ab"
    }


# Curves as figures


def test_staircases_are_the_best_quality_for_a_cost_and_their_area_that_of_the_box() -> None:
    curves = [[(0.2, 0.1), (0.6, 0.5)], [(0.4, 0.2)], []]
    values, widths = staircases(curves, 0.1, 1.0)
    costs = 1 - np.cumsum(widths[::-1])[::-1]
    assert costs[0] == pytest.approx(0.1) and np.allclose(np.diff(np.log(costs)), math.log(10) / 16)
    for cost, column in zip(costs, values.T, strict=True):
        cheap = cost + 1e-12
        assert column.tolist() == [0.2 if cheap < 0.5 else 0.6, 0.1 if cheap < 0.2 else 0.4, 0.1]


def test_where_nothing_is_cheap_enough_cheaper_is_better() -> None:
    values, widths = staircases([[(0.2, 3.0), (0.6, 5.0)], [(0.4, 2.0)], []], 0.0, 1.0)
    assert widths.tolist() == [1.0] and values[:, 0].tolist() == pytest.approx(
        [-math.log(3), -math.log(2), -math.log(3)]
    )


def test_the_expected_gain_is_the_mean_over_what_may_come() -> None:
    generator = np.random.default_rng(0)
    mean, deviation = generator.random((5, 3)), 0.3 * generator.random((5, 3))
    front, widths = np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.2, 0.4])
    drawn = mean + deviation * generator.standard_normal((200_000, 5, 3))
    expected = (np.maximum(drawn - front, 0) @ widths).mean(axis=0)
    assert expected_gain(mean, deviation, front, widths) == pytest.approx(expected, rel=0.02, abs=2e-4)
    certain = expected_gain(mean, np.zeros((5, 3)), front, widths)
    assert certain == pytest.approx(np.maximum(mean - front, 0) @ widths)


# The model


def test_the_process_agrees_with_what_it_was_given_and_knows_nothing_far_away() -> None:
    cube = Cube(PLANE)
    tried = cube.units(scattered(30))
    values = np.stack([np.sin(3 * tried[:, 0]), 5 + 0.0 * tried[:, 0], tried[:, 0] ** 2], axis=1)
    process = fitted(cube.differences(tried, tried), values)
    mean, deviation = process.predicted(cube.differences(tried, tried))
    assert mean == pytest.approx(values, abs=0.02) and deviation[:, 0].max() < 0.1
    other = cube.units(scattered(20, seed=1))
    mean, _ = process.predicted(cube.differences(other, tried))
    assert mean[:, 0] == pytest.approx(np.sin(3 * other[:, 0]), abs=0.05)
    assert mean[:, 1] == pytest.approx(np.full(20, 5.0)) and deviation[:, 1].max() < 1e-3
    far, unsure = process.predicted(np.full((2, 1, 30), 1e6))
    assert far[0] == pytest.approx(values.mean(axis=0)) and unsure[0, 0] == pytest.approx(values[:, 0].std())
    assert process.lengths[1] > process.lengths[0], "y changes nothing"


def test_what_nothing_is_known_of_is_as_expected() -> None:
    process = fitted(np.zeros((2, 1, 1)), np.array([[0.5, 0.7]]))
    assert process.lengths.tolist() == [0.8, 0.8] and process.noise == 1e-2
    mean, _ = process.predicted(np.full((2, 1, 1), 1e6))
    assert mean.tolist() == [[0.5, 0.7]]


def test_noise_is_not_believed() -> None:
    cube, generator = Cube(PLANE), np.random.default_rng(0)
    tried = cube.units(scattered(40))
    noisy = generator.standard_normal((40, 2))
    assert fitted(cube.differences(tried, tried), noisy).noise == 0.1
    assert fitted(cube.differences(tried, tried), np.repeat(tried[:, :1], 2, axis=1)).noise == 1e-3


# Suggestions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_asks_where_a_curve_adds_most(seed: int) -> None:
    # The expensive half of the range is open, but for its end.
    tried: list[Knobs] = [{**knobs, "x": float(knobs["x"]) / 2} for knobs in scattered(8, seed)]
    tried.append({"x": 1.0, "y": 0.5})
    curves = [reached(knobs).points for knobs in tried]

    def added(knobs: Knobs) -> float:
        return contributions([*curves, reached(knobs).points], CORNER)[-1]

    suggested = suggest_by_curves(history(tried), PLANE, seed)
    at_random = sorted(added(knobs) for knobs in scattered(200, seed=99))
    assert added(suggested) > at_random[180] > 0


def test_it_is_the_same_for_a_seed_and_another_for_another() -> None:
    known = history(
        [{**knobs, "x": float(knobs["x"]) / 2} for knobs in scattered(8)] + [{"x": 1.0, "y": 0.5}]
    )
    first = suggest_by_curves(known, PLANE, 1)
    assert suggest_by_curves(known, PLANE, 1) == first != suggest_by_curves(known, PLANE, 2)


def test_trials_at_a_time_are_spread() -> None:
    tried = scattered(6)
    running: list[Knobs] = []
    for _ in range(4):
        running.append(suggest_by_curves(history(tried, running), PLANE, 0))
    x, y = np.array([[each["x"], each["y"]] for each in running], dtype=float).T
    apart = np.hypot(x[:, None] - x, y[:, None] - y)[np.triu_indices(4, 1)]
    assert apart.min() > 0.05


def test_what_was_tried_is_not_asked_again() -> None:
    small = KnobSpace({"x": KnobConfig(choices=[0.1, 0.3, 0.7]), "y": KnobConfig(low=0, high=1, whole=True)})
    tried: list[Knobs] = [{"x": 0.7, "y": 1}]
    for _ in range(5):
        tried.append(suggest_by_curves(history(tried), small, 0))
    assert len({key_of(knobs) for knobs in tried}) == 6


def test_below_a_limit_that_nothing_keeps_it_looks_for_cheaper_ones() -> None:
    def costing(knobs: Knobs) -> Observed:
        return Observed(knobs=knobs, curve=TrialCurve.through([(0.5, 1 + 4 * float(knobs["x"]))], 5.0))

    finished = tuple(costing(knobs) for knobs in scattered(8))
    limited = History(finished=finished, running=(), reference=Reference(gflops=0.5))
    assert float(suggest_by_curves(limited, PLANE, 0)["x"]) < min(float(each.knobs["x"]) for each in finished)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_results_and_knobs_of_every_kind_are_enough(count: int) -> None:
    cube = Cube(MIXED)
    places = cube.random(count, np.random.default_rng(0))
    curve = TrialCurve.through([(0.5, 0.2)], 1.0)
    finished = tuple(Observed(knobs=cube.knobs(place), curve=curve) for place in places)
    suggested = suggest_by_curves(History(finished=finished, running=(), reference=CORNER), MIXED, 0)
    assert MIXED.within([suggested]) == [suggested] and key_of(suggested) not in {
        key_of(each.knobs) for each in finished
    }
    assert json.loads(json.dumps(suggested)) == suggested


def test_of_too_many_those_that_add_most_are_modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    good = history(scattered(6))
    poor = [Observed(knobs=knobs, curve=TrialCurve(points=(), most_gflops=1.0)) for knobs in scattered(30, 1)]
    monkeypatch.setattr(curve_sampler, "MOST_MODELLED", sum(added > 0 for added in good.contributions))
    whole = dataclasses.replace(good, finished=(*poor, *good.finished))
    assert suggest_by_curves(whole, PLANE, 0) == suggest_by_curves(good, PLANE, 0)


@pytest.mark.slow
def test_many_results_take_no_longer_than_the_model_is_large() -> None:
    began = time.process_time()
    suggested = suggest_by_curves(history(scattered(4 * MOST_MODELLED)), PLANE, 0)
    assert PLANE.within([suggested]) == [suggested]
    assert time.process_time() - began < 4
