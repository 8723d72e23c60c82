"""What a trial is handed by whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, final

import torch


class TrialStopped(Exception):
    """The trial was asked to end before it was done. It resumes from its checkpoint when it is started again."""


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
