"""`model.json`: what is written is read again, what was written before is read, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.errors import DataError, NonFiniteError
from paretovid.trainables.model_description import MODEL_FILE, ModelDescription

FIRST: dict[str, Any] = {
    "format": 1,
    "method": "lite_eval",
    "config": {"target_usage": 0.4, "network": {"cell": "gru"}},
    "sources": {"coarse": "tiny@16"},
    "widths": {"coarse": 64},
    "feature_dtype": "float16",
    "costs": {
        "tiny@16": {"macs": 1000, "input": "3x16x16", "provenance": "counted", "published_gmacs": None}
    },
    "classes": ["a", "b"],
    "multi_label": False,
    "step_seconds": 0.5,
    "setting": {"gate_offset": -1, "max_gflops": 0.5, "cap_rule": "stop"},
    "accounting": "honest",
    "point": {"sweep": "s", "trial": "t0000", "id": "t0000-p00", "seed": 0},
    "training_knobs": {"gamma": 0.4},
    "data": {"name": "d", "fingerprint": "f"},
    "code_version": "0123456789ab",
    "backbones": {"coarse": {"component": "tiny@16"}},
}
"""As the first version wrote it."""


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(FIRST)
    *parents, last = path.split(".")
    target = data
    for parent in parents:
        target = target[parent]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return data


def test_the_first_version_is_read_and_written_as_this_one(tmp_path: Path) -> None:
    found = ModelDescription.from_json(FIRST)
    assert (found.method, found.feature_dtype, found.classes) == ("lite_eval", "float16", ("a", "b"))
    assert found.costs["tiny@16"].macs == 1000 and found.setting["cap_rule"] == "stop"
    assert found.origin is not None and (found.origin.point, found.origin.data_name) == ("t0000-p00", "d")
    found.write(tmp_path)
    assert ModelDescription.read(tmp_path) == found
    written = json.loads((tmp_path / MODEL_FILE).read_text())
    assert written.pop("version") == 2
    kept = {name: value for name, value in FIRST.items() if name not in ("format", "costs")}
    assert {name: value for name, value in written.items() if name != "costs"} == kept


def test_a_dial_is_written_and_read(tmp_path: Path) -> None:
    measured = {"quality": 0.5, "gflops": 1.5}
    dial = [{"params": {"budget": 0.1}, "objective": "map", "val": measured, "test": measured}]
    found = ModelDescription.from_json({**FIRST, "dial": dial})
    assert found.dial[0].params == {"budget": 0.1} and found.dial[0].test_gflops == 1.5
    found.write(tmp_path)
    assert ModelDescription.read(tmp_path) == found
    broken = [{**dial[0], "val": {"quality": 1.5, "gflops": 1.5}}]
    with pytest.raises(DataError, match=r"dial\[0\]: val: quality must be a number from 0 to 1"):
        ModelDescription.from_json({**FIRST, "dial": broken})


def test_what_only_the_record_needs_may_be_left_out() -> None:
    record = ("accounting", "point", "training_knobs", "data", "code_version", "backbones", "feature_dtype")
    found = ModelDescription.from_json({k: v for k, v in FIRST.items() if k not in record})
    assert found.origin is None and found.feature_dtype == "float32"
    assert "point" not in found.to_json()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 3, r"here is of version 3, and this code reads versions 1 to 2"),
        ("version", 0, r"here is of version 0"),
        ("version", "2", r"here: version must be a whole number, not '2'"),
        ("method", KeyError, r"here has no field 'method'"),
        ("method", 3, r"here: method must be a text, not 3"),
        ("sources", ["coarse"], r"here: sources must be an object, not \['coarse'\]"),
        ("sources.coarse", None, r"here: sources\.coarse must be a text, not None"),
        ("widths.coarse", 6.4, r"here: widths: coarse must be a whole number, not 6\.4"),
        ("widths.coarse", True, r"here: widths: coarse must be a whole number, not True"),
        ("classes", "ab", r"here: classes must be a list, not 'ab'"),
        ("multi_label", 0, r"here: multi_label must be true or false, not 0"),
        ("step_seconds", float("nan"), r"here: step_seconds is nan"),
        ("setting.gate_offset", float("inf"), r"here: setting\.gate_offset is inf"),
        ("setting.gate_offset", [1], r"here: setting\.gate_offset must be a number"),
        ("config.network.dropout", float("nan"), r"here: config\.network\.dropout is nan"),
        ("costs.tiny@16", {"macs": 1.5, "input": "x"}, r"here: costs\.tiny@16: macs must be a whole number"),
        ("point.seed", "0", r"here: point: seed must be a whole number, not '0'"),
        ("data.name", KeyError, r"here: data has no field 'name'"),
    ],
)
def test_what_cannot_be_read_says_where_and_which_field(path: str, value: Any, message: str) -> None:
    with pytest.raises((DataError, NonFiniteError), match=message) as raised:
        ModelDescription.from_json(changed(path, value), "here")
    assert raised.value.hint


def test_a_folder_without_one_or_with_a_damaged_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a model folder"):
        ModelDescription.read(tmp_path)
    (tmp_path / MODEL_FILE).write_text('{"method": ')
    with pytest.raises(DataError, match="is not a model folder"):
        ModelDescription.read(tmp_path)
    (tmp_path / MODEL_FILE).write_text("[]")
    with pytest.raises(DataError, match=r"model\.json holds a list, not an object"):
        ModelDescription.read(tmp_path)
