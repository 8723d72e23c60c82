"""What a trial sees of the place where it runs: its checkpoints, whom it reports to, when to end."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import final

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray import tune

from paretovid.platform.execution.following import Following
from paretovid.platform.execution.heartbeat import HeartbeatWriter
from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.context import Learning, TrialStopped
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.errors import NonFiniteError

_CHECKPOINTS = "checkpoint-*[0-9]"
_CHECKPOINT_NAME = re.compile(r"checkpoint-\d+")


def keep_checkpoint(trial: TrialPaths, checkpoint: Path) -> None:
    """Copies `checkpoint` (a folder) below a trial's folder, then removes the ones before."""
    folder = trial.folder
    kept = sorted(folder.glob(_CHECKPOINTS))
    number = int(kept[-1].name.rpartition("-")[2]) + 1 if kept else 0
    for left in folder.glob("checkpoint-*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    # A name of its own: a process that should be dead may be writing the same one.
    with partial_file(folder / f"{trial.checkpoint(number).name}.{uuid.uuid4().hex[:6]}.partial") as partial:
        # Not those above it, unless this is a mirror: where a mount is gone, nobody would find what is made there.
        folder.mkdir(exist_ok=True, parents=trial.store.is_remote)
        shutil.copytree(checkpoint, partial)
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        new = partial.replace(trial.checkpoint(number))
    trial.store.upload(new)
    for old in kept:
        trial.store.remove_folder(old)


def kept_checkpoint(trial: TrialPaths) -> Path | None:
    """The last checkpoint below a trial's folder, wherever it was made."""
    for name in reversed(_committed(trial)):
        if trial.store.download(trial.folder / name):
            break
    kept = sorted(trial.folder.glob(_CHECKPOINTS))
    return kept[-1] if kept else None


def forget_checkpoints(trial: TrialPaths) -> None:
    """Removes a finished trial's checkpoints."""
    names = {path.name for path in trial.folder.glob("checkpoint-*")}
    for name in names.union(_committed(trial)):
        trial.store.remove_folder(trial.folder / name)


def _committed(trial: TrialPaths) -> list[str]:
    return [name for name in trial.store.listing(trial.folder).complete if _CHECKPOINT_NAME.fullmatch(name)]


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

    def __init__(self, trial: TrialPaths, device: torch.device) -> None:
        self.device = device
        self.reports = 0
        """How often training has reported since the process began."""
        self._trial = trial
        self._heartbeats = beats = HeartbeatWriter(trial)
        self._following = Following(trial, is_mine=lambda: beats.is_mine, should_end=beats.heartbeat)

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Keeps the checkpoint, reports to the driver. Raises `NonFiniteError`."""
        finite = _finite(progress)
        if not self._heartbeats.is_mine:
            raise TrialStopped
        if checkpoint is not None:
            keep_checkpoint(self._trial, checkpoint)
        self._heartbeats.heartbeat(finite)
        self.reports += 1
        tune.report({"progress": finite})

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint that was kept."""
        return kept_checkpoint(self._trial)

    def heartbeat(self) -> bool:
        """True once the driver asks all trials to end, or another process has this one."""
        return self._heartbeats.heartbeat()

    def follow(self, learning: Learning) -> None:
        """For the driver, which tells MLflow and judges; written every few seconds and at rungs."""
        self._following.follow(learning)

    def followed(self) -> Learning | None:
        """What an earlier process of this trial has written."""
        return self._following.followed()

    def is_judged_out(self, *, is_waiting: bool = False) -> bool:
        """Whether the driver has judged so. Waits at most `JUDGEMENT_SECONDS`, and not while the sweep ends."""
        return self._following.is_judged_out(is_waiting=is_waiting)

    def end(self) -> None:
        """The trial is over."""
        self._heartbeats.end()


@final
class WorkerContext:
    """A `TrialContext` in a worker of a Ray Train run."""

    def __init__(self, trial: TrialPaths) -> None:
        session = ray.train.get_context()
        self.rank = session.get_world_rank()
        self.world_size = session.get_world_size()
        self.device = ray.train.torch.get_device()
        self._trial = trial
        # One holds the lease for all; that another one hangs shows in it, as they wait for each other at every step.
        self._heartbeats = beats = HeartbeatWriter(trial) if self.rank == 0 else None
        self._following = (
            None
            if beats is None
            else Following(trial, is_mine=lambda: beats.is_mine, should_end=beats.heartbeat)
        )
        # Each for itself, a slow rank could find what a quick one has kept since, and they would part.
        self._found: Path | None = ray.train.collective.broadcast_from_rank_zero(kept_checkpoint(trial))

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Rank 0 keeps the checkpoint; all ranks wait for each other. Raises `NonFiniteError`."""
        finite = _finite(progress)
        if self._heartbeats is not None:
            if not self._heartbeats.is_mine:
                raise TrialStopped
            if checkpoint is not None:
                keep_checkpoint(self._trial, checkpoint)
            self._heartbeats.heartbeat(finite)
        ray.train.report({"progress": finite})

    def get_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint that was kept when this worker began."""
        return self._found

    def heartbeat(self) -> bool:
        """As in `ProcessContext`; ranks above 0 hear of it from rank 0 when the epoch ends."""
        return self._heartbeats.heartbeat() if self._heartbeats is not None else False

    def follow(self, learning: Learning) -> None:
        """As in `ProcessContext`, on rank 0."""
        if self._following is not None:
            self._following.follow(learning)

    def followed(self) -> Learning | None:
        """As in `ProcessContext`, on rank 0."""
        return None if self._following is None else self._following.followed()

    def is_judged_out(self, *, is_waiting: bool = False) -> bool:
        """As in `ProcessContext`, on rank 0."""
        return self._following is not None and self._following.is_judged_out(is_waiting=is_waiting)

    def end(self) -> None:
        """The trial is over."""
        if self._heartbeats is not None:
            with contextlib.suppress(OSError):
                self._heartbeats.end()
