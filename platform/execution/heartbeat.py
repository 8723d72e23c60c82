"""What a trial and its driver report to each other, as small files in the sweep's folder, which all nodes see.

    stop.json                    the driver asks all trials to end with a checkpoint (`StopRequest`)
    trials/<trial>/alive.json    which process has the trial, and when it last got on (`TrialHeartbeat`)

A process whose trial was given to another one (its driver died, and the next was quicker than its end) finds
another lease than its own in `alive.json`, and leaves the trial alone from then on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import final

from paretovid.platform.records.lease import TrialHeartbeat
from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.errors import DataError

POLL_SECONDS = 1.0
"""Between two polls for the driver's wish; a file system over a network is asked no more often."""
BEAT_SECONDS = float(os.environ.get("PARETOVID_HEARTBEAT_SECONDS", "2"))
"""Between two heartbeats: a thousand trials at a time make five hundred small writes a second."""
SLOWER_IN_A_BUCKET = 6.0


def heartbeat_of(trial: TrialPaths) -> TrialHeartbeat | None:
    """The last heartbeat of a trial; None if no process has the trial.

    Raises `DataError` for one that cannot be read, such as one that a later version has written.
    """
    found = trial.store.read_document(trial.heartbeat)
    return None if found is None else TrialHeartbeat.from_json(found, str(trial.heartbeat))


@final
class HeartbeatWriter:
    """One trial's end of it, in the process that has the trial."""

    def __init__(self, trial: TrialPaths) -> None:
        self._trial = trial
        self._store = trial.store
        self._stop_file = trial.sweep.stop
        self._lease = uuid.uuid4().hex
        # Where every heartbeat is a request over a network, fewer of them.
        slower = SLOWER_IN_A_BUCKET if self._store.is_remote else 1.0
        self._poll_seconds, self._beat_seconds = slower * POLL_SECONDS, slower * BEAT_SECONDS
        self._polled = self._beaten = -1e9
        self._should_end = False
        self._beats = 0
        self._progress: dict[str, float] = {}
        # Not the sweep's folder: where a mount is gone, a new tree would be made under it, for nobody to find.
        if self._store.is_remote:
            trial.sweep.folder.mkdir(parents=True, exist_ok=True)
        trial.sweep.trials.mkdir(exist_ok=True)
        trial.folder.mkdir(exist_ok=True)
        self._write()

    @property
    def is_mine(self) -> bool:
        """False once another process has the trial."""
        try:
            found = heartbeat_of(self._trial)
        except DataError:  # another version's: this process has written none that it cannot read
            return False
        return found is None or found.lease == self._lease

    def heartbeat(self, progress: Mapping[str, float] | None = None) -> bool:
        """A heartbeat, if one is due. True once the trial should end."""
        now = time.monotonic()
        self._beats += 1
        if progress is not None:
            self._progress = dict(progress)
        if now - self._beaten >= self._beat_seconds:
            self._beaten = now
            if self.is_mine:
                with contextlib.suppress(OSError):  # a heartbeat that is missed does no harm
                    self._write()
            else:
                self._should_end = True
        if not self._should_end and now - self._polled >= self._poll_seconds:
            self._polled = now
            self._should_end = self._store.exists(self._stop_file)
        return self._should_end

    def end(self) -> None:
        """The trial is over; nobody is alive in it."""
        if self.is_mine:
            with contextlib.suppress(OSError):
                self._store.remove(self._trial.heartbeat)

    def _write(self) -> None:
        heartbeat = TrialHeartbeat(
            lease=self._lease,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            beats=self._beats,
            progress=self._progress,
        )
        self._store.write_text(self._trial.heartbeat, json.dumps(heartbeat.to_json()))
