"""A trial inside Ray's processes: the function that Tune runs, with one worker or as a Ray Train group.

What it returns to the driver is one JSON string, a `TrialOutcome`.
"""

from __future__ import annotations

import errno
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch

from paretovid.infra.placement import TrialResources
from paretovid.platform.execution.context import ProcessContext, WorkerContext, forget_checkpoints
from paretovid.platform.execution.outcome import (
    OUTCOME,
    EnvironmentFault,
    Failed,
    Finished,
    Stopped,
    outcome_text,
)
from paretovid.platform.execution.ray_errors import NODE_LOST, cause_of_train_failure, is_node_loss
from paretovid.platform.storage.home import HomeReference, SweepPaths, TrialPaths
from paretovid.trainables.context import TrialContext, TrialStopped
from paretovid.trainables.errors import NonFiniteError, ParetovidError, errors_redacted
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.redaction.texts import redact_logs, redacted, redacted_traceback

Trainable = Callable[[dict[str, Any], TrialContext], TrialResult | None]
"""`(config, context) -> result`: a trial as a plain function. None on ranks other than 0."""

_STOPPED = outcome_text(Stopped())
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))


def in_process(
    trainable: Trainable, sweep: SweepPaths, wanted: TrialResources, cache: str | None = None
) -> Callable[..., dict[str, str]]:
    """The trial in the Tune trial's own process.

    Arguments:
        cache: folder on each node for its mirror of a home in a bucket; None: the user's cache folder.
    """
    home, folder = sweep.reference(cache), sweep.folder.absolute()

    def trial(config: dict[str, Any]) -> dict[str, str]:
        redact_logs()
        torch.set_num_threads(max(1, int(wanted.cpus)))
        cuda = bool(wanted.gpus) and torch.cuda.is_available()
        try:
            paths = trial_paths(home, folder, config)
            context = ProcessContext(paths, torch.device("cuda" if cuda else "cpu"))
        except OSError as error:
            return {OUTCOME: outcome_text(failure(error))}
        try:
            result = trainable(config, context)
            assert result is not None, "the only process of a trial is its rank 0"
            outcome = outcome_text(Finished(result=result))
        except TrialStopped:
            return {OUTCOME: _STOPPED}
        except Exception as error:
            _write_traceback(paths)
            if cuda and not isinstance(error, ParetovidError):
                with errors_redacted():
                    raise  # a CUDA error leaves the process unusable; Tune replaces it
            return {OUTCOME: outcome_text(failure(error, on_gpu=cuda))}
        finally:
            context.end()
        forget_checkpoints(paths)
        return {OUTCOME: outcome}

    return trial


def nested(
    trainable: Trainable, sweep: SweepPaths, wanted: TrialResources, cache: str | None = None
) -> Callable[..., dict[str, str]]:
    """The trial as a Ray Train run of several workers, inside the Tune trial. `cache`: as in `in_process`."""
    home, folder = sweep.reference(cache), sweep.folder.absolute()

    def worker(config: dict[str, Any]) -> None:
        redact_logs()
        torch.set_num_threads(max(1, int(wanted.cpus)))
        paths = trial_paths(home, folder, config)
        context = WorkerContext(paths)
        try:
            result = trainable(config, context)
            outcome = None if result is None else outcome_text(Finished(result=result))
        except TrialStopped:
            outcome = _STOPPED
        except Exception:
            _write_traceback(paths)
            with errors_redacted():
                raise  # not caught: the other workers wait for this one, and end with it
        finally:
            context.end()
        if context.rank == 0:
            assert outcome is not None, "rank 0 has the result"
            paths.store.write_text(paths.outcome, outcome)

    def trial(config: dict[str, Any]) -> dict[str, str]:
        from ray.train.torch import TorchConfig, TorchTrainer

        paths = trial_paths(home, folder, config)
        paths.folder.mkdir(parents=True, exist_ok=True)
        paths.store.remove(paths.outcome)
        trainer = TorchTrainer(
            worker,
            train_loop_config=config,
            torch_config=TorchConfig(backend="nccl" if wanted.gpus >= 1 else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=wanted.workers,
                use_gpu=bool(wanted.gpus),
                resources_per_worker=wanted.per_worker(),
            ),
            run_config=ray.train.RunConfig(
                # New each time: what to resume from is our checkpoint, not what Train remembers of this name.
                name=f"{config['trial']}-{uuid.uuid4().hex[:6]}",
                # Not Ray's TuneReportCallback for progress: a report that comes in while the trial returns can
                # block both for ever (the main thread of its session waits for the queue that it drains).
                **paths.store.ray_storage(paths.sweep.ray / "train"),
            ),
        )
        try:
            trainer.fit()
            outcome = paths.store.read_text(paths.outcome, must_answer=True)
        except Exception as error:
            return {OUTCOME: outcome_text(train_failure(error, on_gpu=bool(wanted.gpus)))}
        paths.store.remove(paths.outcome)
        if outcome != _STOPPED:
            forget_checkpoints(paths)
        return {OUTCOME: outcome}

    return trial


def train_failure(error: Exception, *, on_gpu: bool) -> Failed | EnvironmentFault:
    """What the end of a Ray Train run comes to: that of its worker's error, unless a node was lost."""
    cause = cause_of_train_failure(error)
    if not isinstance(cause, ParetovidError) and is_node_loss(f"{error} {cause}"):
        return Failed(reason=NODE_LOST, retry=True, is_infrastructure=True)
    return failure(cause, on_gpu=on_gpu)


def failure(error: Exception, *, on_gpu: bool = False) -> Failed | EnvironmentFault:
    """What an error in a trial comes to.

    Our own errors are final: a start from the same checkpoint computes the same. On a GPU sums vary from run to
    run, so a loss that was NaN once has another try there.
    """
    text = error.message if isinstance(error, ParetovidError) else f"{type(error).__name__}: {error}"
    reason = redacted((text.strip().splitlines() or [type(error).__name__])[0])
    if getattr(error, "errno", None) in _FULL or "No space left on device" in text:
        return EnvironmentFault(reason=reason)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = f"out of memory: {reason}"
    is_final = isinstance(error, ParetovidError) and not (on_gpu and isinstance(error, NonFiniteError))
    return Failed(reason=reason, retry=not is_final)


def trial_paths(home: HomeReference, sweep: Path, config: Mapping[str, object]) -> TrialPaths:
    """Where a trial keeps its checkpoints and its result, on this node. `sweep`: the driver's folder of it."""
    return home.sweep(sweep).trial(str(config["trial"]))


def _write_traceback(trial: TrialPaths) -> None:
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.store.write_text(trial.error, redacted_traceback())
    except OSError:
        sys.stderr.write(redacted_traceback())  # a full disk takes no traceback either
