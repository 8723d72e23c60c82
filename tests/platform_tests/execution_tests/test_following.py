"""The trial's end of being followed: documents when they are due, a judgement that is waited for briefly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretovid.platform.execution import following
from paretovid.platform.execution.following import JUDGEMENT_SECONDS, Following
from paretovid.platform.execution.heartbeat import BEAT_SECONDS
from paretovid.platform.records.judgement import Judgement, write_judgements
from paretovid.platform.records.learning import read_learning
from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.trainables.context import Learning, Rung


class Clock:
    """Moves on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.module = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(following, "time", made.module)
    return made


@pytest.fixture
def trial(tmp_path: Path) -> TrialPaths:
    made = SweepPaths(tmp_path).trial("t0000")
    made.folder.mkdir(parents=True)
    return made


def follower(trial: TrialPaths, *, is_mine: bool = True, should_end: bool = False) -> Following:
    return Following(trial, is_mine=lambda: is_mine, should_end=lambda: should_end)


def learned(epochs: int, *rungs: int) -> Learning:
    return Learning(
        epochs=8,
        history=({"loss": 1.0},) * epochs,
        rungs=tuple(Rung(share=each / 8, epoch=each, points=((0.5, 0.02),)) for each in rungs),
    )


def written(trial: TrialPaths) -> Any:
    found = read_learning(trial)
    return None if found is None else (len(found.history), len(found.rungs))


def judge(trial: TrialPaths, *goes_on: bool) -> None:
    write_judgements(
        trial,
        [
            Judgement(share=(place + 1) / 8, epoch=place + 1, epochs=8, goes_on=each, others=5)
            for place, each in enumerate(goes_on)
        ],
    )


def test_it_is_written_when_it_is_due_at_rungs_and_at_the_end(trial: TrialPaths, clock: Clock) -> None:
    own = follower(trial)
    own.follow(learned(1))
    assert written(trial) == (1, 0)
    own.follow(learned(2))
    assert written(trial) == (1, 0), "not due yet"
    clock.now += BEAT_SECONDS
    own.follow(learned(3))
    assert written(trial) == (3, 0)
    own.follow(learned(4, 4))
    assert written(trial) == (4, 1)
    own.follow(learned(5, 4))
    assert written(trial) == (4, 1)
    own.follow(learned(8, 4))
    assert written(trial) == (8, 1)
    assert follower(trial).followed() == learned(8, 4)


def test_a_process_that_has_lost_the_trial_writes_nothing(trial: TrialPaths, clock: Clock) -> None:
    follower(trial, is_mine=False).follow(learned(8, 4))
    assert written(trial) is None


def test_a_disk_that_takes_nothing_costs_the_document_alone(trial: TrialPaths, clock: Clock) -> None:
    trial.learning.mkdir()
    own = follower(trial)
    own.follow(learned(1))
    assert own.followed() is None
    assert not own.is_judged_out()


def test_a_judgement_is_waited_for_and_then_is_not(trial: TrialPaths, clock: Clock) -> None:
    own = follower(trial)
    own.follow(learned(4, 4))
    assert not own.is_judged_out(is_waiting=True)
    assert JUDGEMENT_SECONDS <= clock.now - 100 < JUDGEMENT_SECONDS + 1
    judge(trial, False)
    assert own.is_judged_out(), "one that comes late is heeded"


def test_one_that_is_there_is_not_waited_for(
    trial: TrialPaths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = follower(trial)
    own.follow(learned(4, 4))
    judge(trial, True)
    assert not own.is_judged_out(is_waiting=True) and clock.now == 100
    own.follow(learned(6, 4, 6))
    monkeypatch.setattr(clock.module, "sleep", lambda seconds: judge(trial, True, False))
    assert own.is_judged_out(is_waiting=True), "the second rung was not judged yet"


def test_a_sweep_that_ends_is_not_kept_waiting(trial: TrialPaths, clock: Clock) -> None:
    own = follower(trial, should_end=True)
    own.follow(learned(4, 4))
    assert not own.is_judged_out(is_waiting=True) and clock.now == 100


def test_what_a_later_version_has_decided_is_not_heeded(trial: TrialPaths, clock: Clock) -> None:
    trial.judgement.write_text('{"version": 2}')
    own = follower(trial)
    assert not own.is_judged_out()
