"""Makes the stores of a sweep agree before it goes on: study, trials' folders, journal.

What each is the source of truth for: a trial's folder for what it measured (its result is written last, and complete);
the study for what was asked and what failed; the journal for when. MLflow is notified from these, and is the source of
truth for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paretovid.platform.execution.heartbeat import ALIVE_FILE
from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.records.failure import FAILURE_FILE, failure_of, record_failure
from paretovid.platform.records.journal import FinishedTrial, read_journal
from paretovid.platform.records.trial import find_trial
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.mirror import remove
from paretovid.platform.sweeps.trials import (
    SweepTrials,
    finished_result,
)
from paretovid.trainables.evaluation.results import RESULT_FILE
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What is left to do beside what the study dispatches, and what was found."""

    fixed: tuple[FixedTrial, ...]
    finished: int
    """Trials that have a result, baselines included."""
    failed: int
    notes: tuple[str, ...]


def reconcile(
    folder: Path,
    study: ParetoStudy,
    trials: SweepTrials,
    record: Callable[..., None],
    *,
    all_points: bool = False,
) -> Reconciled:
    """Compares the stores and repairs what a killed driver left half done. Starts nothing.

    Arguments:
        folder: the sweep's; nobody else may be running it.
        record: takes an event and its facts, as `SweepJournal.write` does.
        all_points: the study sees all operating points of a trial.
    """
    notes: list[str] = []
    fixed: list[FixedTrial] = []
    for baseline in trials.baselines():
        if finished_result(TrialConfig.from_json(baseline.config)) is not None:
            continue
        if find_trial(folder / "trials" / baseline.trial_id) is not None:
            # Features of another version of the code, for one: what was paid for is not thrown away.
            notes.append(f"{baseline.trial_id} was made from other features or settings; it is kept")
        elif failure_of(folder / "trials" / baseline.trial_id) is None:
            fixed.append(baseline)
    for suggestion in study.interrupted_ones():
        found = finished_result(TrialConfig.from_json(trials.searched(suggestion)))
        if found is not None:
            study.adopt(suggestion.trial_id, found.points[0].val)
            if all_points:
                study.report_all_points(suggestion.trial_id, found.points)
    for suggestion in study.complete_ones():
        config = trials.searched(suggestion)
        if finished_result(TrialConfig.from_json(config)) is None:
            if find_trial(folder / "trials" / suggestion.trial_id) is not None:
                notes.append(f"{suggestion.trial_id} was made from other features or settings; it is kept")
                continue
            fixed.append(FixedTrial(trial_id=suggestion.trial_id, config=config))
            notes.append(f"the result of {suggestion.trial_id} is gone: it is trained again")
    for trial, reason in study.failures().items():
        if failure_of(folder / "trials" / trial) is None:
            record_failure(folder / "trials" / trial, reason)
    for path in (folder / "trials").glob(f"*/{ALIVE_FILE}"):
        remove(path)
    notes += _made_by_others(folder)
    finished = _record_finished(folder, record)
    failed = _record_failed(folder, record)
    return Reconciled(fixed=tuple(fixed), finished=finished, failed=failed, notes=tuple(notes))


def _made_by_others(folder: Path) -> list[str]:
    """A note for each other version of the code that has made results of this sweep."""
    results = (find_trial(path.parent) for path in (folder / "trials").glob(f"*/{RESULT_FILE}"))
    made_by = Counter(result.code_version for result in results if result is not None)
    del made_by[code_version()]
    return [
        f"{n} finished trials were made by other code ({code}); they are kept" for code, n in made_by.items()
    ]


def _record_finished(folder: Path, record: Callable[..., None]) -> int:
    """Writes the events that a killed driver did not come to write. Returns how many trials have a result."""
    recorded = {entry.trial for entry in read_journal(folder).entries if entry.event == "finish"}
    paths = sorted((folder / "trials").glob(f"*/{RESULT_FILE}"))
    for path in paths:
        result = find_trial(path.parent)
        if result is not None and path.parent.name not in recorded:
            record("finish", trial=path.parent.name, found=True, **FinishedTrial.of(result).to_json())
    return len(paths)


def _record_failed(folder: Path, record: Callable[..., None]) -> int:
    recorded = {
        entry.trial
        for entry in read_journal(folder).entries
        if entry.event == "fault" and not entry.facts.get("again")
    }
    paths = sorted((folder / "trials").glob(f"*/{FAILURE_FILE}"))
    for path in paths:
        if path.parent.name not in recorded:
            reason = failure_of(path.parent)
            record("fault", trial=path.parent.name, reason=reason, again=False, found=True)
    return len(paths)
