"""One driver's run of a sweep that it holds: from what is there to a front, and what is recorded however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from paretovid.infra.placement import TrialResources
from paretovid.platform.config.resolve import PreparationPlan, SweepPlan
from paretovid.platform.console.progress import Progress
from paretovid.platform.console.shell import at_home, typed
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.execution.launcher import LaunchSummary, launch_trials
from paretovid.platform.execution.outcome import FixedTrial
from paretovid.platform.execution.patience import Waiting
from paretovid.platform.execution.searcher import Configure, knobs_alone
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front
from paretovid.platform.fronts.report import front_table, write_html, write_png
from paretovid.platform.preparation.prepare import Prepared, prepare
from paretovid.platform.records.confirmations import with_points
from paretovid.platform.records.front_files import (
    DOCUMENT,
    FRONT_FILES,
    PAGE,
    PICTURE,
    TABLE,
)
from paretovid.platform.records.journal import CONFIRMATION, SweepJournal, read_journal
from paretovid.platform.records.sweep import SweepRecord, SweepReference, SweepState, write_record
from paretovid.platform.search.location import study_location
from paretovid.platform.search.study import Budget, ParetoStudy
from paretovid.platform.storage.documents import replace_text
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.sweeps.confirmation import missing_points, trainings_to_do
from paretovid.platform.sweeps.events import SweepDriver
from paretovid.platform.sweeps.judge import RungJudge
from paretovid.platform.sweeps.reached import LiveStatus
from paretovid.platform.sweeps.reconcile import reconcile
from paretovid.platform.sweeps.trials import SweepTrials, probe_on, trainable_on
from paretovid.platform.tracking.exporter import TrackingSender, last_sent
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.data.dataset import write_json
from paretovid.trainables.errors import InfrastructureError

TRACKING_SECONDS = 60.0
"""What MLflow may take, without a sign of getting on, when everything else is done."""
STOPPED_TRACKING_SECONDS = 3.0
"""The same when the sweep was asked to stop."""


Summary = TypeVar("Summary", LaunchSummary, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """What a sweep runs on. Its default is the real one; `testing/simulated.py` has one that trains nothing."""

    cluster: Callable[[SweepConfig], AbstractContextManager[object]] = cluster_of
    preparation: Callable[[PreparationPlan, Progress], Prepared] = prepare
    """From the plan to what trials read."""
    launcher: Callable[..., LaunchSummary] = launch_trials
    """Called and answering as `launch_trials`."""


REAL = Backend()


class SweepRun:
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
        self._is_confirmation = False
        """The search is left alone."""
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
        """From what is there to the front, with its confirmation where one is asked for. Whatever happens, the sweep's
        state is recorded."""

        def done(prepared: Prepared) -> tuple[SweepState, LaunchSummary]:
            summary, seeds = self._search(prepared), self._config.search.seeds
            if summary.is_out_of_time and seeds:
                self._progress.say("  the front is confirmed once the search has come to its end")
            points = {} if summary.is_out_of_time else missing_points(self._paths, self._record, seeds)
            if points or self._record.confirmations:
                self._confirm(prepared, points)
            return "out_of_time" if summary.is_out_of_time else "finished", summary

        return self._recorded(done)

    def confirm(self, points: Mapping[str, int]) -> None:
        """Nothing but the confirmation of these points, and of those that were asked for before. The search stays as it
        is, and so does what the sweep's record says of it.

        Arguments:
            points: id to the number of seeds.
        """
        state: SweepState = "interrupted" if self._record.state == "running" else self._record.state
        self._is_confirmation = True
        self._update(error=None)

        def done(prepared: Prepared) -> tuple[SweepState, None]:
            self._confirm(prepared, points)
            return state, None

        self._recorded(done)

    def _recorded(self, do: Callable[[Prepared], tuple[SweepState, Summary]]) -> Summary:
        """Does what it is about once everything is prepared, and records how it has ended."""
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
                state, summary = do(prepared)
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

    def _study(self) -> ParetoStudy:
        config, search, record = self._config, self._config.search, self._record
        location = study_location(self._home, record.name, record.uid, search.storage, record.study)
        return ParetoStudy(
            storage=location.url,
            name=location.name,
            knobs=self._plan.knobs,
            trials=self._plan.trainings,
            sampler=search.sampler,
            seed=config.seed,
            published=config.method.published,
            max_gflops=search.max_gflops,
            max_failures=search.max_failures,
            objective=self._plan.objective,
            guided_by="curve" if search.guided_by == "curve" else "point",
            anchored=self._plan.default_hyperparameters,
            budget=self._budget(),
            published_first=search.plan == "long",
        )

    def _budget(self) -> Budget | None:
        plan, knob = self._plan, self._plan.epochs_knob
        if knob is None:
            return None
        return Budget(knob=knob, total=plan.epochs, least=int(plan.knobs[knob].low or 1))

    def _search(self, prepared: Prepared) -> LaunchSummary:
        search, study = self._config.search, self._study()
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
        self._driver.judge = self._judge(study)
        is_known = self._plan.epochs_knob is None
        total = self._plan.trainings + len(self._plan.baselines) if is_known else None
        with self._progress.stage("search", total=total, unit="trials") as stage:
            self._driver.show_on(stage, found.finished + found.failed + found.stopped)
            summary = self._launch(
                study=study,
                fixed=found.fixed,
                configure=trials.searched,
                all_points=search.report_all_points,
                hours=search.hours,
            )
            stage.done(summary.counts())
        if summary.why_ended is not None:
            left = study.trials - study.started
            self._progress.say(f"  {left} trials were not started: {summary.why_ended}")
        if not is_known:
            self._update(trainings=study.started)
        return summary

    def _judge(self, study: ParetoStudy) -> RungJudge | None:
        """Who looks after trials at rungs; None if they are all trained to their end."""
        search = self._config.search
        if search.stopping == "none":
            return None
        return RungJudge(
            self._paths,
            self._driver.record,
            rungs=search.rungs,
            keep=search.keep,
            is_exempt=study.is_anchor,
            entries=read_journal(self._paths).entries,
        )

    def _confirm(self, prepared: Prepared, points: Mapping[str, int]) -> None:
        record = replace(self._record, confirmations=with_points(self._record.confirmations, points))
        searched = {each.trial_id: each.knobs for each in self._study().dispatched_ones()}
        found = trainings_to_do(
            self._paths,
            record,
            SweepTrials(self._plan, self._name, prepared),
            self._driver.record,
            lambda trial: searched.get(trial.trial, trial.training_knobs),
            new=tuple(points) if self._is_confirmation else (),
        )
        self._update(confirmations=record.confirmations)
        for note in found.notes:
            self._progress.say(f"  {note}")
        with self._progress.stage("confirmation", total=found.total, unit="trainings") as stage:
            self._driver.show_on(stage, found.finished + found.failed)
            # Without a study: none of them is told to it. A limit in hours is one of the search.
            summary = self._launch(fixed=found.fixed) if found.fixed else None
            failed = found.failed + (summary.failed if summary else 0)
            done = found.finished + (summary.succeeded if summary else 0)
            stage.done(f"{done} trainings with other seeds" + (f", {failed} failed" if failed else ""))

    def _launch(
        self,
        *,
        study: ParetoStudy | None = None,
        fixed: Sequence[FixedTrial] = (),
        configure: Configure = knobs_alone,
        all_points: bool = False,
        hours: float | None = None,
    ) -> LaunchSummary:
        """Runs trainings where and how the configuration says. Arguments as of `launch_trials`."""
        config, search, code = self._config, self._config.search, self._plan.code_version
        cache, plugins = config.cluster.node_cache, tuple(config.plugins)
        reference = self._home.reference(cache)
        return self._backend.launcher(
            trainable_on(cache, code, reference, plugins=plugins),
            sweep=self._paths,
            study=study,
            fixed=fixed,
            configure=configure,
            callback=self._driver,
            all_points=all_points,
            resources=self._resources,
            concurrent=search.concurrent,
            max_failures=search.max_failures,
            breaker=search.max_failures_in_a_row,
            hours=hours,
            hang_seconds=config.cluster.hang_seconds,
            waiting=Waiting(
                seconds=config.cluster.storage_wait_seconds,
                probe=probe_on(code, reference, plugins=plugins),
            ),
            switch=self._switch,
            cache=cache,
        )

    def _finish(self, state: SweepState, summary: LaunchSummary | None) -> int:
        """Front, pictures, hypervolume and MLflow, all from what is on disk; the state last.

        Arguments:
            summary: of the search; None: there was none, and the sweep's record keeps what it says of it.

        Returns how many events MLflow has not taken.
        """
        front = read_front([self._paths])
        has_ended = state in ("finished", "out_of_time")
        if has_ended:
            write_front(self._paths, front)
        if summary is None:
            self._update(tracked=False)
            self._driver.record("state", state=state, of=CONFIRMATION)
        else:
            self._update(
                state=state,
                hypervolume=front.hypervolume,
                reference=SweepReference(objective=front.objective, corner=front.reference),
                failures=self._failures(summary),
                tracked=False,
            )
            reason = {} if summary.why_ended is None else {"reason": summary.why_ended}
            self._driver.record("state", state=state, **reason)
        left = self._sender.close(front if has_ended else None, TRACKING_SECONDS)
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
            if self._is_confirmation:  # the search has the state that it had
                self._update(error=reason, tracked=None)
                self._driver.record("state", state=state, reason=reason, of=CONFIRMATION)
            else:
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


def _then(error: BaseException, resume: str) -> str:
    """What to do about the place, and how to resume then."""
    hint = getattr(error, "hint", "") or "Repair that: nothing of what was done is lost."
    return f"{hint} {resume}"
