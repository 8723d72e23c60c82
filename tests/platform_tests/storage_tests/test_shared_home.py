"""A home that two users of a group share, each with umask 002: what one has made, the other reads and goes on with."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretovid.platform.execution.heartbeat import HeartbeatWriter
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.records.failure import record_failure
from paretovid.platform.records.journal import SweepJournal, read_journal
from paretovid.platform.records.sweep import known_record, write_record
from paretovid.platform.records.trial import find_trial, read_scores, read_sweep, read_trial
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.lock import SweepLock
from paretovid.platform.testing.sweeps import synthetic_sweep
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.documents import save_tensors
from paretovid.trainables.errors import DataError
from paretovid.trainables.testing import synthetic_metrics

GROUP, FIRST, SECOND = 23456, 23457, 23458
KNOBS = {"gamma": KnobConfig(field="target_usage", low=0.01, high=0.5, log=True, cheapest="low")}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def as_user(user: int, work: Callable[[], object], umask: int = 0o002) -> None:
    """Does the work in a process of this user and the group. Raises `AssertionError` with what went wrong there."""
    receive, send = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(user)
            os.umask(umask)
            work()
            send.send("")
        except BaseException:
            send.send(traceback.format_exc())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    said = receive.recv()
    process.join()
    assert not said, said


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that the work imports is imported here: Python itself may lie where other users cannot read."""
    home = Home(tmp_path_factory.mktemp("imported"))
    synthetic_sweep(home.sweep("s"), trials=2)
    go_on(home, trials=4)


@pytest.fixture
def shared(imported: None) -> Iterator[Home]:
    """A folder of the group, whose files stay the group's. (pytest's own folders let in nobody but root.)"""
    folder = Path(tempfile.mkdtemp(prefix="paretovid-shared-"))
    try:
        os.chown(folder, FIRST, GROUP)
        folder.chmod(0o2775)
        yield Home(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def study_of(home: Home) -> ParetoStudy:
    return ParetoStudy(storage=home.optuna_url, name="s", knobs=KNOBS, trials=4, seed=1)


def go_on(home: Home, trials: int) -> None:
    """What a driver and its trials do to a home's files, whoever has made them."""
    sweep = home.sweep("s")
    with SweepLock(sweep, StopSwitch()).hold():
        write_record(sweep, replace(known_record(sweep), state="interrupted"))
        SweepJournal(sweep).write("start", trial="t0009", attempt=1)
        study = study_of(home)
        suggestion = study.ask()
        assert suggestion is not None
        study.report(suggestion.trial_id, synthetic_metrics(0.5, 1.0))
        heartbeats = HeartbeatWriter(home.trial("s", "t0009"))
        heartbeats.heartbeat({"epoch": 1.0})
        heartbeats.end()
        record_failure(home.trial("s", "t0009"), "boom")
        save_tensors({"w": torch.zeros(2)}, home.trial("s", "t0009").model)
    assert len(read_sweep(sweep).trials) == trials
    for trial in sweep.with_result():
        assert read_scores(trial.folder, "test").scores.size
    assert read_journal(sweep).damaged == ()


@pytest.mark.slow
@as_root
def test_two_users_of_a_group_go_on_with_each_others_sweep(shared: Home) -> None:
    as_user(FIRST, lambda: synthetic_sweep(shared.sweep("s"), trials=2))
    for user in (FIRST, SECOND, FIRST):
        as_user(user, lambda: go_on(shared, trials=4))
    for path in shared.root.rglob("*"):
        mode = path.lstat().st_mode
        assert path.lstat().st_gid == GROUP
        assert path.is_symlink() or mode & stat.S_IWGRP, f"{path} shuts the group out: {stat.filemode(mode)}"


@as_root
def test_a_file_that_may_not_be_read_is_neither_damaged_nor_missing(shared: Home) -> None:
    """Nobody is told to remove a folder, and no trial is run again, for a right that is missing."""
    as_user(FIRST, lambda: synthetic_sweep(shared.sweep("s"), trials=1))
    sweep = shared.sweep("s")
    trial = sweep.with_result()[-1]

    def reads(read: Callable[[], object]) -> None:
        with pytest.raises(DataError, match="Permission denied") as raised:
            read()
        assert "owner" in raised.value.hint and "emove" not in raised.value.hint

    def all_of_it() -> None:
        reads(lambda: read_trial(trial.folder))
        reads(lambda: find_trial(trial.folder))
        reads(lambda: read_scores(trial.folder, "val"))
        reads(lambda: known_record(sweep))

    for path in (trial.result, trial.scores, sweep.record):
        path.chmod(0o600)
    as_user(SECOND, all_of_it)


def test_files_have_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_tensors({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
        SweepJournal(Home(tmp_path).sweep("s")).write("driver")
        study_of(Home(tmp_path))
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in made} >= {"w.safetensors", "journal.jsonl", "optuna.journal"}
    assert {path.stat().st_mode & 0o777 for path in made} == {0o640}
