from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.search import Searcher

from paretovid.platform.execution.breaker import BREAKER_SECONDS, Breaker
from paretovid.platform.execution.outcome import (
    AWAY,
    OUTCOME,
    EnvironmentFault,
    Failed,
    Finished,
    FixedTrial,
    Stopped,
    TrialCallback,
    TrialOutcome,
    outcome_text,
)
from paretovid.platform.execution.searcher import ParetoSearcher
from paretovid.platform.search.study import (
    MOST_LOSSES,
    ParetoStudy,
    Suggestion,
    number_of,
)
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.results import Metrics, TrialResult
from paretovid.trainables.testing import synthetic_metrics, synthetic_result

KNOBS = {
    "gamma": KnobConfig(field="target_usage", low=0.01, high=0.5, log=True, cheapest="low"),
    "lambda": KnobConfig(field="usage_weight", low=0.25, high=8, log=True, cheapest="high"),
}
PUBLISHED = [{"gamma": 0.1, "lambda": 2}, {"gamma": 0.05}]


def make(folder: Path, **changes: Any) -> ParetoStudy:
    arguments = {"knobs": KNOBS, "trials": 8, "published": PUBLISHED, **changes}
    return ParetoStudy(**{"storage": f"journal://{folder}/optuna.journal", "name": "sweep", **arguments})


def stored(folder: Path, name: str = "sweep") -> optuna.Study:
    return optuna.load_study(
        study_name=name, storage=JournalStorage(JournalFileBackend(f"{folder}/optuna.journal"))
    )


def measured(knobs: dict[str, Any]) -> Metrics:
    gflops = 10 * knobs["gamma"] + 0.1 / knobs.get("lambda", 1)
    return synthetic_metrics(1 - math.exp(-gflops), gflops)


def ended(outcome: TrialOutcome) -> dict[str, Any]:
    """What Tune passes on of a trial that came to this."""
    return {OUTCOME: outcome_text(outcome)}


def finished(quality: float, gflops: float) -> dict[str, Any]:
    return ended(Finished(result=synthetic_result(points=[(quality, gflops)])))


class Seen(TrialCallback):
    """Keeps what it is notified of."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str | None]] = []
        """Trials that came to an end, and why they failed for good."""
        self.results: list[TrialResult] = []
        self.requeued: list[str] = []
        self.nodes: list[tuple[str, str | None]] = []
        self.broke: list[list[str]] = []

    def on_result(self, trial_id: str, result: TrialResult) -> None:
        self.ends.append((trial_id, None))
        self.results.append(result)

    def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
        if not will_retry:
            self.ends.append((trial_id, reason))

    def on_requeue(self, trial_id: str) -> None:
        self.requeued.append(trial_id)

    def on_node(self, node: str, host: str, reason: str | None) -> None:
        self.nodes.append((node, reason))

    def on_breaker(self, trial_ids: Sequence[str]) -> None:
        self.broke.append([*trial_ids])


def run(study: ParetoStudy, most: int = 100) -> list[Suggestion]:
    suggestions: list[Suggestion] = []
    while len(suggestions) < most and (suggestion := study.ask()) is not None:
        suggestions.append(suggestion)
        study.report(suggestion.trial_id, measured(suggestion.knobs))
    return suggestions


def frozen(folder: Path, name: str = "sweep") -> list[optuna.trial.FrozenTrial]:
    return stored(folder, name).trials


def test_anchors_then_published_then_sampler(tmp_path: Path) -> None:
    asked = run(make(tmp_path))
    assert [each.trial_id for each in asked] == [f"t{i:04d}" for i in range(8)]
    assert asked[0].knobs == {"gamma": 0.5, "lambda": 0.25}
    assert asked[1].knobs == {"gamma": 0.01, "lambda": 8.0}
    assert asked[2].knobs == {"gamma": 0.1, "lambda": 2.0}
    assert asked[3].knobs["gamma"] == 0.05
    assert 0.25 <= float(asked[3].knobs["lambda"]) <= 8
    origins = [each.origin for each in asked]
    assert origins == ["anchor: most expensive", "anchor: cheapest", "published", "published"] + ["tpe"] * 4


def test_a_trials_name_holds_its_number_however_many_there_are() -> None:
    assert [number_of(name) for name in ("t0000", "t0012", "t1000", "t12345")] == [0, 12, 1000, 12345]


def test_a_quality_of_another_name_is_searched_under_that_name(tmp_path: Path) -> None:
    study = make(tmp_path, objective="map_iou_0.1_0.7")
    first, second = study.ask(), study.ask()
    assert first is not None and second is not None
    right = synthetic_metrics(0.3, 1.0, objective="map_iou_0.1_0.7")
    assert study.report(first.trial_id, right) == "complete"
    assert study.report(second.trial_id, synthetic_metrics(0.9, 1.0)) == "failed"
    assert stored(tmp_path).metric_names == ["map_iou_0.1_0.7", "gflops"]
    assert frozen(tmp_path)[0].values == [0.3, 1.0]
    assert "map_iou_0.1_0.7 is missing" in frozen(tmp_path)[1].user_attrs["reason"]
    with pytest.raises(UsageError, match="map was absent"):
        make(tmp_path)


def test_published_points_outside_the_range_are_left_out(tmp_path: Path) -> None:
    narrow = {**KNOBS, "gamma": KnobConfig(field="target_usage", low=0.06, high=0.5, log=True)}
    asked = run(make(tmp_path, knobs=narrow))
    assert [each.origin for each in asked].count("published") == 1
    # A knob that was fixed is no longer in the study; the rest of the point still is.
    asked = run(make(tmp_path, knobs={"gamma": KNOBS["gamma"]}, name="fixed"))
    assert [each.knobs for each in asked[2:4]] == [{"gamma": 0.1}, {"gamma": 0.05}]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_seed_gives_the_same_suggestions_also_after_a_restart(tmp_path: Path, sampler: str) -> None:
    once = [each.knobs for each in run(make(tmp_path, name="a", sampler=sampler, trials=14))]
    # A new object per trial: as if the process were killed after each.
    again = []
    while part := run(make(tmp_path, name="b", sampler=sampler, trials=14), most=1):
        again += [each.knobs for each in part]
    assert once == again
    other = [each.knobs for each in run(make(tmp_path, name="c", sampler=sampler, trials=14, seed=1))]
    assert other[:3] == once[:3]
    assert other[4:] != once[4:]
    assert len({json.dumps(knobs) for knobs in once}) == 14


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (synthetic_metrics(math.nan, 1.0), "map is nan"),
        (synthetic_metrics(0.5, math.inf), "gflops is inf"),
        (synthetic_metrics(0.5, 1.0, objective="map_iou_0.5"), "map is missing"),
        (dataclasses.replace(synthetic_metrics(0.5, 1.0), qualities={}), "map is missing"),
    ],
)
def test_figures_that_cannot_be_used_fail_the_trial_with_their_reason(
    tmp_path: Path, metrics: Metrics, reason: str
) -> None:
    study = make(tmp_path, trials=2)
    first, second = study.ask(), study.ask()
    assert first and second
    assert study.report(first.trial_id, metrics) == "failed"
    assert study.report(second.trial_id, measured(second.knobs)) == "complete"
    trial = frozen(tmp_path)[0]
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs["reason"] == reason
    assert study.ask() is None
    assert study.counts().reasons == (reason,) and study.failures() == {first.trial_id: reason}


def test_failures_are_dispatched_again_and_then_final(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2, max_failures=1)
    first = study.ask()
    assert first is not None and first.attempt == 1
    assert study.report_failure(first.trial_id, "boom") == "again"
    again = study.ask()
    assert again is not None
    assert (again.trial_id, again.knobs, again.attempt) == (first.trial_id, first.knobs, 2)
    assert study.report_failure(first.trial_id, "boom") == "failed"
    other = study.ask()
    assert other is not None and other.trial_id == "t0001"
    assert study.report_failure(other.trial_id, "hopeless", retry=False) == "failed"
    assert study.ask() is None
    assert study.counts().failed == 2
    assert [trial.user_attrs["reason"] for trial in frozen(tmp_path)[:2]] == ["boom", "hopeless"]


def test_running_trials_of_a_dead_process_are_dispatched_first(tmp_path: Path) -> None:
    study = make(tmp_path, trials=6)
    done = run(study, most=4)
    lost = [study.ask(), study.ask()]
    del study
    study = make(tmp_path, trials=6)
    assert study.counts().running == 2
    taken = [study.ask(), study.ask()]
    for before, after in zip(lost, taken, strict=True):
        assert before and after
        assert (before.trial_id, before.knobs) == (after.trial_id, after.knobs)
        assert study.report(after.trial_id, measured(after.knobs)) == "complete"
    assert study.ask() is None
    counts = study.counts()
    assert (counts.complete, counts.running, counts.failed) == (6, 0, 0)
    assert len(done) == 4


def test_killed_while_asking(tmp_path: Path) -> None:
    study = make(tmp_path)
    study._study.ask()  # the process dies before it has drawn the knobs
    first = make(tmp_path).ask()
    assert first is not None
    assert (first.trial_id, first.knobs) == ("t0000", {"gamma": 0.5, "lambda": 0.25})


def test_killed_while_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(tmp_path)
    assert [each.origin for each in run(make(tmp_path))][:3] == [
        "anchor: most expensive",
        "anchor: cheapest",
        "published",
    ]


def test_last_line_of_the_journal_cut_short(tmp_path: Path) -> None:
    run(make(tmp_path), most=3)
    with (tmp_path / "optuna.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker')
    run(make(tmp_path), most=2)
    assert make(tmp_path).counts().complete == 5


def test_killed_while_a_repeated_configuration_is_discarded(tmp_path: Path) -> None:
    study = make(tmp_path)
    study._study.ask(study._space.distributions).set_user_attr("repeats", "t0000")  # and the process dies
    make(tmp_path)
    assert [trial.state.name for trial in frozen(tmp_path)].count("RUNNING") == 0


def test_reporting_twice_changes_nothing(tmp_path: Path) -> None:
    study = make(tmp_path)
    first = study.ask()
    assert first is not None
    study.report(first.trial_id, synthetic_metrics(0.5, 1.0))
    assert study.report(first.trial_id, synthetic_metrics(0.9, 9.0)) == "known"
    assert study.report_failure(first.trial_id, "late") == "known"
    assert frozen(tmp_path)[0].values == [0.5, 1.0]


def test_requeued_trials_wait_and_resume_under_their_own_name(tmp_path: Path) -> None:
    study = make(tmp_path, trials=5)
    asked = [study.ask() for _ in range(5)]
    study.requeue("t0001")
    study.report_failure("t0003", "boom")
    study.requeue_open()
    assert {trial.state.name for trial in frozen(tmp_path)[:5]} == {"WAITING"}
    again = make(tmp_path, trials=5)
    for before in asked:
        after = again.ask()
        assert before and after
        assert (before.trial_id, before.knobs) == (after.trial_id, after.knobs)
        assert after.attempt == 2
    assert again.ask() is None
    assert again.counts().running == 5


def test_knobs_are_the_same_from_the_storage_as_they_were_dispatched(tmp_path: Path) -> None:
    knobs = {**KNOBS, "clips": KnobConfig(low=1, high=10, whole=True)}
    published = [{"gamma": 0.1, "lambda": 2, "clips": 3.0}]
    study = make(tmp_path, knobs=knobs, published=published, trials=4)
    asked = [study.ask() for _ in range(4)]
    again = make(tmp_path, knobs=knobs, published=published, trials=4).interrupted_ones()
    # As text: what determines a result is hashed as JSON, where 2 and 2.0 differ.
    assert [json.dumps(each.knobs) for each in asked if each] == [json.dumps(each.knobs) for each in again]


def test_a_result_that_the_driver_did_not_live_to_hear_of_is_adopted(tmp_path: Path) -> None:
    study = make(tmp_path, trials=3)
    for _ in range(3):
        study.ask()
    study.requeue("t0002")
    study = make(tmp_path, trials=3)
    assert [each.trial_id for each in study.interrupted_ones()] == ["t0000", "t0001", "t0002"]
    for trial_id in ("t0001", "t0002"):
        assert study.adopt(trial_id, synthetic_metrics(0.5, 1.0)) == "complete"
    only = study.ask()
    assert only is not None and (only.trial_id, only.attempt) == ("t0000", 2)
    assert study.ask() is None
    assert study.counts().complete == 2


def test_a_configuration_is_never_tried_twice(tmp_path: Path) -> None:
    knobs = {
        "gamma": KnobConfig(low=1, high=3, whole=True),
        "k": KnobConfig(choices=[1, 4], cheapest="low"),
    }
    first = run(make(tmp_path, knobs=knobs, trials=4, published=[]))
    study = make(tmp_path, knobs=knobs, trials=20, published=[])
    asked = first + run(study)
    assert len({json.dumps(each.knobs, sort_keys=True) for each in asked}) == len(asked) == 6
    stored_before = len(frozen(tmp_path))
    assert study.ask() is None
    assert study.why_ended == "the knobs have no more than 6 settings; all were tried"
    assert len(frozen(tmp_path)) == stored_before, "where nothing is left, nothing is stored"
    counts = study.counts()
    assert (counts.complete, counts.failed, counts.running) == (6, 0, 0)


def test_losses_that_are_not_the_trials_fault_do_not_count_up_to_a_limit(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1, max_failures=1)
    for start in range(1, MOST_LOSSES + 1):
        suggestion = study.ask()
        assert suggestion is not None and suggestion.attempt == start
        assert study.report_failure("t0000", "its node was lost", is_infrastructure=True) == "again"
    study.ask()
    assert study.report_failure("t0000", "its node was lost", is_infrastructure=True) == "failed"


def test_infrastructure_failures_use_up_no_counted_failure_and_these_none_of_theirs(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1, max_failures=1)
    for is_infrastructure, became in ((True, "again"), (False, "again"), (True, "again"), (False, "failed")):
        study.ask()
        assert study.report_failure("t0000", "it ended", is_infrastructure=is_infrastructure) == became


def test_limit_reaches_the_study(tmp_path: Path) -> None:
    study = make(tmp_path, max_gflops=2.0, trials=3)
    run(study)
    values = [trial.constraints["max_gflops"] for trial in frozen(tmp_path)[:3]]
    assert values[0] == pytest.approx(measured({"gamma": 0.5, "lambda": 0.25}).gflops - 2.0)
    assert values[0] > 0 > values[1]
    best = stored(tmp_path).best_trials
    assert {trial.number for trial in best} == {1, 2}


def test_all_points_of_a_trial_are_beside_the_budget(tmp_path: Path) -> None:
    study = make(tmp_path, trials=4, max_gflops=2.0)
    first = study.ask()
    assert first is not None
    result = synthetic_result(points=[(0.9, 4.0), (0.8, 3.0), (0.5, 1.0)])
    study.report(first.trial_id, result.points[0].val)
    study.report_all_points(first.trial_id, result.points)
    assert len(run(study)) == 3
    assert study.counts().complete == 4
    swept = [trial for trial in frozen(tmp_path) if "swept" in trial.user_attrs]
    assert [trial.values for trial in swept] == [[0.8, 3.0], [0.5, 1.0]]
    assert swept[0].params == first.knobs
    # Above 0: it costs more than it may.
    assert [trial.constraints["max_gflops"] for trial in swept] == [1.0, -1.0]
    assert make(tmp_path, trials=4).ask() is None


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"gamma": KNOBS["gamma"]}, "lambda was 0.25 to 8 (log), now absent"),
        (
            {**KNOBS, "gamma": KnobConfig(low=0.02, high=0.5, log=True)},
            "gamma was 0.01 to 0.5 (log), now 0.02 to",
        ),
        ({**KNOBS, "depth": KnobConfig(choices=[1, 2])}, "depth was absent, now [1, 2]"),
    ],
)
def test_a_study_with_another_search_is_refused(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        make(tmp_path, knobs=knobs)
    assert said in caught.value.message
    assert "name=" in caught.value.hint


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="sweep", storage=storage)
    study.tell(study.ask(), 1.0)
    with pytest.raises(UsageError, match="did not make"):
        make(tmp_path, storage=storage)
    assert len(run(make(tmp_path, storage=storage, name="ours", trials=2))) == 2
    assert make(tmp_path, storage=storage, name="ours", trials=2).ask() is None


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is a text,\nnot a database\n")
    for storage in (f"sqlite:///{tmp_path}/text", f"journal://{tmp_path}/text", "nosuch://host/base"):
        with pytest.raises(UsageError, match="storage of studies"):
            make(tmp_path, storage=storage)


def test_whole_knobs_and_choices(tmp_path: Path) -> None:
    knobs = {
        "clips": KnobConfig(low=1, high=10, whole=True),
        "k": KnobConfig(choices=[1, 4, 0], cheapest="low"),
    }
    study = make(tmp_path, knobs=knobs, trials=6, published=[{"clips": 3, "k": 4}, {"k": 7}])
    asked = [study.ask() for _ in range(6)]
    values = [each.knobs for each in asked if each]
    assert values[:3] == [{"clips": 10, "k": 0}, {"clips": 1, "k": 1}, {"clips": 3, "k": 4}]
    assert all(isinstance(each["clips"], int) and each["k"] in (1, 4, 0) for each in values)


# The adapter, driven as Ray Tune drives it.


def test_adapter_fixed_first_limited_and_finished(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2)
    seen = Seen()
    fixed = [FixedTrial(trial_id="uniform", config={"model": {}})]
    searcher = ParetoSearcher(
        study,
        fixed=fixed,
        configure=lambda suggestion: {"model": suggestion.knobs},
        callback=seen,
        concurrent=2,
    )
    assert searcher.suggest("a") == {"trial": "uniform", "model": {}}
    assert searcher.suggest("b") == {"trial": "t0000", "model": {"gamma": 0.5, "lambda": 0.25}}
    assert searcher.suggest("c") is None
    assert searcher.running == ("uniform", "t0000")
    searcher.on_trial_complete("a", finished(0.5, 1.0))
    assert searcher.suggest("c")["trial"] == "t0001"
    searcher.on_trial_complete("b", finished(0.6, 2.0))
    assert searcher.suggest("d") is None and not searcher.is_exhausted
    searcher.on_trial_complete("c", finished(0.7, 3.0))
    assert searcher.suggest("d") == Searcher.FINISHED
    assert searcher.is_exhausted
    assert seen.ends == [("uniform", None), ("t0000", None), ("t0001", None)]
    assert [result.points[0].val.quality for result in seen.results] == [0.5, 0.6, 0.7]
    assert study.counts().complete == 2
    assert {trial.number: trial.values for trial in frozen(tmp_path)[:2]} == {0: [0.6, 2.0], 1: [0.7, 3.0]}
    assert frozen(tmp_path)[0].user_attrs["curve"] == {"points": [[0.6, 2.0]], "most_gflops": 2.0}


def test_adapter_failures(tmp_path: Path) -> None:
    study = make(tmp_path, trials=6)
    seen = Seen()
    fixed = [FixedTrial(trial_id="uniform", config={})]
    searcher = ParetoSearcher(study, fixed=fixed, callback=seen, concurrent=1, max_failures=1)

    def step(tune_id: str, result: Any, error: bool = False) -> str:
        trial = searcher.suggest(tune_id)["trial"]
        searcher.on_trial_complete(tune_id, result, error)
        return str(trial)

    assert step("1", None, error=True) == "uniform"
    assert step("2", None, error=True) == "uniform"
    failed = ended(Failed(reason="ValueError: no", retry=True))
    assert [step("3", failed), step("4", failed)] == ["t0000", "t0000"]
    final = ended(Failed(reason="diverged", retry=False))
    assert step("5", final) == "t0001"
    assert step("6", {"map": 1.0}) == "t0002"
    damaged = Finished(result=synthetic_result(points=[(0.5, 1.0)])).to_json()
    text = json.dumps(damaged).replace('"gflops": 1.0', '"gflops": NaN')
    assert step("7", {OUTCOME: text}) == "t0003"
    assert step("8", {OUTCOME: json.dumps({"kind": "finished", "version": 99})}) == "t0004"
    other = synthetic_result(objective="map_iou_0.5")
    assert step("9", ended(Finished(result=other))) == "t0005"
    assert searcher.suggest("10") == Searcher.FINISHED
    assert [trial for trial, _ in seen.ends] == ["uniform", *(f"t{i:04d}" for i in range(6))]
    errors = [str(error) for _, error in seen.ends]
    assert "process died" in errors[0]
    assert errors[1:4] == ["ValueError: no", "diverged", "the trial has ended without an outcome"]
    assert "gflops is nan" in errors[4]
    assert "version 99" in errors[5]
    assert errors[6] == "map is missing"
    assert study.counts().failed == 6 and not seen.results


def test_adapter_requeues_what_was_stopped_and_ends_where_nothing_can_work(tmp_path: Path) -> None:
    study, seen = make(tmp_path, trials=3), Seen()
    searcher = ParetoSearcher(study, callback=seen, concurrent=2)
    assert [searcher.suggest(name)["trial"] for name in ("a", "b")] == ["t0000", "t0001"]
    searcher.on_trial_complete("a", ended(Stopped()))
    assert searcher.environment_fault is None
    searcher.on_trial_complete("b", ended(EnvironmentFault(reason="the disk is full")))
    assert searcher.environment_fault == "the disk is full"
    assert searcher.suggest("c") == Searcher.FINISHED, "no trial is started where none can work"
    assert seen.requeued == ["t0000", "t0001"] and seen.ends == []
    assert study.counts().failed == 0


def given_back(node: str) -> dict[str, Any]:
    """What Tune passes on of a trial whose process stays, as the place is away on its node."""
    return {AWAY: outcome_text(EnvironmentFault(reason="/f: Stale file handle", node=node, host="h"))}


def test_adapter_gives_a_trial_to_another_node_where_its_own_has_lost_the_place(tmp_path: Path) -> None:
    study, seen = make(tmp_path, trials=2, max_failures=0), Seen()
    fixed = [FixedTrial(trial_id="uniform", config={})]
    searcher = ParetoSearcher(study, fixed=fixed, callback=seen, concurrent=2)
    assert [searcher.suggest(name)["trial"] for name in ("a", "b")] == ["uniform", "t0000"]
    searcher.on_trial_result("a", given_back("n1"))
    searcher.on_trial_result("b", given_back("n1"))
    searcher.on_trial_result("b", given_back("n1"))  # Tune repeats the last result when a trial ends
    assert set(searcher.away) == {"a", "b"} and searcher.running == ()
    assert [searcher.suggest(name)["trial"] for name in ("c", "d")] == ["uniform", "t0000"]
    for name in ("c", "d"):
        searcher.on_trial_complete(name, finished(0.5, 1.0))
    assert [trial for trial, _ in seen.ends] == ["uniform", "t0000"] and study.counts().failed == 0
    searcher.on_trial_complete("a", ended(Stopped()))
    assert seen.nodes == [("n1", "/f: Stale file handle")], "its other process has not seen it yet"
    searcher.on_trial_complete("b", ended(Stopped()))
    assert seen.nodes[1:] == [("n1", None)] and searcher.away == {} and searcher.environment_fault is None


def test_adapter_does_not_call_a_node_back_whose_process_was_ended(tmp_path: Path) -> None:
    seen = Seen()
    searcher = ParetoSearcher(make(tmp_path), callback=seen)
    searcher.suggest("a")
    searcher.on_trial_result("a", given_back("n1"))
    searcher.on_trial_complete("a", None, error=True)
    assert seen.nodes == [("n1", "/f: Stale file handle")] and searcher.away == {}


def test_adapter_ends_after_failures_in_a_row_for_one_reason(tmp_path: Path) -> None:
    study, seen = make(tmp_path, trials=8), Seen()
    searcher = ParetoSearcher(study, callback=seen, breaker=3)

    def step(outcome: TrialOutcome) -> None:
        name = str(len(seen.ends))
        searcher.suggest(name)
        searcher.on_trial_complete(name, ended(outcome))

    outcomes: list[TrialOutcome] = [
        *[Failed(reason=f"no file /a/{i}", retry=False) for i in range(2)],
        Finished(result=synthetic_result()),
        *[Failed(reason=f"no file /a/{i}", retry=False) for i in range(2)],
        Failed(reason="something else", retry=False),
    ]
    for outcome in outcomes:
        step(outcome)
    assert searcher.environment_fault is None
    for reason in ("something else", "something else"):
        step(Failed(reason=reason, retry=False))
    assert "3 trials in a row" in str(searcher.environment_fault)
    assert seen.broke == [["t0005", "t0006", "t0007"]] and searcher.suggest("x") == Searcher.FINISHED


def test_the_breaker_takes_slow_failures_and_other_reasons_for_none_of_its_row() -> None:
    breaker = Breaker(2)
    assert not breaker.add("t0000", "/x/1 is 3 bytes", 1.0)
    assert not breaker.add("t0001", "/y/2 is 4 bytes", BREAKER_SECONDS + 1)
    assert not breaker.add("t0002", "/y/2 is 4 bytes", 1.0)
    assert not breaker.add("t0003", "/y/2 is 4 steps", 1.0)
    assert breaker.add("t0004", "/z/3 is 5 steps", 1.0) and breaker.trials == ["t0003", "t0004"]
    off = Breaker(0)
    assert not any(off.add(f"t{i:04d}", "same", 0.0) for i in range(100))


def test_a_failed_trial_that_was_started_again_is_complete(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2, max_gflops=1.0)
    for _ in range(2):
        suggestion = study.ask()
        assert suggestion is not None
        study.report_failure(suggestion.trial_id, "lost", retry=False)
    assert [each.trial_id for each in study.failed_ones()] == ["t0000", "t0001"]
    resumed = FixedTrial(trial_id="t0001", config={}, is_resumed=True)
    searcher = ParetoSearcher(study, fixed=[resumed], all_points=True)
    searcher.suggest("a")
    result = synthetic_result(points=[(0.5, 2.0), (0.4, 0.5)])
    searcher.on_trial_complete("a", ended(Finished(result=result)))
    study.report_resumed("t0001", result.points[0].val)
    counts = make(tmp_path, trials=2, max_gflops=1.0).counts()
    assert (counts.complete, counts.failed, list(study.failures())) == (1, 1, ["t0000"])
    assert [trial.values for trial in frozen(tmp_path) if trial.values] == [[0.5, 2.0], [0.4, 0.5]]
    assert study.ask() is None, "it takes no new trial's place"


@pytest.mark.parametrize("all_points", [True, False])
def test_adapter_reports_all_points_only_if_asked_to(tmp_path: Path, all_points: bool) -> None:
    searcher = ParetoSearcher(make(tmp_path, trials=1), all_points=all_points)
    searcher.suggest("a")
    result = synthetic_result(points=[(0.5, 2.0), (0.4, 1.0)])
    searcher.on_trial_complete("a", ended(Finished(result=result)))
    values = [trial.values for trial in frozen(tmp_path) if trial.values]
    assert values == ([[0.5, 2.0], [0.4, 1.0]] if all_points else [[0.5, 2.0]])


def test_adapter_counts_no_failure_of_a_trial_whose_workers_lost_their_node(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1, max_failures=0)
    searcher = ParetoSearcher(study, concurrent=1, max_failures=0)
    lost = ended(Failed(reason="its node was lost", retry=True, is_infrastructure=True))
    for tune_id in ("1", "2"):
        assert searcher.suggest(tune_id)["trial"] == "t0000"
        searcher.on_trial_complete(tune_id, lost)
    assert study.counts().failed == 0


def test_adapter_deadline_and_crash(tmp_path: Path) -> None:
    study = make(tmp_path)
    searcher = ParetoSearcher(study, deadline=0.0)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert searcher.is_out_of_time
    searcher = ParetoSearcher(study, concurrent=2)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.crashed("memory")
    assert searcher.running == ()
    assert [searcher.suggest("c")["trial"], searcher.suggest("d")["trial"]] == ["t0000", "t0001"]


def test_adapter_state_is_a_map_of_ids(tmp_path: Path) -> None:
    searcher = ParetoSearcher(make(tmp_path), configure=lambda suggestion: {"x": 1})
    searcher.suggest("a")
    searcher.save(str(tmp_path / "state"))
    assert json.loads((tmp_path / "state").read_text()) == {"ids": {"a": "t0000"}}
    copy = pickle.loads(pickle.dumps(searcher))  # noqa: S301
    assert copy.suggest("b") == Searcher.FINISHED
    with pytest.raises(NotImplementedError):
        searcher.restore(str(tmp_path / "state"))
