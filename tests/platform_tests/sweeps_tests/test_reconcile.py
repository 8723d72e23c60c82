"""What a killed driver left half done, repaired before a sweep resumes: every disagreement of its stores, by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.records.failure import failure_of, record_failure
from paretovid.platform.records.journal import Event, SweepJournal, read_journal
from paretovid.platform.search.study import ParetoStudy, Suggestion
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.sweeps.reconcile import Reconciled, reconcile
from paretovid.platform.sweeps.trials import SweepTrials
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.provenance import code_version
from paretovid.trainables.testing import synthetic_metrics, synthetic_result
from paretovid.trainables.training.config import TrialConfig

KNOBS = {"gamma": KnobConfig(field="target_usage", low=0.1, high=0.5)}


class Sweep:
    """A folder with a study and a journal, whose trials end as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = SweepPaths(folder)
        self.study = self.opened()
        self.journal = SweepJournal(self.paths)

    def opened(self) -> ParetoStudy:
        """The study as the next driver finds it."""
        storage = f"journal://{self.folder}/optuna.journal"
        return ParetoStudy(storage=storage, name="s", knobs=KNOBS, trials=3, max_gflops=1.0, max_failures=0)

    def config(self, trial: str, knobs: Mapping[str, Any]) -> JsonObject:
        config = TrialConfig(
            sweep="s",
            trial=trial,
            method="uniform",
            training_knobs=dict(knobs),
            dataset="data",
            features={"fine": "fine@1"},
            output=str(self.folder / "trials" / trial),
        )
        return config.to_json()

    def searched(self, suggestion: Suggestion) -> JsonObject:
        return self.config(suggestion.trial_id, suggestion.knobs)

    def unjudged(self, suggestion: Suggestion) -> TrialConfig:
        return TrialConfig.from_json(self.searched(suggestion))

    def baselines(self) -> list[FixedTrial]:
        return [FixedTrial(trial_id=name, config=self.config(name, {})) for name in ("b0000", "b0001")]

    def finish(self, config: JsonObject, *, code: str | None = None, digest: str | None = None) -> None:
        """Writes a trial's result, of a default point and another one."""
        trial = TrialConfig.from_json(config)
        made_by = code or code_version()
        result = dataclasses.replace(
            synthetic_result(trial.trial, ((0.5, 2.0), (0.4, 0.5))),
            digest=digest or trial.digest_by(made_by),
            code_version=made_by,
            seconds=7.0,
        )
        folder = self.folder / "trials" / trial.trial
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result.to_json()))

    def started(self) -> Suggestion:
        suggestion = self.study.ask()
        assert suggestion is not None
        return suggestion

    def done(self) -> Suggestion:
        """A trial with a result that the study has heard of."""
        suggestion = self.started()
        self.finish(self.searched(suggestion))
        self.study.report(suggestion.trial_id, synthetic_metrics(0.5, 2.0))
        return suggestion

    def reconcile(self, **options: Any) -> Reconciled:
        """As the next driver does it."""
        self.study = self.opened()
        trials = cast(SweepTrials, self)
        return reconcile(self.paths, self.study, trials, self.record, code=code_version(), **options)

    def record(self, event: Event, **info: Any) -> None:
        self.journal.write(event, **info)

    def recorded(self, event: str) -> list[tuple[str, dict[str, Any]]]:
        entries = read_journal(self.paths).entries
        info = [
            (e.trial, {k: v for k, v in e.info.items() if k != "trial"}) for e in entries if e.event == event
        ]
        return info


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def ids(found: Reconciled) -> list[str]:
    return [trial.trial_id for trial in found.fixed]


def test_of_baselines_those_without_an_end_are_left_to_do(sweep: Sweep) -> None:
    assert ids(sweep.reconcile()) == ["b0000", "b0001"]
    sweep.finish(sweep.config("b0000", {}))
    found = sweep.reconcile()
    assert (ids(found), found.finished, found.failed) == (["b0001"], 1, 0)
    record_failure(sweep.paths.trial("b0001"), "boom")
    found = sweep.reconcile()
    assert (ids(found), found.finished, found.failed, found.notes) == ([], 1, 1, ())


def test_what_did_not_fail_for_its_own_sake_is_started_again(sweep: Sweep) -> None:
    lost, own = sweep.started(), sweep.started()
    for suggestion in (lost, own):
        sweep.study.report_failure(suggestion.trial_id, "no such file", retry=False)
    record_failure(sweep.paths.trial(own.trial_id), "no such file")
    for trial in (lost.trial_id, "b0001"):
        record_failure(sweep.paths.trial(trial), "no such file", "breaker")
    found = sweep.reconcile()
    assert [(each.trial_id, each.is_resumed) for each in found.fixed] == [
        ("b0000", False),
        ("b0001", False),
        (lost.trial_id, True),
    ]
    assert found.failed == 1 and len(found.notes) == 2 and "no such file" in found.notes[0]
    assert found.fixed[2].config == sweep.searched(lost)
    # Its result was written, and its driver killed before it reported it.
    sweep.finish(sweep.searched(lost))
    found = sweep.reconcile()
    assert ids(found) == ["b0000", "b0001"] and list(sweep.study.failures()) == [own.trial_id]
    resumed = [trial for trial in sweep.study._study.get_trials() if "resumed" in trial.user_attrs]
    assert ["curve" in trial.user_attrs for trial in resumed] == [True]
    assert sweep.study.counts().complete == 1


def test_a_baseline_of_other_settings_is_kept_and_said_failed_or_not(sweep: Sweep) -> None:
    sweep.finish(sweep.config("b0000", {}), digest="another")
    found = sweep.reconcile()
    assert ids(found) == ["b0001"]
    assert found.notes == ("b0000 was made from other features or settings; it is kept",)


def test_a_result_that_the_study_has_not_heard_of_is_adopted(sweep: Sweep) -> None:
    suggestion = sweep.started()
    sweep.finish(sweep.searched(suggestion))
    sweep.reconcile()
    counts = sweep.study.counts()
    assert (counts.complete, counts.running) == (1, 0)
    (trial,) = sweep.study.complete_ones()
    assert trial.trial_id == suggestion.trial_id
    stored = sweep.study._study.get_trials()
    assert stored[0].values == [0.5, 2.0] and len(stored) == 2, (
        "its other points are reported only if they are to be"
    )
    assert stored[0].user_attrs["curve"] == {"points": [[0.4, 0.5], [0.5, 2.0]], "most_gflops": 2.0}
    assert sweep.study.ask().trial_id == "t0001"  # type: ignore[union-attr]


def test_its_other_points_are_reported_if_they_are_to_be_and_once(sweep: Sweep) -> None:
    sweep.finish(sweep.searched(sweep.started()))
    for _ in range(2):
        sweep.reconcile(all_points=True)
    stored = [trial for trial in sweep.study._study.get_trials() if "swept" in trial.user_attrs]
    assert [(trial.values, trial.constraints) for trial in stored] == [([0.4, 0.5], {"max_gflops": -0.5})]


def test_one_without_a_result_resumes_as_it_was(sweep: Sweep) -> None:
    suggestion = sweep.started()
    found = sweep.reconcile()
    assert sweep.study.counts().running == 1 and "t0000" not in ids(found)
    again = sweep.study.ask()
    assert again is not None and (again.trial_id, again.attempt) == (suggestion.trial_id, 2)


def test_a_result_that_is_gone_is_made_again_under_its_own_configuration(sweep: Sweep) -> None:
    kept, lost = sweep.done(), sweep.done()
    (sweep.folder / "trials" / lost.trial_id / "result.json").unlink()
    found = sweep.reconcile()
    assert ids(found) == ["b0000", "b0001", lost.trial_id] and kept.trial_id == "t0000"
    assert found.fixed[-1].config == sweep.searched(lost)
    assert found.notes == (f"the result of {lost.trial_id} is gone: it is trained again",)
    assert found.finished == 1


def test_a_result_of_other_settings_is_kept_and_said(sweep: Sweep) -> None:
    first, second = sweep.done(), sweep.done()
    sweep.finish(sweep.searched(first), digest="another")
    (sweep.folder / "trials" / second.trial_id / "result.json").unlink()
    found = sweep.reconcile()
    assert ids(found)[2:] == [second.trial_id], "and the next one is looked at all the same"
    assert found.notes[0] == f"{first.trial_id} was made from other features or settings; it is kept"


def test_results_of_other_code_are_counted_by_version(sweep: Sweep) -> None:
    for code in (None, "older", "older"):
        suggestion = sweep.started()
        sweep.finish(sweep.searched(suggestion), code=code)
        sweep.study.report(suggestion.trial_id, synthetic_metrics(0.5, 2.0))
    found = sweep.reconcile()
    assert found.notes == ("2 finished trials were made by other code (older); they are kept",)
    assert ids(found) == ["b0000", "b0001"] and found.finished == 3


def test_a_failure_of_the_study_is_written_down_and_reported_once(sweep: Sweep) -> None:
    suggestion = sweep.started()
    assert sweep.study.report_failure(suggestion.trial_id, "boom") == "failed"
    assert sweep.reconcile().failed == 1
    paths = sweep.paths.trial(suggestion.trial_id)
    assert failure_of(paths) == "boom"
    assert sweep.recorded("fault") == [("t0000", {"reason": "boom", "again": False, "found": True})]
    record_failure(paths, "as it was written by its driver")
    assert sweep.reconcile().failed == 1
    assert failure_of(paths) == "as it was written by its driver" and len(sweep.recorded("fault")) == 1


def test_a_fault_that_was_tried_again_is_not_the_end_of_a_trial(sweep: Sweep) -> None:
    sweep.journal.write("fault", trial="t0000", reason="lost", again=True)
    sweep.journal.write("fault", trial="t0001", reason="boom", again=False)
    for trial in ("t0000", "t0001"):
        record_failure(sweep.paths.trial(trial), "boom")
    assert sweep.reconcile().failed == 2
    recorded = sweep.recorded("fault")
    assert [trial for trial, info in recorded if info.get("found")] == ["t0000"]


def test_an_end_that_nobody_came_to_write_down_is_reported_once(sweep: Sweep) -> None:
    sweep.journal.write("start", trial="t0000")
    suggestion = sweep.done()
    sweep.journal.write("finish", trial="t0001")
    sweep.done()
    for _ in range(2):
        assert sweep.reconcile().finished == 2
    ((first, _), (second, info)) = sweep.recorded("finish")
    assert (first, second) == ("t0001", suggestion.trial_id)
    assert info["found"] is True and (info["quality"], info["gflops"], info["seconds"]) == (0.5, 2.0, 7.0)


def test_a_result_that_cannot_be_read_is_reported_nowhere(sweep: Sweep) -> None:
    (sweep.folder / "trials" / "t0000").mkdir(parents=True)
    (sweep.folder / "trials" / "t0000" / "result.json").write_text("{")
    sweep.reconcile()
    assert sweep.recorded("finish") == []


def test_nobody_is_alive_in_a_trial_any_more(sweep: Sweep) -> None:
    for trial in ("t0000", "b0000"):
        sweep.paths.trial(trial).folder.mkdir(parents=True)
        sweep.paths.trial(trial).heartbeat.write_text("{}")
    sweep.reconcile()
    assert not any(sweep.paths.trial(trial).heartbeat.exists() for trial in ("t0000", "b0000"))
