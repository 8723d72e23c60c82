"""How far a sweep is, for people and programs, read from its folder: `paretovid sweeps [SWEEP]`.

Needs neither Ray nor a store, so that it works beside a running driver, after its death, and on another machine
that sees the home.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

from paretovid.platform.home import Home
from paretovid.platform.pareto import Reference, hypervolume, non_dominated
from paretovid.platform.progress import format_seconds
from paretovid.platform.reconcile import failure_of
from paretovid.platform.shared_home import refresh_sweep, refresh_sweeps
from paretovid.platform.sweep_journal import Entry, TrialClock, hours_spent, read_journal
from paretovid.platform.sweep_lock import driver_of
from paretovid.platform.sweep_record import SWEEP_FILE, known_info, read_info
from paretovid.platform.tracking_sender import last_sent
from paretovid.platform.trial_signs import ALIVE_FILE, read_document
from paretovid.trainables.errors import UsageError

_CURVE_POINTS = 12
_ENDED = ("finish", "fault", "aside")
_RESULT_ONLY = ("result.json",)


class _Sender(Protocol):
    @property
    def waiting(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """A trial that a process has now."""

    trial: str
    attempt: int
    epoch: float | None
    epochs: float | None
    host: str | None
    silent_seconds: float | None
    """Since its last sign of life, by the clocks of its node and of this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStatus:
    """One sweep, now."""

    name: str
    state: str
    """As recorded; `interrupted` also if its driver is gone without a word."""
    driver: Mapping[str, Any] | None
    asked: int
    """Trials, baselines included."""
    finished: int
    failed: Mapping[str, str]
    """Trial to its reason."""
    running: tuple[RunningTrial, ...]
    restarts: int
    """Starts that failed and were followed by another."""
    hypervolume: tuple[tuple[float, float], ...]
    """Seconds since the sweep began, and what the operating points measured until then cover on validation."""
    cpu_hours: float
    gpu_hours: float
    untracked: int
    """Events that MLflow has not been told yet."""
    damaged_lines: tuple[int, ...]
    waits: tuple[str, ...]
    """What is waiting for what."""
    seconds_left: float | None

    def to_document(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def status_of(home: Home, name: str) -> SweepStatus:
    """Reads a sweep's state. Raises `UnknownNameError` if there is no such sweep."""
    info = known_info(home, name)
    folder = home.sweep(name)
    refresh_sweep(folder, _RESULT_ONLY)
    now = time.time()
    reading = read_journal(folder)
    driver = driver_of(folder)
    entries = reading.entries
    finished = {path.parent.name for path in (folder / "trials").glob("*/result.json")}
    failed = _failures(folder, finished)
    running = _running(folder, entries, now) if driver else ()
    asked = int(info["config"]["search"]["trials"]) + len(info["config"].get("baselines") or [])
    state = "interrupted" if info["state"] == "running" and driver is None else str(info["state"])
    cpu_hours, gpu_hours = hours_spent(entries, now if driver else (entries[-1].at if entries else now))
    left = max(0, asked - len(finished) - len(failed))
    untracked = _untracked(folder, entries)
    return SweepStatus(
        name=name,
        state=state,
        driver=driver,
        asked=asked,
        finished=len(finished),
        failed=failed,
        running=running,
        restarts=sum(entry.event == "fault" and bool(entry.facts.get("again")) for entry in entries),
        hypervolume=curve(entries),
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        untracked=untracked,
        damaged_lines=reading.damaged,
        waits=tuple(_waits(name, state, entries, left - len(running), running, untracked)),
        seconds_left=_seconds_left(entries, left, len(running), now) if driver else None,
    )


def list_sweeps(home: Home) -> list[dict[str, Any]]:
    """All sweeps under a home, oldest first, with state, trials and hypervolume."""
    refresh_sweeps(home.sweeps)
    infos = [info for path in home.sweeps.glob(f"*/{SWEEP_FILE}") if (info := read_info(path.parent))]
    listed = []
    for info in sorted(infos, key=lambda each: str(each["created"])):
        folder = home.sweep(info["name"])
        refresh_sweep(folder, _RESULT_ONLY)
        done = {path.parent.name for path in (folder / "trials").glob("*/result.json")}
        is_gone = info["state"] == "running" and driver_of(folder) is None
        config = info.get("config") or {}
        searched = int((config.get("search") or {}).get("trials") or 0)
        keys = ("name", "method", "data", "state", "created", "hypervolume", "reference", "tracked", "error")
        listed.append(
            {
                "trials": len(done),
                "asked": searched + len(config.get("baselines") or []),
                "failed": len(_failures(folder, done)),
                **{key: info.get(key) for key in keys},
                **({"state": "interrupted"} if is_gone else {}),
            }
        )
    return listed


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
        lines[0] += f", process {driver['pid']} on {driver['host']}"
    left = status.asked - status.finished - len(status.failed)
    lines.append(
        f"trials   {status.finished} of {status.asked} finished, {len(status.running)} running, "
        f"{left - len(status.running)} to come, {len(status.failed)} failed, {status.restarts} restarts"
    )
    for each in status.running:
        epoch = "" if each.epoch is None else f", epoch {each.epoch:.0f}/{each.epochs or 0:.0f}"
        silent = "" if each.silent_seconds is None else f", alive {format_seconds(each.silent_seconds)} ago"
        again = "" if each.attempt == 1 else f", start {each.attempt}"
        lines.append(f"  {each.trial} on {each.host or 'no node yet'}{epoch}{again}{silent}")
    lines += [f"  {trial} failed: {reason}" for trial, reason in status.failed.items()]
    hours = f"{status.cpu_hours:.2f} CPU-hours"
    if status.gpu_hours:
        hours += f", {status.gpu_hours:.2f} GPU-hours"
    lines.append(f"spent    {hours}")
    if status.hypervolume:
        lines.append("hypervolume on validation, by time:")
        lines += _curve_lines(status.hypervolume)
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


def _failures(folder: Path, finished: set[str]) -> dict[str, str]:
    found = {}
    for path in sorted((folder / "trials").glob("*/failure.json")):
        reason = failure_of(path.parent)
        if reason is not None and path.parent.name not in finished:
            found[path.parent.name] = reason
    return found


def _running(folder: Path, entries: Sequence[Entry], now: float) -> tuple[RunningTrial, ...]:
    running = []
    for trial, start in _open_starts(entries).items():
        alive = read_document(folder / "trials" / trial / ALIVE_FILE) or {}
        running.append(
            RunningTrial(
                trial=trial,
                attempt=int(start.facts.get("attempt", 1)),
                epoch=alive.get("epoch"),
                epochs=alive.get("epochs"),
                host=alive.get("host"),
                silent_seconds=max(0.0, now - float(alive["at"])) if "at" in alive else None,
            )
        )
    return tuple(running)


def _open_starts(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Trials that were started and have not come back, by the last driver."""
    running: dict[str, Entry] = {}
    for entry in entries:
        if entry.event == "driver":
            running.clear()
        elif entry.event == "start":
            running[entry.trial] = entry
        elif entry.event in _ENDED:
            running.pop(entry.trial, None)
    return running


def _untracked(folder: Path, entries: Sequence[Entry]) -> int:
    sent = last_sent(folder)
    return sum(entry.n > sent for entry in entries)


def _waits(
    name: str,
    state: str,
    entries: Sequence[Entry],
    to_come: int,
    running: Sequence[RunningTrial],
    untracked: int,
) -> list[str]:
    waits = []
    if state == "running" and not running and to_come > 0:
        waits.append(f"{to_come} trials for the cluster, or for videos, backbones and features")
    elif state == "running" and to_come > 0:
        waits.append(f"{to_come} trials for one of {len(running)} places")
    elif state != "finished" and to_come > 0:
        waits.append(f"{to_come} trials for somebody: paretovid resume {name}")
    if untracked:
        waits.append(f"{untracked} events for MLflow (paretovid replay {name}, if nobody runs the sweep)")
    open_faults: dict[str, str] = {}
    for entry in entries:
        if entry.event == "fault" and entry.facts.get("again"):
            open_faults[entry.trial] = str(entry.facts.get("reason"))
        elif entry.event in ("start", "finish"):
            open_faults.pop(entry.trial, None)
    waits += [f"{trial} for another start, after: {reason}" for trial, reason in open_faults.items()]
    return waits


def _seconds_left(entries: Sequence[Entry], left: int, running: int, now: float) -> float | None:
    """At the pace of this driver; before it has finished two trials, at that of the trials' own seconds."""
    if left == 0:
        return 0.0
    began = max((entry.at for entry in entries if entry.event == "driver"), default=now)
    first = min((entry.at for entry in entries if entry.event == "start" and entry.at >= began), default=now)
    done = sum(entry.event == "finish" and entry.at > first for entry in entries)
    if done >= 2:
        return (now - first) / done * left
    seconds = [float(e.facts["seconds"]) for e in entries if e.event == "finish" and "seconds" in e.facts]
    if not seconds or not running:
        return None
    return sum(seconds) / len(seconds) * left / running


def curve(entries: Sequence[Entry]) -> tuple[tuple[float, float], ...]:
    """Seconds since the first event, and the hypervolume that the method's trials had reached by then.

    In GFLOPs times mAP, from the corner of mAP 0 and the dearest point that was measured.
    """
    began = entries[0].at if entries else 0.0
    told = [entry for entry in entries if entry.event == "finish"]
    fronts = [(entry.at, _points(entry)) for entry in told if _is_searched(entry)]
    dearest = max((gflops for _, points in fronts for _, gflops in points), default=0.0)
    reference = Reference(gflops=dearest)
    found: list[tuple[float, float]] = []
    maps: list[float] = []
    costs: list[float] = []
    for at, points in fronts:
        maps += [quality for quality, _ in points]
        costs += [gflops for _, gflops in points]
        found.append((at - began, hypervolume(costs, maps, reference)))
    return tuple(found)


def _is_searched(entry: Entry) -> bool:
    """Of the method; baselines have names of their own."""
    return entry.trial[:1] == "t" and entry.trial[1:].isdigit()


def _points(entry: Entry) -> list[tuple[float, float]]:
    points = entry.facts.get("front") or [[entry.facts.get("quality", 0.0), entry.facts.get("gflops", 0.0)]]
    return [(float(quality), float(gflops)) for quality, gflops in points]


@final
class LiveStatus:
    """The same in one line, kept up to date by the driver as things happen, at a cost that does not grow."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._clock = TrialClock()
        self._running: set[str] = set()
        self._failed = 0
        self._front: list[tuple[float, float]] = []
        self._dearest = 0.0
        for entry in entries:
            self.add(entry)
        self._running.clear()  # of drivers that are gone

    def add(self, entry: Entry) -> None:
        """Something has happened."""
        self._clock.add(entry)
        if entry.event == "start":
            self._running.add(entry.trial)
        elif entry.event in _ENDED:
            self._running.discard(entry.trial)
            self._failed += entry.event == "fault" and not entry.facts.get("again")
        if entry.event == "finish" and _is_searched(entry):
            points = [*self._front, *_points(entry)]
            self._dearest = max(self._dearest, *(gflops for _, gflops in points))
            kept = non_dominated([gflops for _, gflops in points], [quality for quality, _ in points])
            self._front = [points[i] for i in kept]

    def line(self, sender: _Sender) -> str:
        """For the line of progress."""
        cpu_hours, gpu_hours = self._clock.hours(time.time())
        parts = [f"{len(self._running)} running"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._front:
            costs, qualities = [gflops for _, gflops in self._front], [quality for quality, _ in self._front]
            area = hypervolume(costs, qualities, Reference(gflops=self._dearest))
            parts.append(f"hypervolume {area:.4f}")
        parts.append(f"{gpu_hours:.2f} GPU-h" if gpu_hours else f"{cpu_hours:.2f} CPU-h")
        if sender.waiting > 50:
            parts.append(f"MLflow {sender.waiting} behind")
        return ", ".join(parts)
