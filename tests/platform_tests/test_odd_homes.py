"""Homes in folders whose names mean something to a shell, to a URL or to Hydra, and homes that may only be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from paretovid.platform.cli import main as cli
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.urls import sqlite_path, sqlite_url
from paretovid.platform.sweeps import run
from paretovid.platform.sweeps.sweep import run_sweep
from paretovid.platform.testing.simulated import simulated

_RECORDER = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv) + "\\n")
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs `paretovid` and `mlflow` on the path that only write down how they were called, into this file."""
    log = tmp_path / "called.jsonl"
    for name in ("paretovid", "mlflow"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(_RECORDER.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


def run_in_shell(lines: list[str], folder: Path) -> None:
    subprocess.run(["bash", "-c", "\n".join(lines)], cwd=folder, check=True, timeout=60)


def words(log: Path) -> list[list[str]]:
    return [json.loads(line)[1:] for line in log.read_text().splitlines()]


@pytest.mark.slow  # MLflow takes seconds to make its tables
@pytest.mark.parametrize("name", ["x;touch PWN;y $(touch PWN)", "a%20b", "a?b", "o'clock [1],{é}"])
def test_a_sweep_in_a_home_with_an_odd_name(
    name: str,
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(run, "write_png", lambda front, path: path.touch())
    home = Home(tmp_path / name)
    few = ["baselines=[]", "search.trials=2", "name=odd"]
    report = str(
        run_sweep(load_sweep_config([f"home={home.root}", *few]), Progress.silent(), backend=simulated())
    )

    assert [path.name for path in tmp_path.iterdir() if path.name not in ("bin", "called.jsonl")] == [name]
    client = MlflowClient(home.mlflow_url)
    (experiment,) = (each for each in client.search_experiments() if each.name == "paretovid")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) > 2 and {run.info.status for run in runs} == {"FINISHED"}

    typed = [line.partition("tracking ")[2] or line for line in report.splitlines()]
    printed = [line.strip() for line in typed if line.strip().startswith(("paretovid ", "mlflow "))]
    run_in_shell(printed, tmp_path)
    assert not list(tmp_path.rglob("PWN"))
    mlflow, promote, predict = words(recorded)
    assert mlflow == ["ui", "--backend-store-uri", home.mlflow_url]
    assert promote[0] == "promote" and promote[-1] == predict[-1] == f"home={home.root}"
    assert predict[:2] == ["predict", "models:/digits@champion"]
    assert all(Path(video).is_file() for video in predict[2:-1]) and len(predict) == 5

    for command in (["sweeps"], ["sweeps", "odd"], ["front", "odd"], ["models"]):
        assert cli.main([*command, f"home={home.root}"]) == 0, capsys.readouterr().err
    assert "odd" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plain", "a b", "a%20b", "a?b", "%", "a%3Fb#c;d"])
def test_a_sqlite_url_names_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_url(path)) == path
    if name in ("plain", "a b"):
        assert sqlite_url(path) == f"sqlite:///{path}"


_MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 77; exec "$1" -c "$2" "$0"'
_READ = """
import sys
from paretovid.platform.cli.main import main
try:
    open(f"{sys.argv[1]}/x", "w")
except OSError:
    for command in ("sweeps", "sweeps tiny", "front tiny", "models"):
        assert main([*command.split(), f"home={sys.argv[1]}"]) == 0, command
    assert main(["resume", "tiny", f"home={sys.argv[1]}"]) == 2
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_home_that_may_only_be_read(tmp_path: Path) -> None:
    """By a mount of its own: modes do not keep root out."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no right to mount")
    from paretovid.platform.testing.sweeps import synthetic_sweep
    from paretovid.platform.tracking.store import open_store

    home = Home(tmp_path / "home")
    synthetic_sweep(home.sweep("tiny"))
    open_store(home)
    before = sorted(path for path in home.root.rglob("*"))
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", _MOUNTED, str(home.root), sys.executable, _READ],
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no right to mount")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny" in done.stdout and done.stderr.count("cannot be written") == 1
    assert sorted(path for path in home.root.rglob("*")) == before
