"""The training loop: batches, steps, gradients, reports."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretovid.trainables.context import (
    FollowedContext,
    Learning,
    Rung,
    StoppedAtRung,
    TrialContext,
    TrialStopped,
)
from paretovid.trainables.errors import NonFiniteError
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.method import Method
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.training.checkpoint import _restore, _save_checkpoint
from paretovid.trainables.training.config import TrainingConfig, TrialConfig, rung_epoch
from paretovid.trainables.training.dataset import _Data

Points = Callable[[], tuple[tuple[float, float], ...]]
"""Measures the method as it is: quality and GFLOPs on validation of each setting, the default one first."""


def _train(
    method: Method, data: _Data, config: TrialConfig, context: TrialContext, points: Points
) -> list[dict[str, float]]:
    """Trains to the end. `points`: called at rungs, between two epochs, on rank 0.

    Returns the history. Raises `StoppedAtRung`, `TrialStopped` and `NonFiniteError`.
    """
    training = config.training
    if not any(parameter.requires_grad for parameter in method.parameters()):
        return []
    records = data.records("train")
    steps_per_epoch = -(-len(records) // training.batch_size)
    total_steps = training.epochs * steps_per_epoch
    optimizer = torch.optim.Adam(
        method.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    history = _restore(context.get_checkpoint(), method, optimizer)
    rungs = _Rungs(config, context, points)
    rungs.resume(history)
    method.train()
    for epoch in range(len(history), training.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(records))
        # Noise restarts from a seed per epoch, so that a resumed trial sees what it would have seen.
        torch.manual_seed((config.seed * 100_003 + epoch) * 1009 + context.rank)
        parts: list[dict[str, float]] = []
        for i in range(steps_per_epoch):
            chosen = order[i * training.batch_size : (i + 1) * training.batch_size]
            progress = Progress(epoch * steps_per_epoch + i, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * _rate(progress.fraction, training.warmup_fraction)
            mine = _share(chosen, context.rank, context.world_size)
            workers = 1 if len(mine) == len(chosen) else context.world_size
            batch = _batch(data.load([records[j] for j in mine]), context.device, workers)
            # Parts may differ by a video: their losses count by their videos.
            weight = len(mine) * workers / len(chosen)
            parts.append(_step(method, optimizer, batch, progress, training.clip_norm, context, weight))
            context.heartbeat()
        history.append({name: float(np.mean([part[name] for part in parts])) for name in parts[0]})
        rungs.after_epoch(history)
        stopping = _is_any(context.heartbeat(), context)
        if stopping or (epoch + 1) % training.checkpoint_every_epochs == 0 or epoch + 1 == training.epochs:
            _report(training, method, optimizer, history, context)
        if stopping:
            raise TrialStopped
    return history


class _Rungs:
    """What a training says of itself to whoever follows it, and the judgement that it gets."""

    def __init__(self, config: TrialConfig, context: TrialContext, points: Points) -> None:
        self._context = context
        self._points = points
        self._epochs = config.training.epochs
        self._follower = context if context.rank == 0 and isinstance(context, FollowedContext) else None
        self._by_epoch = {rung_epoch(share, self._epochs): share for share in config.rungs}
        self._measured: dict[float, Rung] = {}

    def resume(self, history: list[dict[str, float]]) -> None:
        """The rungs that an interrupted process has measured up to its checkpoint; one at the checkpoint itself that
        it did not come to is measured now."""
        said = None if self._follower is None else self._follower.followed()
        for rung in () if said is None else said.rungs:
            if rung.epoch <= len(history):
                self._measured[rung.share] = rung
        if history:
            self.after_epoch(history)
        elif self._by_epoch:  # it may have been judged by a process that left no checkpoint
            self._end_if_judged_out(0, is_waiting=False)

    def after_epoch(self, history: list[dict[str, float]]) -> None:
        """Raises `StoppedAtRung` on all ranks once the trial is judged out."""
        epoch = len(history)
        share = self._by_epoch.get(epoch) if epoch < self._epochs else None
        if self._follower is not None:
            if share is not None and share not in self._measured:
                with contextlib.suppress(TrialStopped):  # asked to end: the next process measures it
                    self._measured[share] = Rung(share=share, epoch=epoch, points=self._points())
            rungs = tuple(self._measured.values())
            self._follower.follow(Learning(epochs=self._epochs, history=tuple(history), rungs=rungs))
        if self._by_epoch and epoch < self._epochs:
            self._end_if_judged_out(epoch, is_waiting=share is not None and share in self._measured)

    def _end_if_judged_out(self, epoch: int, *, is_waiting: bool) -> None:
        follower = self._follower
        is_out = follower is not None and follower.is_judged_out(is_waiting=is_waiting)
        if _is_any(is_out, self._context):
            raise StoppedAtRung(epoch, self._epochs)


def _is_any(asked: bool, context: TrialContext) -> bool:
    """Whether any worker of the group was asked: one that continued alone would wait for the others for ever."""
    if context.world_size == 1:
        return asked
    flag = torch.tensor([float(asked)], device=context.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _rate(fraction: float, warmup: float) -> float:
    """One rise and one cosine fall of the learning rate, between 0 and 1."""
    if fraction < warmup:
        return max(fraction / warmup, 1e-3)
    answer: float = max(0.5 * (1 + np.cos(np.pi * (fraction - warmup) / (1 - warmup))), 1e-3)
    return answer


def _share(chosen: Any, rank: int, world_size: int) -> Any:
    """This worker's part of a batch; a batch smaller than the group gives every worker all of it."""
    return chosen if len(chosen) < world_size else chosen[rank::world_size]


def _batch(split: FeatureSplit, device: torch.device, workers: int = 1) -> Batch:
    return Batch(
        features={source: values.to(device) for source, values in split.features.items()},
        mask=split.mask.to(device),
        targets=split.targets.to(device),
        video_keys=split.video_keys.to(device),
        workers=workers,
    )


def _step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    progress: Progress,
    clip_norm: float,
    context: TrialContext,
    weight: float = 1.0,
) -> dict[str, float]:
    """One step of the optimizer. `weight`: of this worker's loss, mean 1 over the workers."""
    loss = method.loss(batch, progress)
    if not bool(torch.isfinite(loss.total)):
        raise NonFiniteError(
            f"the loss became {float(loss.total.detach())} at step {progress.step}",
            "Lower training.learning_rate or the knob's range.",
        )
    optimizer.zero_grad()
    (loss.total if weight == 1 else loss.total * weight).backward()
    if context.world_size > 1:
        _average_gradients(method, context.world_size)
    torch.nn.utils.clip_grad_norm_(method.parameters(), clip_norm)
    optimizer.step()
    return {"loss": float(loss.total.detach()), **loss.parts}


def _average_gradients(method: torch.nn.Module, world_size: int) -> None:
    # DistributedDataParallel wraps `forward`, which a method has not; its parameters are few.
    # A frozen one keeps no gradient, or else weight decay would move it.
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
    ]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter)


def _report(
    training: TrainingConfig,
    method: Method,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    context: TrialContext,
) -> None:
    progress = {"epoch": float(len(history)), "epochs": float(training.epochs), "loss": history[-1]["loss"]}
    if context.rank != 0:
        return context.report(progress)
    with tempfile.TemporaryDirectory() as folder:
        _save_checkpoint(Path(folder), method, optimizer, history)
        context.report(progress, Path(folder))
    return None
