"""A file of a home that is appended to, such as a sweep's journal."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import final

from paretovid.platform.storage.store import DOCUMENT_PATIENCE_SECONDS, Store
from paretovid.trainables.data.s3 import ObjectStoreError


@final
class GrowingFile:
    """A file that is appended to here, and uploaded now and then, whole."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._uploaded = -1e9

    def grown(self, *, now: bool = False) -> None:
        """It has grown. `now`: it should be in the store; else a few seconds later will do.

        A bucket that is away is no fault: it gets everything the next time.
        """
        if not self._store.is_remote:
            return
        # The longer the file the rarer, so that what is sent stays in proportion to what is written.
        pause = max(5.0, self._path.stat().st_size / 2**18)
        if now or time.monotonic() - self._uploaded > pause:
            self._uploaded = time.monotonic()
            with contextlib.suppress(ObjectStoreError):
                self._store.upload_file(self._path, patience=DOCUMENT_PATIENCE_SECONDS)
