"""Whether the files of features are those that were written, by their digests: at once, and again once a day."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import Fields, JsonObject, parse_json
from paretovid.trainables.errors import DataError, NonFiniteError, StaleFeaturesError
from paretovid.trainables.features.index import ShardFile

_VERIFIED_FILE = "verified.json"
CHECK_SECONDS = 24 * 3600.0
"""How long a check of the files' digests counts."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: object) -> None:
    """Writes a JSON document to another name, then renames it. A number that is not finite is a `ValueError`."""
    with partial_file(path.with_suffix(f".{os.getpid()}.partial")) as partial:
        partial.write_text(json.dumps(content, allow_nan=False))
        partial.replace(path)


def check_shards(folder: Path, shards: Sequence[ShardFile], repair: str, *, all_of_them: bool) -> None:
    """Digests of all shards; one whose size and time are as at its last check is read again once a day.

    An edit can leave both as they were, and a disk can lose bits without being written to.

    Arguments:
        all_of_them: now, whenever they were checked last.

    Raises `StaleFeaturesError` for one that is missing or damaged, with `repair` as its hint; `OSError` for a disk.
    """
    checked, known = (time.time(), {}) if all_of_them else _read_verified(folder)
    seen: dict[str, list[int]] = {}
    for shard in shards:
        path = folder / shard.file
        if Path(shard.file).name != shard.file or not path.is_file():
            raise StaleFeaturesError(f"features are missing: {path}", repair)
        stat = path.stat()
        seen[path.name] = [stat.st_size, stat.st_mtime_ns]
        if seen[path.name] != known.get(path.name) and file_digest(path) != shard.sha256:
            raise StaleFeaturesError(f"features are damaged (their digest differs): {path}", repair)
    if seen != known:
        try:
            write_whole(folder / _VERIFIED_FILE, {"checked": checked, "files": seen})
        except OSError:
            return  # a read-only store is checked every time


def _read_verified(folder: Path) -> tuple[float, JsonObject]:
    """When the files were first checked of which sizes and times are known, and these; none after a day."""
    now = time.time()
    try:
        fields = Fields(parse_json((folder / _VERIFIED_FILE).read_text()), _VERIFIED_FILE, "")
        checked = fields.number("checked")
        # Another machine may have written it by another clock: a check that is still to come is none.
        if 0 <= now - checked <= CHECK_SECONDS:
            return checked, fields.json("files")
    except (OSError, ValueError, DataError, NonFiniteError):
        return now, {}
    return now, {}
