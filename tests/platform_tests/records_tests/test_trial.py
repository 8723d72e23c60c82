"""Which results count as there: a later version's is never trained over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.trial import find_trial, read_scores, read_sweep, read_trial
from paretovid.platform.storage.home import TrialPaths
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.trainables.errors import DataError, NonFiniteError, ParetovidError
from paretovid.trainables.evaluation.results import RESULT_FILE, SCORES_FILE, VERSION


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    return write_trial(write_sweep(tmp_path / "s"), "t0000", [(0.3, 0.01), (0.4, 0.02)])


def test_a_result_is_found_where_it_is_whole(trial: Path) -> None:
    assert find_trial(trial) == read_trial(trial)
    sweep = read_sweep(TrialPaths(trial).sweep)
    assert sweep.folder_of(sweep.trials[0]) == trial
    text = (trial / RESULT_FILE).read_text()
    (trial / RESULT_FILE).write_text(text[:100])
    assert find_trial(trial) is None, "half a file is none: the trial is run again"
    (trial / RESULT_FILE).unlink()
    assert find_trial(trial) is None


@pytest.mark.parametrize("damage", [{"version": VERSION + 1}, {"points": []}, {"seed": "three"}])
def test_a_result_that_is_not_understood_is_refused_and_stays(trial: Path, damage: dict[str, object]) -> None:
    text = json.dumps(json.loads((trial / RESULT_FILE).read_text()) | damage)
    (trial / RESULT_FILE).write_text(text)
    with pytest.raises(DataError, match=RESULT_FILE) as error:
        find_trial(trial)
    assert error.value.hint
    assert (trial / RESULT_FILE).read_text() == text


def with_nan(values: Any) -> Any:
    values[-1, -1] = np.nan
    return values


SPOILT: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "NaN": ("test/scores", with_nan, "test/scores holds NaN or infinite values"),
    "infinity": ("test/gflops", lambda values: values / 0.0, "test/gflops holds NaN or infinite values"),
    "a target of NaN": ("test/targets", with_nan, "test/targets holds NaN"),
    "a negative cost": ("test/gflops", lambda values: values - 1, r"test/gflops holds -0\.995, below 0"),
    "a negative target": ("test/targets", lambda values: values - 1, "test/targets holds -1, below 0"),
    "a point too few": ("test/scores", lambda values: values[:1], "do not fit together"),
    "a video too few": (
        "test/gflops",
        lambda values: values[:, 1:],
        r"gflops \[2, 59\].* do not fit together",
    ),
    "a class too many": (
        "test/targets",
        lambda values: np.pad(values, ((0, 0), (0, 1))),
        "do not fit together",
    ),
    "no points": ("test/scores", lambda values: values[0], r"scores \[60, 4\].* do not fit together"),
    "instances of another video": (
        "test/events",
        lambda _: np.array([[60.0, 1, 0, 1, 1]]),
        "test/events is of a video 60, of 60",
    ),
    "instances of no class": (
        "test/events",
        lambda _: np.array([[0.0, 4, 0, 1, 1]]),
        "an instance on test is of a class 4, of 4",
    ),
    "instances without a place": (
        "test/events",
        lambda _: np.array([[0.0, 1, np.nan, 1, 1]]),
        "test/events holds NaN",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("what", SPOILT)
def test_scores_that_nobody_can_measure_are_refused_by_name_and_no_front_is_drawn_of_them(
    trial: Path, what: str
) -> None:
    name, spoil, said = SPOILT[what]
    path = trial / SCORES_FILE
    tensors = load_file(path)
    none = np.zeros((0, 5))
    instances = {f"test/{each}": none for each in ("events", "detections/0", "detections/1")}
    tensors |= instances if name == "test/events" else {}
    save_file(tensors | {name: np.ascontiguousarray(spoil(tensors[name]))}, path)
    with pytest.raises((DataError, NonFiniteError), match=said) as error:
        read_scores(trial, "test")
    assert str(path) in error.value.message and error.value.hint
    assert read_scores(trial, "val").scores.shape == (2, 60, 4), "the other split is as it was"
    with pytest.raises(ParetovidError, match=SCORES_FILE):
        read_front([TrialPaths(trial).sweep])


def test_scores_of_other_points_or_classes_than_the_results_are_refused(trial: Path) -> None:
    path, result = trial / SCORES_FILE, read_trial(trial)
    tensors = load_file(path)
    assert read_scores(trial, "test", result).gflops.shape == (2, 60)
    fewer = {name: tensors[name][:1] for name in ("test/scores", "test/gflops")}
    save_file(tensors | fewer, path)
    with pytest.raises(DataError, match=r"of 1 points and 4 classes on test, result.json has 2 and 4"):
        read_scores(trial, "test", result)
    narrow = {"test/scores": tensors["test/scores"][..., :3], "test/targets": tensors["test/targets"][:, :3]}
    save_file(tensors | {name: np.ascontiguousarray(value) for name, value in narrow.items()}, path)
    with pytest.raises(DataError, match=r"of 2 points and 3 classes on test, result.json has 2 and 4"):
        read_scores(trial, "test", result)
