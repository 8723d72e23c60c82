"""How far a sweep is, for people and programs, read from its folder: `paretovid sweeps [SWEEP]`.

Needs neither Ray nor a store, so that it works beside a running driver, after its death, and on another machine
that sees the home.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paretovid.platform.console.progress import format_seconds
from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.records.confirmations import asked_trainings, failed_confirmations, outstanding
from paretovid.platform.records.control_requests import stop_request
from paretovid.platform.records.failure import TrialFailure, read_failure, to_resume
from paretovid.platform.records.journal import (
    ENDS,
    Entry,
    FailedStart,
    hours_spent,
    read_journal,
)
from paretovid.platform.records.judgement import StoppedTrial, stopped_text, stopped_trials
from paretovid.platform.records.lease import DriverLease
from paretovid.platform.records.sweep import SweepRecord, known_record, read_record
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.sweeps.lock import driver_of
from paretovid.platform.sweeps.reached import curve
from paretovid.platform.sweeps.waits import waits_of
from paretovid.platform.tracking.exporter import last_sent
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import DataError, ParetovidError, UsageError
from paretovid.trainables.evaluation.results import RESULT_FILE

_CURVE_POINTS = 12
_RESULT_ONLY = (RESULT_FILE,)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """A trial that a process has now."""

    trial: str
    attempt: int
    epoch: float | None
    epochs: float | None
    host: str | None
    silent_seconds: float | None
    """Since its last heartbeat, by the clock of the file server or bucket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationStatus:
    """How far the trainings are that confirm operating points."""

    asked: int
    finished: int
    failed: Mapping[str, str]
    """Training to its reason."""
    running: int

    @property
    def left(self) -> int:
        """Neither finished nor failed."""
        return max(0, self.asked - self.finished - len(self.failed))


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStatus:
    """One sweep, now."""

    name: str
    state: str
    """As recorded; `interrupted` also if its driver is gone without a word."""
    driver: DriverLease | None
    """As far as one look can tell: `driver_of`."""
    driver_silent_seconds: float | None
    """Since its last heartbeat, by the clock of the file server or bucket."""
    asked: int
    """Trials, baselines included."""
    finished: int
    failed: Mapping[str, str]
    """Trial to its reason."""
    stopped: tuple[StoppedTrial, ...]
    """At a rung."""
    searched: int
    """Trials of the search that were asked for."""
    running: tuple[RunningTrial, ...]
    confirmations: ConfirmationStatus
    """Trainings with other seeds, which are none of the trials."""
    restarts: int
    """Starts that failed and were followed by another."""
    validation_hypervolume: tuple[tuple[float, float], ...]
    """Seconds since the sweep began, and what the operating points measured until then cover on validation."""
    cpu_hours: float
    gpu_hours: float
    untracked: int
    """Events that MLflow has not been notified of yet."""
    damaged_lines: tuple[int, ...]
    waits: tuple[str, ...]
    """What is waiting for what."""
    why_ended: str | None
    """Why a finished sweep has started fewer trials than asked for."""
    seconds_left: float | None

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data, for `--json`."""
        found = asdict(self)
        silent = found.pop("driver_silent_seconds")
        if self.driver is not None:
            found["driver"] = {**self.driver.to_json(), "silent_seconds": silent}
        return found


def status_of(home: Home, name: str) -> SweepStatus:
    """Reads a sweep's state. Raises `UnknownNameError` if there is no such sweep."""
    record = known_record(home.sweep(name))
    sweep = home.sweep(name)
    sweep.refresh(_RESULT_ONLY)
    reading = read_journal(sweep)
    driver = driver_of(sweep)
    silent = None if driver is None else _age(sweep, sweep.lease)
    # The journal has the driver's times, so that its clock is the one to count by.
    now = time.time() if driver is None else driver.heartbeat + (silent or 0.0)
    entries = reading.entries
    finished = {trial.name for trial in sweep.with_result()}
    failed = _failures(sweep, finished)
    stopped = stopped_trials(sweep)
    ended = {each.trial for each in stopped}  # some of them are about to hear of it
    running = tuple(each for each in _running(sweep, entries) if each.trial not in ended) if driver else ()
    asked = record.searched_trials + record.baselines
    state = _state_now(record, sweep, has_driver=driver is not None)
    confirmations = _confirmation_status(sweep, record, [each.trial for each in running])
    searching = len(running) - confirmations.running
    cpu_hours, gpu_hours = hours_spent(entries, now if driver else (entries[-1].at if entries else now))
    left = max(0, asked - len(finished) - len(failed) - len(stopped))
    untracked = _untracked(sweep, entries)
    waits = waits_of(
        name,
        home.in_commands,
        state,
        entries,
        left - searching,
        len(running),
        untracked,
        confirmations=confirmations.left - confirmations.running,
    )
    return SweepStatus(
        name=name,
        state=state,
        driver=driver,
        driver_silent_seconds=silent,
        asked=asked,
        finished=len(finished),
        failed=failed,
        stopped=stopped,
        searched=record.searched_trials,
        running=running,
        confirmations=confirmations,
        restarts=sum(entry.event == "fault" and FailedStart.in_entry(entry).will_retry for entry in entries),
        validation_hypervolume=curve(entries, record.corner),
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        untracked=untracked,
        damaged_lines=reading.damaged,
        waits=(*_stopping(sweep, driver, len(running)), *waits),
        why_ended=_why_ended(entries) if state == "finished" else None,
        seconds_left=_seconds_left(entries, left + confirmations.left, len(running), now) if driver else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepListing:
    """One line of `paretovid sweeps`."""

    name: str
    record: SweepRecord | None
    """None: `sweep.json` cannot be read."""
    state: str
    """As recorded; `interrupted` also if its driver is gone without a word, `unreadable` without a record."""
    trials: int
    """Finished, baselines included."""
    failed: int
    stopped: int
    """At a rung."""
    error: str | None
    """Why it failed or was interrupted, or why its record cannot be read."""

    @property
    def asked(self) -> int | None:
        """Trials, baselines included."""
        return None if self.record is None else self.record.searched_trials + self.record.baselines

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data, for `--json`."""
        record = self.record
        reference = None if record is None or record.reference is None else record.reference.to_json()
        return {
            "name": self.name,
            "method": None if record is None else record.method,
            "data": None if record is None else record.data,
            "state": self.state,
            "trials": self.trials,
            "asked": self.asked,
            "failed": self.failed,
            "stopped": self.stopped,
            "hypervolume": None if record is None else record.hypervolume,
            "reference": reference,
            "created": None if record is None else record.created,
            "tracked": None if record is None else record.tracked,
            "error": self.error,
        }


def list_sweeps(home: Home) -> list[SweepListing]:
    """All sweeps under a home, oldest first; those whose record cannot be understood before them, and why."""
    listed = []
    for sweep in map(home.sweep, home.sweep_names()):
        try:
            record = read_record(sweep)
        except DataError as error:
            listed.append(_listing(sweep, None, error.message))
        else:
            listed += [] if record is None else [_listing(sweep, record, record.error)]
    return sorted(listed, key=lambda each: each.record.created if each.record else "")


def _listing(sweep: SweepPaths, record: SweepRecord | None, error: str | None) -> SweepListing:
    sweep.refresh(_RESULT_ONLY)
    done = {trial.name for trial in sweep.with_result()}
    state = "unreadable" if record is None else _state_now(record, sweep, has_driver=_has_driver(sweep))
    return SweepListing(
        name=sweep.name if record is None else record.name,
        record=record,
        state=state,
        trials=len(done),
        failed=len(_failures(sweep, done)),
        stopped=len(stopped_trials(sweep)),
        error=error,
    )


def _state_now(record: SweepRecord, sweep: SweepPaths, *, has_driver: bool) -> str:
    """The state as recorded, unless it cannot be so any more: nobody runs the sweep, or something is left to do of one
    that calls itself finished."""
    if record.state == "running":
        return "running" if has_driver else "interrupted"
    if record.state != "finished":
        return record.state
    if outstanding(sweep, record):
        return "running" if has_driver else "interrupted"
    return "interrupted" if to_resume(sweep) else "finished"


def _confirmation_status(
    sweep: SweepPaths, record: SweepRecord, running: Sequence[str]
) -> ConfirmationStatus:
    asked = set(asked_trainings(record))
    return ConfirmationStatus(
        asked=len(asked),
        finished=sum(training.name in asked for training in sweep.confirmations()),
        failed={
            name: reason
            for name, reason in failed_confirmations(sweep, with_resumed=False).items()
            if name in asked
        },
        running=sum(name in asked for name in running),
    )


def _has_driver(sweep: SweepPaths) -> bool:
    try:
        return driver_of(sweep) is not None
    except DataError:  # of another version: somebody, who is not to hide the other sweeps
        return True


def watch(home: Home, name: str | None, seconds: float = 2.0) -> Iterator[str]:
    """The text of a sweep's state, again and again while a driver runs it.

    Raises `UsageError` without a name, `UnknownNameError` if there is no such sweep.
    """
    if name is None:
        raise UsageError("which sweep is to be watched?", "paretovid sweeps SWEEP --watch")
    while (status := status_of(home, name)).driver is not None:
        yield f"{status_text(status)}\n"
        time.sleep(seconds)


def status_text(status: SweepStatus) -> str:
    """For people, a few lines."""
    lines = [f"{status.name}: {status.state}"]
    if status.driver is not None:
        driver = status.driver
        lines[0] += f", process {driver.pid} on {driver.host}"
    left = max(0, status.asked - status.finished - len(status.failed) - len(status.stopped))
    to_come = "not started" if status.why_ended else "to come"
    confirmations = status.confirmations
    running = len(status.running) - confirmations.running
    lines.append(
        f"trials   {status.finished} of {status.asked} finished, {running} running, "
        f"{left - running} {to_come}, {len(status.failed)} failed, {status.restarts} restarts"
    )
    if confirmations.asked:
        lines.append(
            f"confirm  {confirmations.finished} of {confirmations.asked} trainings with other seeds finished, "
            f"{confirmations.running} running, {confirmations.left - confirmations.running} to come, "
            f"{len(confirmations.failed)} failed"
        )
    for each in status.running:
        epoch = "" if each.epoch is None else f", epoch {each.epoch:.0f}/{each.epochs or 0:.0f}"
        silent = "" if each.silent_seconds is None else f", alive {format_seconds(each.silent_seconds)} ago"
        again = "" if each.attempt == 1 else f", start {each.attempt}"
        lines.append(f"  {each.trial} on {each.host or 'no node yet'}{epoch}{again}{silent}")
    if status.stopped:
        lines.append(f"stopping {stopped_text(status.stopped, status.searched)}")
    failed = {**status.failed, **confirmations.failed}
    lines += [f"  {trial} failed: {reason}" for trial, reason in failed.items()]
    hours = f"{status.cpu_hours:.2f} CPU-hours"
    if status.gpu_hours:
        hours += f", {status.gpu_hours:.2f} GPU-hours"
    lines.append(f"spent    {hours}")
    if status.validation_hypervolume:
        lines.append("hypervolume on validation, by time:")
        lines += _curve_lines(status.validation_hypervolume)
    if status.why_ended:
        lines.append(f"ended    {status.why_ended}")
    lines += [f"waits    {text}" for text in status.waits]
    if status.damaged_lines:
        lines.append(f"journal  damaged and left out: line {', '.join(map(str, status.damaged_lines))}")
    if status.seconds_left is not None:
        lines.append(f"left     about {format_seconds(status.seconds_left)}")
    return "\n".join(lines)


def _curve_lines(points: Sequence[tuple[float, float]]) -> list[str]:
    step = max(1, -(-len(points) // _CURVE_POINTS))
    shown = [*points[::-1][::step]][::-1]
    most = max(value for _, value in points) or 1.0
    return [
        f"  {format_seconds(seconds):>12}  {value:.5f}  {'#' * round(30 * value / most)}"
        for seconds, value in shown
    ]


def _failures(sweep: SweepPaths, finished: set[str]) -> dict[str, str]:
    found = {}
    for trial in sweep.with_failure():
        try:
            failure = read_failure(trial)
        except DataError as error:  # of another version: it has failed all the same
            failure = TrialFailure(reason=error.message)
        # One that `resume` starts again is still to come.
        if failure is not None and not failure.is_resumed and trial.name not in finished:
            found[trial.name] = failure.reason
    return found


def _running(sweep: SweepPaths, entries: Sequence[Entry]) -> tuple[RunningTrial, ...]:
    running = []
    for trial, start in _open_starts(entries).items():
        alive = None
        with contextlib.suppress(DataError):  # another version's: what it says is not shown
            alive = heartbeat_of(sweep.trial(trial))
        running.append(
            RunningTrial(
                trial=trial,
                attempt=start.fields.whole("attempt", 1),
                epoch=alive.progress.get("epoch") if alive else None,
                epochs=alive.progress.get("epochs") if alive else None,
                host=alive.host if alive else None,
                silent_seconds=_age(sweep, sweep.trial(trial).heartbeat) if alive else None,
            )
        )
    return tuple(running)


def _age(sweep: SweepPaths, document: Path) -> float | None:
    """Since it was written; None as well if its bucket does not answer."""
    try:
        return sweep.store.age_seconds(document)
    except OSError:
        return None


def _open_starts(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Trials that were started and have not come back, by the last driver."""
    running: dict[str, Entry] = {}
    for entry in entries:
        if entry.event == "driver":
            running.clear()
        elif entry.event == "start":
            running[entry.trial] = entry
        elif entry.event in ENDS:
            running.pop(entry.trial, None)
    return running


def _stopping(sweep: SweepPaths, driver: DriverLease | None, running: int) -> list[str]:
    """Why the driver ends the sweep, while it does."""
    if driver is None:
        return []
    try:
        asked = stop_request(sweep)
    except ParetovidError:  # another version's: what it says is not shown
        return []
    if asked is None or asked.at < driver.started:  # of a driver before this one
        return []
    return [f"the driver for the checkpoints of {running} trials, then it ends: {asked.reason}"]


def _why_ended(entries: Sequence[Entry]) -> str | None:
    """What the last driver wrote beside the sweep's state."""
    of_search = [entry for entry in entries if entry.event == "state" and "of" not in entry.info]
    last = of_search[-1] if of_search else None
    return None if last is None else last.fields.text("reason", "") or None


def _untracked(sweep: SweepPaths, entries: Sequence[Entry]) -> int:
    sent = last_sent(sweep)
    return sum(entry.n > sent for entry in entries)


def _seconds_left(entries: Sequence[Entry], left: int, running: int, now: float) -> float | None:
    """At the pace of this driver; before it has finished two trials, at that of the trials' own seconds."""
    if left == 0:
        return 0.0
    # By order, not by time: an earlier driver may have had a clock that was ahead of this one's.
    began = max((place for place, entry in enumerate(entries) if entry.event == "driver"), default=0)
    own = entries[began:]
    first = min((entry.at for entry in own if entry.event == "start"), default=now)
    done = sum(entry.event in ("finish", "stopped") and entry.at > first for entry in own)
    if done >= 2:
        return (now - first) / done * left
    seconds = [e.fields.number("seconds") for e in entries if e.event == "finish" and "seconds" in e.fields]
    if not seconds or not running:
        return None
    return sum(seconds) / len(seconds) * left / running
