"""Runs trials on Ray: searched ones and fixed ones together, in one Tune run.

Two launchers, one trainable. With one worker a trial runs in the Tune trial's own process, which is reused for
the next (0.01 s per trial); with several it is a Ray Train run inside the Tune trial (about 8 s more). The
trainable sees a `TrialContext` and cannot know which.

Nothing here depends on what Ray keeps. Checkpoints lie in the trial's folder, results go to the study, and an
interrupted sweep is resumed by launching it again (`searcher.py`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.execution import class_cache

from paretovid.infra.locks import exclusive_lock
from paretovid.infra.placement import GIB, TrialResources
from paretovid.infra.ray_cluster import environment
from paretovid.platform.execution.inquiry import Inquiry
from paretovid.platform.execution.outcome import FixedTrial, TrialCallback
from paretovid.platform.execution.patience import Waiting, answers_of, why_away_from_here
from paretovid.platform.execution.searcher import Configure, ParetoSearcher, knobs_alone
from paretovid.platform.execution.stopping import StopSwitch, SweepStopped
from paretovid.platform.execution.trial_process import Trainable, in_process, nested
from paretovid.platform.execution.watchdog import (
    CANNOT_WORK,
    ExplainingScheduler,
    Watchdog,
    killed_for_memory,
)
from paretovid.platform.records.control_requests import take_back_stop
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import InfrastructureError, ParetovidError, UsageError
from paretovid.trainables.evaluation.results import TrialResult

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
    # Signals set our own switch (stopping.py); Tune would take an interrupt for success.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


_WAITING = Waiting()
_CREDENTIALS = frozenset(
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSummary:
    """What a launch has done."""

    succeeded: int
    failed: int
    reasons: dict[str, str]
    """Failed trial to its reason."""
    is_out_of_time: bool
    stopped: int = 0
    """At a rung."""
    why_ended: str | None = None
    """Why fewer trials were started than asked for, if the search has found no more to try."""

    def counts(self) -> str:
        """What has come of the trials, in a few words."""
        further = {"stopped": self.stopped, "failed": self.failed}
        return ", ".join([f"{self.succeeded} trials", *(f"{n} {what}" for what, n in further.items() if n)])


def launch_trials(
    trainable: Trainable,
    *,
    sweep: SweepPaths,
    study: ParetoStudy | None = None,
    fixed: Sequence[FixedTrial] = (),
    configure: Configure = knobs_alone,
    callback: TrialCallback | None = None,
    all_points: bool = False,
    resources: TrialResources | None = None,
    concurrent: int | None = None,
    max_failures: int = 1,
    breaker: int = 0,
    hours: float | None = None,
    hang_seconds: float | None = None,
    waiting: Waiting = _WAITING,
    switch: StopSwitch | None = None,
    cache: str | None = None,
) -> LaunchSummary:
    """Runs the fixed trials and the study's until both are done. Ray must be connected.

    Arguments:
        trainable: called as `trainable(config, context)`; `config["trial"]` is the trial's id.
        sweep: where trials write, each in its own folder; all nodes see its store.
        configure: a suggestion to the configuration of its trial.
        callback: is notified of starts, progress, results and failures.
        all_points: the study sees all operating points of a trial, not only its first.
        concurrent: trials at a time; None: as many as there is room for.
        max_failures: how often a fixed trial that failed is started again, unless it would fail in the same way.
        breaker: so many trials in a row that fail for good at once, for one reason, end the run; 0: never.
        hours: no trial is started after this time.
        hang_seconds: a trial without a heartbeat for so long is killed, which is a failure; None: never.
        waiting: what trials do when their place is away.
        switch: turned, it ends the run in order.
        cache: folder on each node for its mirror of a home in a bucket; None: the user's cache folder.

    Raises `UsageError` if there is no room for one trial or the sweep is running already, `SweepStopped` (a
    `KeyboardInterrupt`) if the switch was turned, `ParetovidError` if no trial of the study has ever succeeded,
    `InfrastructureError` if none can work here. In each case the trials that were running wait in the study.
    """
    wanted, switch = resources or TrialResources(), switch or StopSwitch()
    _check_room(wanted)
    counter = Counter(callback or TrialCallback())
    searcher = ParetoSearcher(
        study,
        fixed=fixed,
        configure=configure,
        callback=counter,
        all_points=all_points,
        deadline=None if hours is None else time.time() + 3600 * hours,
        max_failures=max_failures,
        breaker=breaker,
    )
    trial = (nested if wanted.is_nested else in_process)(trainable, sweep, wanted, cache, waiting=waiting)
    watchdog = _watchdog(
        searcher, sweep, switch, wanted, hang_seconds, concurrent, counter.on_poll, waiting, cache
    )
    with launch_lock(sweep), _quiet_tune(), handing_back(searcher, study, sweep, switch):
        _run(trial, searcher, sweep, wanted, switch, watchdog)
    return counter.summary(searcher, study, switch)


def launch_lock(sweep: SweepPaths) -> AbstractContextManager[None]:
    """Keeps other processes of this machine from running the sweep's trials. Raises `UsageError` if one does."""
    running = UsageError(f"the sweep in {sweep.folder} is running already", "Wait for it, or end it.")
    return exclusive_lock(sweep.launch_lock, wait_seconds=0, refusal=running)


@contextlib.contextmanager
def handing_back(
    searcher: ParetoSearcher, study: ParetoStudy | None, sweep: SweepPaths, switch: StopSwitch
) -> Iterator[None]:
    """Whatever ends the block, the trials that did not come back wait to be dispatched again.

    Raises `SweepStopped` where the switch was turned and something else has come of it.
    """
    take_back_stop(sweep)
    try:
        with switch.polling():
            yield
    except (KeyboardInterrupt, SystemError) as error:
        # Where a second signal finds the driver inside Ray's compiled code, that puts an interrupt or an error of
        # its own in the place of what the handler raised.
        if switch.reason is None or isinstance(error, SweepStopped):
            raise
        raise switch.stopped() from None
    finally:
        if not switch.is_lease_lost:
            searcher.requeue_all()
            if study is not None:
                study.requeue_open()


def _room(wanted: TrialResources) -> int:
    """Trials for which the cluster has room now."""
    return wanted.slots([node["Resources"] for node in ray.nodes() if node["Alive"]])


def _check_room(wanted: TrialResources) -> None:
    if _room(wanted) >= 1:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has = "; ".join(sorted({_describe(node) for node in nodes}))
    raise UsageError(
        f"the cluster's {len(nodes)} nodes ({has}) have no room for a trial of {wanted}",
        "Lower cluster.workers_per_trial, cpus_per_trial, gpus_per_trial, resources_per_trial or "
        "memory_per_trial_gigabytes. A worker must fit on one node.",
    )


def _describe(node: Mapping[str, float]) -> str:
    special = ("node:", "memory", "object_store_memory", "accelerator_type:")
    custom = [f"{amount:g} {name}" for name, amount in node.items() if not name.startswith(special)]
    return ", ".join([*custom, f"{node.get('memory', 0.0) / GIB:.1f} GB"])


def _check_some_succeeded(study: ParetoStudy) -> None:
    counts = study.counts()
    if counts.failed and not counts.complete:
        raise ParetovidError(
            f"all {counts.failed} trials failed, most often: {counts.reasons[0]}",
            "Tracebacks: error.txt in the trials' folders. Repair the cause and start a sweep of another name=.",
        )


def _watchdog(
    searcher: ParetoSearcher,
    sweep: SweepPaths,
    switch: StopSwitch,
    wanted: TrialResources,
    hang_seconds: float | None,
    concurrent: int | None,
    on_poll: Callable[[], None],
    waiting: Waiting,
    cache: str | None,
) -> Watchdog:
    def room() -> int:
        free = _room(wanted) - len(searcher.away)
        return free if concurrent is None else min(free, concurrent)

    searcher.concurrent = room()
    inquiry = _inquiry(searcher, sweep, wanted, waiting, cache)
    return Watchdog(
        searcher, sweep, switch, hang_seconds=hang_seconds, room=room, on_poll=on_poll, inquiry=inquiry
    )


def _inquiry(
    searcher: ParetoSearcher, sweep: SweepPaths, wanted: TrialResources, waiting: Waiting, cache: str | None
) -> Inquiry:
    home, folder = sweep.reference(cache), sweep.folder.absolute()

    def look(config: JsonObject) -> str | None:
        return why_away_from_here(home, folder, config, waiting.probe)

    def nodes() -> list[str]:
        alive = [node for node in ray.nodes() if node["Alive"]]
        return [node["NodeID"] for node in alive if wanted.workers_on(node["Resources"])]

    def ask(nodes: Sequence[str], config: JsonObject, seconds: float) -> Mapping[str, str | None]:
        return answers_of(nodes, functools.partial(look, config), seconds)

    return Inquiry(searcher, look=look, nodes=nodes, ask=ask)


def _run(
    trial: Callable[..., dict[str, str]],
    searcher: ParetoSearcher,
    sweep: SweepPaths,
    wanted: TrialResources,
    switch: StopSwitch,
    watchdog: Watchdog,
) -> None:
    """Tune, started again if Ray ends it because a worker was killed for memory."""
    function = tune.with_resources(trial, tune.PlacementGroupFactory([wanted.bundle()]))
    while switch.reason is None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        tuner = tune.Tuner(
            function,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=ExplainingScheduler(searcher),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=_directory,
            ),
            run_config=tune.RunConfig(
                name=name,
                **sweep.store.ray_storage(sweep.ray),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[watchdog],
            ),
        )
        try:
            tuner.fit()
            return
        except RuntimeError as error:
            if not isinstance(error.__cause__, RayError) or not searcher.running:
                raise
            text = str(error.__cause__)
            reason = f"Ray ended the run: {(text.splitlines() or [''])[0]}"
            searcher.crashed(reason, killed_for_memory(text, sweep))
        finally:
            # What Tune keeps of a run is a folder per trial that nobody reads.
            sweep.store.remove_folder(sweep.ray / name)


def _directory(trial: Any) -> str:
    # Tune's own names hold every setting and grow beyond what file systems take.
    return str(trial.trial_id)


@final
class Counter(TrialCallback):
    """Counts what comes back, and passes everything on."""

    def __init__(self, callback: TrialCallback) -> None:
        self._callback = callback
        self.succeeded = self.stopped = 0
        self.reasons: dict[str, str] = {}
        """Trials that have failed for good, and why."""

    def on_start(self, trial_id: str, config: JsonObject, attempt: int) -> None:
        self._callback.on_start(trial_id, config, attempt)

    def on_progress(self, trial_id: str, progress: Mapping[str, float]) -> None:
        self._callback.on_progress(trial_id, progress)

    def on_result(self, trial_id: str, result: TrialResult) -> None:
        self.succeeded += 1
        self._callback.on_result(trial_id, result)

    def on_stopped(self, trial_id: str, epoch: int, epochs: int) -> None:
        self.stopped += 1
        self._callback.on_stopped(trial_id, epoch, epochs)

    def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
        if not will_retry:
            self.reasons[trial_id] = reason
        self._callback.on_failure(trial_id, reason, will_retry)

    def on_requeue(self, trial_id: str) -> None:
        self._callback.on_requeue(trial_id)

    def on_node(self, node: str, host: str, reason: str | None) -> None:
        self._callback.on_node(node, host, reason)

    def on_breaker(self, trial_ids: Sequence[str]) -> None:
        self._callback.on_breaker(trial_ids)

    def on_poll(self) -> None:
        self._callback.on_poll()

    def summary(
        self, searcher: ParetoSearcher, study: ParetoStudy | None, switch: StopSwitch
    ) -> LaunchSummary:
        """Of a launch that has ended. Raises as `launch_trials` where it has not done everything."""
        if searcher.environment_fault is not None:
            raise InfrastructureError(
                f"{CANNOT_WORK}: {searcher.environment_fault}",
                "Repair that, then resume: nothing of what was done is lost.",
            )
        if not searcher.is_exhausted:
            raise switch.stopped()
        if study is not None:
            _check_some_succeeded(study)
        return LaunchSummary(
            succeeded=self.succeeded,
            failed=len(self.reasons),
            reasons=self.reasons,
            is_out_of_time=searcher.is_out_of_time,
            stopped=self.stopped,
            why_ended=None if study is None else study.why_ended,
        )


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune with our settings, without Ray's messages and without credentials."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with environment(_TUNE_ENVIRONMENT), _without_credentials():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_credentials() -> Iterator[None]:
    """Tune without the driver's credentials in what it sends to workers: Ray writes that into its logs, as it is.
    Workers have those of their nodes."""
    sent = class_cache.ENV_VARS_TO_PROPAGATE
    taken = sent & _CREDENTIALS
    sent.difference_update(taken)
    try:
        yield
    finally:
        sent.update(taken)
