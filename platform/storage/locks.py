"""Locks on files of this machine."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from paretovid.trainables.errors import UsageError


@contextlib.contextmanager
def alone(folder: Path, lock_name: str = ".lock") -> Iterator[None]:
    """Holds a lock on a folder between processes of this machine. The kernel frees it with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = _flock(folder / lock_name)
    if lock is None:
        raise UsageError(f"the sweep in {folder} is running already", "Wait for it, or end it.")
    with lock:
        yield


def _flock(path: Path) -> TextIO | None:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
