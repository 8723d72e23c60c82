"""What a model that was trained for a range of budgets says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.selection import choose
from paretovid.platform.registry.card import model_card
from paretovid.platform.registry.dial import dial_json, dial_of
from paretovid.platform.registry.package import signature
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.trainables.documents import Fields
from paretovid.trainables.model_description import DialPoint

KNOBS: list[dict[str, Any]] = [
    {"budget": 0.07, "gate_offset": 0.0, "online_k": 0.0},
    {"budget": 0.5, "gate_offset": 0.0, "online_k": 0.0},
    {"budget": 0.01, "gate_offset": -2.5, "online_k": 0.0},
    {"budget": 0.07, "gate_offset": 0.0, "online_k": 2.0},
    {"budget": 0.07, "gate_offset": 0.0, "online_k": 0.0, "max_gflops": 0.02, "cap_rule": "stop"},
]


def chosen(folder: Path, model: dict[str, Any], knobs: list[dict[str, Any]]) -> tuple[Front, FrontPoint]:
    """A front with a trial of these inference knobs, and its first point."""
    sweep = write_sweep(folder / "sweeps" / "s")
    costs = [(0.5, 0.05), (0.7, 0.2), (0.2, 0.01), (0.3, 0.02), (0.4, 0.02)]
    path = write_trial(sweep, "t0000", costs[: len(knobs)]) / "result.json"
    result = json.loads(path.read_text())
    for point, values in zip(result["points"], knobs, strict=True):
        point["inference_knobs"] = values
    path.write_text(json.dumps(result | {"model": model}))
    front = read_front([sweep])
    return front, choose(front, point="t0000-p00")


def test_the_dial_has_the_networks_own_settings_from_the_cheapest(tmp_path: Path) -> None:
    _, point = chosen(tmp_path, {"condition": "budget"}, KNOBS)
    dial = dial_of(point.trial)
    assert [each.params for each in dial] == [
        {"budget": 0.01, "gate_offset": -2.5},
        {"budget": 0.07, "gate_offset": 0.0},
        {"budget": 0.5, "gate_offset": 0.0},
    ]
    assert [each.val_gflops for each in dial] == pytest.approx([0.01, 0.05, 0.2])
    by_budget = {each.inference_knobs["budget"]: each for each in point.trial.points[:3]}
    for each in dial:
        measured = by_budget[each.params["budget"]]
        assert (each.val_quality, each.test_quality) == (measured.val.quality, measured.test.quality)
        assert each.test_gflops == measured.test.gflops
    read = [DialPoint.from_json(Fields(each, "here", "")) for each in json.loads(dial_json(dial))]
    assert tuple(read) == dial


def test_the_card_says_what_each_budget_costs(tmp_path: Path) -> None:
    front, point = chosen(tmp_path, {"condition": "budget"}, KNOBS)
    card = model_card(front, point, "digits", [])
    rows = [line for line in card.splitlines() if line.startswith("| budget")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "budget = 0.01, gate_offset = -2.5",
        "budget = 0.07, gate_offset = 0",
        "budget = 0.5, gate_offset = 0",
    ]
    test = [each.test_gflops for each in dial_of(point.trial)]
    assert [row.split("|")[3].strip() for row in rows] == [f"{each:.5g}" for each in test]
    assert "`budget` (0.01 to 0.5): " in card and '{"budget": 0.071}' in card


def test_the_budget_is_a_parameter_at_the_promoted_points_value(tmp_path: Path) -> None:
    _, point = chosen(tmp_path, {"condition": "budget"}, [KNOBS[1], KNOBS[0]])
    assert {p.name: p.default for p in signature(point).params.params}["budget"] == 0.5


def test_a_model_of_one_budget_has_no_dial(tmp_path: Path) -> None:
    front, point = chosen(tmp_path, {}, [{"gate_offset": 0.0}, {"gate_offset": 1.0}])
    assert dial_of(point.trial) == ()
    assert "## Dial" not in model_card(front, point, "digits", [])
    assert "budget" not in {p.name for p in signature(point).params.params}
