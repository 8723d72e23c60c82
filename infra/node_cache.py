"""Features on the disk of the node that reads them: copied once per node, shared by its trials.

    <cache>/<dataset>/<component>@<fingerprint>/     as under home; whole, or not there
    <cache>/<dataset>/<component>@<fingerprint>.lock

The first trial of a node copies while the others of that node wait for it; every copy is checked against the
digests in its index before it gets its name. What is there is immutable, so that nobody must be notified of changes.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from paretovid.infra.locks import exclusive_lock

NODE_CACHE_VARIABLE = "PARETOVID_NODE_CACHE"
"""A node's own folder, where its environment names one; it goes before the configured one."""
FREE_BYTES = 2**30
"""What a copy leaves free on the node's disk."""


class NodeCacheError(OSError):
    """The node's disk cannot take the copy."""


def node_cache(configured: str | None) -> Path | None:
    """This node's cache folder; None: there is none, features are read where they are."""
    if configured is None:
        return None
    return Path(os.environ.get(NODE_CACHE_VARIABLE) or configured).expanduser().absolute()


def fetch(
    source: Path,
    cache: Path,
    *,
    is_whole: Callable[[Path], bool],
    heartbeat: Callable[[], object] = lambda: None,
) -> Path:
    """The copy of folder `source` in this node's cache, made if it is missing.

    Arguments:
        source: named by what determines its bytes; the copy has the same name and the same parent's name.
        is_whole: whether a folder holds all that its index says, by digests.
        heartbeat: called while it copies or waits.

    Raises `NodeCacheError` if there is too little space, or if what arrives is not what was sent.
    """
    target = cache / source.parent.name / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(target.with_name(f"{target.name}.lock"), waiting=heartbeat):
        if target.is_dir():
            if is_whole(target):
                return target
            shutil.rmtree(target)
        # The lock is ours: whoever was copying before is dead.
        for left in target.parent.glob(f"{target.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        _check_space(source, cache)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:6]}.partial")
        try:
            _copy(source, partial, heartbeat)
            if not is_whole(partial):
                raise NodeCacheError(f"{source} has arrived damaged in {cache}")
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _copy(source: Path, target: Path, heartbeat: Callable[[], object]) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(".partial"):
            with path.open("rb") as reading, (target / path.name).open("wb") as writing:
                while block := reading.read(16 * 2**20):
                    writing.write(block)
                    heartbeat()


def _check_space(source: Path, cache: Path) -> None:
    wanted = sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    free = shutil.disk_usage(cache).free
    if free < wanted + FREE_BYTES:
        raise NodeCacheError(
            f"{cache} has {free / 2**30:.1f} GiB free, features need {wanted / 2**30:.1f} GiB and 1 GiB to spare"
        )
