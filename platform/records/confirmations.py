"""Which trainings confirm a sweep's operating points: the same configuration with other seeds, measured at the same
inference settings.

One training serves all points of its trial. Which points are to be confirmed, and by how many seeds each, is in
`sweep.json` (`SweepRecord.confirmations`); what has come of it is in the trainings' folders, beside those of trials.
"""

from __future__ import annotations

from collections.abc import Mapping

from paretovid.platform.records.failure import read_failure
from paretovid.platform.records.sweep import SweepRecord
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.storage.trial_names import confirmation_name, trial_of
from paretovid.trainables.errors import DataError

_SEEDS = 1_000_000_000
"""Seeds are below this (`trainables/ranges.py`)."""


def other_seeds(seed: int, count: int) -> tuple[int, ...]:
    """The `count` seeds after `seed`: the same each time, so that more of them begin with those that there are."""
    return tuple((seed + step) % _SEEDS for step in range(1, count + 1))


def with_points(asked: Mapping[str, int], points: Mapping[str, int]) -> dict[str, int]:
    """What is asked for once these points are, too. A point keeps the larger of two numbers of seeds."""
    return dict(asked) | {point: max(count, asked.get(point, 0)) for point, count in points.items()}


def seeds_of_trials(record: SweepRecord) -> dict[str, tuple[int, ...]]:
    """Trial to the seeds that it is to be trained again with."""
    counts: dict[str, int] = {}
    for point, count in record.confirmations.items():
        counts[trial_of(point)] = max(count, counts.get(trial_of(point), 0))
    return {trial: other_seeds(record.seed, count) for trial, count in counts.items()}


def asked_trainings(record: SweepRecord) -> list[str]:
    """Names of all trainings that are asked for."""
    return [
        confirmation_name(trial, seed) for trial, seeds in seeds_of_trials(record).items() for seed in seeds
    ]


def failed_confirmations(sweep: SweepPaths, *, with_resumed: bool = True) -> dict[str, str]:
    """The trainings that failed and have no result, with their reasons.

    Arguments:
        with_resumed: also those that `resume` starts again, as they did not fail for their own sake.
    """
    finished = {training.name for training in sweep.confirmations()}
    found = {}
    for training in sweep.failed_confirmations():
        if training.name in finished:
            continue
        try:
            failure = read_failure(training)
        except DataError as error:  # another version's: it has failed all the same
            found[training.name] = error.message
            continue
        if failure is not None and (with_resumed or not failure.is_resumed):
            found[training.name] = failure.reason
    return found


def outstanding(sweep: SweepPaths, record: SweepRecord) -> list[str]:
    """Names of the trainings that are asked for and have neither a result here nor failed for good."""
    ended = {training.name for training in sweep.confirmations()}
    ended |= failed_confirmations(sweep, with_resumed=False).keys()
    return [name for name in asked_trainings(record) if name not in ended]
