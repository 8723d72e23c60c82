"""Tells MLflow what happens in a sweep, from the journal, in order, without anybody waiting for it.

A thread of the driver sends; a server that is away is asked again, and what it has not taken stays in the journal,
for later in the same run or for `paretovid replay SWEEP`. How far the store at an address has come is in
`tracked.json`. It is written after the sending, so that a kill between the two sends an event twice; MLflow holds
it once all the same, as everything is looked up before it is made (`tracker.py`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front
from paretovid.platform.records.delivered import read_delivered, write_delivered
from paretovid.platform.records.journal import Entry, FailedStart, StoppedStart, read_journal
from paretovid.platform.records.learning import read_learning
from paretovid.platform.records.sweep import known_record
from paretovid.platform.records.trial import SweepResults, read_sweep, read_trial
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.platform.tracking.artifact_places import artifact_places
from paretovid.platform.tracking.store import StoreError, open_store, store_uri
from paretovid.platform.tracking.tracker import Tracker, log_sweep
from paretovid.trainables.context import Learning
from paretovid.trainables.errors import DataError, ParetovidError
from paretovid.trainables.evaluation.results import TrialResult

EMBEDDED = "home"
"""In the place of an address: the store under home, wherever that lies."""
TRIALS_PER_BATCH = 20
LEARNING_SECONDS = 5.0
"""Between two times that running trials are looked at."""
LEARNING_TRIALS = 8
"""Of those, each time."""
_ENDED = ("finished", "out_of_time")
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """A trial that trains, and what its run says of it."""

    trial: str
    method: str
    knobs: Mapping[str, float | str]
    """The training knobs that are tried; none: it is a baseline."""


@final
class Delivery:
    """Sends entries of one sweep's journal to one store. Every method may be repeated."""

    def __init__(self, home: Home, sweep: str, uri: str | None) -> None:
        self._home = home
        self._paths = home.sweep(sweep)
        self._uri = uri
        address = store_uri(home, uri)
        self._address = EMBEDDED if address == home.mlflow_url else address
        self._tracker: Tracker | None = None
        self.front: Front | None = None
        """The sweep's front, if somebody has made it already; else it is made when it is needed."""

    @property
    def sent(self) -> int:
        """The number of the last entry that the store has."""
        known = read_delivered(self._paths).last_events
        if self._address == EMBEDDED and EMBEDDED not in known:  # written before addresses were relative
            return known.get(self._address_before(), 0)
        return known.get(self._address, 0)

    def _address_before(self) -> str:
        """The address of the store under home, where the home was made."""
        recorded = self._home.root
        with contextlib.suppress(sqlite3.Error):
            recorded = artifact_places(self._home).recorded
        return Home(recorded).mlflow_url

    def send(self, entries: Sequence[Entry]) -> list[str]:
        """Sends entries in order, and notes how far it came. Returns what had to be left out, and why.

        Raises `StoreError` if the store does not take one; those before it are noted as sent.
        """
        left_out: list[str] = []
        for batch in _batches(entries):
            try:
                left_out += self._send(batch)
            except StoreError:
                self._tracker = None  # what it knows of the store may not be so any more
                raise
            except ParetovidError as error:
                left_out.append(f"{', '.join(e.trial or e.event for e in batch)}: {error.message}")
            self._note(batch[-1].n)
        return left_out

    def _send(self, batch: Sequence[Entry]) -> list[str]:
        if self._tracker is None:
            self._tracker = Tracker(open_store(self._home, self._uri), self._results(()))
        tracker, first = self._tracker, batch[0]
        left_out: list[str] = []
        if first.event == "finish":
            finished = self._read([entry.trial for entry in batch], left_out)
            known = {each.trial: self._learning(each.trial) for each in finished}
            tracker.log_trials(finished, {trial: each for trial, each in known.items() if each is not None})
        elif first.event == "stopped":
            tracker.log_stopped(first.trial, StoppedStart.in_entry(first), self._learning(first.trial))
        elif first.event == "fault":
            failed = FailedStart.in_entry(first)
            if not failed.will_retry:
                tracker.log_failure(first.trial, failed)
        elif first.event == "driver":
            tracker.begin()
        elif first.event == "state":
            state = first.fields.text("state", "")
            front = (self.front or read_front([self._paths])) if state in _ENDED else None
            ended = [*self._paths.with_result(), *self._paths.confirmations()]
            trials = self._read([trial.name for trial in ended], left_out)
            tracker.finish(self._results(trials), front, state)
        return left_out

    def send_learning(self, running: Sequence[Followed]) -> None:
        """Sends what some running trials have measured of themselves since the last time. Nothing is noted: what is not
        sent now comes with the trial's result.

        Raises `StoreError` if the store does not take it.
        """
        if self._tracker is None:  # not even the first event has come through
            return
        for each in running:
            learning = self._learning(each.trial)
            if learning is not None:
                self._tracker.log_learning(each.trial, each.method, each.knobs, learning)

    def _learning(self, trial: str) -> Learning | None:
        """What a trial has measured of itself, if that can be read."""
        with contextlib.suppress(OSError, ParetovidError):
            return read_learning(self._paths.trial(trial))
        return None

    def _results(self, trials: Sequence[TrialResult]) -> SweepResults:
        record = known_record(self._paths)
        return SweepResults(
            record=record,
            folder=self._paths.folder,
            trials=tuple(trial for trial in trials if not trial.confirms),
            confirmations=tuple(trial for trial in trials if trial.confirms),
        )

    def _read(self, trials: Sequence[str], left_out: list[str]) -> list[TrialResult]:
        """The results that can be read; why another cannot goes to `left_out`."""
        found: list[TrialResult] = []
        for trial in trials:
            paths = self._paths.trial(trial)
            try:
                if paths.result.exists():  # else it was lost, and is being trained again
                    found.append(read_trial(paths.folder))
            except ParetovidError as error:
                left_out.append(error.message)
        return found

    def _note(self, number: int) -> None:
        write_delivered(self._paths, read_delivered(self._paths).with_event(self._address, number))


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Finished trials that follow each other go together, everything else alone."""
    batch: list[Entry] = []
    for entry in entries:
        joins = entry.event == "finish" and len(batch) < TRIALS_PER_BATCH
        if batch and not (joins and batch[0].event == "finish"):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


@final
class TrackingSender:
    """The thread that sends while the sweep runs.

    Arguments:
        say: called once when the store is away, once when it is back, and of what had to be left out.
    """

    def __init__(self, home: Home, sweep: str, uri: str | None, say: Callable[[str], None]) -> None:
        self._delivery = Delivery(home, sweep, uri)
        self._paths = home.sweep(sweep)
        self._say = say
        self._waiting: list[Entry] = []
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._idle = threading.Event()
        self._is_closing = False
        self._failures = 0
        self._followed: dict[str, Followed] = {}
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)

    @property
    def waiting(self) -> int:
        """Events that the store has not taken yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins with what earlier drivers have left in the journal."""
        sent = self._delivery.sent
        reading = read_journal(self._paths)
        if reading.damaged:
            lines = ", ".join(map(str, reading.damaged))
            self._say(f"  {self._paths.journal}: line {lines} is damaged and left out")
        self._waiting = [entry for entry in reading.entries if entry.n > sent]
        self._news.set()
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """An event that is in the journal now."""
        with self._lock:
            self._waiting.append(entry)
            self._idle.clear()
        self._news.set()

    def follow(self, followed: Followed) -> None:
        """A trial trains from now on: what it measures of itself is sent every few seconds."""
        with self._lock:
            self._followed[followed.trial] = followed

    def unfollow(self, trial: str) -> None:
        """It trains no longer."""
        with self._lock:
            self._followed.pop(trial, None)

    def close(self, front: Front | None, seconds: float = 60.0) -> int:
        """Waits until everything is sent, as long as the store takes it; returns how many events it has not.

        A store that is away is asked once more, and waited for no longer than it takes to fail.
        """
        self._delivery.front = front
        self._is_closing = True
        self._news.set()
        until = time.monotonic() + seconds
        left = self.waiting
        while self.waiting and self._thread.is_alive() and time.monotonic() < until:
            self._idle.wait(0.2)
            if self.waiting < left:
                left, until = self.waiting, time.monotonic() + seconds
        return self.waiting

    def _work(self) -> None:
        while True:
            self._news.wait(LEARNING_SECONDS)
            self._news.clear()
            if not self._waiting:
                self._idle.set()
                if self._is_closing:
                    return
                self._send_learning()
                continue
            if not self._send_waiting() and self._is_closing:
                self._idle.set()
                return

    def _send_waiting(self) -> bool:
        with self._lock:
            entries = list(self._waiting)
        try:
            for entry in self._delivery.send(entries):
                self._say(f"  not tracked: {entry}")
        except Exception as error:  # whatever it is, it must not cost more than the record there
            if not self._failures:
                message = getattr(error, "message", f"{type(error).__name__}: {error}")
                self._say(
                    f"  MLflow takes nothing for now; the sweep continues, and notifies it later: {message}"
                )
            self._drop_sent()
            pause = _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS) - 1)]
            self._failures += 1
            # Closing interrupts the pause, for a last try.
            if not self._is_closing:
                self._pause(pause)
                self._news.set()
            return False
        if self._failures:
            self._say("  MLflow answers again; it was sent what it had missed")
        self._failures = 0
        self._drop_sent()
        self._news.set()
        return True

    def _send_learning(self) -> None:
        """A few of the running trials, by turns, and then none for several times as long as that took."""
        now = time.monotonic()
        if now < self._quiet_until:
            return
        with self._lock:
            turn = list(self._followed.values())[:LEARNING_TRIALS]
            for each in turn:  # to the end of the line
                self._followed[each.trial] = self._followed.pop(each.trial)
        rest = LEARNING_SECONDS
        try:
            self._delivery.send_learning(turn)
        except Exception:  # whatever it is: the trial's result has all of it, and what sends that says why
            rest = _RETRY_SECONDS[-1]
        self._quiet_until = time.monotonic() + max(rest, 4 * (time.monotonic() - now))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_closing and time.monotonic() < until:
            time.sleep(0.1)

    def _drop_sent(self) -> None:
        sent = 0
        with contextlib.suppress(
            OSError, DataError
        ):  # of a later version: another driver has the sweep by now
            sent = self._delivery.sent
        with self._lock:
            self._waiting = [entry for entry in self._waiting if entry.n > sent]


def replay(
    home: Home, sweep: str, uri: str | None, say: Callable[[str], None], *, whole: bool = False
) -> int:
    """Sends what MLflow has not been sent of a sweep. Returns how many events that were.

    Arguments:
        whole: from the first event on; nothing is made twice, what was deleted there is made again.

    Raises `StoreError` if the store does not take it.
    """
    delivery = Delivery(home, sweep, uri)
    reading = read_journal(home.sweep(sweep))
    if reading.damaged:
        lines = ", ".join(map(str, reading.damaged))
        say(f"  {home.sweep(sweep).journal}: line {lines} is damaged and left out")
    if not reading.entries:  # a sweep from before there were journals
        paths = home.sweep(sweep)
        log_sweep(home, read_sweep(paths), read_front([paths]), uri)
        return 0
    sent = 0 if whole else delivery.sent
    entries = [entry for entry in reading.entries if entry.n > sent]
    for left_out in delivery.send(entries):
        say(f"  not tracked: {left_out}")
    return len(entries)


def last_sent(sweep: SweepPaths) -> int:
    """The highest number that any store has been sent; events to come must lie above."""
    return read_delivered(sweep).latest
