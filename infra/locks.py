"""Exclusive locks between processes of one machine: the only implementation, on `flock`.

The kernel frees a lock however its holder ends. Lock files stay: whoever removed one would leave two processes with a
lock on two files of the same name. (The package `filelock` is built on the same call, but can neither ask whether
somebody has a lock without the right to write there, nor report progress while it waits.)
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from paretovid.trainables.errors import ParetovidError

_POLL_SECONDS = 0.05


class LockHeldError(ParetovidError):
    """Another process has the lock."""


@contextlib.contextmanager
def exclusive_lock(
    path: Path,
    *,
    wait_seconds: float | None = None,
    waiting: Callable[[], object] = lambda: None,
    refusal: ParetovidError | None = None,
) -> Iterator[None]:
    """Holds the lock for the block. Not re-entrant: a second one of the same process waits as well.

    Arguments:
        path: the lock's file, made if it is missing, with its folder.
        wait_seconds: how long to wait for whoever has it; 0: not at all; None: as long as it takes.
        waiting: called again and again meanwhile.
        refusal: raised when the time is up; None: `LockHeldError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = None if wait_seconds is None else time.monotonic() + wait_seconds
    with path.open("w") as file:
        while not _is_free(file.fileno(), fcntl.LOCK_EX):
            if until is not None and time.monotonic() >= until:
                raise refusal or LockHeldError(
                    f"{path} is locked by another process", "Wait until it has ended."
                )
            waiting()
            time.sleep(_POLL_SECONDS)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process of this machine has the lock, or may have it: a file that cannot be read does not say.

    Needs no right to write, and makes no file.
    """
    try:
        with path.open() as file:
            return not _is_free(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _is_free(descriptor: int, kind: int) -> bool:
    """Takes the lock if nobody has it; closing the file gives it back."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
