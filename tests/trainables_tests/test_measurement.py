"""The figures of a point: what is written is what is read, and nothing else is taken for a quality."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from paretovid.trainables.documents import Fields
from paretovid.trainables.errors import DataError
from paretovid.trainables.measurement import MAP, Metrics

FULL = Metrics(
    objective="map_iou_0.5",
    qualities={
        "map": 0.9,
        "map_present": 0.8,
        "map_interpolated": 0.7,
        "map_iou_0.5": 0.2,
        "map_charades": 0.6,
        "map_category_verb": 0.4,
    },
    top1=0.75,
    gflops=0.5,
    gflops_std=0.1,
    gflops_p95=0.9,
    calls={"fine@64": 2.5},
    usage=0.25,
    usage_std_over_mean=0.5,
    videos=8,
    stopped_by={"end": 0.5, "cap": 0.5},
)
LEAST = dataclasses.replace(
    FULL,
    objective=MAP,
    qualities={name: FULL.qualities[name] for name in ("map", "map_present", "map_interpolated")},
    usage=None,
    usage_std_over_mean=None,
    videos=None,
    stopped_by=None,
)


def read(document: Any, objective: str) -> Metrics:
    return Metrics.from_json(Fields(document, "result.json", "Make it again."), objective)


@pytest.mark.parametrize("metrics", [FULL, LEAST], ids=["full", "least"])
def test_what_is_written_is_what_is_read(metrics: Metrics) -> None:
    document = metrics.to_json()
    again = read(document, metrics.objective)
    assert again == metrics
    assert list(again.qualities) == list(metrics.qualities), "in the order in which they were measured"


def test_what_was_not_measured_is_not_written() -> None:
    absent = {"usage", "usage_std_over_mean", "videos", "stopped_by"}
    assert not absent & LEAST.to_json().keys()
    assert absent <= FULL.to_json().keys()


def test_numbers_are_what_can_be_compared() -> None:
    costs = {"gflops": 0.5, "gflops_std": 0.1, "gflops_p95": 0.9}
    assert LEAST.numbers() == {**LEAST.qualities, "top1": 0.75, **costs}
    assert FULL.numbers() == {**FULL.qualities, "top1": 0.75, **costs, "usage_std_over_mean": 0.5}


def test_qualities_by_kind() -> None:
    assert FULL.quality == 0.2
    assert FULL.overlaps == {"map_iou_0.5": 0.2}
    assert FULL.further == {"map_charades": 0.6, "map_category_verb": 0.4}
    assert (LEAST.overlaps, LEAST.further) == ({}, {})


@pytest.mark.parametrize(
    "name", ["map", "map_present", "map_interpolated", "map_iou_0.5", "top1", "gflops", "calls"]
)
def test_a_figure_that_is_missing_is_named(name: str) -> None:
    document = FULL.to_json()
    del document[name]
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read(document, FULL.objective)
