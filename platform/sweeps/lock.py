"""One driver per sweep, also on a file system that several machines see.

On one machine the kernel keeps the lock, and frees it however its holder dies. For other machines, where that
lock may not reach, the holder writes who it is and a heartbeat into `driver.json`; one that has been silent for
`SILENT_SECONDS` is taken for dead. A living driver gives way only if it is asked to (`--take-over`): it stops in
order, and one that finds another name than its own in `driver.json` has lost the sweep and stops as well.
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


def driver_of(sweep: SweepPaths) -> DriverLease | None:
    """The driver that is running the sweep now. None: nobody.

    Raises `DataError` for a lease that cannot be read, such as one that a later version has written.
    """
    lease = _lease_of(sweep)
    if lease is None or lease.ended:
        return None
    if lease.host == socket.gethostname():
        return lease if is_locked(sweep.driver_lock) else None
    return lease if lease.silent_seconds(time.time()) < SILENT_SECONDS else None


def _lease_of(sweep: SweepPaths) -> DriverLease | None:
    """What `driver.json` says; None if there is none, or half of one."""
    found = sweep.store.read_document(sweep.lease)
    return None if found is None else DriverLease.from_json(found, str(sweep.lease))


@final
class SweepLock:
    """This driver's hold on a sweep, once `hold` has got it."""

    def __init__(self, sweep: SweepPaths, switch: StopSwitch) -> None:
        self._sweep = sweep
        self._store = sweep.store
        self._switch = switch
        self._name = uuid.uuid4().hex
        self._started = time.time()
        self._ended = threading.Event()

    @contextlib.contextmanager
    def hold(
        self, *, take_over: bool = False, say: Callable[[str], None] = lambda text: None
    ) -> Iterator[None]:
        """Holds the sweep for the block, and the heartbeat going.

        Raises `UsageError` if a living driver has it and does not give way.
        """
        self._sweep.folder.mkdir(parents=True, exist_ok=True)
        with self._get(take_over, say):
            self._store.remove(self._sweep.take_over)
            self._write()
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

    def _get(self, take_over: bool, say: Callable[[str], None]) -> contextlib.ExitStack:
        until = time.monotonic() + TAKE_OVER_SECONDS
        is_asked = False
        while True:
            lock = self._try()
            try:
                other = self._living(has_lock=lock is not None)
            except ParetovidError:
                if lock is not None:
                    lock.close()
                raise
            if lock is not None and other is None:
                return lock
            if lock is not None:
                lock.close()
            who = _described(other)
            if not take_over:
                raise UsageError(
                    f"the sweep {self._sweep.name} is being run by {who}",
                    "Wait for it, end it, or take the sweep over: the same command with --take-over.",
                )
            if not is_asked:
                is_asked = True
                say(f"  asking {who} to give way")
                ask_to_give_way(self._sweep, f"process {os.getpid()} on {socket.gethostname()}")
            if time.monotonic() > until:
                raise UsageError(
                    f"{who} does not give way",
                    f"End it there (kill {other.pid if other else 'PID'}), then try again.",
                )
            time.sleep(0.5)

    def _try(self) -> contextlib.ExitStack | None:
        """The lock, held until the stack is closed; None if another process of this machine has it."""
        lock = contextlib.ExitStack()
        try:
            # Not at once: somebody who only looks (`driver_of`) holds it for a moment.
            lock.enter_context(exclusive_lock(self._sweep.driver_lock, wait_seconds=0.15))
        except LockHeldError:
            return None
        return lock

    def _living(self, *, has_lock: bool) -> DriverLease | None:
        """Another driver that is alive, if it has said who it is. `has_lock`: nobody on this machine is."""
        other = _lease_of(self._sweep)
        if not has_lock:
            return other
        if other is None or other.ended or other.host == socket.gethostname():
            return None
        return None if other.silent_seconds(time.time()) > SILENT_SECONDS else other

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
        lease = DriverLease(
            name=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            heartbeat=time.time(),
            ended=ended,
        )
        self._store.write_text(self._sweep.lease, json.dumps(lease.to_json()))


def _described(driver: DriverLease | None) -> str:
    if driver is None:
        return "another process of this machine"
    silent = driver.silent_seconds(time.time())
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver.started))
    return f"process {driver.pid} on {driver.host}, since {since}, last heartbeat {silent:.0f} s ago"
