"""Sweeps that stop trials at rungs: whom, what becomes of them, and that a kill neither repeats nor contradicts it.
Real but for the cluster and the training; the last test is of real parts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.report import front_table
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.journal import Entry, read_journal
from paretovid.platform.records.judgement import is_judged_out, read_judgements, stopped_trials
from paretovid.platform.search.location import study_location
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps import run as running
from paretovid.platform.sweeps.judge import RungJudge
from paretovid.platform.sweeps.status import list_sweeps, status_of, status_text
from paretovid.platform.sweeps.summary import SweepReport
from paretovid.platform.sweeps.sweep import extend_sweep, plan_sweep, resume_sweep, run_sweep
from paretovid.platform.testing.sequential import ProcessDied
from paretovid.platform.testing.simulated import Table, simulated
from paretovid.platform.tracking.store import open_store
from paretovid.search_spaces.schema import LEAST_OTHERS, SweepConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.training.config import TrialConfig

pytestmark = pytest.mark.timeout(180)  # the first of them waits for MLflow's tables

TRIALS = 10


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(running, "write_png", lambda front, path: path.touch())
        made = Home(tmp_path_factory.mktemp("home"))
        open_store(made)
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]


@cache
def _composed(home: Home, words: tuple[str, ...]) -> SweepConfig:
    few = ["baselines=[{name: uniform, method: uniform}]", f"search.trials={TRIALS}", "search.sampler=random"]
    return load_sweep_config([f"home={home.root}", "search.stopping=curve", *few, *words])


def run(home: Home, name: str, table: Table, *words: str) -> SweepReport:
    made = copy.deepcopy(_composed(home, words))
    made.name = name
    return run_sweep(made, Progress.silent(), backend=simulated(table))


def resume(home: Home, name: str, table: Table) -> SweepReport:
    return resume_sweep(str(home.root), name, (), Progress.silent(), backend=simulated(table))


def number(trial: TrialConfig) -> int:
    return int(trial.trial[1:]) if trial.trial[1:].isdigit() else 0


def ever_worse(trial: TrialConfig) -> list[tuple[float, float]]:
    """Every trial is worse than the one before it."""
    return [(0.9 - 0.05 * number(trial), 0.05), (0.8 - 0.05 * number(trial), 0.02)]


def ever_better(trial: TrialConfig) -> list[tuple[float, float]]:
    return [(0.3 + 0.05 * number(trial), 0.05), (0.2 + 0.05 * number(trial), 0.02)]


def events(home: Home, name: str, event: str) -> list[Entry]:
    return [each for each in read_journal(home.sweep(name)).entries if each.event == event]


def stopped(home: Home, name: str) -> list[str]:
    return [each.trial for each in stopped_trials(home.sweep(name))]


LATE = [f"t{n:04d}" for n in range(LEAST_OTHERS, TRIALS)]


def test_those_in_the_lower_part_are_stopped_and_the_first_are_not(home: Home, name: str) -> None:
    report = run(home, name, ever_worse)
    assert stopped(home, name) == LATE
    assert report.summary is not None
    assert (report.summary.succeeded, report.summary.stopped, report.summary.failed) == (5, 6, 0)
    assert {path.name for path in home.sweep(name).with_result()} == {
        "uniform",
        "t0000",
        "t0001",
        "t0002",
        "t0003",
    }
    assert [entry.trial for entry in events(home, name, "stopped")] == LATE
    rungs = {entry.trial: entry.fields for entry in events(home, name, "rung")}
    assert sorted(rungs) == [f"t{n:04d}" for n in range(TRIALS)], "no baseline is judged"
    assert rungs["t0003"].flag("goes_on") and "place" not in rungs["t0003"]
    assert (rungs["t0004"].whole("place"), rungs["t0004"].whole("others")) == (5, 4)
    assert rungs["t0009"].flag("goes_on") is False


def test_a_curve_above_the_others_goes_on(home: Home, name: str) -> None:
    run(home, name, ever_better)
    assert stopped(home, name) == [] and len(home.sweep(name).with_result()) == TRIALS + 1


def test_anchors_go_on_whatever_they_are(home: Home, name: str) -> None:
    """They are the first of a study, and so never judged out: here the last trial stands for one."""
    run(home, name, ever_worse)  # writes what trials say
    for trial in LATE:
        home.sweep(name).trial(trial).judgement.unlink()
    judged = RungJudge(
        home.sweep(name),
        lambda *words, **info: None,
        rungs=(0.25,),
        keep=0.5,
        is_exempt=lambda trial: trial == "t0009",
    )
    judged.poll([f"t{n:04d}" for n in range(TRIALS)])
    (of_anchor,) = read_judgements(home.sweep(name).trial("t0009"))
    assert (of_anchor.goes_on, of_anchor.place) == (True, TRIALS)
    (other,) = read_judgements(home.sweep(name).trial("t0008"))
    assert (other.goes_on, other.place) == (False, TRIALS - 1)


def test_what_is_shown(home: Home, name: str) -> None:
    run(home, name, ever_worse)
    said = "6 of 10 stopped at rung 10 of 40: saved 180 epochs"
    status = status_of(home, name)
    assert said in status_text(status) and status.state == "finished"
    assert "5 of 11 finished, 0 running, 0 to come, 0 failed" in status_text(status)
    assert json.loads(json.dumps(status.to_json()))["stopped"][0] == {
        "trial": "t0004",
        "epoch": 10,
        "rung": 10,
        "epochs": 40,
    }
    front = read_front([home.sweep(name)])
    assert f"{name}: {said}." in front_table(front)
    document = json.loads((home.sweep(name).folder / "front.json").read_text())
    assert [each["trial"] for each in document["stopped"]] == LATE
    (listed,) = [each for each in list_sweeps(home) if each.name == name]
    assert (listed.trials, listed.stopped, listed.failed, listed.state) == (5, 6, 0, "finished")


def test_a_point_of_a_stopped_trial_cannot_be_promoted(home: Home, name: str) -> None:
    run(home, name, ever_worse)
    front = read_front([home.sweep(name)])
    for point in ("t0005-p00", f"{name}/t0005-p03", "t0005"):
        with pytest.raises(UsageError, match="t0005 was stopped at epoch 10 of 40") as refused:
            choose(front, point=point)
        assert "search.stopping=none" in refused.value.hint


def test_a_finished_sweep_is_not_taken_for_one_that_lacks_trials(home: Home, name: str) -> None:
    run(home, name, ever_worse)
    before = len(read_journal(home.sweep(name)).entries)
    assert resume(home, name, ever_better).summary is None
    assert len(read_journal(home.sweep(name)).entries) == before


def test_an_extended_sweep_is_judged_against_all_that_were_measured(home: Home, name: str) -> None:
    run(home, name, ever_worse)
    extend_sweep(str(home.root), name, 2, (), Progress.silent(), backend=simulated(ever_worse))
    assert stopped(home, name) == [*LATE, "t0010", "t0011"]
    last = events(home, name, "rung")[-1].fields
    assert last.whole("others") == TRIALS + 1


def test_several_rungs_are_judged_each_for_itself(home: Home, name: str) -> None:
    run(home, name, ever_worse, "search.rungs=[0.5,0.25]", "search.keep=0.9")
    judged = {
        trial: [(each.epoch, each.goes_on) for each in read_judgements(home.sweep(name).trial(trial))]
        for trial in ("t0000", "t0009")
    }
    assert judged["t0000"] == [(10, True), (20, True)]
    # At 90 % of ten curves nine go on: the last one is the tenth.
    assert judged["t0009"] == [(10, False)]


class Killed(BaseException):
    """Stands for a driver that is killed."""


def killing(at: str, table: Table, *, after: Callable[[], None] | None = None) -> Table:
    """Kills the driver the first time that it comes to the trial."""
    done: list[str] = []

    def look(trial: TrialConfig) -> Sequence[tuple[float, float]]:
        if trial.trial == at and not done:
            done.append(at)
            raise Killed
        return table(trial)

    return look


def test_a_driver_that_is_killed_between_journal_and_folder_does_not_judge_again(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has the judgement of t0004, its folder has not; the table has changed its mind since."""
    from paretovid.platform.sweeps import judge

    written = judge.write_judgements  # type: ignore[attr-defined]

    def dies(trial: Any, *rest: Any) -> None:
        if trial.name == "t0004":
            raise Killed
        written(trial, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(judge, "write_judgements", dies)
        with pytest.raises(Killed):
            run(home, name, ever_worse)
    assert read_judgements(home.sweep(name).trial("t0004")) == ()
    resume(home, name, ever_better)
    assert is_judged_out(read_judgements(home.sweep(name).trial("t0004")))
    assert "t0004" in stopped(home, name)
    assert [entry.trial for entry in events(home, name, "rung")].count("t0004") == 1


def test_a_driver_that_is_killed_before_a_judged_trial_has_ended_does_not_start_it_again(
    home: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretovid.platform.sweeps.events import SweepDriver

    def dies(self: Any, trial_id: str, epoch: int, epochs: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SweepDriver, "on_stopped", dies)
        with pytest.raises(Killed):
            run(home, name, ever_worse)
    assert stopped(home, name) == ["t0004"]
    resume(home, name, ever_worse)
    assert stopped(home, name) == LATE
    starts = [entry.trial for entry in events(home, name, "start")]
    assert starts.count("t0004") == 1
    assert sorted(entry.trial for entry in events(home, name, "stopped")) == LATE


def test_a_judgement_whose_line_of_the_journal_is_lost_holds(home: Home, name: str) -> None:
    with pytest.raises(Killed):
        run(home, name, killing("t0005", ever_worse))
    journal = home.sweep(name).journal
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"event": "rung"' not in line))
    resume(home, name, ever_worse)
    assert is_judged_out(read_judgements(home.sweep(name).trial("t0004")))
    assert "t0004" in stopped(home, name)


def test_a_trial_whose_process_dies_is_not_judged_again(home: Home, name: str) -> None:
    """It comes to its rung a second time, and is worse there than the first time."""
    deaths: list[str] = []

    def dies_once(trial: TrialConfig) -> list[tuple[float, float]]:
        if trial.trial == "t0005" and not deaths:
            deaths.append(trial.trial)
            raise ProcessDied
        return ever_better(trial) if trial.trial != "t0005" else [(0.01, 0.05)]

    run(home, name, dies_once)
    assert stopped(home, name) == ["t0005"]
    assert [entry.trial for entry in events(home, name, "rung")].count("t0005") == 1


def test_a_stopped_trial_is_none_that_failed(home: Home, name: str) -> None:
    run(home, name, ever_worse)
    record = home.sweep(name)
    assert not record.with_failure()
    location = study_location(home, name, "", None, None)
    assert location.name


def test_the_plan_says_what_is_stopped(home: Home) -> None:
    text = str(plan_sweep(_composed(home, ())))
    assert "at epoch 10 of 40 only those go on whose curve is in the upper 50 %" in text
    assert "at epoch" not in str(plan_sweep(_composed(home, ("search.stopping=none",))))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["search.rungs=[0.01]"], "0.01 of 40 epochs is epoch 0"),
        (["search.rungs=[0.999]"], "0.999 of 40 epochs is epoch 40"),
        (["search.rungs=[0.25,0.251]"], "0.25 and 0.251 of 40 epochs are both epoch 10"),
        (["search.rungs=[0.5]", "training.epochs=1"], "of 1 epochs is epoch 0"),
        (["search.trials=1"], "with 1 trials stops none"),
        (["search.trials=4"], "with 4 trials stops none"),
        (["search.rungs=[0.25,0.25]"], "each share once"),
        (["search.rungs=[]"], "one share of the epochs or more"),
        (["search.rungs=[0]"], "must be in (0, 1)"),
        (["search.rungs=[1]"], "must be in (0, 1)"),
        (["search.rungs=[-0.5]"], "must be in (0, 1)"),
        (["search.keep=1"], "must be in (0, 1)"),
        (["search.stopping=median"], "unknown value of search.stopping: 'median'"),
        (
            ["method=video_epitoma", "search.rungs=[0.5]"],
            "lies in a stage of the training of video_epitoma that ends at 0.5",
        ),
    ],
)
def test_what_cannot_be_stopped_is_refused_before_anything_starts(
    home: Home, words: list[str], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        plan_sweep(load_sweep_config([f"home={home.root}", "search.stopping=curve", *words]))
    assert says in str(refused.value)
    assert refused.value.hint


def test_a_rung_in_the_last_stage_is_allowed(home: Home) -> None:
    """And any rung where no trial is trained in stages."""
    for words in (
        ["search.rungs=[0.75]"],
        ["~method.training_knobs.regime", "method.model.regime=end_to_end", "search.rungs=[0.25]"],
    ):
        plan_sweep(
            load_sweep_config([f"home={home.root}", "search.stopping=curve", "method=video_epitoma", *words])
        )


def test_other_settings_of_stopping_are_another_sweep(home: Home, name: str) -> None:
    run(home, name, ever_better)
    with pytest.raises(UsageError, match=r"search\.keep was 0\.5, now 0\.6"):
        run(home, name, ever_better, "search.keep=0.6")
    with pytest.raises(UsageError, match=r"search\.stopping cannot be changed"):
        resume_sweep(
            str(home.root), name, ["search.stopping=none"], Progress.silent(), backend=simulated(ever_better)
        )
