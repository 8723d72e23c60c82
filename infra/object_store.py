"""An S3 bucket as a store of immutable folders and small documents.

    <prefix>/<folder>/<sha256, 16 digits>/<file>     the blobs of a folder, each under the digest of its bytes
    <prefix>/<folder>/whole.json                     written last: every blob's name, length and sha256

A folder is complete, or it is not there. Blobs never change under their keys, so that two writers of the same content
write the same, two of different content each leave a complete folder (the last one's counts), and readers need no lock.

What is read is checked by length and digest, and gets its name on this disk only then. A lost connection is tried
again for `patience` seconds, a download from the byte that it had come to.

Credentials and the endpoint are what botocore finds (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a role, ...;
`AWS_ENDPOINT_URL`): nothing of them is kept, or shown in an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, final

from paretovid.infra.local_copy import Blob, LocalCopy, check_space, digest_of, files_below
from paretovid.infra.locks import exclusive_lock
from paretovid.trainables.data.s3 import (
    CHUNK_BYTES,
    PATIENCE_SECONDS,
    SCHEME,
    ObjectStoreError,
    code_of,
    connect,
    patiently,
)
from paretovid.trainables.documents import Fields, parse_json
from paretovid.trainables.errors import DataError, NonFiniteError

MANIFEST = "whole.json"
_FORMAT = 1
_MAKE_AGAIN = "It was changed in the bucket. Remove the folder there; whoever made it writes it again."
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARALLEL = 8
_T = TypeVar("_T")


@final
class ObjectStore:
    """The objects below `s3://BUCKET/PREFIX`. Keys are relative to it, with `/` between their blobs.

    Raises `ObjectStoreError` for a bad URL, and from every method if the bucket cannot be used. May be pickled.
    """

    def __init__(self, url: str, patience: float = PATIENCE_SECONDS) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        bucket, _, prefix = url.removeprefix(SCHEME).rstrip("/").partition("/")
        if not url.startswith(SCHEME) or not bucket or "@" in bucket or "?" in url:
            raise ObjectStoreError(f"not the URL of a bucket: {url}", f"Write {SCHEME}BUCKET/PREFIX.")
        self.bucket = bucket
        self.root = f"{bucket}/{prefix}" if prefix else bucket
        self._files: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return type(self), (self.url, self.patience)

    @property
    def files(self) -> Any:
        """The `s3fs.S3FileSystem` behind it."""
        with self._lock:
            if self._files is None:
                self._files = connect()
        return self._files

    def arrow_files(self) -> Any:
        """The file system as Ray takes it (`storage_filesystem`). It connects anew wherever it is sent."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(connect()))

    def check(self) -> None:
        """Tries all that is needed, within seconds: list, write, read, write only what is new, delete.

        Raises `ObjectStoreError` that says what is missing.
        """
        quick = ObjectStore(self.url, patience=3.0)
        probe = f".probe-{uuid.uuid4().hex}"
        quick._do("list", "", lambda files: files.find(f"{self.root}/.probe", withdirs=False))
        quick.write(probe, b"1")
        try:
            if quick.read(probe) != b"1":
                raise ObjectStoreError(
                    f"{self.url} does not give back what was written", "Is it a cache in front of a bucket?"
                )
            if quick.write_new(probe, b"2"):
                raise ObjectStoreError(
                    f"the S3 server of {self.url} ignores If-None-Match",
                    "Two drivers could overwrite each other's study there. Use another server, or keep studies in a "
                    "database and ask for that server's newer version.",
                )
        finally:
            quick.remove(probe)

    def read(self, key: str, *, patience: float | None = None) -> bytes | None:
        """A small object's bytes; None if there is none."""
        try:
            content = self._do(
                "read",
                key,
                lambda files: files.cat_file(self._path(key), max_concurrency=1),
                missing_is_error=False,
                patience=patience,
            )
        except FileNotFoundError:
            return None
        return bytes(content)

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes of small objects, in their order; None for each that is not there."""
        if not keys:
            return []
        paths = [self._path(key) for key in keys]

        def read(files: Any) -> list[bytes | None]:
            found = files.cat(paths, recursive=False, on_error="return")
            by_path = found if isinstance(found, dict) else {paths[0]: found}
            return [_bytes_or_none(by_path[path]) for path in paths]

        return self._do("read", f"{keys[0]} and others", read)

    def age_seconds(self, key: str) -> float | None:
        """Since an object was written, by the bucket's own clock, to the second; None if there is none."""
        where = {"Bucket": self.bucket, "Key": self._path(key).removeprefix(f"{self.bucket}/")}
        try:
            answer = self._do(
                "read", key, lambda files: files.call_s3("head_object", **where), missing_is_error=False
            )
        except FileNotFoundError:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        written: datetime = answer["LastModified"]
        return max(0.0, (now - written).total_seconds())

    def write(self, key: str, content: bytes, *, patience: float | None = None) -> None:
        """Writes or replaces a small object, whole."""
        self._do("write", key, lambda files: files.pipe_file(self._path(key), content), patience=patience)

    def write_new(self, key: str, content: bytes) -> bool:
        """Writes a small object unless there is one of this key. Returns whether it did.

        After a lost connection, an object that holds exactly `content` counts as written.
        """
        try:
            self._do("write", key, lambda files: files.pipe_file(self._path(key), content, mode="create"))
        except FileExistsError:
            return self.read(key) == content
        return True

    def remove(self, key: str) -> None:
        """Removes an object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._do("delete", key, lambda files: files.rm_file(self._path(key)), missing_is_error=False)

    def remove_folder(self, key: str) -> None:
        """Removes everything below a key; the manifest first, so that nobody takes the rest for complete."""
        self.remove(f"{key}/{MANIFEST}")
        paths = [self._path(f"{key}/{name}") for name in self.names(key)]
        if paths:
            self._do("delete", key, lambda files: files.rm(paths))

    def names(self, key: str) -> dict[str, int]:
        """The objects below a key, at any depth: their keys relative to it, and their lengths."""
        start = f"{self._path(key)}/" if key else f"{self.root}/"
        found = self._do("list", key, lambda files: files.find(start, detail=True))
        return {path.removeprefix(start): int(entry["size"]) for path, entry in found.items()}

    def folders(self, key: str) -> list[str]:
        """The names one level below a key that have objects below them."""

        def listed(files: Any) -> list[str]:
            try:
                entries = files.ls(self._path(key), detail=True, refresh=True)
            except FileNotFoundError:
                return []
            return sorted(
                entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory"
            )

        return self._do("list", key, listed)

    def manifest(self, key: str) -> dict[str, Blob] | None:
        """The blobs of the folder at a key; None if there is no complete one."""
        text = self.read(f"{key}/{MANIFEST}")
        if text is None:
            return None
        try:
            document = Fields(parse_json(text), MANIFEST, "")
            found = document.whole("format", _FORMAT)
            if found != _FORMAT:
                raise ObjectStoreError(
                    f"{self.url}/{key}/{MANIFEST} is of format {found}, and this code reads {_FORMAT}",
                    "Another paretovid wrote it: use that one, or a newer one.",
                )
            return {name: _blob(name, blob) for name, blob in document.fields_by_name("parts").items()}
        except (ValueError, DataError, NonFiniteError) as error:
            why = getattr(error, "message", "") or str(error)
            raise ObjectStoreError(
                f"{self.url}/{key}/{MANIFEST} is damaged: {why}",
                "Remove it; the folder is written again by whoever made it.",
            ) from error

    def check_digests(self, key: str) -> None:
        """Reads all blobs of the folder at a key. Raises `ObjectStoreError` for one that is not as it was written."""
        for name, blob in (self.manifest(key) or {}).items():
            digest = hashlib.sha256()
            try:
                for start in range(0, blob.bytes, CHUNK_BYTES):
                    end = min(start + CHUNK_BYTES, blob.bytes)
                    digest.update(self._range(f"{key}/{blob.location}/{name}", start, end))
            except FileNotFoundError:
                raise ObjectStoreError(f"{name} of {self.url}/{key} is missing", _MAKE_AGAIN) from None
            if digest.hexdigest() != blob.sha256:
                raise ObjectStoreError(
                    f"{name} of {self.url}/{key} has another digest than it was written with", _MAKE_AGAIN
                )

    def put_blob(self, path: Path, key: str, name: str, sha256: str | None = None) -> Blob:
        """Uploads a file as a blob of the folder at a key, unless it is there. It counts once it is committed.

        Arguments:
            sha256: of the file, if it is known.
        """
        blob = Blob(bytes=path.stat().st_size, sha256=sha256 or digest_of(path))
        target = f"{key}/{blob.location}/{name}"
        if self.names(f"{key}/{blob.location}").get(name) != blob.bytes:
            self._do("write", target, lambda files: files.put_file(str(path), self._path(target)))
        return blob

    def commit(self, key: str, blobs: Mapping[str, Blob]) -> None:
        """Makes a folder of blobs that were uploaded. Every blob is looked for first."""
        there = self.names(key)
        for name, blob in blobs.items():
            if there.get(f"{blob.location}/{name}") != blob.bytes:
                raise ObjectStoreError(
                    f"{name} of {self.url}/{key} has not arrived whole", "Try again.", is_passing=True
                )
        document = {"format": _FORMAT, "parts": {name: asdict(blobs[name]) for name in sorted(blobs)}}
        content = json.dumps(document, indent=1).encode()
        if self.read(f"{key}/{MANIFEST}") != content:
            self.write(f"{key}/{MANIFEST}", content)

    def upload_folder(
        self,
        folder: Path,
        key: str,
        *,
        is_included: Callable[[str], bool] = lambda name: True,
        is_mirror: bool = True,
    ) -> None:
        """Uploads a folder of files that are not being written to: blobs first, the manifest last.

        Arguments:
            is_included: whether a file belongs to it, by its name relative to the folder. Hidden files and `*.partial`
                never do.
            is_mirror: the folder is a copy of what is in the bucket from now on; else nothing is written to it.
        """
        names = [name for name in files_below(folder) if is_included(name)]
        known = LocalCopy(folder)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            blobs = pool.map(lambda name: self.put_blob(folder / name, key, name, known.digest(name)), names)
            committed = dict(zip(names, blobs, strict=True))
        self.commit(key, committed)
        if is_mirror:
            known.note(committed)

    def download_folder(
        self,
        key: str,
        folder: Path,
        *,
        wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> bool:
        """Brings the local folder to what the folder at a key is. False if there is no complete one.

        Only what differs is downloaded. One process of this machine does it while others wait for it.

        Arguments:
            wanted: of the names of all blobs, those to have here.
            heartbeat: called while it downloads or waits.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            blobs = self.manifest(key)
            if blobs is None:
                return False
            blobs = {name: blobs[name] for name in wanted(blobs.keys())}
            here = LocalCopy(folder)
            if here.has(blobs):
                return True
            with exclusive_lock(folder.with_name(f".{folder.name}.lock"), waiting=heartbeat):
                here = LocalCopy(folder)
                try:
                    self._fill(key, folder, blobs, here, heartbeat)
                    return True
                except FileNotFoundError:
                    continue  # replaced and removed meanwhile: look again
        raise ObjectStoreError(f"{self.url}/{key} changes while it is read", "Try again.", is_passing=True)

    def _fill(
        self,
        key: str,
        folder: Path,
        blobs: Mapping[str, Blob],
        here: LocalCopy,
        heartbeat: Callable[[], object],
    ) -> None:
        missing = {name: blob for name, blob in blobs.items() if not here.is_same(name, blob)}
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, sum(blob.bytes for blob in missing.values()))
        with ThreadPoolExecutor(_PARALLEL) as pool:
            waiting = [pool.submit(self.get_blob, key, name, blob, folder) for name, blob in missing.items()]
            try:
                for each in waiting:
                    while not each.done():
                        heartbeat()
                        with contextlib.suppress(TimeoutError):
                            each.exception(timeout=0.2)
                    each.result()
            finally:
                for each in waiting:
                    each.cancel()
        here.note(blobs)

    def get_blob(self, key: str, name: str, blob: Blob, folder: Path) -> None:
        """Downloads one file of the folder at a key, committed or not, into `folder`."""
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:6]}.partial")
        try:
            for _ in range(3):
                self._download(f"{key}/{blob.location}/{name}", blob, partial)
                if digest_of(partial) == blob.sha256:
                    partial.replace(target)
                    return
        finally:
            partial.unlink(missing_ok=True)
        raise ObjectStoreError(
            f"{name} of {self.url}/{key} arrives with another digest than it was written with",
            _MAKE_AGAIN,
        )

    def _download(self, key: str, blob: Blob, partial: Path) -> None:
        with partial.open("wb") as file:
            while (start := file.tell()) < blob.bytes:
                file.write(self._range(key, start, min(start + CHUNK_BYTES, blob.bytes)))

    def _range(self, key: str, start: int, end: int) -> bytes:
        def read(files: Any) -> bytes:
            chunk: bytes = files.cat_file(self._path(key), start=start, end=end)
            if len(chunk) != end - start:
                raise ConnectionError(f"{len(chunk)} bytes came of {end - start}")
            return chunk

        return self._do("read", key, read, missing_is_error=False)

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _do(
        self,
        action: str,
        key: str,
        call: Callable[[Any], _T],
        *,
        missing_is_error: bool = True,
        patience: float | None = None,
    ) -> _T:
        """As `patiently`, of this store's file system."""
        return patiently(
            lambda: call(self.files),
            self.url,
            action,
            key,
            missing_is_error=missing_is_error,
            patience=self.patience if patience is None else patience,
        )


def _blob(name: str, fields: Fields) -> Blob:
    """An entry of a manifest. Raises `ValueError` for one that would be written outside of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no name of a file in a folder")
    blob = Blob(bytes=fields.whole("bytes"), sha256=fields.text("sha256"))
    if blob.bytes < 0 or not _SHA256.fullmatch(blob.sha256):
        raise ValueError(f"{name!r} has no length and digest")
    return blob


def _bytes_or_none(found: bytes | Exception) -> bytes | None:
    """One answer of several; raises unless it is an object's bytes or says that there is no such object."""
    if not isinstance(found, Exception):
        return bytes(found)
    if isinstance(found, FileNotFoundError) and code_of(found) != "NoSuchBucket":
        return None
    raise found
