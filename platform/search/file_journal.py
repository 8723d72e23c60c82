"""An Optuna journal in a file that many sweeps of a home share, perhaps over a network.

Optuna's own backend ends with the first line that it cannot read, and waits for ever for a lock whose link leads to
a path that does not exist on this machine. The file and the lock are Optuna's, so that both can work on one journal.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, final

from optuna.storages.journal import BaseJournalBackend

from paretovid.platform.console.warnings import say_on_stderr
from paretovid.platform.search.journal_records import JournalRecords, Record
from paretovid.platform.storage.faults import while_away

LOCK_SECONDS = 30.0
"""A lock that has not changed for so long, with the journal, while somebody waited for it is that of a dead process."""
_LONGEST_PAUSE_SECONDS = 0.25
_BLOCK_BYTES = 2**16
_WAIT_SECONDS = 30.0
"""For a journal whose disk is away."""


@final
class LinkLock:
    """The lock of a journal: a symbolic link beside it, which no network file system makes twice.

    Where it leads says nothing: its owner's path of the journal, which need not exist on this machine.
    """

    def __init__(self, journal: Path, patience: float = LOCK_SECONDS) -> None:
        self._journal = journal
        self._link = journal.with_name(f"{journal.name}.lock")
        self._patience = patience

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for the block. Raises `OSError` where no link can be made."""
        self._wait_for_it()
        mine = self._identity(self._link)
        try:
            yield
        finally:
            # Broken by somebody who took this process for dead: then the one that is there is not ours to remove.
            if mine is not None and self._identity(self._link) == mine:
                self._link.unlink(missing_ok=True)

    def _wait_for_it(self) -> None:
        seen: object = None
        since, pause = time.monotonic(), 0.001
        while True:
            try:
                self._link.symlink_to(self._journal)
                return
            except FileExistsError:
                pass
            found = self._identity(self._link)
            # By this machine's own clock, and for as long as neither changes: other clocks may say anything.
            if (found, self._identity(self._journal)) != seen:
                seen, since = (found, self._identity(self._journal)), time.monotonic()
            elif found is not None and time.monotonic() - since > self._patience:
                self._break(found)
                continue
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _break(self, dead: tuple[int, ...]) -> None:
        aside = self._link.with_name(f"{self._link.name}{uuid.uuid4().hex}.rename")
        with contextlib.suppress(FileNotFoundError):
            self._link.rename(aside)
            if self._identity(aside) != dead:
                # Another waiter was quicker, and this one is its new lock.
                with contextlib.suppress(OSError):
                    os.link(aside, self._link, follow_symlinks=False)
            aside.unlink()

    @staticmethod
    def _identity(path: Path) -> tuple[int, ...] | None:
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


@final
class FileJournal(BaseJournalBackend):
    """The journal in a file, made if it is missing. Its damaged lines are left out, and told by their numbers.

    Arguments:
        lock_seconds: as `LOCK_SECONDS`.
        say: told of damaged lines.
    """

    def __init__(
        self, path: Path, *, lock_seconds: float = LOCK_SECONDS, say: Callable[[str], None] = say_on_stderr
    ) -> None:
        self._path = path
        self._say = say
        self._lock = LinkLock(path, lock_seconds)
        path.open("ab").close()
        self._begin()

    def _begin(self) -> None:
        self._records = JournalRecords(str(self._path), "line", _parse_line, self._say)
        self._position = self._lines = 0
        self._first = 0
        # Those that were read and not asked for yet; Optuna keeps the rest.
        self._waiting: deque[Record] = deque()

    def read_logs(self, log_number_from: int) -> Iterable[Record]:
        """All records from this number on."""
        if log_number_from < self._first:
            self._begin()
        while_away(self._read_on, places=(self._path,), seconds=_WAIT_SECONDS)
        while self._first < log_number_from and self._waiting:
            self._waiting.popleft()
            self._first += 1
        return list(self._waiting)

    def append_logs(self, logs: list[Record]) -> None:
        """Adds records behind all that there are. Raises `OSError`, adding none, if the disk does not take them; one
        that is away for a moment is waited for."""
        while_away(lambda: self._append(logs), places=(self._path,), seconds=_WAIT_SECONDS)

    def _append(self, logs: list[Record]) -> None:
        # To open it for appending would make a new one where a mount is gone, and the records would be lost with it.
        self._path.stat()
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._lock.held(), self._path.open("ab+", buffering=0) as file:
            size = _cut_unfinished_line(file)
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise

    def _read_on(self) -> None:
        """Reads what was written since. A last line without its end is being written, or nobody will end it."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            lines = _whole_lines(file)
        # All were read: a disk that goes away in the middle leaves nothing taken, and the next reading begins here.
        found = self._records.take(enumerate(lines, self._lines + 1))
        self._position += sum(map(len, lines))
        self._lines += len(lines)
        if self._records.num_damaged and not (found or self._waiting or self._first):
            raise ValueError(f"it is no journal of studies: none of its {self._lines} lines is a record")
        self._waiting.extend(found)


def _whole_lines(file: Iterable[bytes]) -> list[bytes]:
    return list(itertools.takewhile(lambda line: line.endswith(b"\n"), file))


def _cut_unfinished_line(file: BinaryIO) -> int:
    """Takes away what a writer that died has left behind the last whole line. Returns the file's length then.

    The next line would be glued to it. Whoever calls this has the lock, so that nobody is writing it now.
    """
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return end


def _parse_line(line: bytes) -> list[Record]:
    return [json.loads(line.decode())]
