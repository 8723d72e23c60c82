"""Features on the disk of the node that reads them: copied once per node and user, shared by that user's trials.

    <cache>/user-<number>/                                       of one user, whom alone it lets in
    <cache>/user-<number>/<dataset>/<component>@<fingerprint>/   as under home; whole, or not there
    <cache>/user-<number>/<dataset>/<component>@<fingerprint>.lock

The first trial of a node copies while the others of that node wait for it; every copy is checked against the digests
of its source before it gets its name, and whenever it is used. What is there is immutable, so that nobody must be
notified of changes. The cache may lie where everybody can write, as in `/tmp`: what another user has put there is
never used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from paretovid.infra.locks import exclusive_lock

NODE_CACHE_VARIABLE = "PARETOVID_NODE_CACHE"
"""A node's own folder, where its environment names one; it goes before the configured one."""
FREE_BYTES = 2**30
"""What a copy leaves free on the node's disk."""


class NodeCacheError(OSError):
    """The node's disk cannot be used for copies."""


def node_cache(configured: str | None) -> Path | None:
    """This user's cache folder on this node; None: there is none, features are read where they are."""
    if configured is None:
        return None
    return of_this_user(os.environ.get(NODE_CACHE_VARIABLE) or configured)


def of_this_user(shared: str) -> Path:
    """This user's folder in one that all users of the machine may write to; `make_private` makes it."""
    return Path(shared).expanduser().absolute() / f"user-{os.geteuid()}"


def make_private(folder: Path) -> None:
    """Makes a folder that lets in nobody but this user, or checks that it is one.

    Raises `NodeCacheError` for a link, for what belongs to another user, and where no folder can be made.
    """
    try:
        _make_shared(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Opened, not looked at by name: between a look and its use another user could put a link there.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise NodeCacheError(f"{folder} belongs to user {found.st_uid}, not to {os.geteuid()}")
            if stat.S_IMODE(found.st_mode) != 0o700:
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
    except NodeCacheError:
        raise
    except OSError as error:
        raise NodeCacheError(f"{folder} cannot be used: {error.strerror or error}") from error


def _make_shared(folder: Path) -> None:
    """The folder that all users of a node have theirs in."""
    if folder.is_symlink() and folder.lstat().st_uid not in (0, os.geteuid()):
        raise NodeCacheError(f"{folder} is a link that another user has made")
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        if folder.parent.stat().st_mode & stat.S_IWOTH:
            folder.chmod(0o1777)  # as its parent: others make theirs in it, and cannot take this user's away


def fetch(
    source: Path,
    cache: Path,
    *,
    is_copy: Callable[[Path, Path], bool],
    heartbeat: Callable[[], object] = lambda: None,
) -> Path:
    """The copy of folder `source` in this user's cache on this node, made if it is missing.

    Arguments:
        source: named by what determines its bytes; the copy has the same name and the same parent's name.
        cache: as `node_cache` gives it.
        is_copy: whether the first folder holds, by digests, all that the second one says of itself.
        heartbeat: called while it copies or waits.

    Raises `NodeCacheError` if the folder cannot be used, if there is too little space, or if what arrives is not what
    was sent; another `OSError` if the source cannot be read.
    """
    make_private(cache)
    target = cache / source.parent.name / source.name
    with _as_cache_error(cache):
        target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(target.with_name(f"{target.name}.lock"), waiting=heartbeat):
        if target.is_dir():
            if is_copy(target, source):
                return target
            shutil.rmtree(target)
        # The lock is ours: whoever was copying before is dead.
        for left in target.parent.glob(f"{target.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        _check_space(source, cache)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:6]}.partial")
        try:
            _copy(source, partial, heartbeat)
            if not is_copy(partial, source):
                raise NodeCacheError(f"{source} has arrived damaged in {cache}")
            with _as_cache_error(cache):
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextlib.contextmanager
def _as_cache_error(cache: Path) -> Iterator[None]:
    """Errors of the node's disk, told from those of the source's."""
    try:
        yield
    except OSError as error:
        raise NodeCacheError(f"{cache} cannot be used: {error.strerror or error}") from error


def _copy(source: Path, target: Path, heartbeat: Callable[[], object]) -> None:
    with _as_cache_error(target):
        target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(".partial"):
            with path.open("rb") as reading, (target / path.name).open("wb") as writing:
                while block := reading.read(16 * 2**20):
                    with _as_cache_error(target):
                        writing.write(block)
                        writing.flush()
                    heartbeat()


def _check_space(source: Path, cache: Path) -> None:
    wanted = sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    free = shutil.disk_usage(cache).free
    if free < wanted + FREE_BYTES:
        raise NodeCacheError(
            f"{cache} has {free / 2**30:.1f} GiB free, features need {wanted / 2**30:.1f} GiB and 1 GiB to spare"
        )
