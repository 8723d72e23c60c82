"""Sweeps that are killed, stopped, taken over, extended: real ones, as users run them, in a few seconds each.

Drivers that are killed or stopped are processes of their own; what comes after them runs in this one. The same at
every moment, without a cluster: test_simulated_sweeps.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.platform_tests.conftest import SMALL_DATA, copied
from tests.platform_tests.test_sweep import paretovid

from paretovid.platform.records.journal import read_journal
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.audit import Audit, audit
from paretovid.platform.testing.sweeps import kill_with_children

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("shared_cluster"),
]

SETTINGS = [
    *SMALL_DATA,
    "training.epochs=60",
    "training.checkpoint_every_epochs=5",
    "search.trials=6",
    "baselines=[{name: uniform, method: uniform}]",
    "cluster.cpus=2",
    "name=s",
]


def start(*words: str, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
    command = [str(Path(sys.executable).with_name("paretovid")), *words, f"home={home}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def home(prepared_home: Path, tmp_path: Path) -> Path:
    return copied(prepared_home, tmp_path / "home")


def events(home: Path, event: str) -> list[Any]:
    return [entry for entry in read_journal(Home(home).sweep("s")).entries if entry.event == event]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.time() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < until
        time.sleep(0.05)


def check_whole(found: Audit, trials: int) -> None:
    assert found.searched_with_result == trials
    assert found.study == {"COMPLETE": trials}
    assert found.mlflow == {"FINISHED": trials + 1} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)


def test_killed_again_and_again_it_ends_with_exactly_what_was_asked_for(home: Path) -> None:
    folder = home / "sweeps" / "s"

    def has_checkpoint() -> bool:
        return bool(list(folder.glob("trials/*/checkpoint-*[0-9]")))

    def finished(number: int) -> Callable[[], bool]:
        return lambda: len(events(home, "finish")) >= number

    command = ["sweep", *SETTINGS]
    for moment in (has_checkpoint, finished(3)):
        process = start(*command, home=home)
        wait_until(moment, process)
        assert kill_with_children(process.pid) > 3
        process.communicate()
        command = ["resume", "s"]
    _, err = paretovid("sweeps", "s", home=home)
    out, _ = paretovid("sweeps", "s", "--json", home=home)
    status = json.loads(out)
    assert (status["state"], status["asked"], status["running"]) == ("interrupted", 7, [])
    assert any("paretovid resume s" in text for text in status["waits"])
    _, err = paretovid(*command, home=home)
    assert "[4/5] search" in err
    check_whole(audit(Home(home), "s"), trials=6)
    # Nothing that was finished was started again, and nothing was lost but the work since a checkpoint.
    starts = [entry.trial for entry in events(home, "start")]
    assert len(starts) <= 7 + 2 * 2, "only those in flight, at most two, are started again"
    out, err = paretovid("resume", "s", home=home)
    assert "sweep s is finished" in err and "Front of s" in out

    out, _ = paretovid("extend", "s", "+2", home=home)
    check_whole(audit(Home(home), "s"), trials=8)
    _, err = paretovid("sweep", *SETTINGS, home=home)
    assert "sweep s is finished" in err
    _, err = paretovid("sweep", *SETTINGS, "search.trials=9", home=home, status=2)
    assert "paretovid extend s +N" in err


@pytest.fixture
def mounted(home: Path) -> Iterator[Callable[[bool], None]]:
    """Mounts the home's features, or unmounts them, as a server that goes away does: what is open stays readable."""
    features, store = home / "features", home.with_name("store")
    features.rename(store)
    features.mkdir()

    def mount(is_there: bool) -> None:
        command = (
            ["mount", "--bind", str(store), str(features)] if is_there else ["umount", "-l", str(features)]
        )
        if subprocess.run(command, capture_output=True, check=False).returncode and is_there:
            pytest.skip("needs the right to mount")

    mount(True)
    try:
        yield mount
    finally:
        mount(False)


def test_features_that_are_unmounted_cost_no_trial(home: Path, mounted: Callable[[bool], None]) -> None:
    process = start("sweep", *SETTINGS, home=home)
    wait_until(lambda: len(events(home, "finish")) >= 1, process)
    mounted(False)
    time.sleep(1)
    mounted(True)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0 and events(home, "fault") == [], err
    check_whole(audit(Home(home), "s"), trials=6)

    process = start("extend", "s", "+4", "cluster.storage_wait_seconds=2", home=home)
    wait_until(lambda: len(events(home, "finish")) >= 8, process)
    mounted(False)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in err, err
    assert "trials cannot work here: no features in" in err and "resume s" in err
    assert events(home, "fault") == []
    out, _ = paretovid("sweeps", "s", "--json", home=home)
    assert (json.loads(out)["state"], json.loads(out)["failed"]) == ("interrupted", {})
    mounted(True)
    paretovid("resume", "s", home=home)
    check_whole(audit(Home(home), "s"), trials=10)


def test_a_second_driver_is_refused_or_takes_over_and_sigterm_stops_in_order(home: Path) -> None:
    settings = [*SETTINGS, "training.epochs=4000", "search.trials=2", "baselines=[]"]
    first = start("sweep", *settings, home=home)
    wait_until(lambda: len(events(home, "start")) == 2, first)
    _, err = paretovid("resume", "s", home=home, status=2)
    assert f"is being run by process {first.pid}" in err and "--take-over" in err
    second = start("resume", "s", "--take-over", "cluster.cpus=1", home=home)
    wait_until(lambda: len(events(home, "driver")) == 2, second)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 1 and "taken over by process" in err
    assert "Resume: " in err and "resume s" in err
    wait_until(lambda: len(events(home, "start")) == 3, second)
    again = events(home, "start")[2]
    assert (again.trial, again.info["attempt"]) == ("t0000", 2)

    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 143, err
    assert "interrupted by SIGTERM" in err and "Traceback" not in err
    assert [entry.trial for entry in events(home, "aside")] == ["t0000", "t0001", "t0000"] or [
        entry.trial for entry in events(home, "aside")
    ] == ["t0001", "t0000", "t0000"]
    found = audit(Home(home), "s")
    assert found.study == {"WAITING": 2} and found.zombies == 0 and found.parent == "KILLED"
    kept = list((home / "sweeps" / "s").glob("trials/*/checkpoint-*[0-9]"))
    assert len(kept) == 2
    out, _ = paretovid("sweeps", "--json", home=home)
    assert json.loads(out)["sweeps"][0]["state"] == "interrupted"


def test_unknown_sweeps_and_settings_that_cannot_change(home: Path) -> None:
    _, err = paretovid("resume", "nothing", home=home, status=2)
    assert "unknown sweep: 'nothing'" in err
    _, err = paretovid("replay", "nothing", home=home, status=2)
    assert "unknown sweep: 'nothing'" in err
    _, err = paretovid("sweeps", "--watch", home=home, status=2)
    assert "which sweep is to be watched" in err
    (home / "sweeps" / "s").mkdir(parents=True)
    (home / "sweeps" / "s" / "sweep.json").write_text("{")
    _, err = paretovid("resume", "s", home=home, status=1)
    assert "sweep.json is damaged" in err
