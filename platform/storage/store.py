"""Where the files of a home are kept for good: a folder, or a bucket with a mirror of it on every machine.

Code works on paths below a root that this machine can read and write. What it makes is uploaded to the store, what it
needs is downloaded from it; small documents that processes of several machines read and write go through it on every
access. With `LocalStore` the paths themselves are the store, and moving is nothing:

    LocalStore      root/…                    one folder, which all nodes see
    BucketStore     s3://BUCKET/PREFIX/…      the source of truth; folders as `infra/object_store.py` keeps them
                    <cache>/<name>/…          the mirror: plain files, this user's alone, which may be deleted whenever
                                              nobody works with them

A folder is uploaded blob by blob and counts once it is committed: readers find all of it, or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, final

from paretovid.infra.local_copy import Blob, LocalCopy, files_below
from paretovid.infra.node_cache import make_private, of_this_user
from paretovid.infra.object_store import MANIFEST, ObjectStore
from paretovid.platform.storage.documents import replace_text
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.s3 import SCHEME, ObjectStoreError
from paretovid.trainables.documents import parse_json, unreadable

CACHE_VARIABLE = "PARETOVID_CACHE"
DOCUMENT_PATIENCE_SECONDS = 10.0
"""How long a document of a bucket that is away is waited for, unless it must answer."""
_PARALLEL = 8


def is_bucket(home: str) -> bool:
    """Whether a home is given as the URL of a bucket."""
    return home.startswith(SCHEME)


def cache_folder() -> Path:
    """Where this user's mirrors are kept: in `PARETOVID_CACHE`, else below the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return of_this_user(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "paretovid"


def mirror_root(url: str, cache: Path | None = None) -> Path:
    """The folder of this machine's mirror of a bucket. Nothing is made or asked.

    Arguments:
        cache: folder of mirrors; None: `cache_folder()`.

    Raises `ObjectStoreError` for a bad URL.
    """
    objects = ObjectStore(url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{endpoint} {objects.url}".encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", objects.root)[-60:]
    return (cache or cache_folder()) / f"{name}-{digest}"


class RayStorage(TypedDict):
    """Where Ray keeps what it writes of a run, as settings of a `RunConfig`."""

    storage_path: str
    storage_filesystem: NotRequired[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a store holds below a folder; names are relative to it."""

    files: dict[str, int]
    """Name to bytes, blobs of folders included."""
    complete: tuple[str, ...]
    """The folders that were committed, sorted."""


class Store(Protocol):
    """All paths lie below the store's root. Methods that reach a bucket raise `ObjectStoreError` if it is away."""

    @property
    def url(self) -> str | None:
        """Of the bucket; None for a folder."""

    @property
    def is_remote(self) -> bool:
        """Whether every access is a request over a network."""
        return self.url is not None

    # Folders of files that do not change any more.

    def upload(self, folder: Path, is_included: Callable[[str], bool] = lambda name: True) -> None:
        """Uploads and commits a folder that nobody writes to.

        Arguments:
            is_included: whether a file belongs to it, by its name relative to the folder.
        """

    def upload_from(self, source: Path, folder: Path, names: Collection[str]) -> None:
        """As `upload`, of these files of a folder outside the home; this machine's mirror need not have them."""

    def download(
        self,
        folder: Path,
        wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> bool:
        """Brings a committed folder here. False if the store has none, or is a folder, where all is here already.

        Arguments:
            wanted: of the names of its files, those to bring.
            heartbeat: called while it downloads, or waits for another process that does.
        """

    def is_complete(self, folder: Path) -> bool:
        """Whether the store vouches for the folder: it was committed. A plain folder never does, as nobody commits to
        it: there the documents in it must say so."""

    def remove_folder(self, folder: Path) -> None:
        """Removes a folder from the store and from here."""

    def check_digests(self, folder: Path) -> None:
        """Reads a committed folder whole. Raises `ObjectStoreError` for a file that is not as it was written.

        A plain folder has no digests of its own.
        """

    # Folders that several processes write, file by file, before they are committed.

    def upload_blobs(self, folder: Path, names: Sequence[str]) -> dict[str, Blob]:
        """Uploads files of a folder. They count once they are committed."""

    def download_blobs(self, folder: Path, blobs: Mapping[str, Blob]) -> None:
        """Brings files here of a folder that is not committed yet."""

    def uncommitted(self, folder: Path, suffix: str) -> dict[str, list[tuple[Blob, bytes]]]:
        """Small blobs of a folder that is not committed yet, whoever has uploaded them: name to each, with its bytes.
        None of a plain folder: what is there is read as files."""

    def remove_blob(self, folder: Path, name: str, blob: Blob) -> None:
        """Removes a blob that was uploaded and not committed."""

    def commit(self, folder: Path, blobs: Mapping[str, Blob], last: str) -> None:
        """Makes a folder complete: of these blobs and the file `last`, which is here."""

    # Single files.

    def upload_file(self, path: Path, *, patience: float | None = None) -> None:
        """Uploads a small file that is here. `patience`: seconds to try, where not as long as usual."""

    def download_file(self, path: Path) -> None:
        """Brings a single file here, if the store has it."""

    def write_text(self, path: Path, text: str) -> None:
        """Writes a document, whole or not at all, for readers on any machine that may look at any time."""

    def read_text(self, path: Path, *, must_answer: bool = False) -> str:
        """A document, as whoever wrote it last has left it.

        Arguments:
            must_answer: wait longer for a bucket that is away.

        Raises `FileNotFoundError`, or another `OSError` if the bucket does not answer.
        """

    def read_document(self, path: Path, *, must_answer: bool = False) -> dict[str, Any] | None:
        """The JSON object in a document; None if there is none, or none that can be read.

        Arguments:
            must_answer: wait longer for a bucket that is away, and raise `ObjectStoreError` if it stays so, `DataError`
                for a file that the disk does not let be read: what it says is not known, and it is not missing.
        """
        try:
            document = parse_json(self.read_text(path, must_answer=must_answer))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            if not must_answer:
                return None
            if isinstance(error, ObjectStoreError):
                raise
            raise unreadable(path, error) from error
        return document if isinstance(document, dict) else None

    def exists(self, path: Path) -> bool:
        """Whether there is a document. A bucket that does not answer says no."""
        try:
            self.read_text(path)
        except OSError:
            return False
        return True

    def age_seconds(self, path: Path) -> float | None:
        """Since a document was last written, by the clock of whoever keeps it: the file server, the bucket.

        Clocks of the machines that write and read it do not count. None if there is none.
        """

    def remove(self, path: Path) -> None:
        """Removes a document, if there is one."""

    # What is there.

    def listing(self, folder: Path) -> Listing:
        """All files below a folder."""

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders right below `folder` that have something in them, sorted."""

    def ray_storage(self, folder: Path) -> RayStorage:
        """Where Ray keeps what it writes below `folder`: all nodes must see it."""


@final
@dataclass(frozen=True, slots=True)
class LocalStore(Store):
    """A folder that all processes see: it is the store itself, and nothing is moved."""

    @property
    def url(self) -> None:
        """None: there is no bucket."""
        return None

    def upload(self, folder: Path, is_included: Callable[[str], bool] = lambda name: True) -> None:
        """Nothing: it is there."""

    def upload_from(self, source: Path, folder: Path, names: Collection[str]) -> None:
        """Copies the files."""
        for name in sorted(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # Not its mode: that of a temporary folder shuts out all other users.
            shutil.copyfile(source / name, folder / name)

    def download(
        self,
        folder: Path,
        wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> bool:
        """False: all is here already."""
        return False

    def is_complete(self, folder: Path) -> bool:
        """False: see `Store`."""
        return False

    def remove_folder(self, folder: Path) -> None:
        """Removes the folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def check_digests(self, folder: Path) -> None:
        """Nothing: see `Store`."""

    def upload_blobs(self, folder: Path, names: Sequence[str]) -> dict[str, Blob]:
        """Nothing: they are there, and need no blobs."""
        return {}

    def download_blobs(self, folder: Path, blobs: Mapping[str, Blob]) -> None:
        """Nothing: they are here."""

    def uncommitted(self, folder: Path, suffix: str) -> dict[str, list[tuple[Blob, bytes]]]:
        """None: see `Store`."""
        return {}

    def remove_blob(self, folder: Path, name: str, blob: Blob) -> None:
        """Nothing: a plain folder has no blobs."""

    def commit(self, folder: Path, blobs: Mapping[str, Blob], last: str) -> None:
        """Nothing: a plain folder is as complete as its documents say."""

    def upload_file(self, path: Path, *, patience: float | None = None) -> None:
        """Nothing: it is there."""

    def download_file(self, path: Path) -> None:
        """Nothing: it is here."""

    def write_text(self, path: Path, text: str) -> None:
        """Replaces the file."""
        replace_text(path, text)

    def read_text(self, path: Path, *, must_answer: bool = False) -> str:
        """Reads the file."""
        return path.read_text()

    def age_seconds(self, path: Path) -> float | None:
        """Against a file that is made for it, and has no name."""
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            return None
        now = time.time()
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path.parent) as probe:
            # A folder that cannot be written to leaves this machine's clock.
            now = os.fstat(probe.fileno()).st_mtime
        return max(0.0, now - written)

    def remove(self, path: Path) -> None:
        """Removes the file."""
        path.unlink(missing_ok=True)

    def listing(self, folder: Path) -> Listing:
        """The files; none is a committed folder's."""
        return Listing(
            files={name: (folder / name).stat().st_size for name in files_below(folder)}, complete=()
        )

    def folders(self, folder: Path) -> list[str]:
        """The folders that have files in them."""
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and files_below(path))

    def ray_storage(self, folder: Path) -> RayStorage:
        """The folder itself."""
        return {"storage_path": str(folder.absolute())}


@final
class BucketStore(Store):
    """A bucket, and this machine's mirror of what it uses of it.

    Arguments:
        objects: the bucket.
        root: of the mirror. A path outside it is a `ValueError`: it has no place in the bucket.
    """

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        self._objects = objects
        self.root = root

    @classmethod
    def open(cls, url: str, cache: Path | None = None, *, check: bool = False) -> BucketStore:
        """The store at a URL, its mirror made if it is missing.

        Arguments:
            cache: folder of mirrors; None: `cache_folder()`.
            check: try first all that is needed of the bucket.

        Raises `ObjectStoreError` if it cannot be used, `OSError` if the mirror cannot be made.
        """
        objects, root = ObjectStore(url), mirror_root(url, cache)
        if check:
            objects.check()
        if cache is not None or os.environ.get(CACHE_VARIABLE):
            make_private(root.parent)  # on a disk that others of the machine may write to as well
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(exist_ok=True)
        return cls(objects, root)

    @property
    def url(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return self._objects.url

    def _key(self, path: Path) -> str:
        return "" if path == self.root else path.relative_to(self.root).as_posix()

    def upload(self, folder: Path, is_included: Callable[[str], bool] = lambda name: True) -> None:
        """Blobs first, the manifest last."""
        self._objects.upload_folder(folder, self._key(folder), is_included=is_included)

    def upload_from(self, source: Path, folder: Path, names: Collection[str]) -> None:
        """The mirror is not written to."""
        self._objects.upload_folder(
            source, self._key(folder), is_included=lambda name: name in names, is_mirror=False
        )

    def download(
        self,
        folder: Path,
        wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> bool:
        """Only what differs from the mirror comes over the network."""
        return self._objects.download_folder(self._key(folder), folder, wanted=wanted, heartbeat=heartbeat)

    def is_complete(self, folder: Path) -> bool:
        """Whether the bucket has its manifest."""
        return self._objects.manifest(self._key(folder)) is not None

    def remove_folder(self, folder: Path) -> None:
        """From the bucket first: what is left here then is of no consequence."""
        self._objects.remove_folder(self._key(folder))
        shutil.rmtree(folder, ignore_errors=True)

    def check_digests(self, folder: Path) -> None:
        """From the bucket, not from the mirror."""
        self._objects.check_digests(self._key(folder))

    def upload_blobs(self, folder: Path, names: Sequence[str]) -> dict[str, Blob]:
        """One after the other."""
        key = self._key(folder)
        return {name: self._objects.put_blob(folder / name, key, name) for name in names}

    def download_blobs(self, folder: Path, blobs: Mapping[str, Blob]) -> None:
        """Those that the mirror has not."""
        folder.mkdir(parents=True, exist_ok=True)
        here = LocalCopy(folder)
        for name, blob in blobs.items():
            if not here.is_same(name, blob):
                self._objects.get_blob(self._key(folder), name, blob, folder)

    def uncommitted(self, folder: Path, suffix: str) -> dict[str, list[tuple[Blob, bytes]]]:
        """Read by one request each, several at a time."""
        key = self._key(folder)
        found: dict[str, list[tuple[Blob, bytes]]] = {}
        names = [name for name in self._objects.names(key) if name.endswith(suffix) and name.count("/") == 1]
        contents = self._objects.read_many([f"{key}/{name}" for name in names])
        for name, content in zip(names, contents, strict=True):
            if content is None:  # removed since it was listed
                continue
            blob = Blob(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            found.setdefault(name.partition("/")[2], []).append((blob, content))
        return found

    def remove_blob(self, folder: Path, name: str, blob: Blob) -> None:
        """From the bucket; a file of that name stays here."""
        self._objects.remove(f"{self._key(folder)}/{blob.location}/{name}")

    def commit(self, folder: Path, blobs: Mapping[str, Blob], last: str) -> None:
        """Writes the manifest."""
        key = self._key(folder)
        self._objects.commit(key, {**blobs, last: self._objects.put_blob(folder / last, key, last)})

    def upload_file(self, path: Path, *, patience: float | None = None) -> None:
        """As one object."""
        self._objects.write(self._key(path), path.read_bytes(), patience=patience)

    def download_file(self, path: Path) -> None:
        """Takes the mirror's place of it at once."""
        content = self._objects.read(self._key(path))
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial_file(path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.partial")) as partial:
                partial.write_bytes(content)
                partial.replace(path)

    def write_text(self, path: Path, text: str) -> None:
        """Here, then in the bucket."""
        replace_text(path, text)
        self.upload_file(path)

    def read_text(self, path: Path, *, must_answer: bool = False) -> str:
        """Out of the bucket, every time."""
        content = self._objects.read(
            self._key(path), patience=None if must_answer else DOCUMENT_PATIENCE_SECONDS
        )
        if content is None:
            raise FileNotFoundError(path)
        return content.decode()

    def age_seconds(self, path: Path) -> float | None:
        """By one request, whose answer has both times."""
        return self._objects.age_seconds(self._key(path))

    def remove(self, path: Path) -> None:
        """Here and in the bucket."""
        path.unlink(missing_ok=True)
        self._objects.remove(self._key(path))

    def listing(self, folder: Path) -> Listing:
        """By one request."""
        names = self._objects.names(self._key(folder))
        complete = (name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}"))
        return Listing(files=dict(names), complete=tuple(sorted(complete)))

    def folders(self, folder: Path) -> list[str]:
        """By one request."""
        return self._objects.folders(self._key(folder))

    def ray_storage(self, folder: Path) -> RayStorage:
        """In the bucket."""
        return {
            "storage_path": f"{self._objects.root}/{self._key(folder)}",
            "storage_filesystem": self._objects.arrow_files(),
        }


def download_files(store: Store, paths: Sequence[Path]) -> None:
    """Single files, several at a time."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(store.download_file, paths))
