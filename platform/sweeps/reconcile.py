"""Makes the stores of a sweep agree before it resumes: study, trials' folders, journal.

What each is the source of truth for: a trial's folder for what it measured (its result is written last, and complete);
the study for what was asked and what failed; the journal for when. MLflow is notified from these, and is the source of
truth for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretovid.platform.execution.context import forget_checkpoints
from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.records.failure import failure_of, record_failure, to_resume
from paretovid.platform.records.journal import FailedStart, FinishedTrial, StoppedStart, read_journal
from paretovid.platform.records.judgement import stopped_at
from paretovid.platform.records.trial import find_trial
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.sweeps.trials import SweepTrials, finished_result
from paretovid.trainables.training.config import TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What is left to do beside what the study dispatches, and what was found."""

    fixed: tuple[FixedTrial, ...]
    finished: int
    """Trials that have a result, baselines included."""
    failed: int
    stopped: int
    notes: tuple[str, ...]


def reconcile(
    sweep: SweepPaths,
    study: ParetoStudy,
    trials: SweepTrials,
    record: Callable[..., None],
    *,
    code: str,
    all_points: bool = False,
) -> Reconciled:
    """Compares the stores and repairs what a killed driver left half done. Starts nothing.

    Arguments:
        sweep: nobody else may be running it.
        record: takes an event and what there is to say of it, as `SweepJournal.write` does.
        code: version of this driver's code.
        all_points: the study sees all operating points of a trial.
    """
    notes: list[str] = []
    fixed: list[FixedTrial] = []
    resumed = to_resume(sweep)
    for baseline in trials.baselines():
        if finished_result(TrialConfig.from_json(baseline.config)) is not None:
            continue
        if find_trial(sweep.trial(baseline.trial_id).folder) is not None:
            # Features of another version of the code, for one: what was paid for is not thrown away.
            notes.append(f"{baseline.trial_id} was made from other features or settings; it is kept")
        elif failure_of(sweep.trial(baseline.trial_id)) is None:
            fixed.append(baseline)
        elif baseline.trial_id in resumed:
            fixed.append(baseline)
            notes.append(_started_again(baseline.trial_id, resumed))
    _adopt_ended(sweep, study, trials, all_points=all_points)
    for suggestion in study.complete_ones():
        config = trials.unjudged(suggestion)
        if finished_result(config) is None:
            if find_trial(sweep.trial(suggestion.trial_id).folder) is not None:
                notes.append(f"{suggestion.trial_id} was made from other features or settings; it is kept")
                continue
            fixed.append(FixedTrial(trial_id=suggestion.trial_id, config=config.to_json()))
            notes.append(f"the result of {suggestion.trial_id} is gone: it is trained again")
    again = _failed_for_others(study, trials, resumed, all_points=all_points)
    fixed += again
    notes += [_started_again(trial.trial_id, resumed) for trial in again]
    for trial, reason in study.failures().items():
        if failure_of(sweep.trial(trial)) is None:
            record_failure(sweep.trial(trial), reason)
    for dead in sweep.with_heartbeat():
        sweep.store.remove(dead.heartbeat)
    notes += _made_by_others(sweep, code)
    finished = _record_finished(sweep, record)
    failed = _record_failed(sweep, record) - len(resumed)
    stopped_before = _record_stopped(sweep, study, record)
    return Reconciled(
        fixed=tuple(fixed), finished=finished, failed=failed, stopped=stopped_before, notes=tuple(notes)
    )


def _adopt_ended(sweep: SweepPaths, study: ParetoStudy, trials: SweepTrials, *, all_points: bool) -> None:
    """Reports the trials that had finished, or were judged out at a rung, when their driver died before it heard of
    it."""
    for suggestion in study.interrupted_ones():
        found = finished_result(trials.unjudged(suggestion))
        stopped = stopped_at(sweep.trial(suggestion.trial_id))
        if found is None and stopped is not None:
            study.adopt_stopped(suggestion.trial_id, stopped.epoch, stopped.epochs)
            forget_checkpoints(sweep.trial(suggestion.trial_id))  # its process may have died before it could
        if found is not None:
            study.adopt(suggestion.trial_id, found.points[0].val, found.points)
            if all_points:
                study.report_all_points(suggestion.trial_id, found.points)


def _failed_for_others(
    study: ParetoStudy, trials: SweepTrials, resumed: Mapping[str, str], *, all_points: bool
) -> list[FixedTrial]:
    """The study's trials that failed, not for their own sake, and are to be started again. What has a result since is
    reported."""
    again = []
    for suggestion in study.failed_ones():
        config = trials.unjudged(suggestion)
        found = finished_result(config)
        if found is not None:
            study.report_resumed(suggestion.trial_id, found.points[0].val, found.points)
            if all_points:
                study.report_all_points(suggestion.trial_id, found.points)
        elif suggestion.trial_id in resumed:
            again.append(FixedTrial(trial_id=suggestion.trial_id, config=config.to_json(), is_resumed=True))
    return again


def _started_again(trial: str, resumed: Mapping[str, str]) -> str:
    return f"{trial} is started again, as it did not fail for its own sake: {resumed[trial]}"


def _made_by_others(sweep: SweepPaths, mine: str) -> list[str]:
    """A note for each other version of the code than `mine` that has made results of this sweep."""
    results = (find_trial(trial.folder) for trial in sweep.with_result())
    made_by = Counter(result.code_version for result in results if result is not None)
    del made_by[mine]
    return [
        f"{n} finished trials were made by other code ({code}); they are kept" for code, n in made_by.items()
    ]


def _record_finished(sweep: SweepPaths, record: Callable[..., None]) -> int:
    """Writes the events that a killed driver did not come to write. Returns how many trials have a result."""
    recorded = {entry.trial for entry in read_journal(sweep).entries if entry.event == "finish"}
    trials = sweep.with_result()
    for trial in trials:
        result = find_trial(trial.folder)
        if result is not None and trial.name not in recorded:
            record("finish", trial=trial.name, found=True, **FinishedTrial.of(result).to_json())
    return len(trials)


def _record_stopped(sweep: SweepPaths, study: ParetoStudy, record: Callable[..., None]) -> int:
    recorded = {entry.trial for entry in read_journal(sweep).entries if entry.event == "stopped"}
    trials = study.stopped_ones()
    for trial in trials:
        stopped = stopped_at(sweep.trial(trial))
        if stopped is not None and trial not in recorded:
            found = StoppedStart(epoch=stopped.epoch, epochs=stopped.epochs)
            record("stopped", trial=trial, found=True, **found.to_json())
    return len(trials)


def _record_failed(sweep: SweepPaths, record: Callable[..., None]) -> int:
    recorded = {
        entry.trial
        for entry in read_journal(sweep).entries
        if entry.event == "fault" and not FailedStart.in_entry(entry).will_retry
    }
    trials = sweep.with_failure()
    for trial in trials:
        if trial.name not in recorded:
            record("fault", trial=trial.name, reason=failure_of(trial), again=False, found=True)
    return len(trials)
