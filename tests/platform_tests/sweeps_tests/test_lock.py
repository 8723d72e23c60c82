"""One driver per sweep: the living are respected, the dead are not, and whoever is asked gives way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretovid.infra.locks import exclusive_lock, is_locked
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.sweeps import lock as sweep_lock
from paretovid.platform.sweeps.lock import SweepLock, driver_of
from paretovid.trainables.errors import DataError, UsageError

HOUR = 3600.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is short, so that a test can watch it."""
    monkeypatch.setattr(sweep_lock, "SILENT_SECONDS", 0.4)


def other_machine(folder: Path, *, ended: bool = False, beats: int = 1, clock_offset: float = 0.0) -> None:
    """Injected, for one machine has one clock: the record of a driver that this machine's kernel knows nothing of.

    `clock_offset`: of its clock from this machine's, seconds.
    """
    now = time.time() + clock_offset
    described = {"name": "x", "host": "elsewhere", "pid": 7, "started": now - 900, "heartbeat": now}
    sweep = SweepPaths(folder)
    sweep.store.write_text(sweep.lease, json.dumps({**described, "beats": beats, "ended": ended}))


@contextlib.contextmanager
def living_machine(folder: Path, clock_offset: float = 0.0) -> Iterator[None]:
    """Injected: another machine's driver, whose heart beats."""
    ended = threading.Event()

    def beat() -> None:
        beats = 1
        while not ended.wait(0.03):
            beats += 1
            other_machine(folder, beats=beats, clock_offset=clock_offset)

    other_machine(folder, clock_offset=clock_offset)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_living_driver_is_respected_and_named(tmp_path: Path) -> None:
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold():
        found = driver_of(SweepPaths(tmp_path))
        assert found is not None and (found.pid, found.host) == (os.getpid(), socket.gethostname())
        with (
            pytest.raises(UsageError, match=f"run by process {os.getpid()} on") as refused,
            SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(),
        ):
            pass
        assert "--take-over" in refused.value.hint
    assert driver_of(SweepPaths(tmp_path)) is None
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold():
        pass


@pytest.mark.slow
def test_a_dead_driver_of_this_machine_is_nobody(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from paretovid.platform.execution.stopping import StopSwitch\n"
        "from paretovid.platform.storage.home import SweepPaths\n"
        "from paretovid.platform.sweeps.lock import SweepLock\n"
        "with SweepLock(SweepPaths(Path(sys.argv[1])), StopSwitch()).hold(): os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert json.loads(SweepPaths(tmp_path).lease.read_text())["ended"] is False
    assert driver_of(SweepPaths(tmp_path)) is None
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold():
        pass


@pytest.mark.parametrize("clock_offset", [0.0, HOUR, -HOUR])
def test_a_living_driver_of_another_machine_is_refused_at_once_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_offset: float
) -> None:
    monkeypatch.setattr(sweep_lock, "SILENT_SECONDS", 20.0)
    with living_machine(tmp_path, clock_offset):
        assert driver_of(SweepPaths(tmp_path)) is not None
        began = time.monotonic()
        with (
            pytest.raises(UsageError, match="process 7 on elsewhere"),
            SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(),
        ):
            pass
        assert time.monotonic() - began < 10, "one heartbeat is enough"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("clock_offset", [0.0, HOUR, -HOUR])
def test_a_dead_driver_of_another_machine_is_watched_and_then_replaced(
    tmp_path: Path, clock_offset: float, take_over: bool
) -> None:
    other_machine(tmp_path, clock_offset=clock_offset)
    said: list[str] = []
    began = time.monotonic()
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(take_over=take_over, say=said.append):
        assert 0.4 <= time.monotonic() - began < 10
        found = driver_of(SweepPaths(tmp_path))
        assert found is not None and found.pid == os.getpid()
    assert any("watching for 0 s whether it is alive" in text for text in said)


def test_one_look_goes_by_the_clock_of_the_file_server(tmp_path: Path) -> None:
    sweep = SweepPaths(tmp_path)
    for clock_offset in (0.0, HOUR, -HOUR):
        other_machine(tmp_path, clock_offset=clock_offset)
        assert driver_of(sweep) is not None
        # As a minute later: the file is what has become old.
        os.utime(sweep.lease, (time.time() - 61, time.time() - 61))
        assert driver_of(sweep) is None
    other_machine(tmp_path, ended=True)
    assert driver_of(sweep) is None


def test_a_driver_of_another_machine_that_has_ended_is_not_watched(tmp_path: Path) -> None:
    other_machine(tmp_path, ended=True)
    began = time.monotonic()
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold():
        assert driver_of(SweepPaths(tmp_path)) is not None
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("quick")
def test_of_two_machines_that_watched_a_driver_die_the_last_to_write_has_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected: the other one writes its record just after this one."""
    other_machine(tmp_path)
    lock = SweepLock(SweepPaths(tmp_path), StopSwitch())
    write = lock._write

    def then_the_other(*, ended: bool = False) -> None:
        write(ended=ended)
        other_machine(tmp_path, beats=2)

    monkeypatch.setattr(lock, "_write", then_the_other)
    with pytest.raises(UsageError, match="has just been taken by process 7 on elsewhere"), lock.hold():
        pass
    assert json.loads(SweepPaths(tmp_path).lease.read_text())["host"] == "elsewhere"


def test_a_driver_that_is_asked_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.05)
    switch, holds = StopSwitch(), threading.Event()

    def first() -> None:
        with SweepLock(SweepPaths(tmp_path), switch).hold():
            holds.set()
            while switch.reason is None:
                time.sleep(0.01)

    thread = threading.Thread(target=first)
    thread.start()
    holds.wait()
    said: list[str] = []
    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(take_over=True, say=said.append):
        thread.join()
        assert switch.reason is not None and switch.reason.startswith("taken over by process")
    assert len(said) == 1 and "to give way" in said[0]


def test_one_that_does_not_give_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_lock, "TAKE_OVER_SECONDS", 0.1)
    with (
        living_machine(tmp_path),
        pytest.raises(UsageError, match="does not give way") as refused,
        SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(take_over=True),
    ):
        pass
    assert "kill 7" in refused.value.hint


def test_a_driver_that_has_lost_the_sweep_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was silent too long (a machine that slept), and one of another machine has taken over."""
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.05)
    switch = StopSwitch()
    with SweepLock(SweepPaths(tmp_path), switch).hold():
        other_machine(tmp_path)
        until = time.time() + 5
        while switch.reason is None:
            assert time.time() < until
            time.sleep(0.01)
    assert switch.reason == "another driver has taken the sweep over" and switch.is_lease_lost
    assert json.loads(SweepPaths(tmp_path).lease.read_text())["host"] == "elsewhere", (
        "and leaves it to the other"
    )


def test_the_heart_of_a_living_driver_keeps_beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without, other machines take it for dead after a minute."""
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.01)

    def document() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(SweepPaths(tmp_path).lease.read_text())
        return found

    with SweepLock(SweepPaths(tmp_path), StopSwitch()).hold():
        beats = {document()["heartbeat"]}
        until = time.time() + 10
        while len(beats) < 3:
            assert time.time() < until, "it stopped"
            time.sleep(0.01)
            beats.add(document()["heartbeat"])
        assert document()["ended"] is False and document()["started"] <= min(beats)
    assert document()["ended"] is True, "and no other machine has to wait for its silence"


def test_a_wish_of_before_asks_nobody_who_came_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.01)
    SweepPaths(tmp_path).take_over.write_text(json.dumps({"by": "one who gave up", "at": 0}))
    switch = StopSwitch()
    with SweepLock(SweepPaths(tmp_path), switch).hold():
        assert not SweepPaths(tmp_path).take_over.exists()
        time.sleep(0.1)
    assert switch.reason is None


@pytest.mark.parametrize(
    ("request_", "by"),
    [({"by": "process 7 on vm", "at": 0}, "process 7 on vm"), ({"version": 99}, "another driver")],
)
def test_a_driver_gives_way_to_whoever_asks_a_later_version_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], by: str
) -> None:
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.01)
    switch = StopSwitch()
    with SweepLock(SweepPaths(tmp_path), switch).hold():
        SweepPaths(tmp_path).take_over.write_text(json.dumps(request_))
        until = time.time() + 10
        while switch.reason is None and time.time() < until:
            time.sleep(0.01)
    assert switch.reason == f"taken over by {by}"


def test_nothing_beats_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.01)
    lock, begun = SweepLock(SweepPaths(tmp_path), StopSwitch()), threading.Event()
    write = lock._write

    def slowly(*, ended: bool = False) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.2)
        write(ended=ended)

    monkeypatch.setattr(lock, "_write", slowly)
    with lock.hold():
        assert begun.wait(10)
    assert "driver-heartbeat" not in {thread.name for thread in threading.enumerate()}
    assert json.loads(SweepPaths(tmp_path).lease.read_text())["ended"] is True


def test_a_refusal_says_since_when_and_the_wish_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_lock, "TAKE_OVER_SECONDS", 0.1)
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 900))
    with (
        living_machine(tmp_path),
        pytest.raises(UsageError, match=rf"elsewhere, since {started}:\d\d by its clock"),
        SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(take_over=True),
    ):
        pass
    wish = json.loads(SweepPaths(tmp_path).take_over.read_text())
    assert wish["by"] == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_record_without_its_lock_file_is_that_of_nobody(tmp_path: Path) -> None:
    """A folder that was copied from elsewhere, for one."""
    described = {
        "name": "x",
        "host": socket.gethostname(),
        "pid": 7,
        "started": 0.0,
        "heartbeat": time.time(),
    }
    SweepPaths(tmp_path).lease.write_text(json.dumps(described))
    assert driver_of(SweepPaths(tmp_path)) is None
    SweepPaths(tmp_path).lease.write_text(json.dumps({**described, "host": "elsewhere"}))
    assert driver_of(SweepPaths(tmp_path)) is not None


def test_a_driver_of_a_later_version_is_neither_ignored_nor_run_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later() -> None:
        other_machine(tmp_path)
        found = json.loads(SweepPaths(tmp_path).lease.read_text())
        SweepPaths(tmp_path).lease.write_text(json.dumps({**found, "version": 2}))

    later()
    for take_over in (False, True):
        with (
            pytest.raises(DataError, match=r"driver\.json is of version 2"),
            SweepLock(SweepPaths(tmp_path), StopSwitch()).hold(take_over=take_over),
        ):
            pass
    with pytest.raises(DataError, match=r"driver\.json is of version 2"):
        driver_of(SweepPaths(tmp_path))
    SweepPaths(tmp_path).lease.unlink()
    monkeypatch.setattr(sweep_lock, "HEARTBEAT_SECONDS", 0.05)
    switch = StopSwitch()
    with SweepLock(SweepPaths(tmp_path), switch).hold():
        later()
        until = time.time() + 5
        while switch.reason is None:
            assert time.time() < until
            time.sleep(0.01)
    assert switch.is_lease_lost and json.loads(SweepPaths(tmp_path).lease.read_text())["version"] == 2


@pytest.mark.parametrize("is_held", [False, True])
def test_a_record_that_cannot_be_read_is_reported_whoever_has_the_lock(tmp_path: Path, is_held: bool) -> None:
    sweep = SweepPaths(tmp_path)
    sweep.lease.write_text(json.dumps({"version": 99}))
    with contextlib.ExitStack() as held:
        if is_held:
            held.enter_context(exclusive_lock(sweep.driver_lock))
        with pytest.raises(DataError, match=r"driver\.json"), SweepLock(sweep, StopSwitch()).hold():
            pass
        assert is_locked(sweep.driver_lock) == is_held, "and nobody keeps it for that"
