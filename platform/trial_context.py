"""What a trial sees of the place where it runs: its checkpoints, and whom it tells how far it is."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import final

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray import tune

from paretovid.trainables.errors import NonFiniteError


def keep_checkpoint(folder: Path, checkpoint: Path) -> None:
    """Copies `checkpoint` (a folder) below a trial's folder, then forgets the one before."""
    kept = sorted(folder.glob("checkpoint-*[0-9]"))
    number = int(kept[-1].name.rpartition("-")[2]) + 1 if kept else 0
    partial = folder / f"checkpoint-{number:06d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkpoint, partial)
    partial.replace(folder / f"checkpoint-{number:06d}")
    for old in kept:
        shutil.rmtree(old, ignore_errors=True)


def kept_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint below a trial's folder."""
    kept = sorted(folder.glob("checkpoint-*[0-9]"))
    return kept[-1] if kept else None


def forget_checkpoints(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def _finite(progress: Mapping[str, float]) -> dict[str, float]:
    for name, value in progress.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} became {value}", "Lower training.learning_rate or the knob's range."
            )
    return dict(progress)


@final
class ProcessContext:
    """A `TrialContext` in the Tune trial's own process."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        self._folder = folder

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Keeps the checkpoint, tells the driver. Raises `NonFiniteError`."""
        finite = _finite(progress)
        if checkpoint is not None:
            keep_checkpoint(self._folder, checkpoint)
        tune.report({"progress": finite})

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint that was kept."""
        return kept_checkpoint(self._folder)


@final
class WorkerContext:
    """A `TrialContext` in a worker of a Ray Train run."""

    def __init__(self, folder: Path) -> None:
        session = ray.train.get_context()
        self.rank = session.get_world_rank()
        self.world_size = session.get_world_size()
        self.device = ray.train.torch.get_device()
        self._folder = folder
        # Each for itself, a slow rank could find what a quick one has kept since, and they would part.
        self._found: Path | None = ray.train.collective.broadcast_from_rank_zero(kept_checkpoint(folder))

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Rank 0 keeps the checkpoint; all ranks wait for each other. Raises `NonFiniteError`."""
        finite = _finite(progress)
        if checkpoint is not None and self.rank == 0:
            keep_checkpoint(self._folder, checkpoint)
        ray.train.report({"progress": finite})

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint that was kept when this worker began."""
        return self._found
