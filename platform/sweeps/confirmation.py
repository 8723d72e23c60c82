"""Which operating points of a sweep are confirmed, and the trainings that are left to do for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.confirmations import failed_confirmations, seeds_of_trials
from paretovid.platform.records.failure import failure_of, record_failure
from paretovid.platform.records.journal import FinishedTrial, read_journal
from paretovid.platform.records.sweep import SweepRecord
from paretovid.platform.records.trial import find_trial
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.storage.trial_names import confirmation_name, trial_of
from paretovid.platform.sweeps.trials import SweepTrials, finished_result
from paretovid.trainables.errors import UnknownNameError, UsageError
from paretovid.trainables.evaluation.results import TrialResult

Knobs = Mapping[str, float | str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToConfirm:
    """What is left to do, and what was found."""

    fixed: tuple[FixedTrial, ...]
    finished: int
    failed: int
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """All trainings that are asked for."""
        return len(self.fixed) + self.finished + self.failed


def points_to_confirm(sweep: SweepPaths, front: Front, wanted: Sequence[str], seeds: int) -> dict[str, int]:
    """Operating points by id, each with the number of seeds that it is to be confirmed by.

    Arguments:
        front: the sweep's.
        wanted: ids, as `paretovid front` names them; none: all on the front whose method has something to train.

    Raises `UsageError` for a number of seeds below 1, a point of a trial that failed or has not finished, and one of a
    method that trains nothing; `UnknownNameError` for one that is not there.
    """
    if seeds < 1:
        raise UsageError(
            f"--seeds must be 1 or more, not {seeds}", "Each is a training of every trial; 5 are usual."
        )
    if not wanted:
        chosen = [point for point in front.front if is_trained(point)]
        if not chosen:
            raise UsageError(
                "nothing on the front is trained",
                "Every seed gives the same there: nothing is to be confirmed.",
            )
        return {point.id: seeds for point in chosen}
    points = [_chosen(sweep, front, each) for each in wanted]
    for point in points:
        if not is_trained(point):
            raise UsageError(
                f"{point.id} is of {point.name}, which has nothing to train", "Every seed gives the same."
            )
    return {point.id: seeds for point in points}


def missing_points(sweep: SweepPaths, record: SweepRecord, seeds: int) -> dict[str, int]:
    """The points on the front that nobody has asked to be confirmed by so many seeds, as `points_to_confirm` gives
    them; none where no seeds are wanted or nothing has finished."""
    if not seeds or not sweep.with_result():
        return {}
    chosen = [point for point in read_front([sweep]).front if is_trained(point)]
    return {point.id: seeds for point in chosen if record.confirmations.get(point.id, 0) < seeds}


def is_trained(point: FrontPoint) -> bool:
    """Whether another seed can make a difference. Results of early versions do not say."""
    return point.trial.parameters != 0


def _chosen(sweep: SweepPaths, front: Front, wanted: str) -> FrontPoint:
    try:
        return choose(front, point=wanted)
    except UnknownNameError:
        trial = sweep.trial(trial_of(wanted.rpartition("/")[2]))
        if trial_of(wanted) == "" or not trial.folder.is_dir() or find_trial(trial.folder) is not None:
            raise
        reason = failure_of(trial)
        why = "has not finished" if reason is None else f"failed: {reason}"
        ids = ", ".join(point.id for point in front.front[:8])
        raise UsageError(
            f"{wanted} is no operating point: {trial.name} {why}", f"On the front: {ids}."
        ) from None


def trainings_to_do(
    sweep: SweepPaths,
    record: SweepRecord,
    trials: SweepTrials,
    write: Callable[..., None],
    knobs: Callable[[TrialResult], Knobs],
    *,
    new: Sequence[str] = (),
) -> ToConfirm:
    """Compares what is asked for with what is there, and repairs what a killed driver left half done. Starts nothing.

    Arguments:
        record: with the points that are to be confirmed now.
        write: takes an event and what there is to say of it, as `SweepJournal.write` does.
        knobs: a trial's knobs, as the study has them.
        new: points that somebody has just asked for.

    Raises `UsageError` if one of those is of a trial that cannot be trained again as it was. One that was asked for
    before counts as failed then.
    """
    fixed: list[FixedTrial] = []
    finished, notes = 0, []
    failed = failed_confirmations(sweep, with_resumed=False)
    asked_now = {trial_of(point) for point in new}
    for name, seeds in seeds_of_trials(record).items():
        trial = find_trial(sweep.trial(name).folder)
        configs = [None if trial is None else trials.confirming(trial, seed, knobs(trial)) for seed in seeds]
        for seed, config in zip(seeds, configs, strict=True):
            training = sweep.trial(confirmation_name(name, seed))
            if config is None:
                why = _why_not(name, is_lost=trial is None)
                if name in asked_now:
                    raise UsageError(why, "Leave its points out: --points ID,… names others.")
                if training.name not in failed and find_trial(training.folder) is None:
                    record_failure(training, why)
                    failed[training.name] = why
                    notes.append(f"{training.name} cannot be trained: {why}")
            elif finished_result(config) is not None:
                finished += 1
            elif training.name not in failed:
                if failure_of(training) is not None:
                    notes.append(f"{training.name} is started again, as it did not fail for its own sake")
                fixed.append(FixedTrial(trial_id=training.name, config=config.to_json()))
    for dead in sweep.with_heartbeat():
        sweep.store.remove(dead.heartbeat)
    _record_ended(sweep, failed, write)
    return ToConfirm(fixed=tuple(fixed), finished=finished, failed=len(failed), notes=tuple(notes))


def _why_not(trial: str, *, is_lost: bool) -> str:
    if is_lost:
        return f"the result of {trial}, which was to be confirmed, is gone"
    return f"{trial} was made from other features or settings than there are now"


def _record_ended(sweep: SweepPaths, failed: Mapping[str, str], write: Callable[..., None]) -> None:
    """Writes the events that a killed driver did not come to write."""
    entries = read_journal(sweep).entries
    finished = {entry.trial for entry in entries if entry.event == "finish"}
    over = {
        entry.trial for entry in entries if entry.event == "fault" and not entry.fields.flag("again", False)
    }
    for training in sweep.confirmations():
        result = find_trial(training.folder)
        if result is not None and training.name not in finished:
            write("finish", trial=training.name, found=True, **FinishedTrial.of(result).to_json())
    for name, reason in failed.items():
        if name not in over:
            write("fault", trial=name, reason=reason, again=False, found=True)
