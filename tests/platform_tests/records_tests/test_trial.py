"""Which results count as there: a later version's is never trained over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretovid.platform.records.trial import find_trial, read_sweep, read_trial
from paretovid.platform.storage.home import TrialPaths
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.results import RESULT_FILE, VERSION


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
