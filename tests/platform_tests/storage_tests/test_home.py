from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.infra.object_store import ObjectStore
from paretovid.platform.storage.home import HOME_VARIABLE, Home, open_home
from paretovid.platform.storage.store import BucketStore
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


def test_paths_are_those_that_homes_on_disk_have(tmp_path: Path) -> None:
    """Written out: whoever moves one loses what homes of before have there."""
    home = Home(tmp_path)
    paths = {
        home.data("digits"): "data/digits",
        home.backbone("digits", "net@16"): "backbones/digits/net@16",
        home.features("digits"): "features/digits",
        home.sweeps: "sweeps",
        home.sweep("s").record: "sweeps/s/sweep.json",
        home.trial("s", "t0001").result: "sweeps/s/trials/t0001/result.json",
        home.mlflow_database: "mlflow.db",
        home.mlflow_artifacts: "mlflow-artifacts",
    }
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == set(paths.values())
    assert all(path == tmp_path / said for path, said in paths.items())
    assert home.trial("s", "t0001").sweep == home.sweep("s")
    assert home.optuna_url == f"journal://{tmp_path}/optuna.journal"
    assert home.mlflow_url == f"sqlite:///{tmp_path}/mlflow.db"
    assert (
        Home(tmp_path, BucketStore(ObjectStore("s3://bucket/some"), tmp_path)).optuna_url
        == "s3://bucket/some/studies"
    )
    assert not list(tmp_path.iterdir()), "and asking for one makes nothing"


def test_commands_name_the_home_unless_it_is_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    assert open_home().in_commands == ""
    odd = tmp_path / "x;touch y"
    assert open_home(str(odd)).in_commands == f" 'home={odd}'"
    monkeypatch.setenv(HOME_VARIABLE, str(odd))
    assert open_home().in_commands == "" and open_home("other").in_commands == f" home={tmp_path / 'other'}"
