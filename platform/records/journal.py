"""What happened in a sweep, one line per event, in its folder: `journal.jsonl`.

Appended to by the driver and never changed. From it come what MLflow is sent (`platform/tracking/exporter.py`), what
`paretovid sweeps SWEEP` shows, and the hours spent. It holds no result: those are in the trials' folders, so that
a line that is lost costs a time stamp and nothing else.

    {"n": 3, "at": 1795264000.1, "event": "start", "trial": "t0001", "attempt": 1, "crc": "9c0e11d2"}
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from paretovid.platform.storage.growing_file import GrowingFile
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.documents import Fields, JsonObject, JsonValue, parse_json
from paretovid.trainables.evaluation.pareto import non_dominated
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.redaction.texts import redacted

Event = Literal["driver", "start", "rung", "finish", "stopped", "fault", "aside", "state", "node"]
"""`driver`: one begins (with `cpus` and `gpus` that a trial takes). `start`, `finish`, `fault`, `aside`: of a trial.
`rung`: one was judged there; `stopped`: it has ended by that. `state`: the sweep's, when a driver ends or has found
something to repair. `node`: one takes no more trials, as the place is `away` there, or null when it is back."""

CONFIRMATION = "confirmation"
"""What a `state` is `of` that says nothing of the search: the driver that wrote it only confirmed operating points."""
ENDS = ("finish", "stopped", "fault", "aside")
"""Events by which a start of a trial ends."""
_HINT = "A hand has changed the line: take it out, and what it says is made up for."


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One event."""

    n: int
    """Its number, from 1."""
    at: float
    """Seconds since 1970, by the driver's clock."""
    event: Event
    info: JsonObject = field(default_factory=dict)
    """What else the line says; `fields` reads it by type."""

    @property
    def trial(self) -> str:
        """The trial that it is about; empty if it is about none."""
        return self.fields.text("trial", "")

    @property
    def fields(self) -> Fields:
        """What the line says, to be read field by field."""
        return Fields(self.info, f"journal.jsonl: event {self.n}", _HINT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A journal as it was found."""

    entries: tuple[Entry, ...]
    damaged: tuple[int, ...]
    """Numbers of the lines that cannot be read, from 1."""


@final
class SweepJournal:
    """The driver's end of the journal. Every event is on disk when `write` returns."""

    def __init__(self, sweep: SweepPaths, after: int = 0) -> None:
        """`after`: a number that all events from now on lie above, should the journal itself be lost."""
        self.path = sweep.journal
        self._lock = threading.Lock()
        self._is_torn = False
        self._shared = GrowingFile(self.path, sweep.store)
        self._next = 1 + max((entry.n for entry in read_journal(sweep).entries), default=after)
        self._next = max(self._next, after + 1)
        sweep.folder.mkdir(parents=True, exist_ok=True)
        self._repair()

    def write(self, event: Event, **info: JsonValue) -> Entry:
        """Appends an event, without secrets in its texts. Raises `OSError` if the disk does not take it."""
        info = {name: redacted(value) if isinstance(value, str) else value for name, value in info.items()}
        with self._lock:
            entry = Entry(n=self._next, at=time.time(), event=event, info=info)
            # A line that a full disk has cut short must not be glued to this one.
            line = (b"\n" if self._is_torn else b"") + _to_line(entry).encode()
            # One write to a file opened for appending: no reader ever sees half of two lines mixed.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                self._is_torn = True
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(descriptor)
                self._is_torn = False
            finally:
                os.close(descriptor)
            self._next += 1
            self._shared.grown(now=event in ("driver", "state"))
        return entry

    def _repair(self) -> None:
        """Ends a last line that a crash left unfinished, so that the next one is not glued to it."""
        written = self.path.read_bytes() if self.path.exists() else b""
        if written and not written.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")


def read_journal(sweep: SweepPaths) -> Reading:
    """All events that can be read, and which lines cannot."""
    try:
        lines = sweep.journal.read_bytes().splitlines()
    except FileNotFoundError:
        return Reading(entries=(), damaged=())
    entries: list[Entry] = []
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        entry = _from_line(line)
        if entry is None:
            damaged.append(number)
        else:
            entries.append(entry)
    return Reading(entries=tuple(entries), damaged=tuple(damaged))


def hours_spent(entries: Iterable[Entry], now: float) -> tuple[float, float]:
    """CPU-hours and GPU-hours that trials held until `now`."""
    clock = TrialClock()
    for entry in entries:
        clock.add(entry)
    return clock.hours(now)


@final
class TrialClock:
    """Counts what trials held: each start until its end, times what a trial was given.

    A start whose driver died counts until that driver's last event; one that runs still, until it is asked.
    """

    def __init__(self) -> None:
        self._cpus = self._gpus = self._cpu_seconds = self._gpu_seconds = self._last = 0.0
        self._running: dict[str, float] = {}

    def add(self, entry: Entry) -> None:
        """The next event."""
        if entry.event == "driver":
            for trial in list(self._running):
                self._end(trial, self._last)
            self._cpus = entry.fields.number("cpus", 1.0)
            self._gpus = entry.fields.number("gpus", 0.0)
        elif entry.event == "start":
            self._running[entry.trial] = entry.at
        elif entry.event in ENDS:
            self._end(entry.trial, entry.at)
        self._last = entry.at

    def hours(self, now: float) -> tuple[float, float]:
        """CPU-hours and GPU-hours."""
        open_seconds = sum(max(0.0, now - began) for began in self._running.values())
        cpu_seconds = self._cpu_seconds + self._cpus * open_seconds
        gpu_seconds = self._gpu_seconds + self._gpus * open_seconds
        return cpu_seconds / 3600, gpu_seconds / 3600

    def _end(self, trial: str, at: float) -> None:
        seconds = max(0.0, at - self._running.pop(trial, at))
        self._cpu_seconds += self._cpus * seconds
        self._gpu_seconds += self._gpus * seconds


def _to_line(entry: Entry) -> str:
    content = {"n": entry.n, "at": entry.at, "event": entry.event, **entry.info}
    return json.dumps({**content, "crc": _crc(content)}, allow_nan=False) + "\n"


def _from_line(line: bytes) -> Entry | None:
    try:
        content = parse_json(line)
        if not isinstance(content, dict):
            return None
        crc = content.pop("crc")
        if crc != _crc(content) or content["event"] not in get_args(Event):
            return None
        n, at, event = content.pop("n"), content.pop("at"), content.pop("event")
        return Entry(n=int(n), at=float(at), event=event, info=content) if math.isfinite(at) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _crc(content: JsonObject) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedTrial:
    """What a `finish` entry keeps of a trial's result: what its share in a hypervolume on validation is made of."""

    quality: float
    """The objective of the first point on validation, a fraction."""
    gflops: float
    """Its cost, GFLOPs per video."""
    seconds: float
    front: tuple[tuple[float, float], ...]
    """Quality and GFLOPs on validation of the points that no other of the trial beats there, cheapest first."""
    most_gflops: float
    """GFLOPs of the most expensive point on either split."""
    is_baseline: bool
    deployable: bool

    @classmethod
    def of(cls, result: TrialResult) -> FinishedTrial:
        """The entry of a result."""
        points = [(point.val.quality, point.val.gflops) for point in result.points]
        kept = non_dominated([gflops for _, gflops in points], [quality for quality, _ in points])
        return cls(
            quality=points[0][0],
            gflops=points[0][1],
            seconds=result.seconds,
            front=tuple(points[i] for i in kept),
            most_gflops=result.most_gflops,
            is_baseline=result.is_baseline,
            deployable=result.deployable,
        )

    @classmethod
    def in_entry(cls, entry: Entry) -> FinishedTrial:
        """What `to_json` wrote. Entries of earlier versions lack some: then as far as the rest and the name say."""
        fields = entry.fields
        quality, gflops = fields.number("quality", 0.0), fields.number("gflops", 0.0)
        front = fields.pairs("front", ()) or (((quality, gflops),) if "quality" in fields else ())
        is_searched = entry.trial[:1] == "t" and entry.trial[1:].isdigit()
        return cls(
            quality=quality,
            gflops=gflops,
            seconds=fields.number("seconds", 0.0),
            front=front,
            most_gflops=fields.number("dearest", max((cost for _, cost in front), default=0.0)),
            is_baseline=fields.flag("is_baseline", not is_searched),
            deployable=fields.flag("deployable", True),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The information of the entry, under the keys that they have always had."""
        return {
            "quality": self.quality,
            "gflops": self.gflops,
            "seconds": self.seconds,
            "front": self.front,
            "dearest": self.most_gflops,
            "is_baseline": self.is_baseline,
            "deployable": self.deployable,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedStart:
    """What the journal keeps of a trial that has ended at a rung: event `stopped`."""

    epoch: int
    """Epochs that it was trained."""
    epochs: int
    """Of its whole training."""
    method: str = ""
    """Empty where a driver has found the end of an earlier one."""
    knobs: Mapping[str, float | str] = field(default_factory=dict)
    """The training knobs that were tried."""

    @classmethod
    def in_entry(cls, entry: Entry) -> StoppedStart:
        """What `to_json` wrote."""
        fields = entry.fields
        return cls(
            epoch=fields.count("epoch"),
            epochs=fields.count("epochs"),
            method=fields.text("method", ""),
            knobs=fields.values_by_name("knobs", {}),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The information of the entry."""
        return {
            "epoch": self.epoch,
            "epochs": self.epochs,
            "method": self.method,
            "knobs": dict(self.knobs),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedStart:
    """What the journal keeps of a start that has failed: event `fault`."""

    reason: str
    will_retry: bool
    """False: the trial has failed for good."""
    method: str = ""
    """Empty where a driver has found the failure of an earlier one."""
    is_baseline: bool = False
    knobs: Mapping[str, float | str] = field(default_factory=dict)
    """The training knobs that were tried."""

    @classmethod
    def in_entry(cls, entry: Entry) -> FailedStart:
        """What `to_json` wrote."""
        fields = entry.fields
        return cls(
            reason=fields.text("reason", ""),
            will_retry=fields.flag("again", False),
            method=fields.text("method", ""),
            is_baseline=fields.flag("baseline", False),
            knobs=fields.values_by_name("knobs", {}),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The information of the entry, under the keys that they have always had."""
        return {
            "reason": self.reason,
            "again": self.will_retry,
            "method": self.method,
            "baseline": self.is_baseline,
            "knobs": dict(self.knobs),
        }
