"""An Optuna journal in a bucket: one object per record, each written only if nobody has written that number.

So several writers agree on the order without a lock, and what is written is whole. A record is about 30 ms away from
here, and a trial has ten of them: a database is quicker where there are many short trials.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable
from typing import final

from optuna.storages.journal import BaseJournalBackend

from paretovid.infra.object_store import ObjectStore
from paretovid.platform.console.warnings import say_on_stderr
from paretovid.platform.search.journal_records import JournalRecords, Record

POLL_SECONDS = 1.0
"""Between two polls for records of others. A study has one writer at a time, whose own are known."""
_BATCH = 500
_KEY = re.compile(r"(\d{8})\.json")


@final
class ObjectJournal(BaseJournalBackend):
    """The journal whose records lie below a store's URL. Those that are damaged or missing are told by their numbers.

    Arguments:
        say: told of them.
    """

    def __init__(self, store: ObjectStore, say: Callable[[str], None] = say_on_stderr) -> None:
        self._store = store
        self._records = JournalRecords(store.url, "record", _parse_object, say)
        self._logs: list[Record] = []
        self._next = 0
        self._polled: float | None = None

    def read_logs(self, log_number_from: int) -> Iterable[Record]:
        """All records from this number on."""
        if self._polled is None or time.monotonic() - self._polled > POLL_SECONDS:
            self._poll()
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[Record]) -> None:
        """Adds records behind all that there are."""
        content = json.dumps({"by": uuid.uuid4().hex, "logs": logs}).encode()
        while not self._store.write_new(_key(self._next), content):
            self._poll()
        self._take([content])

    def _poll(self) -> None:
        """Reads what others have written."""
        found: list[bytes] = []
        if self._polled is None:
            named = (_KEY.fullmatch(name) for name in self._store.names(""))
            end = max((int(match[1]) + 1 for match in named if match), default=0)
            # This journal may have written before it first polled: what it knows it must not take again.
            for start in range(self._next, end, _BATCH):
                keys = [_key(number) for number in range(start, min(start + _BATCH, end))]
                found += [content or b"" for content in self._store.read_many(keys)]
        while (content := self._store.read(_key(self._next + len(found)))) is not None:
            found.append(content)
        self._take(found)
        self._polled = time.monotonic()

    def _take(self, contents: list[bytes]) -> None:
        self._logs += self._records.take(enumerate(contents, self._next))
        self._next += len(contents)


def _key(number: int) -> str:
    return f"{number:08d}.json"


def _parse_object(content: bytes) -> list[Record]:
    logs: list[Record] = list(json.loads(content.decode())["logs"])
    return logs
