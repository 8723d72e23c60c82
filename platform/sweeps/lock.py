"""One driver per sweep, also on a file system that several machines see.

On one machine the kernel keeps the lock, and frees it however its holder dies. For other machines, where that
lock may not reach, the holder writes who it is and a heartbeat into `driver.json`. It is taken for dead once that file
has not changed for `SILENT_SECONDS` while somebody watched it, by the watcher's own clock: clocks of machines may be
hours apart. A living driver gives way only if it is asked to (`--take-over`): it stops in order, and one that finds
another name than its own in `driver.json` has lost the sweep and stops as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from paretovid.infra.locks import LockHeldError, exclusive_lock, is_locked
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.records.control_requests import ask_to_give_way, take_over_request
from paretovid.platform.records.lease import DriverLease
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.errors import DataError, ParetovidError, UsageError

HEARTBEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
TAKE_OVER_SECONDS = 60.0
"""What a living driver has to stop in, when it is asked to give way."""
_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 2 * _POLL_SECONDS
"""Of several machines that have watched a driver die, the last one to write has the sweep after this time."""


def driver_of(sweep: SweepPaths) -> DriverLease | None:
    """The driver that is running the sweep now, as far as one look can tell. None: nobody.

    Of a driver on another machine it is a guess: one that has written `driver.json` within `SILENT_SECONDS`, by the
    clock of the file server or bucket, counts as alive. `SweepLock.hold` goes by no clock but its own, and watches.

    Raises `DataError` for a lease that cannot be read, such as one that a later version has written.
    """
    lease = _lease_of(sweep)
    if lease is None or lease.ended:
        return None
    if lease.host == socket.gethostname():
        return lease if is_locked(sweep.driver_lock) else None
    try:
        age = sweep.store.age_seconds(sweep.lease)
    except OSError:  # what cannot be asked is not to be taken for dead
        return lease
    return lease if age is not None and age < SILENT_SECONDS else None


def _lease_of(sweep: SweepPaths, *, must_answer: bool = False) -> DriverLease | None:
    """What `driver.json` says; None if there is none, or half of one."""
    found = sweep.store.read_document(sweep.lease, must_answer=must_answer)
    return None if found is None else DriverLease.from_json(found, str(sweep.lease))


@final
class _Watch:
    """Sees by this process's own clock whether a driver's lease changes."""

    def __init__(self) -> None:
        self._seen: DriverLease | None = None
        self._since = time.monotonic()
        self.has_changed = False

    def is_dead(self, lease: DriverLease) -> bool:
        """Whether it has stayed as it is for `SILENT_SECONDS`, now that it was looked at again."""
        if lease != self._seen:
            self.has_changed = self._seen is not None
            self._seen, self._since = lease, time.monotonic()
        return time.monotonic() - self._since >= SILENT_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Got:
    """How the lock was got."""

    is_of_dead: bool
    """From a driver of another machine that was watched and is dead."""


@final
class SweepLock:
    """This driver's hold on a sweep, once `hold` has got it."""

    def __init__(self, sweep: SweepPaths, switch: StopSwitch) -> None:
        self._sweep = sweep
        self._store = sweep.store
        self._switch = switch
        self._name = uuid.uuid4().hex
        self._started = time.time()
        self._beats = 0
        self._ended = threading.Event()

    @contextlib.contextmanager
    def hold(
        self, *, take_over: bool = False, say: Callable[[str], None] = lambda text: None
    ) -> Iterator[None]:
        """Holds the sweep for the block, and the heartbeat going.

        Raises `UsageError` if a living driver has it and does not give way.
        """
        self._sweep.folder.mkdir(parents=True, exist_ok=True)
        with self._get(take_over, say) as lock:
            self._store.remove(self._sweep.take_over)
            self._write()
            if lock.is_of_dead:
                self._settle()
            beating = threading.Thread(target=self._beat, name="driver-heartbeat", daemon=True)
            beating.start()
            try:
                yield
            finally:
                self._ended.set()
                beating.join()
                if self._is_mine():
                    with contextlib.suppress(OSError):
                        self._write(ended=True)

    @contextlib.contextmanager
    def _get(self, take_over: bool, say: Callable[[str], None]) -> Iterator[_Got]:
        watch, is_reported = _Watch(), False
        until: float | None = None
        while True:
            with contextlib.ExitStack() as lock:
                has_lock = self._try(lock)
                other = self._other(has_lock=has_lock)
                if has_lock and (other is None or watch.is_dead(other)):
                    yield _Got(is_of_dead=other is not None)
                    return
            is_alive = not has_lock or watch.has_changed
            who = _described(other)
            if is_alive and not take_over:
                raise UsageError(
                    f"the sweep {self._sweep.name} is being run by {who}",
                    "Wait for it, end it, or take the sweep over: the same command with --take-over.",
                )
            if take_over and until is None:
                until = time.monotonic() + TAKE_OVER_SECONDS
                say(f"  asking {who} to give way")
                ask_to_give_way(self._sweep, f"process {os.getpid()} on {socket.gethostname()}")
            if until is not None and time.monotonic() > until and is_alive:
                raise UsageError(
                    f"{who} does not give way",
                    f"End it there (kill {other.pid if other else 'PID'}), then try again.",
                )
            if not is_alive and not is_reported:
                is_reported = True
                say(
                    f"  the sweep was being run by {who}: watching for {SILENT_SECONDS:.0f} s whether it is alive"
                )
            time.sleep(min(_POLL_SECONDS, SILENT_SECONDS / 4))

    def _settle(self) -> None:
        """Raises `UsageError` if another machine has taken the dead driver's sweep at the same moment."""
        time.sleep(min(_SETTLE_SECONDS, SILENT_SECONDS / 2))
        if not self._is_mine():
            raise UsageError(
                f"the sweep {self._sweep.name} has just been taken by {_described(_lease_of(self._sweep))}",
                "Wait for it, end it, or take the sweep over: the same command with --take-over.",
            )

    def _try(self, lock: contextlib.ExitStack) -> bool:
        """Whether `lock` has it now, until it is closed. False: another process of this machine has it."""
        try:
            # Not at once: somebody who only looks (`driver_of`) holds it for a moment.
            lock.enter_context(exclusive_lock(self._sweep.driver_lock, wait_seconds=0.15))
        except LockHeldError:
            return False
        return True

    def _other(self, *, has_lock: bool) -> DriverLease | None:
        """Another driver that has not ended, if it has said who it is. `has_lock`: nobody on this machine is one."""
        other = _lease_of(self._sweep, must_answer=True)
        if not has_lock:
            return other
        return None if other is None or other.ended or other.host == socket.gethostname() else other

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            if not self._is_mine():
                self._switch.lease_lost("another driver has taken the sweep over")
                return
            if (other := self._asked_by()) is not None:
                self._switch.request(f"taken over by {other}", 1)
            with contextlib.suppress(OSError):  # a full disk is reported elsewhere
                self._write()

    def _asked_by(self) -> str | None:
        """Who asks this driver to give way; None: nobody."""
        try:
            request = take_over_request(self._sweep)
        except ParetovidError:  # another version asks, whatever it says
            return "another driver"
        return None if request is None else request.by

    def _is_mine(self) -> bool:
        try:
            found = _lease_of(self._sweep)
        except DataError:  # another version's: this one has written none that it cannot read
            return False
        return found is None or found.name == self._name

    def _write(self, *, ended: bool = False) -> None:
        self._beats += 1
        lease = DriverLease(
            name=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            heartbeat=time.time(),
            beats=self._beats,
            ended=ended,
        )
        self._store.write_text(self._sweep.lease, json.dumps(lease.to_json()))


def _described(driver: DriverLease | None) -> str:
    if driver is None:
        return "another process of this machine"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver.started))
    return f"process {driver.pid} on {driver.host}, since {since} by its clock"
