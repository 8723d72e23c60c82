"""What happened in a sweep, line by line: whole after any crash, and read though a line is damaged."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from paretovid.platform.execution.heartbeat import HeartbeatWriter
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.control_requests import ask_to_stop
from paretovid.platform.records.failure import record_failure
from paretovid.platform.records.journal import (
    Entry,
    Event,
    FinishedTrial,
    SweepJournal,
    _to_line,
    hours_spent,
    read_journal,
)
from paretovid.platform.records.lease import DriverLease, TrialHeartbeat
from paretovid.platform.records.trial import read_trial
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.sweeps.lock import SweepLock
from paretovid.platform.sweeps.reached import LiveStatus, ValidationHypervolume, curve
from paretovid.platform.sweeps.status import list_sweeps, status_of, status_text
from paretovid.platform.testing.sweeps import synthetic_sweep, write_sweep, write_trial
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.evaluation.pareto import Reference


def write_some(sweep: SweepPaths, events: int = 5) -> SweepJournal:
    journal = SweepJournal(sweep)
    for number in range(events):
        journal.write("start", trial=f"t{number:04d}", attempt=1)
    return journal


def test_events_are_read_back_in_order_and_numbered_on(tmp_path: Path) -> None:
    write_some(SweepPaths(tmp_path), 3)
    SweepJournal(SweepPaths(tmp_path)).write("state", state="finished")
    entries = read_journal(SweepPaths(tmp_path)).entries
    assert [entry.n for entry in entries] == [1, 2, 3, 4]
    assert [entry.trial for entry in entries] == ["t0000", "t0001", "t0002", ""]
    assert entries[3].info == {"state": "finished"}
    assert read_journal(SweepPaths(tmp_path / "nothing")).entries == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b'"t0002"', b'"t0009"'),
        lambda line: b"\xff\xfe not JSON",
        lambda line: b"[1, 2]",
        lambda line: json.dumps({**json.loads(line), "n": 77}).encode(),
    ],
)
def test_a_damaged_line_is_reported_and_nothing_else_is_lost(tmp_path: Path, spoil) -> None:
    write_some(SweepPaths(tmp_path))
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines()
    lines[2] = spoil(lines[2])
    path.write_bytes(b"\n".join(lines) + b"\n")
    reading = read_journal(SweepPaths(tmp_path))
    assert reading.damaged == (3,)
    assert [entry.n for entry in reading.entries] == [1, 2, 4, 5]
    assert SweepJournal(SweepPaths(tmp_path)).write("aside", trial="t0000").n == 6


def test_a_last_line_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    write_some(SweepPaths(tmp_path), 2)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # the machine died while it was written
    SweepJournal(SweepPaths(tmp_path)).write("start", trial="t0002", attempt=1)
    reading = read_journal(SweepPaths(tmp_path))
    assert [entry.trial for entry in reading.entries] == ["t0000", "t0002"]
    assert reading.damaged == (2,)


def test_a_write_that_a_full_disk_cuts_short_is_an_error_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write_some(SweepPaths(tmp_path), 1)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(OSError, match="No space left"):
            journal.write("start", trial="t0001", attempt=1)
    assert journal.write("start", trial="t0002", attempt=1).n == 2
    reading = read_journal(SweepPaths(tmp_path))
    assert ([entry.trial for entry in reading.entries], reading.damaged) == (["t0000", "t0002"], (2,))


def test_a_journal_that_is_lost_numbers_on_from_what_mlflow_was_sent(tmp_path: Path) -> None:
    assert SweepJournal(SweepPaths(tmp_path), after=41).write("state", state="running").n == 42


def entry(n: int, at: float, event, **info) -> Entry:
    return Entry(n=n, at=at, event=event, info=info)


def test_hours_count_every_start_until_its_end_or_its_drivers() -> None:
    entries = [
        entry(1, 0, "driver", cpus=2, gpus=0.5),
        entry(2, 0, "start", trial="a"),
        entry(3, 3600, "finish", trial="a"),
        entry(4, 3600, "start", trial="b"),
        entry(5, 5400, "start", trial="c"),
        entry(6, 9000, "driver", cpus=1, gpus=0),  # the first died after its last event at 5400
        entry(7, 9000, "start", trial="b"),
        entry(8, 9000 + 1800, "fault", trial="b"),
        entry(9, 9000 + 1800, "start", trial="b"),
    ]
    cpu_hours, gpu_hours = hours_spent(entries, now=9000 + 3600)
    assert cpu_hours == pytest.approx(2 * (1 + 0.5 + 0) + 1 * (0.5 + 0.5))
    assert gpu_hours == pytest.approx(0.5 * 1.5)


def test_the_curve_covers_more_and_more() -> None:
    entries = [
        entry(1, 100, "driver"),
        entry(2, 110, "finish", trial="uniform", quality=0.9, gflops=9.0, dearest=10.0),
        entry(3, 120, "finish", trial="t0000", quality=0.5, gflops=2.0),
        entry(4, 150, "finish", trial="t0001", quality=0.4, gflops=1.0, front=[[0.4, 1.0], [0.1, 0.5]]),
    ]
    after_two, after_all = 0.5 * 8, 0.5 * 8 + 0.4 * 1 + 0.1 * 0.5
    assert curve(entries) == ((20, pytest.approx(after_two)), (50, pytest.approx(after_all)))
    assert curve([]) == ()
    corner = Reference(quality=0.0, gflops=2.0)
    assert curve(entries, corner) == ((20, 0.0), (50, pytest.approx(0.4 * 1.0 + 0.1 * 0.5)))
    live = LiveStatus(entries)
    assert "0 running, validation hypervolume 4.4500" in live.line(Behind(0))
    live.add(entry(5, 160, "start", trial="t0002"))
    live.add(entry(6, 170, "fault", trial="t0002", again=False))
    assert "1 failed" in live.line(Behind(0)) and "MLflow 99 behind" in live.line(Behind(99))


def journal_of(sweep: SweepPaths, trials: Sequence[str]) -> SweepJournal:
    """As a driver writes it that has seen these trials finish."""
    journal = SweepJournal(sweep)
    for trial in trials:
        finished = FinishedTrial.of(read_trial(sweep.trial(trial).folder))
        journal.write("finish", trial=trial, **finished.to_json())
    return journal


REPORTED = ("b0000", "t0001", "b0001", "t0000", "t0002")


@pytest.mark.parametrize(
    "trials", [REPORTED, REPORTED[::-1], ("t0000", *REPORTED), ("b0001", "b0000"), ("b0000",)], ids=str
)
def test_the_last_hypervolume_of_progress_is_that_of_the_front(tmp_path: Path, trials: Sequence[str]) -> None:
    home = Home(tmp_path)
    sweep = synthetic_sweep(home.sweep("s"))
    write_sweep(sweep, {"state": "running", "reference": None, "config": {"search": {"trials": 3}}})
    for unfinished in {*REPORTED} - {*trials}:
        shutil.rmtree(sweep.trial(unfinished).folder)
    # The most expensive of all is a baseline, on test, and no point of its front.
    path = sweep.trial(trials[-1]).result
    result = json.loads(path.read_text())
    result["points"][0]["test"]["gflops"] = 0.7
    path.write_text(json.dumps(result))
    journal_of(sweep, trials)
    entries = read_journal(sweep).entries
    front = read_front([sweep], split="val")
    assert front.reference.gflops == 0.7
    assert f"validation hypervolume {front.hypervolume:.4f}" in LiveStatus(entries).line(Behind(0))
    assert status_of(home, "s").validation_hypervolume[-1][1] == front.hypervolume > 0
    write_sweep(sweep, {"reference": {"map": 0.1, "gflops": 0.05}, "config": {"search": {"trials": 3}}})
    of_front = read_front([sweep], split="val").hypervolume
    assert status_of(home, "s").validation_hypervolume[-1][1] == of_front != front.hypervolume


def test_where_the_method_searched_is_itself_a_baseline_the_rest_stand_beside_it(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"reference": None})
    write_trial(sweep, "t0000", [(0.3, 0.01), (0.4, 0.02)], method="uniform")
    write_trial(sweep, "other", [(0.5, 0.03), (0.6, 0.04)], method="uniform")
    write_trial(sweep, "truth", [(0.9, 0.001), (0.9, 0.09)], method="oracle")
    journal_of(sweep, ("t0000", "truth", "other"))
    entries = read_journal(sweep).entries
    front = read_front([sweep], split="val")
    assert ValidationHypervolume(entries).value() == front.hypervolume > 0 and front.reference.gflops == 0.09


def test_a_trial_that_was_trained_again_counts_as_it_is_now() -> None:
    better = entry(1, 1, "finish", trial="t0000", quality=0.9, gflops=1.0, dearest=9.0)
    other = entry(2, 2, "finish", trial="t0001", quality=0.6, gflops=3.0, dearest=4.0)
    again = entry(3, 3, "finish", trial="t0000", quality=0.5, gflops=2.0, dearest=2.0)
    value = ValidationHypervolume([better, other, again]).value()
    assert value == ValidationHypervolume([other, again]).value() == pytest.approx(0.5 * 2 + 0.1 * 1)
    assert ValidationHypervolume().value() is None


class Behind:
    """A sender with so many events to send."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting


def write_state(home: Home, state: str, **info) -> None:
    config = {"search": {"trials": 4}, "baselines": [{"name": "uniform"}]}
    write_sweep(home.sweep("s"), {"state": state, "config": config, **info})


def test_a_sweep_whose_driver_is_gone_is_interrupted_and_says_what_waits(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_state(home, "running")
    journal = SweepJournal(home.sweep("s"))
    journal.write("driver", cpus=2, gpus=0)
    for trial in ("t0000", "t0001", "t0002"):
        journal.write("start", trial=trial, attempt=1)
    write_trial(home.sweep("s"), "t0000", [(0.3, 0.01)])
    journal.write("finish", trial="t0000", map=0.3, gflops=0.01, seconds=1.0)
    journal.write("fault", trial="t0001", reason="boom", again=True)
    journal.write("fault", trial="t0002", reason="the loss became nan", again=False)
    record_failure(home.trial("s", "t0002"), "the loss became nan")
    found = status_of(home, "s")
    assert (found.state, found.driver, found.asked, found.finished) == ("interrupted", None, 5, 1)
    assert (dict(found.failed), found.restarts) == ({"t0002": "the loss became nan"}, 1)
    assert found.running == () and found.seconds_left is None and found.untracked == 7
    assert f"3 trials for somebody: paretovid resume s home={tmp_path}" in found.waits
    replay = f"paretovid replay s home={tmp_path}"
    assert f"7 events for MLflow ({replay}, if nobody runs the sweep)" in found.waits
    assert "t0001 for another start, after: boom" in found.waits
    text = status_text(found)
    assert "1 of 5 finished, 0 running, 3 to come, 1 failed, 1 restarts" in text
    assert "t0002 failed: the loss became nan" in text
    (listed,) = [listing.to_json() for listing in list_sweeps(home)]
    assert (listed["state"], listed["trials"], listed["asked"], listed["failed"]) == ("interrupted", 1, 5, 1)


def test_a_sweep_that_is_running_shows_its_trials_and_an_estimate(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_state(home, "running")
    sweep = home.sweep("s")
    with SweepLock(sweep, StopSwitch()).hold():
        journal = SweepJournal(sweep)
        journal.write("driver", cpus=1, gpus=0)
        for trial in ("t0000", "t0001"):
            journal.write("start", trial=trial, attempt=1)
            write_trial(sweep, trial, [(0.3, 0.01)])
            journal.write("finish", trial=trial, map=0.3, gflops=0.01, seconds=1.0)
        journal.write("start", trial="t0002", attempt=2)
        HeartbeatWriter(home.trial("s", "t0002")).heartbeat({"epoch": 10.0, "epochs": 40.0})
        HeartbeatWriter(home.trial("s", "t0002"))  # a new lease: what it said before is gone
        found = status_of(home, "s")
        assert found.state == "running" and found.driver is not None
        (running,) = found.running
        assert (running.trial, running.attempt, running.epoch) == ("t0002", 2, None)
        assert running.silent_seconds is not None and running.silent_seconds < 30
        assert found.seconds_left is not None and found.seconds_left >= 0
        assert "2 trials for one of 1 places" in found.waits
        assert "t0002 on" in status_text(found) and "start 2" in status_text(found)
        assert json.dumps(found.to_json())
        ask_to_stop(sweep, "interrupted by ctrl-C")
        waits = "the driver for the checkpoints of 1 trials, then it ends: interrupted by ctrl-C"
        assert waits in status_of(home, "s").waits
        sweep.stop.write_text(json.dumps({"reason": "of a driver before", "at": found.driver.started - 1}))
        assert status_of(home, "s").waits == found.waits
        sweep.stop.write_text(json.dumps({"version": 99}))
        assert status_of(home, "s").waits == found.waits, "another version's request is not shown"


def test_a_failure_of_a_later_version_is_one_all_the_same_and_says_what_cannot_be_read(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    write_state(home, "interrupted")
    record_failure(home.trial("s", "t0000"), "boom")
    home.trial("s", "t0000").failure.write_text(json.dumps({"version": 2, "because": "boom"}))
    assert "failure.json is of version 2" in status_of(home, "s").failed["t0000"]
    (listed,) = list_sweeps(home)
    assert listed.failed == 1


@pytest.mark.parametrize("clock_offset", [3600.0, -3600.0])
def test_a_sweep_of_a_machine_whose_clock_is_an_hour_off_is_shown_by_its_own(
    tmp_path: Path, clock_offset: float
) -> None:
    """Injected, for one machine has one clock: what a driver elsewhere has written."""
    home = Home(tmp_path)
    write_state(home, "running")
    sweep, there = home.sweep("s"), time.time() + clock_offset
    events: list[tuple[Event, JsonObject]] = [
        ("driver", {"cpus": 1, "gpus": 0}),
        ("start", {"trial": "t0000", "attempt": 1}),
    ]
    sweep.journal.write_text(
        "".join(
            _to_line(Entry(n=n, at=there - 36, event=event, info=info))
            for n, (event, info) in enumerate(events, 1)
        )
    )
    lease = DriverLease(name="x", host="elsewhere", pid=7, started=there - 36, heartbeat=there)
    sweep.lease.write_text(json.dumps(lease.to_json()))
    alive = TrialHeartbeat(lease="y", host="elsewhere", pid=8, at=there, beats=1)
    home.trial("s", "t0000").folder.mkdir(parents=True)
    home.trial("s", "t0000").heartbeat.write_text(json.dumps(alive.to_json()))
    found = status_of(home, "s")
    assert found.state == "running" and found.cpu_hours == pytest.approx(0.01, rel=0.5)
    assert found.running[0].silent_seconds is not None and found.running[0].silent_seconds < 30
    driver = found.to_json()["driver"]
    assert isinstance(driver, dict) and driver["host"] == "elsewhere" and driver["silent_seconds"] < 30


def test_a_driver_whose_clock_is_behind_the_one_before_it_came_later_all_the_same(tmp_path: Path) -> None:
    """Injected: the first driver's clock was an hour ahead."""
    home, ahead = Home(tmp_path), time.time() + 3500
    write_state(home, "running")
    sweep = home.sweep("s")
    figures = {"quality": 0.5, "gflops": 2.0, "seconds": 1.0}
    first = [
        entry(1, ahead, "driver", cpus=1, gpus=0),
        entry(2, ahead + 1, "start", trial="t0000", attempt=1),
        *(entry(n, ahead + 10 * n, "finish", trial=f"t000{n}", **figures) for n in (3, 4)),
    ]
    sweep.journal.write_text("".join(_to_line(each) for each in first))
    with SweepLock(sweep, StopSwitch()).hold():
        journal = SweepJournal(sweep)
        journal.write("driver", cpus=1, gpus=0)
        journal.write("start", trial="t0005", attempt=1)
        journal.write("finish", trial="t0005", quality=0.6, gflops=2.0, seconds=1.0)
        found = status_of(home, "s")
    seconds = [when for when, _ in found.validation_hypervolume]
    assert seconds == [pytest.approx(30), pytest.approx(40), pytest.approx(40, abs=5)] == sorted(seconds)
    assert found.seconds_left is None or found.seconds_left >= 0
