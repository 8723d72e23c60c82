"""The documents of a trial's result: what is written is what is read, and what cannot be read says where and why."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import Fields
from paretovid.trainables.errors import DataError, NonFiniteError, ParetovidError
from paretovid.trainables.evaluation.results import (
    VERSION,
    DataReference,
    Metrics,
    OperatingPoint,
    TrialResult,
)

OVERLAP = "map_iou_0.1_0.7"


def metrics(gflops: float = 0.5) -> Metrics:
    return Metrics(
        objective=OVERLAP,
        qualities={
            OVERLAP: 0.3,
            "map_iou_0.5": 0.2,
            "map": 0.9,
            "map_present": 0.9,
            "map_interpolated": 0.8,
            "map_charades": 0.7,
            "map_category_verb": 0.6,
        },
        top1=0.75,
        gflops=gflops,
        gflops_std=0.1,
        gflops_p95=0.9,
        calls={"head": 1.0, "fine@64": 2.5},
        usage=0.25,
        usage_std_over_mean=0.5,
        videos=8,
        stopped_by={"end": 0.5, "cap": 0.5},
    )


RESULT = TrialResult(
    trial="t0000",
    sweep="s",
    digest="0123456789ab",
    method="model_selection_localization",
    objective=OVERLAP,
    is_baseline=False,
    deployable=True,
    seed=3,
    training_knobs={"beta": 0.5, "affinity": "soft", "k": 4},
    model={"network": {"hidden": 32, "wide": True}, "thetas": [0.1, 0.5]},
    training_config={"epochs": 2, "learning_rate": 0.003},
    sources={"fine": "fine@64"},
    widths={"fine": 16},
    data=DataReference(
        name="digits",
        fingerprint="abcdef",
        features={"fine": "fine@64@12"},
        classes=("zero", "one"),
        multi_label=True,
        step_seconds=0.5,
    ),
    code_version="0123",
    torch_version="2.0",
    costs={"fine@64": ComponentCost(macs=10_000_000, input="3x64x64", published_gmacs=0.01)},
    accounting="honest",
    parameters=1234,
    history=({"loss": 1.5, "usage": 0.5}, {"loss": 1.0, "usage": 0.25}),
    points=tuple(
        OperatingPoint(
            id=f"t0000-p0{i}",
            index=i,
            is_default=i == 0,
            inference_knobs={"theta": 0.5 + i / 10, "rule": "stop"},
            val=metrics(0.5 + i),
            test=metrics(0.75 + i),
        )
        for i in range(2)
    ),
    warnings=("collapsed: no clip",),
    seconds=1.5,
)


def document() -> Any:
    return json.loads(json.dumps(RESULT.to_json(), allow_nan=False))


def test_what_is_written_is_what_is_read() -> None:
    read = TrialResult.from_json(document(), "result.json")
    assert read == RESULT
    assert json.dumps(read.to_json()) == json.dumps(RESULT.to_json()), "whole numbers stay whole"
    assert document()["version"] == VERSION


def test_the_objective_is_found_by_its_name_alone() -> None:
    point = RESULT.default_point
    assert point.on("val").quality == 0.3 and point.on("test") is point.test
    assert set(point.val.overlaps) == {OVERLAP, "map_iou_0.5"}
    assert point.val.further == {"map_charades": 0.7, "map_category_verb": 0.6}
    assert (point.most_gflops, RESULT.most_gflops) == (0.75, 1.75)
    assert {*point.val.numbers()} == {
        *point.val.qualities,
        *("top1", "gflops", "gflops_std", "gflops_p95", "usage_std_over_mean"),
    }


def test_a_file_of_before_versions_is_read() -> None:
    """Keys that came later may be missing, and the objective is mAP where none is given."""
    old = document()
    for name in ("version", "digest", "objective", "training_config", "torch_version", "parameters"):
        del old[name]
    del old["training"], old["remarks"]
    for point in old["points"]:
        del point["natural"]
        for split in ("val", "test"):
            for name in ("usage", "usage_std_over_mean", "videos", "stopped_by"):
                del point[split][name]
    read = TrialResult.from_json(old, "result.json")
    assert read.objective == "map" and read.default_point.val.quality == 0.9
    assert read.default_point is read.points[0] and not read.points[0].is_default
    assert (read.digest, read.history, read.warnings, read.parameters) == ("", (), (), None)


@pytest.mark.parametrize(
    ("method", "rule"), [("lite_eval", "cheap"), ("random_gate", "cheap"), ("hcms", "stop")]
)
def test_a_cap_of_before_there_were_rules_is_read_with_the_rule_that_it_had(method: str, rule: str) -> None:
    old = document() | {"method": method}
    old["points"][0]["inference_knobs"] = {"max_gflops": 0.5}
    old["points"][1]["inference_knobs"] = {"max_gflops": 0}
    first, second = TrialResult.from_json(old, "result.json").points
    assert first.inference_knobs == {"max_gflops": 0.5, "cap_rule": rule}
    assert second.inference_knobs == {"max_gflops": 0.0}


def test_a_later_version_is_refused() -> None:
    with pytest.raises(DataError, match=rf"s/result.json is of version {VERSION + 1}") as error:
        TrialResult.from_json(document() | {"version": VERSION + 1}, "s/result.json")
    assert "later paretovid" in error.value.hint
    with pytest.raises(DataError, match="version 0"):
        TrialResult.from_json(document() | {"version": 0}, "s/result.json")


def test_every_field_is_required_in_this_version() -> None:
    for name in document():
        if name in ("version", "parameters", "remarks"):
            continue
        damaged = document()
        del damaged[name]
        with pytest.raises(DataError, match=f"s/result.json has no field '{name}'") as error:
            TrialResult.from_json(damaged, "s/result.json")
        assert error.value.hint


POINT_0 = ("points", 0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("seed",), "three", "seed must be a whole number, not 'three'"),
        (("seed",), True, "seed must be a whole number, not True"),
        (("seconds",), float("nan"), "seconds is nan"),
        (("is_baseline",), 0, "is_baseline must be true or false, not 0"),
        (("points",), [], "holds no operating point"),
        (("points",), {}, r"points must be a list, not \{\}"),
        (("data", "classes"), "zero", "data: classes must be a list"),
        (("widths", "fine"), None, "widths.fine must be a number, not None"),
        (("costs", "fine@64", "macs"), 0.5, "costs.fine@64: macs must be a whole number"),
        (("training_knobs", "beta"), [1], "training_knobs.beta must be a number"),
        (("training", "history", 1, "loss"), float("inf"), r"history\[1\]: loss is inf"),
        ((*POINT_0, "val", "gflops"), float("nan"), r"points\[0\]: val: gflops is nan"),
        ((*POINT_0, "test", "top1"), "0.5", r"points\[0\]: test: top1 must be a number, not '0.5'"),
        ((*POINT_0, "test", OVERLAP), None, f"test has no field '{OVERLAP}'"),
        ((*POINT_0, "val", "map_category_verb"), "x", "map_category_verb must be a number"),
        ((*POINT_0, "val", "calls"), [], "calls must be an object"),
        ((*POINT_0, "val", "calls", "head"), float("-inf"), "calls.head is -inf"),
        ((*POINT_0, "inference_knobs", "theta"), None, "inference_knobs.theta must be a number"),
        ((*POINT_0,), "p", r"points\[0\] holds a str, not an object"),
    ],
)
def test_a_damaged_document_says_which_field(path: tuple[Any, ...], value: Any, said: str) -> None:
    damaged = copy.deepcopy(document())
    holder = damaged
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises((DataError, NonFiniteError), match=said) as error:
        TrialResult.from_json(damaged, "s/result.json")
    assert isinstance(error.value, ParetovidError) and "s/result.json" in error.value.message
    assert error.value.hint


def test_no_document_at_all() -> None:
    with pytest.raises(DataError, match="holds a list, not an object"):
        TrialResult.from_json([], "s/result.json")


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(DataError) as error:
        Fields({"seed": "x" * 1000}, "f", "hint").whole("seed")
    assert len(error.value.message) < 200
