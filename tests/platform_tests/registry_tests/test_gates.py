"""The gate that compares a packaged model with the trial's record: each way to depart from it is told in its words."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import FrontPoint
from paretovid.platform.registry.gates import SCORE_TOLERANCE, _Recorded, check_raw_videos
from paretovid.platform.storage.home import Home
from paretovid.trainables.evaluation.results import SCORES_FILE
from paretovid.trainables.recognizer import Prediction
from paretovid.trainables.testing import synthetic_result

CLASSES = ("zero", "one")
WORDS = ("none", "coarse", "fine")
INSTANCES = (("one", 1.0, 2.0, 0.9), ("one", 3.0, 4.0, 0.5))
ANSWER = Prediction(
    path="a.mp4",
    labels=(("one", 0.7), ("zero", 0.3)),
    gflops=2.0,
    calls={"fine@64": 1},
    instances=INSTANCES,
    steps=("coarse", "fine"),
)


@pytest.fixture
def recorded(tmp_path: Path) -> _Recorded:
    """One video of two steps with two instances, as the trial has recorded `ANSWER`."""
    found = [(0, 1, 1.0, 2.0, 0.9), (0, 1, 3.0, 4.0, 0.5)]
    tensors = {
        "val/scores": torch.tensor([[[0.3, 0.7]]], dtype=torch.float64),
        "val/gflops": torch.tensor([[2.0]], dtype=torch.float64),
        "val/targets": torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        "val/decisions": torch.tensor([[[1, 2]]]),
        "val/events": torch.tensor([(0, 1, 1.0, 2.0, 1.0)], dtype=torch.float64),
        "val/detections/0": torch.tensor(found, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / SCORES_FILE)
    trial = synthetic_result()
    return _Recorded(
        FrontPoint(
            trial=trial,
            record=trial.points[0],
            folder=tmp_path,
            name="lite_eval",
            split="val",
            quality_ci=None,
        )
    )


def fault(recorded: _Recorded, answer: Prediction) -> str | None:
    return recorded.fault(0, answer, CLASSES, WORDS)


def test_the_recorded_answer_has_no_fault(recorded: _Recorded) -> None:
    assert fault(recorded, ANSWER) is None


def test_what_is_within_the_tolerance_or_in_another_order_has_none(recorded: _Recorded) -> None:
    near = SCORE_TOLERANCE / 2
    moved = (("one", 3.0, 4.0, 0.5 - near), ("one", 1.0, 2.0, 0.9 + near))
    labels = (("one", 0.7 - near), ("zero", 0.3))
    assert fault(recorded, dataclasses.replace(ANSWER, labels=labels, instances=moved)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": "no such file"}, "no such file"),
        ({"labels": (("one", 0.69), ("zero", 0.3))}, "a score is 0.01 apart from the one measured"),
        ({"gflops": 2.5}, "2.5 GFLOPs instead of 2"),
        ({"gflops": 1.5}, "1.5 GFLOPs instead of 2"),
        ({"steps": ("fine", "fine")}, "it read other steps"),
        ({"instances": INSTANCES[:1]}, "it found other instances: 1, not 2 or not there"),
        ({"instances": None}, "it found other instances: 0, not 2 or not there"),
        *(
            ({"instances": (instance, INSTANCES[1])}, "it found other instances: 2, not 2 or not there")
            for instance in (
                ("zero", 1.0, 2.0, 0.9),
                ("one", 1.1, 2.0, 0.9),
                ("one", 1.0, 2.1, 0.9),
                ("one", 1.0, 2.0, 0.89),
            )
        ),
    ],
)
def test_each_departure_is_told(recorded: _Recorded, changes: dict[str, Any], said: str) -> None:
    assert fault(recorded, dataclasses.replace(ANSWER, **changes)) == said


@pytest.mark.slow
def test_a_data_set_that_has_changed_or_is_gone_is_told(
    small_home_copy: Callable[[Path], Home], tmp_path: Path
) -> None:
    home = small_home_copy(tmp_path)
    point = read_front([home.sweep("tiny")]).points[0]
    data = dataclasses.replace(point.trial.data, fingerprint="0" * 12)
    changed = dataclasses.replace(point, trial=dataclasses.replace(point.trial, data=data))
    gate = check_raw_videos(tmp_path / "package", home, changed)
    assert (gate.passed, gate.detail) == (False, "the data set has changed since the sweep")
    shutil.rmtree(home.data(data.name))
    gate = check_raw_videos(tmp_path / "package", home, point)
    assert not gate.passed and data.name in gate.detail
