"""`paretovid sweep`, `resume` and `extend`: from a configuration to a front, with everything on the way made or
reused.

The sources of truth about a sweep are its folder (`sweep.json`, `trials/*/result.json`, `journal.jsonl`) and its study;
the driver only connects them. Killed at any moment, it is resumed by `paretovid resume`, or by the command that
started it: both find the sweep, make its stores agree, and do what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from paretovid.infra.placement import TrialResources
from paretovid.platform.config.resolve import PreparationPlan, SweepPlan, resolve
from paretovid.platform.console.progress import Progress
from paretovid.platform.console.shell import at_home, typed
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.execution.launcher import LaunchSummary, launch_trials
from paretovid.platform.execution.patience import Waiting
from paretovid.platform.execution.stopping import StopSwitch, ended_in_order
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front
from paretovid.platform.fronts.report import front_table, write_html, write_png
from paretovid.platform.preparation.prepare import Prepared, prepare
from paretovid.platform.records.failure import to_resume
from paretovid.platform.records.front_files import (
    DOCUMENT,
    FRONT_FILES,
    PAGE,
    PICTURE,
    TABLE,
)
from paretovid.platform.records.journal import SweepJournal, read_journal
from paretovid.platform.records.sweep import (
    SweepRecord,
    SweepReference,
    SweepState,
    known_record,
    read_record,
    write_record,
)
from paretovid.platform.search.location import study_location
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.documents import replace_text
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import Home, SweepPaths, open_home, some_of_dataset
from paretovid.platform.sweeps.events import SweepDriver
from paretovid.platform.sweeps.lock import SweepLock, driver_of
from paretovid.platform.sweeps.naming import name_of, started_record, stored_config, with_extensions
from paretovid.platform.sweeps.reconcile import reconcile
from paretovid.platform.sweeps.status import LiveStatus, list_sweeps
from paretovid.platform.sweeps.summary import (
    DryRun,
    SweepReport,
    shortened,
    typed_command,
)
from paretovid.platform.sweeps.trials import SweepTrials, probe_on, trainable_on
from paretovid.platform.tracking.exporter import TrackingSender, last_sent, replay
from paretovid.platform.tracking.store import store_uri
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.data.dataset import load_dataset, write_json
from paretovid.trainables.errors import InfrastructureError, ParetovidError, UsageError

TRACKING_SECONDS = 60.0
"""What MLflow may take, without a sign of getting on, when everything else is done."""
STOPPED_TRACKING_SECONDS = 3.0
"""The same when the sweep was asked to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """What a sweep runs on. Its default is the real one; `testing/simulated.py` has one that trains nothing."""

    cluster: Callable[[SweepConfig], AbstractContextManager[object]] = cluster_of
    preparation: Callable[[PreparationPlan, Progress], Prepared] = prepare
    """From the plan to what trials read."""
    launcher: Callable[..., LaunchSummary] = launch_trials
    """Called and answering as `launch_trials`."""


REAL = Backend()


def plan_sweep(config: SweepConfig) -> DryRun:
    """What `run_sweep` would do, after the checks that it makes. Starts nothing."""
    plan = resolve(config)
    home = open_home(config.home)
    name = name_of(home, config)
    record = read_record(home.sweep(name))
    return DryRun(name=name, plan=plan, state=record.state if record else None)


def run_sweep(
    config: SweepConfig, progress: Progress, *, take_over: bool = False, backend: Backend = REAL
) -> SweepReport:
    """Prepares, searches, records and shows. Five stages of progress.

    Arguments:
        take_over: asks a living driver of the same sweep to stop, and resumes in its place.
        backend: what the sweep runs on.

    Raises `UsageError` before anything starts for a bad configuration, a name that is taken by another one or a
    sweep that a living driver runs; `ParetovidError` if no trial succeeds or none can work; `SweepStopped` (a
    `KeyboardInterrupt`) if it was ended in order.
    """
    plan = resolve(config)
    home = open_home(config.home)
    name = name_of(home, config)
    return _resume_or_start(home, name, plan, progress, take_over=take_over, backend=backend)


def resume_sweep(
    given_home: str | None,
    name: str,
    overrides: Sequence[str],
    progress: Progress,
    *,
    take_over: bool = False,
    backend: Backend = REAL,
) -> SweepReport:
    """Does what is missing of a sweep, with the configuration that it was started with. A finished sweep only
    shows its front.

    Arguments:
        overrides: changes to where and how it runs (`cluster.…`, `tracking.…`, `search.concurrent` and the like).

    Raises `UnknownNameError` for a sweep that is not there, and what `run_sweep` raises.
    """
    home = open_home(given_home, is_there=True)
    plan = resolve(stored_config(home, name, given_home, overrides))
    return _resume_or_start(home, name, plan, progress, take_over=take_over, backend=backend)


def extend_sweep(
    given_home: str | None,
    name: str,
    more: int,
    overrides: Sequence[str],
    progress: Progress,
    *,
    take_over: bool = False,
    backend: Backend = REAL,
) -> SweepReport:
    """Adds `more` trials to a sweep, finished or not, and runs what is then missing. Nothing that was tried is
    tried again. Raises as `resume_sweep`.
    """
    home = open_home(given_home, is_there=True)
    plan = resolve(stored_config(home, name, given_home, overrides))
    return _resume_or_start(home, name, plan, progress, take_over=take_over, more=more, backend=backend)


def replay_sweep(
    given_home: str | None, name: str, uri: str | None, progress: Progress, *, whole: bool = False
) -> int:
    """Sends MLflow what it has not been sent of a sweep. Returns how many events.

    Arguments:
        uri: the MLflow store; None: the one that the sweep was started with.

    Raises `StoreError` if the store does not take it, `UsageError` while a driver of the sweep sends it itself.
    """
    home = open_home(given_home, is_there=True)
    record = known_record(home.sweep(name))
    if driver_of(home.sweep(name)) is not None:
        raise UsageError(
            f"sweep {name} is running, and its driver notifies MLflow", "Wait until it has ended."
        )
    given = uri or record.tracking_uri
    with SweepLock(home.sweep(name), StopSwitch()).hold():
        _render_missing(home.sweep(name))
        sent = replay(home, name, given, progress.say, whole=whole)
        if given == record.tracking_uri:
            write_record(home.sweep(name), replace(known_record(home.sweep(name)), tracked=True))
    return sent


def _resume_or_start(
    home: Home,
    name: str,
    plan: SweepPlan,
    progress: Progress,
    *,
    take_over: bool,
    backend: Backend,
    more: int = 0,
) -> SweepReport:
    sweep, config = home.sweep(name), plan.config
    sweep.refresh()
    switch = StopSwitch()
    hint = f"Resume: {typed(typed_command('paretovid'), 'resume', name)}{at_home(config.home)}"
    with ended_in_order(switch, hint, progress.say):
        if not more and _is_finished(home, name):
            return _show_finished(home, name, plan, progress)
        # Before anything is written: a second driver of a running sweep must leave no trace in it.
        with SweepLock(sweep, switch).hold(take_over=take_over, say=progress.say):
            before = read_record(sweep)
            if not more and _is_finished(home, name):  # by the driver that has just given way
                return _show_finished(home, name, plan, progress)
            if more:
                asked = (before.asked if before else ()) or (config.search.trials,)
                before = replace(before or started_record(config, name, None), asked=(*asked, more))
            plan = with_extensions(plan, before)
            config = plan.config
            record = started_record(config, name, before)
            location = study_location(home, name, record.uid, config.search.storage, record.study)
            record = replace(record, study=location.described)
            write_record(sweep, record)
            summary = _Run(home, record, plan, progress, switch, backend, hint).all_of_it()
    return _report(home, name, summary, plan)


def _is_finished(home: Home, name: str) -> bool:
    record = read_record(home.sweep(name))
    return record is not None and record.state == "finished" and not to_resume(home.sweep(name))


def _show_finished(home: Home, name: str, plan: SweepPlan, progress: Progress) -> SweepReport:
    progress.say(
        f"sweep {name} is finished; {typed('paretovid', 'extend', name)} +N{at_home(plan.config.home)} adds trials, "
        "name=NEW starts another one with the same settings"
    )
    record = known_record(home.sweep(name))
    if not record.tracked:
        try:
            _render_missing(home.sweep(name))
            replay(home, name, plan.config.tracking.uri, progress.say)
            write_record(home.sweep(name), replace(record, tracked=True))
        except ParetovidError as error:
            progress.say(f"  not tracked: {error}")
    return _report(home, name, None, plan)


class _Run:
    """One driver's run of a sweep that it holds."""

    def __init__(
        self,
        home: Home,
        record: SweepRecord,
        plan: SweepPlan,
        progress: Progress,
        switch: StopSwitch,
        backend: Backend,
        hint: str,
    ) -> None:
        """`hint`: how to resume."""
        name, config = record.name, plan.config
        self._home = home
        self._record = record
        self._name = name
        self._paths = home.sweep(name)
        self._plan = plan
        self._config = config
        self._progress = progress
        self._switch = switch
        self._backend = backend
        self._hint = hint
        self._resources = TrialResources(
            workers=config.cluster.workers_per_trial,
            cpus=config.cluster.cpus_per_trial,
            gpus=config.cluster.gpus_per_trial,
            memory_gigabytes=config.cluster.memory_per_trial_gigabytes,
            custom=dict(config.cluster.resources_per_trial),
        )
        self._sender = TrackingSender(home, name, config.tracking.uri, progress.say)
        journal = SweepJournal(self._paths, after=last_sent(self._paths))
        live = LiveStatus(read_journal(self._paths).entries)
        self._driver = SweepDriver(home, name, journal, self._sender, progress, live)

    def all_of_it(self) -> LaunchSummary:
        """From what is there to the front. Whatever happens, the sweep's state is recorded."""
        self._sender.start()
        wanted = self._resources
        self._driver.record(
            "driver",
            code=self._plan.code_version,
            workers=wanted.workers,
            cpus=wanted.cpus * wanted.workers,
            gpus=wanted.gpus * wanted.workers,
        )
        try:
            with self._backend.cluster(self._config):
                self._switch.arm()
                prepared = self._backend.preparation(self._plan.preparation, self._progress)
                summary = self._search(prepared)
            state: SweepState = "out_of_time" if summary.is_out_of_time else "finished"
            with self._progress.stage("front, pictures and tracking") as stage:
                left = self._finish(state, summary)
                stage.done("wrote them" if not left else f"wrote them; MLflow has not taken {left} events")
        except BaseException as error:
            self._record_end(error)
            fault = infrastructure_fault(error, (self._home.root,)) if isinstance(error, Exception) else None
            if fault is None:
                raise
            raise InfrastructureError(fault.reason, _then(error, self._hint)) from error
        if left:
            command = typed("paretovid", "replay", self._name) + at_home(self._config.home)
            self._progress.say(f"  notify MLflow later: {command}")
        return summary

    def _search(self, prepared: Prepared) -> LaunchSummary:
        config, search = self._config, self._config.search
        cache, record = config.cluster.node_cache, self._record
        reference = self._home.reference(cache)
        location = study_location(self._home, record.name, record.uid, search.storage, record.study)
        study = ParetoStudy(
            storage=location.url,
            name=location.name,
            knobs=self._plan.knobs,
            trials=search.trials,
            sampler=search.sampler,
            seed=config.seed,
            published=config.method.published,
            max_gflops=search.max_gflops,
            max_failures=search.max_failures,
            objective=self._plan.objective,
            guided_by="curve" if search.guided_by == "curve" else "point",
        )
        trials = SweepTrials(self._plan, self._name, prepared)
        found = reconcile(
            self._paths,
            study,
            trials,
            self._driver.record,
            code=self._plan.code_version,
            all_points=search.report_all_points,
        )
        for note in found.notes:
            self._progress.say(f"  {note}")
        total = search.trials + len(self._plan.baselines)
        with self._progress.stage("search", total=total, unit="trials") as stage:
            self._driver.show_on(stage, found.finished + found.failed)
            summary = self._backend.launcher(
                trainable_on(cache, self._plan.code_version, reference, plugins=tuple(config.plugins)),
                sweep=self._paths,
                study=study,
                fixed=found.fixed,
                configure=trials.searched,
                callback=self._driver,
                all_points=search.report_all_points,
                resources=self._resources,
                concurrent=search.concurrent,
                max_failures=search.max_failures,
                breaker=search.max_failures_in_a_row,
                hours=search.hours,
                hang_seconds=config.cluster.hang_seconds,
                waiting=Waiting(
                    seconds=config.cluster.storage_wait_seconds,
                    probe=probe_on(self._plan.code_version, reference, plugins=tuple(config.plugins)),
                ),
                switch=self._switch,
                cache=cache,
            )
            failed = f", {summary.failed} failed" if summary.failed else ""
            stage.done(f"{summary.succeeded} trials{failed}")
        if summary.why_ended is not None:
            left = search.trials - study.started
            self._progress.say(f"  {left} trials were not started: {summary.why_ended}")
        return summary

    def _finish(self, state: SweepState, summary: LaunchSummary) -> int:
        """Front, pictures, hypervolume and MLflow, all from what is on disk; the state last.

        Returns how many events MLflow has not taken.
        """
        front = read_front([self._paths])
        write_front(self._paths, front)
        self._update(
            state=state,
            hypervolume=front.hypervolume,
            reference=SweepReference(objective=front.objective, corner=front.reference),
            failures=self._failures(summary),
            tracked=False,
        )
        reason = {} if summary.why_ended is None else {"reason": summary.why_ended}
        self._driver.record("state", state=state, **reason)
        left = self._sender.close(front, TRACKING_SECONDS)
        self._update(tracked=left == 0)
        return left

    def _failures(self, summary: LaunchSummary) -> dict[str, str]:
        finished = {trial.name for trial in self._paths.with_result()}
        reasons = {**self._record.failures, **summary.reasons}
        return {trial: reason for trial, reason in reasons.items() if trial not in finished}

    def _update(self, **changes: Any) -> None:
        """Changes fields of the sweep's record, which nobody else writes while this driver holds it."""
        self._record = replace(self._record, **changes)
        write_record(self._paths, self._record)

    def _record_end(self, error: BaseException) -> None:
        """The state of a sweep that has not come to its end. On a full disk, what can be written."""
        if self._switch.is_lease_lost:
            self._sender.close(None, STOPPED_TRACKING_SECONDS)
            return
        # After a signal anything may be raised: what was interrupted fails in its own way.
        is_interrupted = isinstance(error, KeyboardInterrupt) or self._switch.reason is not None
        state: SweepState = "interrupted" if is_interrupted else "failed"
        requested = self._switch.reason if is_interrupted else None
        reason = (requested or str(error) or type(error).__name__).splitlines()[0]
        with contextlib.suppress(OSError):
            self._update(state=state, error=reason, hypervolume=None, reference=None, tracked=None)
            self._driver.record("state", state=state, reason=reason)
        self._sender.close(None, STOPPED_TRACKING_SECONDS)


def write_front(sweep: SweepPaths, front: Front) -> None:
    """The front as picture, page, table and document in the sweep's folder."""
    folder = sweep.folder
    write_png(front, folder / PICTURE)
    write_html(front, folder / PAGE)
    replace_text(folder / TABLE, front_table(front) + "\n")
    write_json(folder / DOCUMENT, front.to_json())
    for name in FRONT_FILES:
        sweep.store.upload_file(folder / name)


def _render_missing(sweep: SweepPaths) -> None:
    """Renders a finished sweep's front where its folder lacks it, as that of an older version may."""
    is_finished = known_record(sweep).state in ("finished", "out_of_time")
    if is_finished and not all((sweep.folder / name).is_file() for name in FRONT_FILES):
        write_front(sweep, read_front([sweep]))


def _then(error: BaseException, resume: str) -> str:
    """What to do about the place, and how to resume then."""
    hint = getattr(error, "hint", "") or "Repair that: nothing of what was done is lost."
    return f"{hint} {resume}"


def _report(home: Home, name: str, summary: LaunchSummary | None, plan: SweepPlan) -> SweepReport:
    sweep, config = home.sweep(name), plan.config
    root = home.data(plan.preparation.data.name)
    home.store.download(root, some_of_dataset)
    dataset = load_dataset(root)
    examples = dataset.split("test")[:2]
    home.store.download(
        dataset.root, lambda names: [record.path for record in examples if record.path in names]
    )
    return SweepReport(
        name=name,
        folder=sweep.folder,
        front=read_front([sweep]),
        summary=summary,
        tracking_uri=store_uri(home, config.tracking.uri),
        given_uri=config.tracking.uri,
        home=config.home,
        example_videos=tuple(shortened(dataset.video_path(r)) for r in examples),
    )


__all__ = [
    "Backend",
    "DryRun",
    "SweepReport",
    "extend_sweep",
    "list_sweeps",
    "plan_sweep",
    "replay_sweep",
    "resume_sweep",
    "run_sweep",
]
