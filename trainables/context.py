"""What a trial is handed by whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import torch


class TrialStopped(Exception):
    """The trial was asked to end before it was done. It resumes from its checkpoint when it is started again."""


class StoppedAtRung(Exception):
    """The trial was judged at a rung, and is not trained to its end (`FollowedContext.is_judged_out`).

    Arguments:
        epoch: epochs that were trained when it heard of it.
        epochs: of the whole training.
    """

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"stopped at epoch {epoch} of {epochs}")
        self.epoch = epoch
        self.epochs = epochs

    def __reduce__(self) -> tuple[type[StoppedAtRung], tuple[int, int]]:
        return StoppedAtRung, (self.epoch, self.epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """What a training reaches on validation before its end."""

    share: float
    """Of the training's epochs, as the configuration names it."""
    epoch: int
    """Epochs that were trained by then."""
    points: tuple[tuple[float, float], ...]
    """Quality (a fraction) and GFLOPs per video on validation of the settings that were measured, the default one
    first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """All that a training has measured of itself so far: it replaces what was said before."""

    epochs: int
    """Of the whole training."""
    history: tuple[Mapping[str, float], ...]
    """Means of the loss and its parts by epoch."""
    rungs: tuple[Rung, ...] = ()


class TrialContext(Protocol):
    """Where a trial runs. Every rank calls `report`; only rank 0 passes a checkpoint folder."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Reports how far training has come, and hands over a checkpoint folder to keep."""

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint of this trial, if it was interrupted."""

    def heartbeat(self) -> bool:
        """Reports that the trial gets on; cheap, for every step. True: it should end, with a checkpoint."""


@runtime_checkable
class FollowedContext(Protocol):
    """What a context has besides if somebody follows the training, and may judge it. Called on rank 0 alone."""

    def follow(self, learning: Learning) -> None:
        """Called after every epoch, and once more when a rung has been measured. Cheap; fails for nothing."""

    def followed(self) -> Learning | None:
        """What this trial said last before it was interrupted."""

    def is_judged_out(self, *, is_waiting: bool = False) -> bool:
        """True once the trial was judged at a rung and is to end there.

        Arguments:
            is_waiting: a rung was just measured, and its judgement is waited for as long as that may take.
        """


@final
class LocalContext:
    """A context for one process without Ray. Keeps no checkpoint."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Does nothing."""

    def get_checkpoint(self) -> Path | None:
        """None: always from the start."""
        return None

    def heartbeat(self) -> bool:
        """False: nobody asks it to end."""
        return False
