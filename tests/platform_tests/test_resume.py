"""Sweeps that are killed, stopped, taken over, extended: real ones, as users run them, in a few seconds each.

Drivers that are killed or taken over are processes of their own; what comes after them runs in this one. The same at
every moment, without a cluster: test_simulated_sweeps.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    "search.trials=5",
    "baselines=[{name: uniform, method: uniform}]",
    "cluster.cpus=2",
    "name=s",
]
ONE_AT_ONCE = ("search.concurrent=1",)
"""Where two trials at once are not the point: each process of trials takes seconds to start."""


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


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does, within the time that such a sweep takes at the most."""
    until = time.time() + 240
    while not condition() and time.time() < until:
        time.sleep(0.05)
    return condition()


@contextlib.contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """`act` in a thread while the block runs. What it raises is raised at the block's end."""
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        yield
        acting.result()


def check_whole(found: Audit, trials: int) -> None:
    assert found.searched_with_result == trials
    assert found.study == {"COMPLETE": trials}
    assert found.mlflow == {"FINISHED": trials + 1} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)


def test_killed_it_ends_with_exactly_what_was_asked_for(home: Path) -> None:
    """Killed once more, and at any other moment: test_simulated_sweeps.py."""
    folder = home / "sweeps" / "s"

    def is_amid() -> bool:
        return len(events(home, "finish")) >= 2 and bool(list(folder.glob("trials/*/checkpoint-*[0-9]")))

    process = start("sweep", *SETTINGS, home=home)
    wait_until(is_amid, process)
    assert kill_with_children(process.pid) > 3
    process.communicate()
    out, _ = paretovid("sweeps", "s", "--json", home=home)
    status = json.loads(out)
    assert (status["state"], status["asked"], status["running"]) == ("interrupted", 6, [])
    assert any("paretovid resume s" in text for text in status["waits"])
    _, err = paretovid("resume", "s", *ONE_AT_ONCE, home=home)
    assert "[4/5] search" in err
    check_whole(audit(Home(home), "s"), trials=5)
    # Nothing that was finished was started again, and nothing was lost but the work since a checkpoint.
    starts = [entry.trial for entry in events(home, "start")]
    assert len(starts) <= 6 + 2, "only those in flight, at most two, are started again"
    out, err = paretovid("resume", "s", home=home)
    assert "sweep s is finished" in err and "Front of s" in out

    paretovid("extend", "s", "+1", *ONE_AT_ONCE, home=home)
    check_whole(audit(Home(home), "s"), trials=6)
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
    def finished(number: int) -> Callable[[], bool]:
        return lambda: len(events(home, "finish")) >= number

    def unmount_twice() -> None:
        """For a moment, and then for longer than trials wait."""
        assert comes_true(finished(1))
        mounted(False)
        time.sleep(1)
        mounted(True)
        assert comes_true(finished(3))
        mounted(False)

    with beside(unmount_twice):
        wait = "cluster.storage_wait_seconds=8"
        _, err = paretovid("sweep", *SETTINGS, wait, *ONE_AT_ONCE, home=home, status=1)
    assert "trials cannot work here: no features in" in err and "resume s" in err
    assert len(events(home, "finish")) < 6 and events(home, "fault") == []
    out, _ = paretovid("sweeps", "s", "--json", home=home)
    assert (json.loads(out)["state"], json.loads(out)["failed"]) == ("interrupted", {})
    mounted(True)
    paretovid("resume", "s", *ONE_AT_ONCE, home=home)
    assert events(home, "fault") == []
    check_whole(audit(Home(home), "s"), trials=5)


def test_a_second_driver_is_refused_or_takes_over_and_sigterm_stops_in_order(home: Path) -> None:
    settings = [*SETTINGS, "training.epochs=20000", "search.trials=2", "baselines=[]"]
    first = start("sweep", *settings, home=home)
    wait_until(lambda: len(events(home, "start")) == 2, first)
    _, err = paretovid("resume", "s", home=home, status=2)
    assert f"is being run by process {first.pid}" in err and "--take-over" in err
    first_said: list[str] = []

    def stop_the_second() -> None:
        first_said.extend(first.communicate(timeout=120))
        assert comes_true(lambda: len(events(home, "start")) == 3)
        os.kill(os.getpid(), signal.SIGTERM)

    with beside(stop_the_second):
        _, err = paretovid("resume", "s", "--take-over", *ONE_AT_ONCE, home=home, status=143)
    assert "interrupted by SIGTERM" in err and "Traceback" not in err
    assert first.returncode == 1 and "taken over by process" in first_said[1]
    assert "Resume: " in first_said[1] and "resume s" in first_said[1]
    again = events(home, "start")[2]
    assert (again.trial, again.info["attempt"]) == ("t0000", 2)
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
