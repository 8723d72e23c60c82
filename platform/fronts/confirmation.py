"""An operating point under other seeds: its figures after trainings of the same configuration, measured at the same
inference setting.

The seed that the point was chosen with has no part in the mean: it was chosen because it came out well. What seeds do
(standard deviation over them) and what videos do (interval) are told apart, and a training that failed, or one whose
gates collapsed, is named beside the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paretovid.platform.records.confirmations import seeds_of_trials
from paretovid.platform.records.trial import Scores, SweepResults, read_scores
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.storage.trial_names import confirmation_seed, confirmed_trial
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.intervals import detection_values, percentiles, resampled_maps
from paretovid.trainables.evaluation.results import MAP, SCORES_FILE, Metrics, OperatingPoint, TrialResult


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedFigures:
    """The point after one further training."""

    seed: int
    trial: str
    """The training's name."""
    shown: Metrics
    """On the split that is shown."""
    warnings: tuple[str, ...]
    """What the training's result says of itself, such as a gate that collapsed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """What has become of the further trainings of a point's trial, as far as they are done."""

    is_asked: bool
    """This very point is to be confirmed, and not only another one of its trial."""
    objective: str
    seeds: tuple[SeedFigures, ...]
    """By seed."""
    failed: Mapping[int, str]
    """Seed to why its training has no result."""
    to_come: tuple[int, ...]
    """Seeds whose trainings are asked for and not over."""
    quality_ci: tuple[float, float] | None = None
    """95 % interval over videos of the mean over seeds."""

    @property
    def quality(self) -> tuple[float, float | None]:
        """Mean of the objective over seeds, and its standard deviation; None for that of a single one."""
        return _spread([each.shown.quality for each in self.seeds])

    @property
    def gflops(self) -> tuple[float, float | None]:
        """The same of the mean GFLOPs per video."""
        return _spread([each.shown.gflops for each in self.seeds])

    def to_json(self) -> dict[str, JsonValue]:
        """The entry `confirmation` of a point in `front --json`."""
        document: dict[str, JsonValue] = {}
        if self.seeds:
            (quality, quality_std), (gflops, gflops_std) = self.quality, self.gflops
            document = {
                f"{self.objective}_mean": quality,
                f"{self.objective}_std_over_seeds": quality_std,
                f"{self.objective}_mean_ci": None if self.quality_ci is None else list(self.quality_ci),
                "gflops_mean": gflops,
                "gflops_std_over_seeds": gflops_std,
            }
        return document | {
            "seeds": [
                {
                    "seed": each.seed,
                    self.objective: each.shown.quality,
                    "top1": each.shown.top1,
                    "gflops": each.shown.gflops,
                    "remarks": list(each.warnings),
                }
                for each in self.seeds
            ],
            "failed": {str(seed): reason for seed, reason in self.failed.items()},
            "to_come": list(self.to_come),
        }


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


class Confirmations:
    """The further trainings of some sweeps, by the trials that they confirm."""

    def __init__(self, sweeps: Sequence[SweepResults], split: str) -> None:
        self._split = split
        self._sweeps = {trial.sweep: sweep for sweep in sweeps for trial in sweep.trials}
        self._scores: dict[Path, Scores] = {}

    def of(self, trial: TrialResult, point: OperatingPoint) -> Confirmation | None:
        """What is known of a point, without the interval; None if nobody has asked for its trial."""
        sweep = self._sweeps[trial.sweep]
        asked = seeds_of_trials(sweep.record).get(trial.trial, ())
        done = list(self._measured(trial, point))
        if not asked and not done:
            return None
        failed = {
            confirmation_seed(name): reason
            for name, reason in sweep.failed_confirmations.items()
            if confirmed_trial(name) == trial.trial
        }
        over = {result.seed for result, _ in done} | failed.keys()
        return Confirmation(
            is_asked=point.id in sweep.record.confirmations,
            objective=trial.objective,
            seeds=tuple(
                SeedFigures(
                    seed=result.seed,
                    trial=result.trial,
                    shown=measured.on(self._split),
                    warnings=result.warnings,
                )
                for result, measured in done
            ),
            failed=dict(sorted(failed.items())),
            to_come=tuple(seed for seed in asked if seed not in over),
        )

    def interval(
        self, trial: TrialResult, point: OperatingPoint, weights: NDArray[np.float32]
    ) -> tuple[float, float] | None:
        """The 95 % interval over videos of the mean over seeds; None without a further training.

        Arguments:
            weights: how often each resample has each of N videos, `[R, N]`.
        """
        values = [
            resampled(trial.objective, folder, self._read(folder, result), measured.index, weights)
            for result, measured in self._measured(trial, point)
            for folder in [self._folder(result)]
        ]
        return percentiles(np.mean(values, axis=0)) if values else None

    def _measured(
        self, trial: TrialResult, point: OperatingPoint
    ) -> Iterator[tuple[TrialResult, OperatingPoint]]:
        """The further trainings that have measured a point, by seed."""
        found = [each for each in self._sweeps[trial.sweep].confirmations if each.confirms == trial.trial]
        for result in sorted(found, key=lambda each: each.seed):
            place = point.index
            # Another one, if the trial itself was lost and trained anew since.
            if place < len(result.points) and result.points[place].inference_knobs == point.inference_knobs:
                yield result, result.points[place]

    def _folder(self, result: TrialResult) -> Path:
        return SweepPaths(self._sweeps[result.sweep].folder).trial(result.trial).folder

    def _read(self, folder: Path, result: TrialResult) -> Scores:
        if folder not in self._scores:
            self._scores[folder] = read_scores(folder, self._split, result)
        return self._scores[folder]


def resampled(
    objective: str, folder: Path, scores: Scores, index: int, weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """`[R]`: the objective of a point under each resample of the videos. Raises `DataError` if its scores lack what
    that is measured from.

    Arguments:
        folder: of the trial, for messages.
        index: the point's place among the trial's.
        weights: how often each resample has each of N videos, `[R, N]`.
    """
    if objective == MAP:
        return resampled_maps(scores.scores[index], scores.targets, weights)
    if scores.detections is None or scores.ground_truth is None:
        raise DataError(
            f"{folder / SCORES_FILE} holds no instances, which {objective} is measured from",
            "Remove the trial's folder and run the sweep under another name=.",
        )
    return detection_values(scores.detections[index], scores.ground_truth, weights)
