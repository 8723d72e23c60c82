"""Folders on this disk that are copies of folders in a bucket: what is known of their files, who may write them."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.documents import parse_json

HERE_FILE = ".parts.json"
"""In a local copy: the files that were checked, with their digests, sizes and times."""
FREE_BYTES = 2**30
"""What a download leaves free on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """One file of a folder."""

    bytes: int
    sha256: str

    @property
    def location(self) -> str:
        """Its key below the folder's, without the file's name."""
        return self.sha256[:16]


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """Names of the files below a folder, relative to it; hidden ones and `*.partial` left out."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(
        name
        for name in names
        if not name.endswith(".partial") and not any(word.startswith(".") for word in name.split("/"))
    )


def check_space(folder: Path, wanted: int) -> None:
    """Raises `ObjectStoreError` (`ENOSPC`) if so many bytes and some to spare do not fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if wanted and free < wanted + FREE_BYTES:
        full = ObjectStoreError(
            f"{folder} has {free / 2**30:.1f} GiB free, the download needs {wanted / 2**30:.1f} GiB and 1 GiB to spare",
            "Free space there, or name another disk: PARETOVID_CACHE.",
        )
        full.errno = errno.ENOSPC
        raise full


@final
class LocalCopy:
    """What is known of a local folder's files: a file that has not changed since is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            found = parse_json((folder / HERE_FILE).read_text())
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, list[Any]] = {}
        if isinstance(found, dict):
            self._known = {
                name: each for name, each in found.items() if isinstance(each, list) and len(each) == 3
            }

    def digest(self, name: str) -> str | None:
        """The digest of a file that was checked and has not changed since."""
        try:
            stat = (self._folder / name).stat()
        except OSError:
            return None
        sha256, size, changed = self._known.get(name, (None, None, None))
        return sha256 if [size, changed] == [stat.st_size, stat.st_mtime_ns] else None

    def has(self, blobs: Mapping[str, Blob]) -> bool:
        """Whether all of these are known to be here."""
        return all(self.digest(name) == blob.sha256 for name, blob in blobs.items())

    def is_same(self, name: str, blob: Blob) -> bool:
        """Whether the file is here; read if it is not known."""
        path = self._folder / name
        if self.digest(name) == blob.sha256:
            return True
        return path.is_file() and path.stat().st_size == blob.bytes and digest_of(path) == blob.sha256

    def note(self, blobs: Mapping[str, Blob]) -> None:
        """These are here, as they should be."""
        for name, blob in blobs.items():
            stat = (self._folder / name).stat()
            self._known[name] = [blob.sha256, stat.st_size, stat.st_mtime_ns]
        target = self._folder / HERE_FILE
        with partial_file(target.with_name(f"{HERE_FILE}.{uuid.uuid4().hex[:6]}.partial")) as partial:
            partial.write_text(json.dumps(self._known))
            partial.replace(target)
