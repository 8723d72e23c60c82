"""Choices among operating points, on figures made up for it; and the caps of HCMS's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.harness.caps import complete_caps, under_caps
from benchmarks.harness.points import Point, Run, best_on_validation, cost_against, cost_at_quality
from benchmarks.harness.results import Results, Row, Rows
from benchmarks.hcms import caps_side_by_side

from paretovid.trainables.evaluation.results import Metrics, OperatingPoint


def metrics(quality: float, gflops: float) -> Metrics:
    return Metrics(
        objective="map",
        qualities={"map": quality},
        top1=quality,
        gflops=gflops,
        gflops_std=0.0,
        gflops_p95=gflops,
        calls={},
        usage=0.0,
        usage_std_over_mean=0.0,
        videos=2,
        stopped_by=None,
    )


def points(trial: str, *figures: tuple[float, float, float]) -> list[Point]:
    """Of a trial: knob k, quality and GFLOPs on validation; on test quality is 0.1 lower. The first is the default."""
    return [
        Point(
            trial=trial,
            record=OperatingPoint(
                id=f"{trial}-p{place:02d}",
                index=place,
                is_default=place == 0,
                inference_knobs={"k": knob},
                val=metrics(quality, gflops),
                test=metrics(quality - 0.1, gflops),
            ),
            scores=np.zeros((2, 1)),
            gflops=np.full(2, gflops),
            decisions=np.zeros((2, 1)),
        )
        for place, (knob, quality, gflops) in enumerate(figures)
    ]


def runs() -> list[Run]:
    """Two seeds. The rival's best is 0.8 in the mean, at 4 GFLOPs with k=1 and at 5 with k=2."""
    return [
        {
            "rival": points("rival-s0", (0, 0.7, 1.0), (1, 0.8, 4.0), (2, 0.8, 5.0)),
            "ours": points("ours-s0", (0, 0.9, 3.0), (1, 0.795, 2.0), (2, 0.81, 2.5), (3, 0.99, 0.1)),
        },
        {
            "rival": points("rival-s1", (0, 0.7, 1.0), (1, 0.8, 4.0), (2, 0.8, 5.0)),
            "ours": points("ours-s1", (0, 0.9, 3.0), (1, 0.805, 2.0), (2, 0.78, 2.5)),
        },
    ]


def knobs(chosen: Sequence[Point]) -> list[float]:
    return [point.setting["k"] for point in chosen]


def test_of_equally_good_rivals_the_cheapest_counts() -> None:
    assert knobs(best_on_validation(runs(), ["rival"])) == [1, 1]
    assert knobs(best_on_validation(runs(), ["rival"], k=2)) == [2, 2]
    assert knobs(best_on_validation(runs(), ["rival", "ours"])) == [0, 0]


def test_the_cheapest_setting_that_is_as_good_by_the_mean_over_seeds() -> None:
    rows = cost_at_quality(runs(), ["ours"], ["rival"], margin=0.0)
    # k=1 is as good in the mean of the seeds, k=2 is not, k=3 is not there for every seed.
    assert [row["chosen"] for row in rows] == ["ours-s0 k=1", "ours-s1 k=1"]
    assert [row["baseline"] for row in rows] == ["rival-s0 k=1", "rival-s1 k=1"]
    assert [row["map"] for row in rows] == pytest.approx([0.695, 0.705])
    assert [row["map_difference"] for row in rows] == pytest.approx([-0.005, 0.005])
    assert [row["cost_ratio"] for row in rows] == [0.5, 0.5] and all(row["reached_on_val"] for row in rows)
    default = cost_at_quality(runs(), ["ours"], ["rival"], margin=0.0, is_default=True)
    assert default[0]["chosen"] == "ours-s0 k=0"


def test_a_margin_lets_cheaper_ones_in_and_none_that_is_good_enough_gives_the_best() -> None:
    rival = best_on_validation(runs(), ["rival"])
    wide = cost_against(runs()[1:], ["ours"], rival[1:], margin=0.021)
    assert wide[0]["chosen"] == "ours-s1 k=1"
    out_of_reach = cost_against(runs(), ["ours"], rival, margin=-0.2)
    assert out_of_reach[0]["chosen"] == "ours-s0 k=0" and not out_of_reach[0]["reached_on_val"]


def test_a_curve_of_caps_is_that_of_the_default_setting_under_one_rule() -> None:
    knobs: list[dict[str, float | str]] = [
        {"k": 0},
        {"k": 1},
        {"k": 0, "max_gflops": 2.0, "cap_rule": "stop"},
        {"k": 0, "max_gflops": 1.0, "cap_rule": "stop"},
        {"k": 1, "max_gflops": 1.0, "cap_rule": "stop"},
        {"k": 0, "max_gflops": 1.0, "cap_rule": "cheap"},
    ]
    made = points("a", *((place, 0.5 + place / 10, float(place)) for place in range(len(knobs))))
    trial = [
        replace(point, record=replace(point.record, inference_knobs=setting))
        for point, setting in zip(made, knobs, strict=True)
    ]
    assert [(row["cap"], row["gflops"]) for row in under_caps(trial)] == [(1.0, 3.0), (2.0, 2.0), (0.0, 0.0)]
    # Nothing cheaper to continue with at 2: the video ends there as well.
    cheap = [(row["cap"], row["gflops"]) for row in under_caps(trial, "cheap")]
    assert cheap == [(1.0, 5.0), (2.0, 2.0), (0.0, 0.0)]


def test_a_cap_that_a_trial_did_not_keep_is_the_uncapped_run() -> None:
    rows: list[Row] = [
        {"trial": "a", "seed": 0, "cap": 0.5, "map": 0.4, "gflops": 0.3},
        {"trial": "a", "seed": 0, "cap": 0.0, "map": 0.9, "gflops": 1.0},
        {"trial": "a", "seed": 1, "cap": 0.0, "map": 0.8, "gflops": 1.1},
        {"trial": "b", "seed": 0, "cap": 0.0, "map": 0.7, "gflops": 1.2},
    ]
    results = Results({}, {"caps": Rows(tuple(rows))})
    at_half = complete_caps(results["caps"]).where(trial="a", cap=0.5)
    assert at_half.numbers("map") == [0.4, 0.8] and at_half.numbers("seed") == [0.0, 1.0]
    assert complete_caps(results["caps"]).where(trial="b").numbers("map") == [0.7]
    beside = caps_side_by_side(results).where(cap="none")
    assert beside.numbers("a") == [0.9, 0.8] and beside.numbers("b") == [0.7]
