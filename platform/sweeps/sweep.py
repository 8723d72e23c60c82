"""`paretovid sweep`, `resume`, `extend` and `confirm`: from a configuration to a front, with everything on the way
made or reused.

The sources of truth about a sweep are its folder (`sweep.json`, `trials/*/result.json`, `journal.jsonl`) and its study;
the driver only connects them. Killed at any moment, it is resumed by `paretovid resume`, or by the command that
started it: both find the sweep, make its stores agree, and do what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from paretovid.platform.config.resolve import SweepPlan, resolve
from paretovid.platform.console.progress import Progress
from paretovid.platform.console.shell import at_home, typed
from paretovid.platform.execution.launcher import LaunchSummary
from paretovid.platform.execution.stopping import StopSwitch, ended_in_order
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.confirmations import outstanding
from paretovid.platform.records.failure import to_resume
from paretovid.platform.records.front_files import FRONT_FILES
from paretovid.platform.records.sweep import SweepRecord, known_record, read_record, write_record
from paretovid.platform.search.location import study_location
from paretovid.platform.storage.home import Home, SweepPaths, open_home, some_of_dataset
from paretovid.platform.sweeps.confirmation import missing_points, points_to_confirm
from paretovid.platform.sweeps.lock import SweepLock, driver_of
from paretovid.platform.sweeps.naming import name_of, started_record, stored_config, with_extensions
from paretovid.platform.sweeps.run import REAL, Backend, SweepRun, write_front
from paretovid.platform.sweeps.status import list_sweeps
from paretovid.platform.sweeps.summary import DryRun, SweepReport, shortened, typed_command
from paretovid.platform.tracking.exporter import replay
from paretovid.platform.tracking.store import store_uri
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.errors import ParetovidError, UsageError


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


def confirm_sweep(
    given_home: str | None,
    name: str,
    points: Sequence[str],
    seeds: int,
    overrides: Sequence[str],
    progress: Progress,
    *,
    take_over: bool = False,
    backend: Backend = REAL,
) -> SweepReport:
    """Trains the configurations of some operating points again with other seeds, and measures the points at the
    inference settings that they have. What was trained for it before is not trained again.

    Arguments:
        points: ids, as `paretovid front` names them; none: those on the front.
        seeds: how many other seeds, 1 or more.

    Raises what `points_to_confirm` and `resume_sweep` raise, `DataError` if no trial has finished.
    """
    home = open_home(given_home, is_there=True)
    plan = resolve(stored_config(home, name, given_home, overrides))

    def wanted(sweep: SweepPaths) -> dict[str, int]:
        return points_to_confirm(sweep, read_front([sweep]), points, seeds)

    return _resume_or_start(
        home, name, plan, progress, take_over=take_over, backend=backend, confirmed=wanted
    )


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
    confirmed: Callable[[SweepPaths], dict[str, int]] | None = None,
) -> SweepReport:
    """`confirmed`: the points to confirm; then the search is left as it is."""
    sweep, config = home.sweep(name), plan.config
    seeds = config.search.seeds
    sweep.refresh()
    switch = StopSwitch()
    hint = f"Resume: {typed(typed_command('paretovid'), 'resume', name)}{at_home(config.home)}"
    with ended_in_order(switch, hint, progress.say):
        if not more and confirmed is None and _is_finished(home, name, seeds):
            return _show_finished(home, name, plan, progress)
        # Before anything is written: a second driver of a running sweep must leave no trace in it.
        with SweepLock(sweep, switch).hold(take_over=take_over, say=progress.say):
            before = read_record(sweep)
            if not more and confirmed is None and _is_finished(home, name, seeds):
                # By the driver that has just given way.
                return _show_finished(home, name, plan, progress)
            if before is not None and (confirmed is not None or (not more and _has_searched(before, sweep))):
                points = confirmed(sweep) if confirmed else missing_points(sweep, before, seeds)
                SweepRun(home, before, plan, progress, switch, backend, hint).confirm(points)
                return _report(home, name, None, plan)
            if more:
                asked = (before.asked if before else ()) or (config.search.trials,)
                before = replace(before or started_record(config, name, None), asked=(*asked, more))
            plan = with_extensions(plan, before)
            config = plan.config
            record = started_record(config, name, before)
            location = study_location(home, name, record.uid, config.search.storage, record.study)
            record = replace(record, study=location.described)
            write_record(sweep, record)
            summary = SweepRun(home, record, plan, progress, switch, backend, hint).all_of_it()
    return _report(home, name, summary, plan)


def _has_searched(record: SweepRecord, sweep: SweepPaths) -> bool:
    """Whether there is nothing left to search."""
    return record.state == "finished" and not to_resume(sweep)


def _is_finished(home: Home, name: str, seeds: int) -> bool:
    """Whether nothing is left to do, the front's confirmation by so many seeds included."""
    sweep = home.sweep(name)
    record = read_record(sweep)
    if record is None or not _has_searched(record, sweep):
        return False
    return not outstanding(sweep, record) and not missing_points(sweep, record, seeds)


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


def _render_missing(sweep: SweepPaths) -> None:
    """Renders a finished sweep's front where its folder lacks it, as that of an older version may."""
    is_finished = known_record(sweep).state in ("finished", "out_of_time")
    if is_finished and not all((sweep.folder / name).is_file() for name in FRONT_FILES):
        write_front(sweep, read_front([sweep]))


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
    "confirm_sweep",
    "extend_sweep",
    "list_sweeps",
    "plan_sweep",
    "replay_sweep",
    "resume_sweep",
    "run_sweep",
]
