"""What code made a result."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from paretovid.trainables.plugins.catalog import plugin_digest


def code_version(plugins: Iterable[str] = ()) -> str:
    """A digest of the source files of this package and of plug-ins: `<12 hex digits>`.

    Does not need git, so it says the same in a clone, a wheel and on a worker; unlike a commit it also
    changes with an uncommitted edit.

    Arguments:
        plugins: modules of the plug-ins that have a part in the result. Others, installed or not, count for nothing.
    """
    digest = _own_digest().copy()
    digest.update(plugin_digest(tuple(sorted(set(plugins)))))
    return digest.hexdigest()[:12]


@functools.cache
def _own_digest() -> hashlib._Hash:
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest
