from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.platform.storage.home import Home, open_home
from paretovid.trainables.errors import UsageError


def test_override_then_variable_then_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARETOVID_HOME", raising=False)
    assert open_home().root == tmp_path / "paretovid-home"
    monkeypatch.setenv("PARETOVID_HOME", str(tmp_path / "from-variable"))
    assert open_home().root == tmp_path / "from-variable"
    assert open_home("typed").root == tmp_path / "typed"
    assert (tmp_path / "typed").is_dir()
    assert list((tmp_path / "typed").iterdir()) == []


def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/paretovid"), Path("/proc")):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            open_home(str(bad))
        assert str(bad) in caught.value.message
        assert "home=FOLDER" in caught.value.hint


def test_every_path_lies_under_the_root(tmp_path: Path) -> None:
    home = Home(tmp_path)
    paths = [
        home.data("d"),
        home.backbone("d", "c"),
        home.features("d"),
        home.sweep("s").record,
        home.trial("s", "t").result,
        home.mlflow_artifacts,
    ]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)
    trial = home.trial("s", "t0001")
    assert trial.folder == home.sweep("s").folder / "trials" / "t0001"
    assert trial.sweep == home.sweep("s")
    assert home.optuna_url == f"journal://{tmp_path}/optuna.journal"
