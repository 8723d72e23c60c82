"""The card of a promoted model: each number is that of its split, and stands in its own row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.selection import choose
from paretovid.platform.registry.card import model_card
from paretovid.platform.registry.gates import Gate
from paretovid.platform.testing.sweeps import write_sweep, write_trial

FIGURES = {
    "val": {
        "map": 0.5101,
        "map_present": 0.5202,
        "top1": 0.5303,
        "gflops": 1.404,
        "gflops_std": 0.105,
        "gflops_p95": 2.06,
    },
    "test": {
        "map": 0.6101,
        "map_present": 0.6202,
        "top1": 0.6303,
        "gflops": 1.454,
        "gflops_std": 0.115,
        "gflops_p95": 2.16,
    },
}
ROWS = {
    "mAP (absent classes count 0)": ("61.01 %", "51.01 %"),
    "mAP, present classes": ("62.02 %", "52.02 %"),
    "top-1": ("63.03 %", "53.03 %"),
    "GFLOPs per video, mean": ("1.454", "1.404"),
    "GFLOPs per video, std": ("0.115", "0.105"),
    "GFLOPs per video, 95th percentile": ("2.16", "2.06"),
}


def rows(card: str) -> dict[str, tuple[str, ...]]:
    """Name of a row of the card's table to what stands in its columns: test, validation."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card.splitlines()
        if line.startswith("|")
    ]
    return {name: tuple(rest) for name, *rest in cells}


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_number_of_the_card_is_that_of_its_row_and_split(tmp_path: Path, split: str) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    path = write_trial(sweep, "t0000", [(0.3, 0.01), (0.6, 0.05)]) / "result.json"
    result = json.loads(path.read_text())
    for each, figures in FIGURES.items():
        result["points"][1][each].update(figures)
    path.write_text(json.dumps(result | {"training_knobs": {"gamma": 0.125}, "seed": 3}))
    front = read_front([sweep], split=split)
    point = dataclasses.replace(choose(front, point="t0000-p01"), quality_ci=(0.581, 0.642))
    card = model_card(
        front, point, "digits", [Gate(name="finite", passed=True, detail="all figures are finite")]
    )
    assert rows(card).items() >= ROWS.items()
    # The interval is that of the split that is shown; the card has a place for that of test.
    interval = "58.1 to 64.2" if split == "test" else "-"
    assert rows(card)["95 % interval over videos"] == (interval, "-")
    for line in (
        "# digits: lite_eval at operating point t0000-p01",
        "* Sweep s, trial t0000, seed 3",
        "* Training knobs: gamma = 0.125",
        "* Inference knobs (defaults of the parameters below): gate_offset = -1",
        f"* Code version {result['code_version']}, accounting: honest",
        f"* Data: {result['data']['name']}, fingerprint {result['data']['fingerprint']}",
        "* finite: all figures are finite",
        'model = mlflow.pyfunc.load_model("models:/digits@ALIAS")',
    ):
        assert line in card.splitlines()
