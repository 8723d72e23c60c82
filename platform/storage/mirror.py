"""A home in a bucket: the truth lies there, and every machine has a mirror of what it uses.

    s3://BUCKET/PREFIX/…      as under any home; folders as `infra/object_store.py` keeps them
    <cache>/<name>/…          the mirror: plain files, for everything that reads and writes paths

Code works on paths of the mirror. What it makes goes to the bucket by `share`, what it needs comes by `fetch`; small
documents that processes of several machines read and write (`DOCUMENTS`) go through on every access. For a home that
is a folder all of this does nothing. A mirror may be deleted whenever nobody works with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from paretovid.infra.local_copy import Blob, LocalCopy
from paretovid.infra.node_cache import node_cache
from paretovid.infra.object_store import MANIFEST, ObjectStore
from paretovid.trainables.data.s3 import SCHEME, ObjectStoreError

CACHE_VARIABLE = "PARETOVID_CACHE"
DOCUMENTS = frozenset(
    (
        "sweep.json",
        "driver.json",
        "take-over.json",
        "stop.json",
        "tracked.json",
        "alive.json",
        "failure.json",
        "outcome.json",
    )
)
"""Files of a sweep that are read where they are written: in the bucket."""
JOURNAL_FILE = "journal.jsonl"
RESULT_FILES = ("result.json", "scores.safetensors")
"""What of a trial's folder fronts are made from."""
_DOCUMENT_PATIENCE_SECONDS = 10.0
_PARALLEL = 8
_STORES: dict[Path, ObjectStore] = {}


def is_bucket(home: str) -> bool:
    """Whether a home is stated as the URL of a bucket."""
    return home.startswith(SCHEME)


def cache_folder() -> Path:
    """Where mirrors are kept: `PARETOVID_CACHE`, else below the user's cache folder."""
    stated = os.environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "paretovid"


def attach(url: str, cache: Path | None = None, *, check: bool = False) -> Path:
    """The root of this machine's mirror of a home. From now on this process works with the bucket behind it.

    Arguments:
        cache: folder of mirrors; None: `cache_folder()`.
        check: try the bucket first.

    Raises `ObjectStoreError` if it cannot be used.
    """
    store = ObjectStore(url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{endpoint} {store.url}".encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", store.root)[-60:]
    root = (cache or cache_folder()) / f"{name}-{digest}"
    if root not in _STORES:
        if check:
            store.check()
        root.mkdir(parents=True, exist_ok=True)
        _STORES[root] = store
    return root


def _behind(path: Path) -> tuple[ObjectStore, str] | None:
    """The store and the key that a path mirrors; None in a home that is a folder."""
    for root, store in _STORES.items():
        if path.is_relative_to(root):
            return store, path.relative_to(root).as_posix()
    return None


def is_shared(path: Path) -> bool:
    """Whether a path mirrors something in a bucket."""
    return _behind(path) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedRoot:
    """A home as a worker on another node is told of it."""

    url: str | None
    root: Path
    """Of the driver's mirror."""
    cache: str | None = None
    """Folder of mirrors on the workers' nodes, unless a node names its own."""

    @classmethod
    def of(cls, path: Path, cache: str | None = None) -> SharedRoot:
        """The home that `path` lies in."""
        for root, store in _STORES.items():
            if path.is_relative_to(root):
                return cls(url=store.url, root=root, cache=cache)
        return cls(url=None, root=path)

    def here(self, path: Path | str) -> Path:
        """A path of the driver's mirror as one of this node's."""
        if self.url is None:
            return Path(path)
        return attach(self.url, node_cache(self.cache)) / Path(path).relative_to(self.root)


def share(folder: Path, is_included: Callable[[str], bool] = lambda name: True) -> None:
    """Sends a folder that is whole to the bucket. Raises `ObjectStoreError`."""
    behind = _behind(folder)
    if behind is not None:
        behind[0].upload_folder(folder, behind[1], is_included=is_included)


def send(folder: Path, target: Path, names: Collection[str]) -> None:
    """Sends files of any folder to the place in the bucket that `target` mirrors."""
    behind = _behind(target)
    assert behind is not None, "the home is a folder"
    behind[0].upload_folder(folder, behind[1], is_included=lambda name: name in names, is_mirror=False)


def fetch(
    folder: Path,
    wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names,
    heartbeat: Callable[[], object] = lambda: None,
) -> bool:
    """Brings a folder here as it is in the bucket. False if it is not there, or the home is a folder.

    Arguments:
        wanted: of the names of its files, those to bring.
        heartbeat: called while it downloads or waits for another process that does.

    Raises `ObjectStoreError`.
    """
    behind = _behind(folder)
    return behind is not None and behind[0].download_folder(
        behind[1], folder, wanted=wanted, heartbeat=heartbeat
    )


def share_parts(folder: Path, names: Sequence[str]) -> dict[str, Blob]:
    """Sends files of a folder that others write as well. They count once the folder is committed."""
    behind = _behind(folder)
    if behind is None:
        return {}
    return {name: behind[0].put_blob(folder / name, behind[1], name) for name in names}


def fetch_parts(folder: Path, parts: Mapping[str, Blob]) -> None:
    """Brings files here of a folder that is not committed yet."""
    behind = _behind(folder)
    if behind is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    here = LocalCopy(folder)
    for name, blob in parts.items():
        if not here.is_same(name, blob):
            behind[0].get_blob(behind[1], name, blob, folder)


def parts_in_bucket(folder: Path, suffix: str) -> dict[str, list[tuple[Blob, bytes]]]:
    """Small parts of a folder that is not committed yet, whoever has sent them: name to each, with its bytes."""
    behind = _behind(folder)
    if behind is None:
        return {}
    store, key = behind
    found: dict[str, list[tuple[Blob, bytes]]] = {}
    names = [name for name in store.names(key) if name.endswith(suffix) and name.count("/") == 1]
    contents = store.read_many([f"{key}/{name}" for name in names]) if names else []
    for name, content in zip(names, contents, strict=True):
        blob = Blob(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        found.setdefault(name.partition("/")[2], []).append((blob, content))
    return found


def remove_part(folder: Path, name: str, blob: Blob) -> None:
    """Takes a blob that was sent out of the bucket again."""
    behind = _behind(folder)
    if behind is not None:
        behind[0].remove(f"{behind[1]}/{blob.location}/{name}")


def commit(folder: Path, parts: Mapping[str, Blob], last: str) -> None:
    """Makes a folder whole in the bucket: of these parts and the file `last`, which is here."""
    behind = _behind(folder)
    if behind is not None:
        store, key = behind
        store.commit(key, {**parts, last: store.put_blob(folder / last, key, last)})


def is_in_bucket(folder: Path) -> bool:
    """Whether the bucket has the folder, whole."""
    behind = _behind(folder)
    return behind is not None and behind[0].manifest(behind[1]) is not None


def share_file(path: Path, patience: float | None = None) -> None:
    """Sends a small file to the bucket."""
    behind = _behind(path)
    if behind is not None:
        behind[0].write(behind[1], path.read_bytes(), patience=patience)


def read_text(path: Path, *, must_answer: bool = False) -> str:
    """A document's text, from the bucket if it is one that goes through.

    Arguments:
        must_answer: wait longer for a bucket that is away.

    Raises `FileNotFoundError`, or another `OSError` if the bucket does not answer.
    """
    behind = _behind(path) if path.name in DOCUMENTS else None
    if behind is None:
        return path.read_text()
    content = behind[0].read(behind[1], patience=None if must_answer else _DOCUMENT_PATIENCE_SECONDS)
    if content is None:
        raise FileNotFoundError(path)
    return content.decode()


def is_there(path: Path) -> bool:
    """Whether a document exists. A bucket that does not answer says no."""
    try:
        read_text(path)
    except OSError:
        return False
    return True


def remove(path: Path) -> None:
    """Removes a document."""
    path.unlink(missing_ok=True)
    behind = _behind(path)
    if behind is not None:
        behind[0].remove(behind[1])


def remove_folder(folder: Path) -> None:
    """Removes a folder from the bucket, not from here."""
    behind = _behind(folder)
    if behind is not None:
        behind[0].remove_folder(behind[1])


def folders_like(folder: Path, pattern: str) -> list[str]:
    """Names of the whole folders in the bucket below `folder` that match a regular expression, sorted."""
    behind = _behind(folder)
    if behind is None:
        return []
    store, key = behind
    names = store.names(key)
    found = {name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")}
    return sorted(name for name in found if re.fullmatch(pattern, name))


def ray_storage(folder: Path) -> dict[str, Any]:
    """Where Ray keeps what it writes of a run, as settings of a `RunConfig`: all nodes must see it."""
    behind = _behind(folder)
    if behind is None:
        return {"storage_path": str(folder.absolute())}
    store, key = behind
    return {"storage_path": f"{store.root}/{key}", "storage_filesystem": store.arrow_files()}


def some_of_dataset(names: Collection[str]) -> list[str]:
    """Of the files of a data set in a bucket, what loading it needs: its descriptions and one video."""
    described = [name for name in names if name.endswith(".json")]
    return described + sorted(set(names) - set(described))[:1]


def is_trial_part(name: str) -> bool:
    """Whether a file of a trial's folder belongs to its result."""
    return "/" not in name and name not in DOCUMENTS and name != "error.txt"


def refresh_sweeps(sweeps: Path) -> None:
    """Brings the records of all sweeps here."""
    behind = _behind(sweeps)
    if behind is None:
        return
    store, key = behind
    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda name: _copy_document(sweeps / name / "sweep.json"), store.folders(key)))


def refresh_sweep(folder: Path, files: Sequence[str] = RESULT_FILES) -> None:
    """Brings a sweep here: its documents, its journal, and of each finished trial these files."""
    behind = _behind(folder)
    if behind is None:
        return
    store, key = behind
    there = store.names(key)
    documents = [
        name for name in there if name.rpartition("/")[2] in DOCUMENTS and not name.startswith("ray/")
    ]
    finished = [name.split("/")[1] for name in there if re.fullmatch(rf"trials/[^/]+/{MANIFEST}", name)]
    for pattern in ("*.json", "trials/*/*.json"):
        for path in folder.glob(pattern):
            if path.name in DOCUMENTS and path.relative_to(folder).as_posix() not in there:
                path.unlink(missing_ok=True)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda name: _copy_document(folder / name), documents))
        list(pool.map(lambda trial: fetch_result(folder / "trials" / trial, files), finished))
    journal = folder / JOURNAL_FILE
    # This machine's own may be ahead of what it has sent.
    if there.get(JOURNAL_FILE, 0) > (journal.stat().st_size if journal.exists() else 0):
        _copy_document(journal)


def fetch_result(trial: Path, files: Sequence[str] = RESULT_FILES) -> None:
    """Brings these files of a finished trial here. What is here already is not looked up: results stay."""
    if is_shared(trial) and any(LocalCopy(trial).digest(name) is None for name in files):
        fetch(trial, lambda names: [name for name in names if name in files])


def _copy_document(path: Path) -> None:
    behind = _behind(path)
    assert behind is not None
    content = behind[0].read(behind[1])
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.partial")
        partial.write_bytes(content)
        partial.replace(path)


@final
class GrowingFile:
    """A file that is appended to here, and sent to the bucket now and then, whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent = -1e9

    def grown(self, *, now: bool = False) -> None:
        """It has grown. `now`: it should be in the bucket; else a few seconds later will do.

        A bucket that is away is no fault: it gets everything the next time.
        """
        if not is_shared(self._path):
            return
        # The longer the file the rarer, so that what is sent stays in proportion to what is written.
        pause = max(5.0, self._path.stat().st_size / 2**18)
        if now or time.monotonic() - self._sent > pause:
            self._sent = time.monotonic()
            with contextlib.suppress(ObjectStoreError):
                share_file(self._path, patience=_DOCUMENT_PATIENCE_SECONDS)
