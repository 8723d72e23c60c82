"""An Optuna journal in a bucket: one object per record, each written only if nobody has written that number.

So several writers agree on the order without a lock, and what is written is whole. A record is about 30 ms away from
here, and a trial has ten of them: a database is quicker where there are many short trials.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any, final

from optuna.storages.journal import BaseJournalBackend

from paretovid.infra.object_store import ObjectStore

POLL_SECONDS = 1.0
"""Between two polls for records of others. A study has one writer at a time, whose own are known."""
_BATCH = 500


@final
class ObjectJournal(BaseJournalBackend):
    """The journal whose records lie below a store's URL."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._logs: list[dict[str, Any]] = []
        self._next = 0
        self._polled: float | None = None

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """All records from this number on."""
        if self._polled is None or time.monotonic() - self._polled > POLL_SECONDS:
            self._poll()
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds records behind all that there are."""
        content = json.dumps({"by": uuid.uuid4().hex, "logs": logs}).encode()
        while not self._store.write_new(self._key(self._next), content):
            self._poll()
        self._logs += logs
        self._next += 1

    def _poll(self) -> None:
        """Reads what others have written."""
        if self._polled is None:
            there = len(self._store.names(""))
            for start in range(0, there, _BATCH):
                keys = [self._key(number) for number in range(start, min(start + _BATCH, there))]
                for record in self._store.read_many(keys):
                    self._take(record)
        while (content := self._store.read(self._key(self._next))) is not None:
            self._take(content)
        self._polled = time.monotonic()

    def _take(self, content: bytes) -> None:
        self._logs += json.loads(content)["logs"]
        self._next += 1

    @staticmethod
    def _key(number: int) -> str:
        return f"{number:08d}.json"
