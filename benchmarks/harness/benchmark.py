"""What a benchmark of methods declares, and what its analysis is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.harness.points import Run
from benchmarks.harness.reported import Document, Reported
from benchmarks.harness.results import Rows
from benchmarks.harness.training import Trials, train_all
from paretovid.platform.preparation.prepare import Prepared
from paretovid.trainables.evaluation.results import SCORES_FILE


@dataclass(frozen=True, kw_only=True)
class Study:
    """Trained trials of a benchmark, on prepared videos, backbones and features."""

    prepared: Prepared
    folder: Path
    """Trials lie at `folder/NAME-sSEED`."""
    seeds: int
    epochs: int
    workers: int
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainingConfig` besides the epochs."""
    keeps_caps: bool = False
    """As of the benchmark."""
    runs: Sequence[Run] = ()
    """Per seed: each of the benchmark's trials to its points."""

    def train(self, trials: Trials, seeds: int | None = None) -> list[Run]:
        """Points of these trials, of each seed; what is finished is not trained again."""
        return train_all(
            self.prepared,
            self.folder,
            trials,
            seeds=self.seeds if seeds is None else seeds,
            epochs=self.epochs,
            workers=self.workers,
            training=self.training,
            keeps_caps=self.keeps_caps,
        )

    def trained(self, trials: Trials) -> Study:
        """The same with `runs`."""
        return replace(self, runs=self.train(trials))

    def targets_and_steps(self, trial: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets `[N, C]` of the N test videos and their numbers of steps `[N]`, from a trial's scores (seed 0)."""
        tensors = load_file(self.folder / f"{trial}-s0" / SCORES_FILE)
        return tensors["test/targets"], tensors["test/num_steps"]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.prepared.dataset.classes)


@dataclass(frozen=True, kw_only=True)
class Benchmark(Reported):
    """One claim, or several of one method on one set: what is trained, what is made of it, how it is shown."""

    common = ("dataset", "generator", "code_version")
    overrides: Sequence[str]
    """Of the configuration (`method=hcms`), before those of the command line."""
    document: Callable[[Study], Document]
    """Everything that is reported."""
    trials: Trials = field(default_factory=dict)
    """Trained before the analysis, with every seed."""
    train: Callable[[Study], Sequence[Run]] | None = None
    """Instead of `trials`, where not all of them have every seed."""
    epochs: int | None = None
    """Default: the platform's."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainingConfig`, after those that the method's own file asks for."""
    keeps_caps: bool = False
    """Points under a cap per video are among those of its trials."""
    folder: str = ""
    """Of the trials; default: the name. Benchmarks that share trials share it."""
    draw: Callable[[Study, Document, Path], None] | None = None
    """Pictures into a folder."""


def measured_points(runs: Sequence[Run]) -> Rows:
    """Every operating point of every trial and seed, as measured."""
    return Rows(
        tuple(
            {
                "trial": name,
                "seed": seed,
                "point": point.record.index,
                **{f"knob.{knob}": value for knob, value in point.setting.items()},
                "val": point.val.quality,
                "val_gflops": point.val.gflops,
                "test": point.test.quality,
                "test_top1": point.test.top1,
                "test_gflops": point.test.gflops,
            }
            for seed, run in enumerate(runs)
            for name, points in run.items()
            for point in points
        )
    )
