"""What a worker does with a trial's features before it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.trials import _localised
from paretovid.trainables.training.config import TrainingConfig, TrialConfig


@pytest.fixture
def trial(small_home_copy: Callable[[Path], Home], tmp_path: Path) -> TrialConfig:
    home = small_home_copy(tmp_path / "home")
    folder = sorted(home.root.glob("features/*/*@*"))[0]
    return TrialConfig(
        sweep="s",
        trial="t0000",
        method="uniform",
        model={},
        training_knobs={},
        inference_setting=None,
        training=TrainingConfig(),
        seed=0,
        dataset=str(sorted(home.root.glob("data/*"))[0]),
        features={"fine": str(folder)},
        output=str(home.trial("s", "t0000").folder),
        accounting="honest",
    )


def test_features_are_read_from_the_nodes_own_copy(trial: TrialConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / f"user-{os.geteuid()}"
    found = Path(_localised(trial, cache, lambda: None).features["fine"])
    source = Path(trial.features["fine"])
    assert (
        found.is_relative_to(cache)
        and (found / "index.json").read_bytes() == (source / "index.json").read_bytes()
    )
    # A copy that is whole by its own index, and not by its source's, is made anew.
    index = json.loads((found / "index.json").read_text())
    (found / "index.json").write_text(json.dumps({**index, "made_with": {"torch": "another"}}))
    _localised(trial, cache, lambda: None)
    assert json.loads((found / "index.json").read_text()) == index


def test_where_the_cache_cannot_be_used_the_home_is(
    trial: TrialConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache\x1b[2J\npassword=hunter2"
    cache.write_text("a file where the folder should be")
    assert _localised(trial, cache / "user-1", lambda: None) == trial
    shown = capsys.readouterr().err
    assert "features are read under home" in shown and "cache\\x1b[2J" in shown
    assert "\x1b" not in shown and "\npassword" not in shown and "hunter2" not in shown
