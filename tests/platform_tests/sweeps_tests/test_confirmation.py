"""What becomes of a sweep whose points are trained again with other seeds: real but for cluster and training
(`platform/testing/simulated.py`). On real parts: test_confirm.py one folder up.
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest

from paretovid.platform.cli.main import parse
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution.stopping import StopSwitch, SweepStopped
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.confirmations import other_seeds, outstanding
from paretovid.platform.records.failure import failure_of
from paretovid.platform.records.journal import read_journal
from paretovid.platform.records.sweep import known_record
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps import run as running
from paretovid.platform.sweeps.lock import SweepLock
from paretovid.platform.sweeps.status import list_sweeps, status_of, status_text
from paretovid.platform.sweeps.summary import SweepReport
from paretovid.platform.sweeps.sweep import confirm_sweep, extend_sweep, replay_sweep, resume_sweep, run_sweep
from paretovid.platform.testing.audit import Audit, audit
from paretovid.platform.testing.simulated import expensive_is_better, simulated
from paretovid.platform.tracking.store import open_store
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.errors import NonFiniteError, ParetovidError, UnknownNameError, UsageError
from paretovid.trainables.training.config import TrialConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TRIALS = 3


class Table:
    """What trainings reach; `acts`: what one does first, by name."""

    def __init__(self, **acts: Any) -> None:
        self.acts = {name.replace("_seed", "@seed"): act for name, act in acts.items()}
        self.asked: list[str] = []

    def __call__(self, trial: TrialConfig) -> Sequence[tuple[float, float]]:
        self.asked.append(trial.trial)
        act = self.acts.get(trial.trial)
        if isinstance(act, signal.Signals) and self.asked.count(trial.trial) == 1:
            signal.raise_signal(act)
        if isinstance(act, BaseException):
            raise act
        return expensive_is_better(trial)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One for all tests, each with a sweep of its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(running, "STOPPED_TRACKING_SECONDS", 30.0)
        patch.setattr(running, "write_png", lambda front, path: path.touch())
        made = Home(tmp_path_factory.mktemp("home"))
        open_store(made)
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]


@cache
def _composed(home: Home, words: tuple[str, ...]) -> SweepConfig:
    few = ["baselines=[{name: lstm, method: lstm}]", f"search.trials={TRIALS}"]
    return load_sweep_config([f"home={home.root}", *few, *words])


def run(home: Home, name: str, *words: str, table: Table | None = None) -> SweepReport:
    config = copy.deepcopy(_composed(home, words))
    config.name = name
    return run_sweep(config, Progress.silent(), backend=simulated(table or Table()))


def resume(home: Home, name: str, *words: str, table: Table) -> SweepReport:
    return resume_sweep(str(home.root), name, words, Progress.silent(), backend=simulated(table))


def confirm(home: Home, name: str, *points: str, seeds: int = 2, table: Table | None = None) -> SweepReport:
    backend = simulated(table or Table())
    return confirm_sweep(str(home.root), name, points, seeds, [], Progress.silent(), backend=backend)


def runs(home: Home, name: str, kind: str) -> list[Any]:
    store = open_store(home)
    condition = f"tags.`paretovid.sweep` = '{name}' AND tags.`paretovid.kind` = '{kind}'"
    found: list[Any] = store.client.search_runs([store.experiment_id], condition)
    return found


def check_whole(home: Home, name: str, trials: int = TRIALS) -> Audit:
    """The search is as it was: nobody was told of what confirms it."""
    found = audit(home, name)
    assert (found.searched_with_result, found.baselines_with_result) == (trials, 1)
    assert found.study == {"COMPLETE": trials}
    assert found.mlflow == {"FINISHED": trials + 1} and found.parent == "FINISHED"
    assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)
    assert known_record(home.sweep(name)).state == status_of(home, name).state == "finished"
    return found


def test_one_training_for_each_trial_and_seed_serves_its_points(home: Home, name: str) -> None:
    before = run(home, name).front
    table = Table()
    report = confirm(home, name, table=table)
    trials = {point.trial.trial for point in before.front}
    assert len(trials) < len(before.front), "else this shows nothing"
    assert sorted(table.asked) == sorted(f"{trial}@seed{seed}" for trial in trials for seed in (1, 2))
    check_whole(home, name)
    # The search's own figures are what they were.
    assert report.front.hypervolume == before.hypervolume == known_record(home.sweep(name)).hypervolume
    assert [point.id for point in report.front.points] == [point.id for point in before.points]
    for point in report.front.front:
        found = point.confirmation
        assert found is not None and [each.seed for each in found.seeds] == [1, 2]
        path = home.trial(name, f"{point.trial.trial}@seed2").result
        result = json.loads(path.read_text())
        assert result["confirms"] == point.trial.trial and result["seed"] == 2
        measured = result["points"][point.record.index]
        assert measured["inference_knobs"] == point.record.inference_knobs
        assert measured["test"]["map"] == found.seeds[1].shown.quality
    folder = home.sweep(name).folder
    assert "Confirmed by trainings with other seeds" in (folder / "front.txt").read_text()
    document = json.loads((folder / "front.json").read_text())
    assert [each["confirmation"] for each in document["points"]] == [
        None if each.confirmation is None else each.confirmation.to_json() for each in report.front.points
    ]


def test_in_mlflow_and_in_the_status_they_are_of_a_kind_of_their_own(home: Home, name: str) -> None:
    run(home, name)
    confirm(home, name, "t0001-p00", seeds=2)
    found = runs(home, name, "confirmation")
    assert {each.data.tags["paretovid.trial"] for each in found} == {"t0001@seed1", "t0001@seed2"}
    assert {each.data.tags["paretovid.confirms"] for each in found} == {"t0001"}
    assert {each.info.status for each in found} == {"FINISHED"}
    status = status_of(home, name)
    assert (status.asked, status.finished) == (TRIALS + 1, TRIALS + 1)
    assert (status.confirmations.asked, status.confirmations.finished) == (2, 2)
    assert "confirm  2 of 2 trainings with other seeds finished" in status_text(status)
    # What they reach is no part of what the search has reached.
    values = [value for _, value in status.validation_hypervolume]
    assert values[-1] == pytest.approx(read_front([home.sweep(name)], split="val").hypervolume)
    assert len(values) <= TRIALS + 1
    # All of it again, into a store that lacks some of it.
    for each in found:
        open_store(home).client.delete_run(each.info.run_id)
    replay_sweep(str(home.root), name, None, Progress.silent(), whole=True)
    assert len(runs(home, name, "confirmation")) == 2


def test_more_seeds_and_other_points_train_only_what_is_not_there(home: Home, name: str) -> None:
    run(home, name)
    first, more, again, other = Table(), Table(), Table(), Table()
    confirm(home, name, "t0000-p00", seeds=2, table=first)
    confirm(home, name, "t0000-p00", seeds=4, table=more)
    confirm(home, name, "t0000-p00", seeds=3, table=again)
    confirm(home, name, "t0000-p01", seeds=3, table=other)
    assert sorted(first.asked) == ["t0000@seed1", "t0000@seed2"]
    assert sorted(more.asked) == ["t0000@seed3", "t0000@seed4"]
    assert again.asked == [] and other.asked == [], "a training has measured all points of its trial"
    started = [entry.trial for entry in read_journal(home.sweep(name)).entries if entry.event == "start"]
    assert len(started) == len(set(started)), "no finished one is so much as started"
    assert known_record(home.sweep(name)).confirmations == {"t0000-p00": 4, "t0000-p01": 3}


def test_stopped_it_is_interrupted_and_resumes_without_repeating_anything(home: Home, name: str) -> None:
    run(home, name)
    stopped, resumed = Table(t0000_seed2=signal.SIGTERM), Table()
    with pytest.raises(SweepStopped):
        confirm(home, name, "t0000-p00", seeds=5, table=stopped)
    status = status_of(home, name)
    assert status.state == "interrupted" and known_record(home.sweep(name)).state == "finished"
    assert any("paretovid resume" in text for text in status.waits)
    assert {each.name: each.state for each in list_sweeps(home)}[name] == "interrupted"
    done = {training.name for training in home.sweep(name).confirmations()}
    assert 0 < len(done) < 5
    resume(home, name, table=resumed)
    assert sorted(resumed.asked) == sorted({f"t0000@seed{seed}" for seed in range(1, 6)} - done)
    check_whole(home, name)
    assert known_record(home.sweep(name)).error is None


def test_a_killed_driver_leaves_what_the_next_one_finds(home: Home, name: str) -> None:
    run(home, name)
    confirm(home, name, "t0000-p00", seeds=2)
    # As if it had died before it wrote of a result, and while a training ran.
    sweep = home.sweep(name)
    lines = sweep.journal.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"t0000@seed2"' in line and '"finish"' in line)
    sweep.journal.write_text("".join(lines[:cut]))
    table = Table()
    confirm(home, name, "t0000-p00", seeds=3, table=table)
    assert table.asked == ["t0000@seed3"]
    finished = [entry.trial for entry in read_journal(sweep).entries if entry.event == "finish"]
    assert finished.count("t0000@seed2") == 1
    check_whole(home, name)


def test_at_the_end_of_a_sweep_and_resumable_with_it(home: Home, name: str) -> None:
    stopped = Table(t0000_seed2=signal.SIGTERM)
    with pytest.raises(SweepStopped):
        run(home, name, "search.seeds=3", table=stopped)
    assert status_of(home, name).state == "interrupted"
    done = {training.name for training in home.sweep(name).confirmations()}
    table = Table()
    report = resume(home, name, table=table)
    trials = {point.trial.trial for point in report.front.front}
    wanted = {f"{trial}@seed{seed}" for trial in trials for seed in (1, 2, 3)}
    assert set(table.asked) == wanted - done, "trials of the search least of all"
    assert all(p.confirmation and len(p.confirmation.seeds) == 3 for p in report.front.front)
    check_whole(home, name)
    again = Table()
    run(home, name, "search.seeds=3", table=again)
    assert again.asked == []
    # The same command with more of them, as seeds say nothing of what the sweep is.
    run(home, name, "search.seeds=4", table=again)
    assert set(again.asked) == {f"{trial}@seed4" for trial in trials}
    check_whole(home, name)


def test_extended_the_search_goes_on_as_if_nothing_had_been_confirmed(home: Home, name: str) -> None:
    run(home, f"{name}-plain")
    run(home, name)
    confirm(home, name)
    for each in (f"{name}-plain", name):
        extend_sweep(str(home.root), each, 3, [], Progress.silent(), backend=simulated(Table()))
    tried = [
        [json.loads(trial.result.read_text())["training_knobs"] for trial in home.sweep(each).with_result()]
        for each in (f"{name}-plain", name)
    ]
    assert tried[0] == tried[1] and len(tried[0]) == TRIALS + 4
    check_whole(home, name, TRIALS + 3)


def test_a_training_that_fails_is_named_and_in_no_mean(home: Home, name: str) -> None:
    run(home, name)
    table = Table(t0000_seed2=NonFiniteError("loss became nan", "Lower the learning rate."))
    report = confirm(home, name, "t0000-p00", seeds=3, table=table)
    found = next(p.confirmation for p in report.front.points if p.id == "t0000-p00")
    assert found is not None and [each.seed for each in found.seeds] == [1, 3]
    assert found.failed == {2: "loss became nan"} and found.to_come == ()
    assert "t0000@seed2 failed, and is in no mean: loss became nan" in str(report)
    status = status_of(home, name)
    assert status.failed == {} and status.confirmations.failed == {"t0000@seed2": "loss became nan"}
    assert known_record(home.sweep(name)).failures == {}
    assert [each.info.status for each in runs(home, name, "confirmation")].count("FAILED") == 1
    check_whole(home, name)
    again = Table()
    confirm(home, name, "t0000-p00", seeds=3, table=again)
    assert again.asked == [], "it would fail again"


def test_a_point_of_a_baseline_that_is_trained_is_confirmed_too(home: Home, name: str) -> None:
    run(home, name)
    table = Table()
    report = confirm(home, name, "lstm-p01", table=table)
    assert sorted(table.asked) == ["lstm@seed1", "lstm@seed2"]
    (found,) = [point for point in report.front.confirmed if point.trial.trial == "lstm"]
    assert found.id == "lstm-p01" and found.confirmation is not None and len(found.confirmation.seeds) == 2
    assert "lstm-p01" in str(report)
    check_whole(home, name)


def test_what_cannot_be_confirmed_is_refused_before_anything_is_trained(home: Home, name: str) -> None:
    run(home, name, table=Table(t0002=NonFiniteError("loss became nan", "")))
    table = Table()
    with pytest.raises(UnknownNameError, match="no operating point is called 't0000-p77'") as unknown:
        confirm(home, name, "t0000-p77", table=table)
    assert "t0000-p00" in unknown.value.hint
    with pytest.raises(UsageError, match="t0002 failed: loss became nan") as failed:
        confirm(home, name, "t0002-p00", table=table)
    assert "On the front: " in failed.value.hint
    with pytest.raises(UsageError, match="seeds must be 1 or more, not 0"):
        confirm(home, name, seeds=0, table=table)
    with pytest.raises(UnknownNameError):
        confirm(home, "nothing", table=table)
    with (
        SweepLock(home.sweep(name), StopSwitch()).hold(),
        pytest.raises(UsageError, match="is being run by process"),
    ):
        confirm(home, name, table=table)
    assert table.asked == [] and known_record(home.sweep(name)).confirmations == {}
    assert [entry.event for entry in read_journal(home.sweep(name)).entries].count("driver") == 1


def test_a_trial_of_other_features_than_there_are_now_is_refused(home: Home, name: str) -> None:
    run(home, name)
    path = home.trial(name, "t0000").result
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0123456789ab"}))
    table = Table()
    with pytest.raises(UsageError, match="t0000 was made from other features or settings") as refused:
        confirm(home, name, "t0000-p00", table=table)
    assert "--points" in refused.value.hint
    assert table.asked == [] and known_record(home.sweep(name)).confirmations == {}
    assert status_of(home, name).state == "finished"
    # One that was asked for while it still could be counts as failed, and says why.
    confirm(home, name, "t0001-p00", seeds=1)
    other = home.trial(name, "t0001").result
    other.write_text(json.dumps(json.loads(other.read_text()) | {"digest": "0123456789ab"}))
    confirm(home, name, "lstm-p00", seeds=1)
    home.trial(name, "t0001@seed1").result.unlink()
    resume(home, name, table=table)
    assert "other features" in (failure_of(home.trial(name, "t0001@seed1")) or "")
    assert outstanding(home.sweep(name), known_record(home.sweep(name))) == []


def test_an_interrupted_search_stays_as_it_is(home: Home, name: str) -> None:
    with pytest.raises(SweepStopped):
        run(home, name, "search.concurrent=1", table=Table(t0001=signal.SIGTERM))
    table = Table()
    confirm(home, name, "t0000-p00", seeds=1, table=table)
    assert table.asked == ["t0000@seed1"]
    assert known_record(home.sweep(name)).state == status_of(home, name).state == "interrupted"
    rest = Table()
    resume(home, name, table=rest)
    assert {each for each in rest.asked if "@" in each} == set() and "t0002" in rest.asked
    check_whole(home, name)


def test_what_was_asked_for_is_confirmed_though_the_search_is_out_of_time(home: Home, name: str) -> None:
    with pytest.raises(SweepStopped):
        run(home, name, "search.concurrent=1", table=Table(t0001=signal.SIGTERM))
    with pytest.raises(SweepStopped):
        confirm(home, name, "t0000-p00", seeds=3, table=Table(t0000_seed1=signal.SIGTERM))
    table = Table()
    resume(home, name, "search.hours=0.0000001", "search.seeds=9", table=table)
    assert set(table.asked) <= {f"t0000@seed{seed}" for seed in (1, 2, 3)}, (
        "and no front that is no front yet"
    )
    record = known_record(home.sweep(name))
    assert record.state == "out_of_time" and outstanding(home.sweep(name), record) == []
    assert record.confirmations == {"t0000-p00": 3}


def test_seeds_are_the_same_each_time_and_never_the_trials_own() -> None:
    assert other_seeds(0, 3) == (1, 2, 3) == other_seeds(0, 5)[:3]
    assert other_seeds(7, 2) == (8, 9)
    assert other_seeds(999_999_999, 2) == (0, 1)


def test_what_is_typed() -> None:
    args = parse(["confirm", "s", "--points", "t0001-p00, t0002-p03", "--seeds", "3", "cluster.cpus=2"])
    assert (args.points, args.seeds) == (("t0001-p00", "t0002-p03"), 3)
    assert parse(["confirm", "s"]).points == () and parse(["confirm", "s"]).seeds == 5
    for wrong in (["--seeds", "0"], ["--seeds", "-1"], ["--seeds", "many"], ["--points", ","]):
        with pytest.raises(ParetovidError):
            parse(["confirm", "s", *wrong])
