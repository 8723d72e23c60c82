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
from typing import Any, final

from paretovid.infra.locks import LockHeldError, exclusive_lock, is_locked
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.errors import UsageError

HEARTBEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
TAKE_OVER_SECONDS = 60.0
"""What a living driver has to stop in, when it is asked to give way."""


def driver_of(sweep: SweepPaths) -> dict[str, Any] | None:
    """The driver that is running the sweep now: `host`, `pid`, `started`, `silent_seconds`. None: nobody."""
    found = sweep.store.read_document(sweep.lease)
    if found is None or found.get("ended"):
        return None
    found["silent_seconds"] = max(0.0, time.time() - float(found.get("heartbeat", 0.0)))
    if found.get("host") == socket.gethostname():
        return found if is_locked(sweep.driver_lock) else None
    return found if found["silent_seconds"] < SILENT_SECONDS else None


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
            other = self._living(has_lock=lock is not None)
            if lock is not None and other is None:
                return lock
            if lock is not None:
                lock.close()
            who = _describe(other)
            if not take_over:
                raise UsageError(
                    f"the sweep {self._sweep.name} is being run by {who}",
                    "Wait for it, end it, or take the sweep over: the same command with --take-over.",
                )
            if not is_asked:
                is_asked = True
                say(f"  asking {who} to give way")
                asked = {"by": f"process {os.getpid()} on {socket.gethostname()}", "at": time.time()}
                self._store.write_text(self._sweep.take_over, json.dumps(asked))
            if time.monotonic() > until:
                raise UsageError(
                    f"{who} does not give way",
                    f"End it there (kill {(other or {}).get('pid', 'PID')}), then try again.",
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

    def _living(self, *, has_lock: bool) -> dict[str, Any] | None:
        """Another driver that is alive. `has_lock`: nobody on this machine is."""
        other = self._store.read_document(self._sweep.lease)
        if not has_lock:
            return other or {}
        if other is None or other.get("ended") or other.get("host") == socket.gethostname():
            return None
        is_silent = time.time() - float(other.get("heartbeat", 0.0)) > SILENT_SECONDS
        return None if is_silent else other

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            if not self._is_mine():
                self._switch.lose("another driver has taken the sweep over")
                return
            wish = self._store.read_document(self._sweep.take_over)
            if wish is not None:
                self._switch.turn(f"taken over by {wish.get('by', 'another driver')}", 1)
            with contextlib.suppress(OSError):  # a full disk is told elsewhere
                self._write()

    def _is_mine(self) -> bool:
        found = self._store.read_document(self._sweep.lease)
        return found is None or found.get("name") == self._name

    def _write(self, *, ended: bool = False) -> None:
        document = {
            "name": self._name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "heartbeat": time.time(),
            "ended": ended,
        }
        self._store.write_text(self._sweep.lease, json.dumps(document))


def _describe(driver: dict[str, Any] | None) -> str:
    if not driver:
        return "another process of this machine"
    silent = time.time() - float(driver.get("heartbeat", 0.0))
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(driver.get("started", 0.0))))
    return f"process {driver.get('pid')} on {driver.get('host')}, since {since}, last sign of life {silent:.0f} s ago"
