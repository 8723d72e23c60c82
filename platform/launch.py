"""Runs trials on Ray: searched ones and fixed ones together, in one Tune run.

Two launchers, one trainable. With one worker a trial runs in the Tune trial's own process, which is reused for
the next (0.01 s per trial); with several it is a Ray Train run inside the Tune trial (about 8 s more). The
trainable sees a `TrialContext` and cannot tell which.

Nothing here depends on what Ray keeps. Checkpoints lie in the trial's folder, results go to the study, and an
interrupted sweep goes on by launching it again (`searcher.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import ray
import ray.train
import torch
from ray import tune
from ray.exceptions import RayError

from paretovid.infra.ray_cluster import environment
from paretovid.platform.searcher import OUTCOME, FixedTrial, Hooks, ParetoSearcher
from paretovid.platform.study import ParetoStudy
from paretovid.platform.trial_context import ProcessContext, WorkerContext, forget_checkpoints
from paretovid.trainables.errors import NonFiniteError, ParetovidError, UsageError

Trainable = Callable[[dict[str, Any], Any], Mapping[str, Any]]
"""`(config, context) -> result`: a trial as a plain function. The result must be JSON without NaN."""

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # Without it a trial that reports too little ends the sweep instead of itself.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Its log files repeat what the trial's folder and the study hold.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Nothing is ever restored from Tune's snapshots.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResources:
    """What one trial takes."""

    workers: int = 1
    cpus: float = 1
    """Per worker."""
    gpus: float = 0
    """Per worker."""
    memory_gigabytes: float | None = None

    @property
    def is_nested(self) -> bool:
        """True if a trial is a Ray Train run."""
        return self.workers > 1

    def slots(self, cpus: float, gpus: float, memory_gigabytes: float) -> int:
        """Trials for which a cluster of this size has room at a time."""
        # Fractions that should add up to a whole do so only nearly.
        room = [cpus / (self.cpus * self.workers) + 1e-9]
        if self.gpus:
            room.append(gpus / (self.gpus * self.workers) + 1e-9)
        if self.memory_gigabytes:
            room.append(memory_gigabytes / self.memory_gigabytes)
        return math.floor(min(room))


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSummary:
    """What a launch has done."""

    succeeded: int
    failed: int
    reasons: dict[str, str]
    """Failed trial to its reason."""
    is_out_of_time: bool


def launch_trials(
    trainable: Trainable,
    *,
    storage: Path,
    study: ParetoStudy | None = None,
    fixed: Sequence[FixedTrial] = (),
    hooks: Hooks | None = None,
    resources: TrialResources | None = None,
    concurrent: int | None = None,
    max_failures: int = 1,
    hours: float | None = None,
) -> LaunchSummary:
    """Runs the fixed trials and the study's until both are done. Ray must be connected.

    Arguments:
        trainable: called as `trainable(config, context)`; `config["trial"]` is the trial's id.
        storage: the sweep's folder, seen by all nodes; trials write below `trials/<id>/`.
        hooks: what the driver does with suggestions, progress and results.
        concurrent: trials at a time; None: as many as there is room for.
        max_failures: how often a fixed trial that failed is started again. A `ParetovidError` is final: the
            same would happen again.
        hours: no trial is started after this time.

    Raises `UsageError` if the cluster has no room for one trial or the sweep is running already,
    `KeyboardInterrupt` after an interrupt (which Tune itself takes for success), `ParetovidError` if no trial
    of the study has ever succeeded.
    """
    wanted = resources or TrialResources()
    at_once = _room(wanted, concurrent)
    watch = _Watch(hooks or Hooks())
    searcher = ParetoSearcher(
        study,
        fixed=fixed,
        hooks=watch.hooks(),
        concurrent=at_once,
        deadline=None if hours is None else time.time() + 3600 * hours,
        max_failures=max_failures,
    )
    with alone(storage), environment(_TUNE_ENVIRONMENT), _quiet():
        _run(trainable, searcher, storage, wanted)
    if searcher.running or not searcher.is_exhausted:
        raise KeyboardInterrupt
    if study is not None:
        _check_some_succeeded(study)
    return LaunchSummary(
        succeeded=watch.succeeded,
        failed=len(watch.reasons),
        reasons=watch.reasons,
        is_out_of_time=searcher.is_out_of_time,
    )


def _room(wanted: TrialResources, concurrent: int | None) -> int:
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    memory = have.get("memory", 0.0) / 1024**3
    slots = wanted.slots(cpus, gpus, memory)
    if slots < 1:
        needed = f"{wanted.workers} x ({wanted.cpus:g} CPU, {wanted.gpus:g} GPU)"
        if wanted.memory_gigabytes:
            needed += f", {wanted.memory_gigabytes:g} GB"
        raise UsageError(
            f"the cluster ({cpus:g} CPU, {gpus:g} GPU, {memory:.1f} GB) has no room for a trial of {needed}",
            "Lower cluster.workers_per_trial, cpus_per_trial, gpus_per_trial or memory_per_trial_gigabytes.",
        )
    return slots if concurrent is None else min(slots, concurrent)


def _check_some_succeeded(study: ParetoStudy) -> None:
    counts = study.counts()
    if counts.failed and not counts.complete:
        raise ParetovidError(
            f"all {counts.failed} trials failed, most often: {counts.reasons[0]}",
            "Tracebacks: error.txt in the trials' folders. Mend the cause and start a sweep of another name=.",
        )


def _run(trainable: Trainable, searcher: ParetoSearcher, storage: Path, wanted: TrialResources) -> None:
    """Tune, started again if Ray ends it because a worker was killed for memory."""
    make = _nested if wanted.is_nested else _in_process
    function = tune.with_resources(make(trainable, storage, wanted), _placement(wanted))
    while True:
        tuner = tune.Tuner(
            function,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, reuse_actors=True, trial_dirname_creator=_directory
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                storage_path=str((storage / "ray").absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        try:
            tuner.fit()
            return
        except RuntimeError as error:
            if not isinstance(error.__cause__, RayError) or not searcher.running:
                raise
            searcher.crashed(f"Ray ended the run: {str(error.__cause__).splitlines()[0]}")


def _directory(trial: Any) -> str:
    # Tune's own names hold every setting and grow beyond what file systems take.
    return str(trial.trial_id)


def _placement(wanted: TrialResources) -> Any:
    memory: dict[str, float] = {}
    if wanted.memory_gigabytes:
        memory["memory"] = int(wanted.memory_gigabytes * 1024**3)
    if wanted.is_nested:
        # Without a CPU: drivers that hold all of them wait for ever for their workers' share.
        return tune.PlacementGroupFactory([memory or {"memory": 200.0 * 1024**2}])
    return tune.PlacementGroupFactory([{"CPU": wanted.cpus, "GPU": wanted.gpus, **memory}])


def _in_process(trainable: Trainable, storage: Path, wanted: TrialResources) -> Callable[..., dict[str, str]]:
    def trial(config: dict[str, Any]) -> dict[str, str]:
        torch.set_num_threads(max(1, int(wanted.cpus)))
        cuda = bool(wanted.gpus) and torch.cuda.is_available()
        context = ProcessContext(_folder(storage, config), torch.device("cuda" if cuda else "cpu"))
        try:
            result = _to_json(trainable(config, context))
        except Exception as error:
            _write_traceback(_folder(storage, config))
            if cuda and not isinstance(error, ParetovidError):
                raise  # a CUDA error leaves the process unusable; Tune replaces it
            return {OUTCOME: _failure(error)}
        forget_checkpoints(_folder(storage, config))
        return {OUTCOME: result}

    return trial


def _nested(trainable: Trainable, storage: Path, wanted: TrialResources) -> Callable[..., dict[str, str]]:
    def worker(config: dict[str, Any]) -> None:
        torch.set_num_threads(max(1, int(wanted.cpus)))
        folder = _folder(storage, config)
        context = WorkerContext(folder)
        try:
            result = trainable(config, context)
        except Exception:
            # Not caught: the other workers wait for this one, and end with it.
            _write_traceback(folder)
            raise
        if context.rank == 0:
            _write_atomically(folder / "outcome.json", _to_json(result))

    def trial(config: dict[str, Any]) -> dict[str, str]:
        from ray.train.torch import TorchConfig, TorchTrainer

        folder = _folder(storage, config)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").unlink(missing_ok=True)
        each = {"CPU": wanted.cpus, "GPU": wanted.gpus} if wanted.gpus else {"CPU": wanted.cpus}
        trainer = TorchTrainer(
            worker,
            train_loop_config=config,
            torch_config=TorchConfig(backend="nccl" if wanted.gpus >= 1 else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=wanted.workers, use_gpu=bool(wanted.gpus), resources_per_worker=each
            ),
            run_config=ray.train.RunConfig(
                # New each time: what to go on from is our checkpoint, not what Train remembers of this name.
                name=f"{config['trial']}-{uuid.uuid4().hex[:6]}",
                # Not Ray's TuneReportCallback for progress: a report that comes in while the trial returns can
                # block both for ever (the main thread of its session waits for the queue that it drains).
                storage_path=str((storage / "ray" / "train").absolute()),
            ),
        )
        try:
            trainer.fit()
            outcome = (folder / "outcome.json").read_text()
        except Exception as error:
            return {OUTCOME: _failure(cause_of_train_failure(error))}
        (folder / "outcome.json").unlink()
        forget_checkpoints(folder)
        return {OUTCOME: outcome}

    return trial


def cause_of_train_failure(error: Exception) -> Exception:
    """What a worker raised, out of what Train wraps it in."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    raised = [getattr(each, "cause", None) or each for each in failures.values()]
    ours = [each for each in raised if isinstance(each, ParetovidError)]
    return (ours or raised or [error])[0]


def _to_json(result: Mapping[str, Any]) -> str:
    try:
        return json.dumps({"result": dict(result)}, allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(f"the trial's result is not finite: {error}", "Is a metric NaN?") from error


def _failure(error: Exception) -> str:
    text = error.message if isinstance(error, ParetovidError) else f"{type(error).__name__}: {error}"
    reason = (text.strip().splitlines() or [type(error).__name__])[0]
    return json.dumps({"error": reason, "retry": not isinstance(error, ParetovidError)})


def _write_traceback(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_atomically(folder / "error.txt", traceback.format_exc())


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.partial")
    partial.write_text(text)
    partial.replace(path)


def _folder(storage: Path, config: Mapping[str, Any]) -> Path:
    return storage.absolute() / "trials" / str(config["trial"])


@final
class _Watch:
    """Counts what comes back, and passes it on."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self.succeeded = 0
        self.reasons: dict[str, str] = {}

    def hooks(self) -> Hooks:
        return replace(self._hooks, on_result=self._on_result)

    def _on_result(
        self, trial_id: str, config: Mapping[str, Any], result: Mapping[str, Any] | None, error: str | None
    ) -> None:
        if error is None:
            self.succeeded += 1
        else:
            self.reasons[trial_id] = error
        self._hooks.on_result(trial_id, config, result, error)


@contextlib.contextmanager
def alone(storage: Path, lock_name: str = ".lock") -> Iterator[None]:
    """Holds a lock on the sweep. The kernel frees it whenever this process ends."""
    storage.mkdir(parents=True, exist_ok=True)
    with (storage / lock_name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"the sweep in {storage} is running already", "Wait for it, or end it."
            ) from error
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
