"""What a sweep does from its first trial to its front, and what becomes of one that fails, is stopped, killed or
extended: real but for the cluster and the training (`platform/testing/simulated.py`). The same on real parts:
test_sweep.py, test_resume.py.
"""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import fill

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution import searcher
from paretovid.platform.execution.stopping import SweepStopped
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.journal import SweepJournal, read_journal
from paretovid.platform.records.sweep import known_record
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps import run as running
from paretovid.platform.sweeps.events import SweepDriver
from paretovid.platform.sweeps.reached import LiveStatus
from paretovid.platform.sweeps.status import status_of, status_text
from paretovid.platform.sweeps.summary import SweepReport
from paretovid.platform.sweeps.sweep import extend_sweep, resume_sweep, run_sweep
from paretovid.platform.testing.audit import Audit, audit
from paretovid.platform.testing.sequential import ProcessDied
from paretovid.platform.testing.simulated import Table, expensive_is_better, simulated
from paretovid.platform.tracking.exporter import TrackingSender
from paretovid.platform.tracking.store import open_store
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import (
    NonFiniteError,
    ParetovidError,
    StaleFeaturesError,
    UnavailableDataError,
    UsageError,
)
from paretovid.trainables.training.config import TrialConfig

pytestmark = pytest.mark.timeout(180)  # the first of them waits for MLflow's tables

Points = Sequence[tuple[float, float]]
TRIALS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all tests, each with a sweep of its own name: making MLflow's store takes longer than any of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(
            running, "STOPPED_TRACKING_SECONDS", 30.0
        )  # a busy machine must not change what is tracked
        made = Home(tmp_path_factory.mktemp("home"))
        open_store(made)
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test looks at the picture; for the others it would take half of their time."""
    if "painted" not in request.node.name:
        monkeypatch.setattr(running, "write_png", lambda front, path: path.touch())


@cache
def _composed(home: Home, words: tuple[str, ...]) -> SweepConfig:
    few = ["baselines=[{name: uniform, method: uniform}]", f"search.trials={TRIALS}"]
    return load_sweep_config([f"home={home.root}", *few, *words])


def config(home: Home, name: str, *words: str) -> SweepConfig:
    made = copy.deepcopy(_composed(home, words))
    made.name = name
    return made


def run(
    home: Home, name: str, *words: str, table: Table = expensive_is_better, at_once: int = 2
) -> SweepReport:
    backend = simulated(table, at_once=at_once)
    return run_sweep(config(home, name, *words), Progress.silent(), backend=backend)


def resume(home: Home, name: str, *words: str, table: Table = expensive_is_better) -> SweepReport:
    return resume_sweep(str(home.root), name, words, Progress.silent(), backend=simulated(table))


def events(home: Home, name: str, event: str) -> list[Any]:
    return [entry for entry in read_journal(home.sweep(name)).entries if entry.event == event]


def state(home: Home, name: str) -> str:
    return known_record(home.sweep(name)).state


def check_whole(home: Home, name: str, trials: int = TRIALS) -> Audit:
    """All stores say that everything asked for was done, once."""
    found = audit(home, name)
    assert found.searched_with_result == trials and found.baselines_with_result == 1
    assert found.study == {"COMPLETE": trials}
    assert found.mlflow == {"FINISHED": trials + 1} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)
    assert state(home, name) == "finished"
    return found


class Acting:
    """A table that does something before it answers for a trial the n-th time."""

    def __init__(self, **acts: Any) -> None:
        self.acts = acts
        self.asked: list[str] = []

    def __call__(self, trial: TrialConfig) -> Points:
        self.asked.append(trial.trial)
        act = self.acts.get(trial.trial)
        if isinstance(act, BaseException):
            raise act
        if isinstance(act, tuple) and self.asked.count(trial.trial) == 1:
            signal.raise_signal(act[0])
            raise act[1]
        if isinstance(act, list) and act:
            raise act.pop(0)
        if isinstance(act, signal.Signals) and self.asked.count(trial.trial) == 1:
            signal.raise_signal(act)
        return expensive_is_better(trial)


@pytest.mark.slow
def test_painted_from_a_configuration_to_a_front_in_all_stores(home: Home, name: str) -> None:
    report = run(home, name)
    found = check_whole(home, name)
    assert found.starts == TRIALS + 1
    folder = home.sweep(name).folder
    assert (folder / "front.png").stat().st_size > 10_000
    assert {path.suffix for path in folder.glob("front.*")} == {".html", ".json", ".png", ".txt"}
    # The table is what the front shows: the default point of a trial is its first row.
    result = json.loads((folder / "trials" / "t0002" / "result.json").read_text())
    assert result["simulated"] is True, "nobody takes it for a measured one"
    assert result["training_knobs"] == {"gamma": 0.1, "lambda": 2.0}
    trial = TrialConfig(
        sweep="",
        trial="",
        method="",
        dataset="",
        features={},
        output="",
        training_knobs={"gamma": 0.1, "lambda": 2.0},
    )
    assert [point["val"]["gflops"] for point in result["points"]] == pytest.approx(
        [gflops for _, gflops in expensive_is_better(trial)]
    )
    document: Any = report.front.to_json()
    assert {point["trial"] for point in document["points"]} == {f"t{i:04d}" for i in range(TRIALS)}
    assert {each["trial"] for each in document["baselines"]} == {"uniform"}
    assert "promote" in str(report)


@pytest.mark.slow
def test_a_finished_one_is_shown_and_its_trials_are_not_run_again(home: Home, name: str) -> None:
    first = run(home, name)
    table = Acting()
    again = run(home, name, table=table)
    resumed = resume(home, name, table=table)
    assert table.asked == []
    assert str(again.front.to_json()) == str(resumed.front.to_json()) == str(first.front.to_json())
    check_whole(home, name)


@pytest.mark.slow
def test_one_whose_knobs_are_used_up_says_so_wherever_it_is_shown(home: Home, name: str) -> None:
    three = ("~method.training_knobs.lambda", "method.training_knobs.gamma.choices=[0.05,0.1,0.2]")
    shown = io.StringIO()
    progress = Progress(0, stream=shown, terminal=False)
    run_sweep(config(home, name, *three), progress, backend=simulated())
    why = "the knobs have no more than 3 settings; all were tried"
    assert f"{TRIALS - 3} trials were not started: {why}" in shown.getvalue()
    assert events(home, name, "state")[-1].info == {"state": "finished", "reason": why}
    status = status_of(home, name)
    assert status.state == "finished" and status.why_ended == why
    text = status_text(status)
    assert f"4 of {TRIALS + 1} finished, 0 running, 3 not started" in text and f"ended    {why}" in text
    # More of them are not there either.
    extend_sweep(str(home.root), name, 2, [], Progress.silent(), backend=simulated())
    assert status_of(home, name).why_ended == why and len(events(home, name, "start")) == 4


@pytest.mark.slow
def test_one_that_did_all_says_nothing_of_the_kind(home: Home, name: str) -> None:
    run(home, name)
    status = status_of(home, name)
    assert status.why_ended is None and "0 to come" in status_text(status)


@pytest.mark.slow
def test_extended_it_has_the_trials_of_both_and_tries_nothing_twice(home: Home, name: str) -> None:
    run(home, name)
    table = Acting()
    extend_sweep(str(home.root), name, 3, [], Progress.silent(), backend=simulated(table))
    assert table.asked == [f"t{i:04d}" for i in range(TRIALS, TRIALS + 3)]
    check_whole(home, name, TRIALS + 3)
    # The command that started it shows it; one that wants another number gets what to type.
    run(home, name)
    with pytest.raises(UsageError, match="exists with other settings") as refused:
        run(home, name, f"search.trials={TRIALS + 3}")
    assert f"paretovid extend {name} +N" in refused.value.hint


@pytest.mark.slow
def test_a_seed_gives_the_same_trials_again(home: Home, name: str) -> None:
    def tried(part: str, *words: str) -> list[Any]:
        # Two anchors and four published settings, which every seed has, come before those of the sampler.
        run(home, f"{name}-{part}", f"search.trials={TRIALS + 2}", *words)
        paths = sorted(home.sweep(f"{name}-{part}").trials.glob("t*/result.json"))
        return [json.loads(path.read_text())["training_knobs"] for path in paths]

    first = tried("first")
    assert tried("again") == first
    other = tried("other", "seed=1")
    assert other[:TRIALS] == first[:TRIALS] and other[TRIALS:] != first[TRIALS:]


@pytest.mark.slow
def test_guided_by_curves_it_is_the_same_stopped_and_resumed(home: Home, name: str) -> None:
    words = ("search.guided_by=curve", f"search.trials={TRIALS + 3}", "search.concurrent=1")
    run(home, f"{name}-whole", *words)
    stopping = Acting(t0007=signal.SIGTERM)
    with pytest.raises(SweepStopped):
        run(home, f"{name}-cut", *words, table=stopping)
    resume(home, f"{name}-cut")
    tried = [
        [
            json.loads(path.read_text())["training_knobs"]
            for path in sorted(home.sweep(f"{name}-{part}").trials.glob("t*/result.json"))
        ]
        for part in ("whole", "cut")
    ]
    assert tried[0] == tried[1] and len(tried[0]) == TRIALS + 3


@pytest.mark.slow
def test_failures_are_tried_again_and_do_not_end_it(home: Home, name: str) -> None:
    table = Acting(
        t0000=[ValueError("once")],
        t0001=NonFiniteError("the loss became nan"),
        t0002=[ProcessDied("memory")],
        t0003=ValueError("always"),
        uniform=[ProcessDied("memory")],
    )
    report = run(home, name, table=table)
    assert report.summary is not None and (report.summary.succeeded, report.summary.failed) == (TRIALS - 1, 2)
    starts = {each: table.asked.count(each) for each in set(table.asked)}
    assert starts == {"t0000": 2, "t0001": 1, "t0002": 2, "t0003": 3, "t0004": 1, "t0005": 1, "uniform": 2}
    found = audit(home, name)
    assert found.study == {"COMPLETE": TRIALS - 2, "FAIL": 2} and found.baselines_with_result == 1
    assert found.mlflow == {"FINISHED": TRIALS - 1, "FAILED": 2} and found.zombies == 0
    again = {(entry.trial, entry.info["again"]) for entry in events(home, name, "fault")}
    assert {("t0000", True), ("t0001", False), ("t0003", True), ("t0003", False)} <= again
    kept = json.loads(home.trial(name, "t0003").failure.read_text())
    assert kept == {"version": 1, "reason": "ValueError: always", "cause": "trial"}
    assert known_record(home.sweep(name)).failures.keys() == {"t0001", "t0003"}


@pytest.mark.slow
def test_one_in_which_all_fail_says_why(home: Home, name: str) -> None:
    table = Acting(**{f"t{i:04d}": NonFiniteError("the loss became nan") for i in range(TRIALS)})
    with pytest.raises(ParetovidError, match=f"all {TRIALS} trials failed, most often: the loss became nan"):
        run(home, name, "search.max_failures_in_a_row=0", table=table)
    assert state(home, name) == "failed" and audit(home, name).parent == "FAILED"


@pytest.mark.slow
def test_a_full_disk_ends_it_and_counts_against_no_trial(home: Home, name: str) -> None:
    table = Acting(t0002=[OSError(28, "No space left on device")])
    with pytest.raises(ParetovidError, match="trials cannot work here"):
        run(home, name, table=table)
    found = audit(home, name)
    assert "FAIL" not in found.study and found.zombies == 0 and events(home, name, "fault") == []
    resume(home, name, table=table)
    check_whole(home, name)
    assert table.asked.count("t0002") == 2 and table.asked.count("t0000") == 1


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_told_as_that_and_leaves_nothing_half_written(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home, name = Home(small_disk / "home"), "s"
    fillers: list[Path] = []

    class Filling(Acting):
        def __call__(self, trial: TrialConfig) -> Points:
            if trial.trial == "t0002" and not fillers:
                fillers.append(fill(small_disk))
            return super().__call__(trial)

    table = Filling()
    with pytest.raises(ParetovidError, match="No space left on device") as raised:
        run(home, name, table=table)
    assert "paretovid" in raised.value.hint and "resume s" in raised.value.hint
    assert list(home.root.rglob("*.partial")) == []
    fillers[0].unlink()
    resume(home, name, table=table)
    check_whole(home, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        StaleFeaturesError("features are missing: /x/shard_00000.npy", "make them"),
        UnavailableDataError("no data set at /x", "make it"),
        ObjectStoreError("s3://b cannot be reached (ConnectionError)", is_passing=True),
        OSError(errno.ESTALE, "Stale file handle", "/x/shard_00000.npy"),
    ],
)
def test_a_place_that_is_away_ends_it(home: Home, name: str, fault: Exception) -> None:
    table = Acting(t0002=[fault])
    with pytest.raises(ParetovidError, match=r"trials cannot work here: (features|no data set|s3://b|/x/)"):
        run(home, name, table=table)
    found = audit(home, name)
    assert "FAIL" not in found.study and found.zombies == 0 and events(home, name, "fault") == []
    resume(home, name, table=table)
    check_whole(home, name)


@pytest.mark.slow
def test_trials_that_fail_in_a_row_for_one_reason_stop_it_and_start_again_when_it_resumes(
    home: Home, name: str
) -> None:
    same = {f"t{i:04d}": [UsageError(f"no file /tmp/{i}/x of {i} bytes")] for i in range(1, TRIALS)}
    table = Acting(**same)
    with pytest.raises(ParetovidError, match=r"5 trials in a row.*no file.*search\.max_failures_in_a_row=5"):
        run(home, name, table=table)
    assert state(home, name) == "failed"
    status = status_of(home, name)
    assert status.failed == {} and any("resume" in each for each in status.waits)
    resume(home, name, table=table)
    check_resumed(home, name, failed=5)
    status = status_of(home, name)
    assert (status.state, status.finished, dict(status.failed)) == ("finished", TRIALS + 1, {})


@pytest.mark.slow
def test_a_node_that_takes_no_trials_is_shown_until_it_is_back(home: Home, name: str) -> None:
    run(home, name)
    journal, node, shown = SweepJournal(home.sweep(name)), "3fa2c0ffee", io.StringIO()
    sender = TrackingSender(home, name, None, lambda text: None)  # not started: it sends nothing
    progress = Progress(0, stream=shown, terminal=False)
    driver = SweepDriver(home, name, journal, sender, progress, LiveStatus(()))
    driver.record("driver", cpus=1, gpus=0, workers=1)
    driver.on_node(node, "host7", "/f: Stale file handle")
    waits = "host7 (3fa2c0) for its storage, and takes no trials: /f: Stale file handle"
    assert waits in status_of(home, name).waits
    driver.on_node(node, "host7", None)
    assert waits not in status_of(home, name).waits
    assert [each.strip() for each in shown.getvalue().splitlines()] == [
        "host7 (3fa2c0) takes no more trials: /f: Stale file handle",
        "host7 (3fa2c0) is back and takes trials again",
    ]


def check_resumed(home: Home, name: str, *, failed: int) -> None:
    """All was done, by trials too that the study had given up, each with its one run."""
    found = audit(home, name)
    assert found.searched_with_result == TRIALS and found.baselines_with_result == 1
    assert found.mlflow == {"FINISHED": TRIALS + 1} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)
    assert found.study["FAIL"] == failed and state(home, name) == "finished"
    assert known_record(home.sweep(name)).failures == {}


@pytest.mark.slow
def test_a_success_between_them_or_no_limit_lets_it_go_on(home: Home, name: str) -> None:
    bad = {f"t{i:04d}": UsageError("no such thing") for i in (0, 1, 3, 4)}
    run(home, name, "search.max_failures_in_a_row=3", table=Acting(**bad), at_once=1)
    assert audit(home, name).study == {"COMPLETE": 2, "FAIL": 4} and state(home, name) == "finished"
    assert len(status_of(home, name).failed) == 4


@pytest.mark.slow
def test_one_of_an_earlier_version_that_lost_trials_to_the_place_is_not_finished(
    home: Home, name: str
) -> None:
    lost = {f"t{i:04d}": [UsageError("features are missing: /x/shard_00000.npy")] for i in (1, 3)}
    table = Acting(**lost, t0004=UsageError("no such thing"))
    run(home, name, table=table)
    for trial in ("t0001", "t0003", "t0004"):  # as that version wrote it
        path = home.trial(name, trial).failure
        path.write_text(json.dumps({"reason": json.loads(path.read_text())["reason"]}))
    status = status_of(home, name)
    assert (status.state, list(status.failed)) == ("interrupted", ["t0004"])
    resume(home, name, table=table)
    assert [table.asked.count(f"t{i:04d}") for i in range(5)] == [1, 2, 1, 2, 1]
    found = audit(home, name)
    assert found.searched_with_result == TRIALS - 1 and state(home, name) == "finished"
    assert list(status_of(home, name).failed) == ["t0004"]
    resume(home, name, table=table)
    assert table.asked.count("t0004") == 1 and table.asked.count("t0001") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said", "status"),
    [(signal.SIGINT, "interrupted by ctrl-C", 130), (signal.SIGTERM, "interrupted by SIGTERM", 143)],
)
def test_a_signal_stops_it_in_order_and_it_resumes(
    home: Home, name: str, number: signal.Signals, said: str, status: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SweepStopped, match=said) as stopped:
        run(home, name, table=Acting(t0003=number), at_once=3)
    assert stopped.value.exit_status == status and f"resume {name}" in stopped.value.hint
    assert signal.getsignal(number) is before
    found = audit(home, name)
    # What was being trained when it came is finished, what was dispatched beside it waits.
    assert found.searched_with_result == 4 and found.study["COMPLETE"] == 4
    aside = [entry.trial for entry in events(home, name, "aside")]
    assert aside == ["t0004", "t0005"] and found.study["WAITING"] == 2
    assert found.zombies == 0 and found.parent == "KILLED" and state(home, name) == "interrupted"
    resume(home, name)
    check_whole(home, name)
    starts = [(entry.trial, entry.info["attempt"]) for entry in events(home, name, "start")]
    assert [each for each in starts if each[0] in aside] == [
        ("t0004", 1),
        ("t0005", 1),
        ("t0004", 2),
        ("t0005", 2),
    ]


@pytest.mark.slow
def test_a_trial_that_fails_while_the_sweep_stops_waits_for_its_next_start(home: Home, name: str) -> None:
    with pytest.raises(SweepStopped):
        run(home, name, table=Acting(t0001=(signal.SIGTERM, ValueError("once"))), at_once=1)
    found = audit(home, name)
    assert found.study == {"COMPLETE": 1, "WAITING": 1} and found.zombies == 0
    resume(home, name)
    check_whole(home, name)
    starts = [entry.info["attempt"] for entry in events(home, name, "start") if entry.trial == "t0001"]
    assert starts == [1, 2]


@pytest.mark.slow
def test_out_of_time_it_starts_nothing_more_and_resumes_later(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(trial: TrialConfig) -> Points:
        if trial.trial == "t0001":
            later = SimpleNamespace(time=lambda: time.time() + 7200)
            monkeypatch.setattr(searcher, "time", later)
        return expensive_is_better(trial)

    report = run(home, name, "search.hours=1", table=long)
    assert report.summary is not None and report.summary.is_out_of_time
    found = audit(home, name)
    assert found.searched_with_result == 3 and found.starts == 4 and found.zombies == 0
    assert state(home, name) == "out_of_time" and found.parent == "FINISHED"
    monkeypatch.undo()
    resume(home, name, "search.hours=1")
    check_whole(home, name)


@pytest.mark.slow
def test_a_result_that_is_gone_is_made_again_and_no_other(home: Home, name: str) -> None:
    run(home, name)
    write = home.sweep(name).record
    info = json.loads(write.read_text())
    write.write_text(json.dumps({**info, "state": "interrupted"}))
    home.trial(name, "t0001").result.unlink()
    home.trial(name, "uniform").result.unlink()
    table = Acting()
    resume(home, name, table=table)
    assert sorted(table.asked) == ["t0001", "uniform"]
    points: Any = read_front([home.sweep(name)]).to_json()["points"]
    assert {point["trial"] for point in points} == {f"t{i:04d}" for i in range(TRIALS)}


@pytest.mark.slow
def test_results_made_by_other_code_count_and_that_is_said(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(home, name)
    file = home.sweep(name).record
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": "interrupted"}))
    monkeypatch.setattr("paretovid.platform.config.resolve.code_version", lambda plugins: "another")
    table = Acting()
    resume_sweep(str(home.root), name, [], Progress(5, terminal=False), backend=simulated(table))
    assert table.asked == []
    assert f"{TRIALS + 1} finished trials were made by other code" in capsys.readouterr().err


@pytest.mark.slow
def test_methods_of_localization_are_refused(home: Home, name: str) -> None:
    words = ["method=model_selection_localization", "data=moving_digits_untrimmed", "backbones=localization"]
    settings = load_sweep_config([f"home={home.root}", f"name={name}", *words])
    with pytest.raises(UsageError, match="cannot be simulated"):
        run_sweep(settings, Progress.silent(), backend=simulated())


KILLED = """
import os, signal, sys
from paretovid.platform.testing import simulated as module
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.sweeps.sweep import resume_sweep
home, name, moment = sys.argv[1:]
made = []
write = module.write_trial

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def table(trial):
    made.append(trial.trial)
    if moment == "training" and len(made) == 3:
        die()
    return module.expensive_is_better(trial)

def write_trial(*arguments, **fields):
    write(*arguments, **fields)
    if moment == "notified nobody" and len(made) == 3:
        die()

module.write_trial = write_trial
resume_sweep(home, name, [], Progress.silent(), backend=module.simulated(table))
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_exactly_what_was_asked_for(home: Home, name: str) -> None:
    """Really killed: nothing of the driver's own ending is done."""
    with pytest.raises(SweepStopped):
        run(home, name, table=Acting(t0000=signal.SIGTERM), at_once=1)
    for moment in ("training", "notified nobody"):
        command = [sys.executable, "-c", KILLED, str(home.root), name, moment]
        killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert state(home, name) == "running"
    result = resume(home, name)
    found = check_whole(home, name)
    # In flight when it was killed: at most two each time, and what had a result is not started again.
    assert found.starts <= TRIALS + 1 + 2 * 2
    adopted = [entry.trial for entry in events(home, name, "finish") if entry.info.get("found")]
    assert len(adopted) == 1, "its driver did not live to hear of it"
    assert result.summary is not None and result.summary.failed == 0
