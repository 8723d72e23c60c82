"""A trial inside Ray's processes: the function that Tune runs, with one worker or as a Ray Train group.

What it returns to the driver is one JSON string, a `TrialOutcome`.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable
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
    JudgedOut,
    Stopped,
    outcome_text,
)
from paretovid.platform.execution.patience import Place, SeenOnNode, Waiting, trial_paths
from paretovid.platform.execution.ray_errors import NODE_LOST, cause_of_train_failure, is_node_loss
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.trainables.context import StoppedAtRung, TrialContext, TrialStopped
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import NonFiniteError, ParetovidError, errors_redacted
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.redaction.texts import redact_logs, redacted, redacted_traceback

Trainable = Callable[[dict[str, Any], TrialContext], TrialResult | None]
"""`(config, context) -> result`: a trial as a plain function. None on ranks other than 0."""

_STOPPED = outcome_text(Stopped())
_WAITING = Waiting()


def in_process(
    trainable: Trainable,
    sweep: SweepPaths,
    wanted: TrialResources,
    cache: str | None = None,
    *,
    waiting: Waiting = _WAITING,
) -> Callable[..., dict[str, str]]:
    """The trial in the Tune trial's own process.

    Arguments:
        cache: folder on each node for its mirror of a home in a bucket; None: the user's cache folder.
        waiting: for how long, and how it is known that the place is well.
    """
    home, folder = sweep.reference(cache), sweep.folder.absolute()

    def trial(config: dict[str, Any]) -> dict[str, str]:
        redact_logs()
        torch.set_num_threads(max(1, int(wanted.cpus)))
        cuda = bool(wanted.gpus) and torch.cuda.is_available()
        try:
            paths = trial_paths(home, folder, config)
        except OSError as error:
            return {OUTCOME: outcome_text(failure(error))}
        place, opened = Place(paths, config, waiting, cache), contextlib.ExitStack()
        contexts: list[ProcessContext] = []

        def attempt() -> TrialResult | None:
            if not contexts:
                contexts.append(ProcessContext(paths, torch.device("cuda" if cuda else "cpu")))
                opened.callback(contexts[0].end)
            return trainable(config, contexts[0])

        with opened:
            try:
                result = place.patiently(
                    attempt,
                    should_end=lambda: any(context.heartbeat() for context in contexts),
                    reports=lambda: sum(context.reports for context in contexts),
                )
                assert result is not None, "the only process of a trial is its rank 0"
                outcome = outcome_text(Finished(result=result))
            except StoppedAtRung as stopped:
                outcome = outcome_text(JudgedOut(epoch=stopped.epoch, epochs=stopped.epochs))
            except TrialStopped:
                return {OUTCOME: _STOPPED}
            except Exception as error:
                _write_traceback(paths)
                became = place.verdict(error)
                if cuda and not isinstance(error, ParetovidError) and became is None:
                    with errors_redacted():
                        raise  # a CUDA error leaves the process unusable; Tune replaces it
                opened.close()  # whoever is given the trial next has it from now on
                return _given_back(place, became or failure(error, on_gpu=cuda), wanted)
        forget_checkpoints(paths)
        return {OUTCOME: outcome}

    return trial


def nested(
    trainable: Trainable,
    sweep: SweepPaths,
    wanted: TrialResources,
    cache: str | None = None,
    *,
    waiting: Waiting = _WAITING,
) -> Callable[..., dict[str, str]]:
    """The trial as a Ray Train run of several workers, inside the Tune trial. Arguments as of `in_process`."""
    home, folder = sweep.reference(cache), sweep.folder.absolute()

    def worker(config: dict[str, Any]) -> None:
        redact_logs()
        torch.set_num_threads(max(1, int(wanted.cpus)))
        paths = trial_paths(home, folder, config)
        opened = contextlib.ExitStack()
        try:
            context = WorkerContext(paths)
            opened.callback(context.end)
            result = trainable(config, context)
            outcome = None if result is None else outcome_text(Finished(result=result))
        except StoppedAtRung as stopped:
            outcome = outcome_text(JudgedOut(epoch=stopped.epoch, epochs=stopped.epochs))
        except TrialStopped:
            outcome = _STOPPED
        except Exception as error:
            # Not kept: the other workers wait for this one, and end with it.
            _write_traceback(paths)
            fault = infrastructure_fault(error, Place(paths, config, waiting, cache).paths)
            if fault is not None and not fault.is_full:
                raise SeenOnNode.here(redacted(fault.reason)) from None
            with errors_redacted():
                raise
        finally:
            opened.close()
        if context.rank == 0:
            assert outcome is not None, "rank 0 has the result"
            paths.store.write_text(paths.outcome, outcome)

    def trial(config: dict[str, Any]) -> dict[str, str]:
        paths = trial_paths(home, folder, config)
        place = Place(paths, config, waiting, cache)
        try:
            outcome = place.patiently(
                lambda: _run_group(worker, config, paths, wanted),
                should_end=lambda: paths.store.exists(paths.sweep.stop),
            )
        except TrialStopped:
            return {OUTCOME: _STOPPED}
        except Exception as error:
            became = place.verdict(error) or train_failure(error, on_gpu=bool(wanted.gpus))
            return _given_back(place, became, wanted)
        paths.store.remove(paths.outcome)
        if outcome != _STOPPED:
            forget_checkpoints(paths)
        return {OUTCOME: outcome}

    return trial


def _run_group(
    worker: Callable[..., None], config: JsonObject, paths: TrialPaths, wanted: TrialResources
) -> str:
    """One Ray Train run of a trial. Returns its outcome; raises `SeenOnNode` if a worker found its place away."""
    from ray.train.torch import TorchConfig, TorchTrainer

    paths.folder.mkdir(parents=True, exist_ok=True)
    paths.store.remove(paths.outcome)
    trainer = TorchTrainer(
        worker,
        train_loop_config=dict(config),
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
    except Exception as error:
        cause = cause_of_train_failure(error)
        if isinstance(cause, SeenOnNode):
            raise cause from error
        raise
    return paths.store.read_text(paths.outcome, must_answer=True)


def _given_back(place: Place, became: Failed | EnvironmentFault, wanted: TrialResources) -> dict[str, str]:
    """What a trial returns that has no result; where its node's place is away, not before that is back."""
    if isinstance(became, EnvironmentFault) and became.node:
        place.stay_until_back(became, wanted)
        return {OUTCOME: _STOPPED}
    return {OUTCOME: outcome_text(became)}


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
    fault = infrastructure_fault(error)
    if fault is not None:
        return EnvironmentFault(reason=fault.reason)
    text = error.message if isinstance(error, ParetovidError) else f"{type(error).__name__}: {error}"
    reason = redacted((text.strip().splitlines() or [type(error).__name__])[0])
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = f"out of memory: {reason}"
    is_final = isinstance(error, ParetovidError) and not (on_gpu and isinstance(error, NonFiniteError))
    return Failed(reason=reason, retry=not is_final)


def _write_traceback(trial: TrialPaths) -> None:
    try:
        trial.store.write_text(trial.error, redacted_traceback())
    except OSError:
        sys.stderr.write(redacted_traceback())  # a full disk takes no traceback either
