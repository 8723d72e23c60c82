"""Heartbeats: as often as is due, into a tree that is not made where a mount is gone, and read as they were written."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretovid.platform.execution import heartbeat
from paretovid.platform.execution.heartbeat import HeartbeatWriter, heartbeat_of
from paretovid.platform.records.control_requests import ask_to_stop
from paretovid.platform.storage.documents import read_json_object
from paretovid.platform.storage.home import SweepPaths, TrialPaths, open_home


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the writer's own clock shows."""
    now = [100.0]
    own = SimpleNamespace(monotonic=lambda: now[0], time=time.time)  # libraries keep theirs
    monkeypatch.setattr(heartbeat, "time", own)
    return now


@pytest.fixture
def trial(tmp_path: Path) -> TrialPaths:
    return SweepPaths(tmp_path).trial("t0000")


def beats(trial: TrialPaths) -> Any:
    found = read_json_object(trial.heartbeat)
    assert found is not None
    return found["beats"]


def test_it_is_written_when_it_is_due_and_not_before(trial: TrialPaths, clock: list[float]) -> None:
    writer = HeartbeatWriter(trial)
    writer.heartbeat()
    assert beats(trial) == 1
    clock[0] += heartbeat.BEAT_SECONDS / 2
    writer.heartbeat()
    assert beats(trial) == 1, "not due yet"
    clock[0] += heartbeat.BEAT_SECONDS / 2
    writer.heartbeat()
    assert beats(trial) == 3


def test_a_process_whose_trial_was_given_to_another_ends(trial: TrialPaths, clock: list[float]) -> None:
    writer = HeartbeatWriter(trial)
    assert not writer.heartbeat()
    HeartbeatWriter(trial)
    clock[0] += heartbeat.BEAT_SECONDS
    assert writer.heartbeat()


def test_the_wish_to_stop_is_asked_for_as_often_as_is_due(trial: TrialPaths, clock: list[float]) -> None:
    writer = HeartbeatWriter(trial)
    assert not writer.heartbeat()
    ask_to_stop(trial.sweep, "ctrl-C")
    clock[0] += heartbeat.POLL_SECONDS / 2
    assert not writer.heartbeat(), "a file system over a network is not asked at every step"
    clock[0] += heartbeat.POLL_SECONDS / 2
    assert writer.heartbeat()


def test_no_tree_is_made_where_the_sweep_is_gone(tmp_path: Path) -> None:
    trial = SweepPaths(tmp_path / "gone").trial("t0000")
    with pytest.raises(FileNotFoundError):
        HeartbeatWriter(trial)
    assert not (tmp_path / "gone").exists()


def test_one_that_cannot_be_read_is_anothers(trial: TrialPaths) -> None:
    writer = HeartbeatWriter(trial)
    assert writer.is_mine
    trial.heartbeat.write_text('{"version": 99}')
    assert not writer.is_mine
    writer.end()
    assert trial.heartbeat.exists(), "it is left to whom it belongs to"


def test_what_is_written_is_what_is_read(trial: TrialPaths) -> None:
    assert heartbeat_of(trial) is None
    writer = HeartbeatWriter(trial)
    writer.heartbeat({"epoch": 3.0})
    found = heartbeat_of(trial)
    assert found is not None and (found.beats, found.progress) == (1, {"epoch": 3.0})


def test_in_a_bucket_it_makes_its_folder_and_beats_less_often(
    bucket: str, clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "cache"))
    trial = open_home(f"{bucket}/home").sweep("s").trial("t0000")
    writer = HeartbeatWriter(trial)
    writer.heartbeat()
    clock[0] += heartbeat.BEAT_SECONDS
    writer.heartbeat()
    found = heartbeat_of(trial)
    assert found is not None and found.beats == 1, "each is a request over a network"
