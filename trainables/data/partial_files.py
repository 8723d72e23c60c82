"""Files that are written under another name until they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_CUT_SHORT = re.compile(r"\d+ requested and -?\d+ written")
"""NumPy's words for a file that has no room for all of an array: an `OSError` without a number."""


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """`path`, a file or a folder that the block makes and renames. If the block raises, as on a full disk, nothing is
    left of it, and the error names it: a library's own error for a full disk becomes an `OSError`."""
    try:
        yield path
    except BaseException as error:
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # what fails in a write does not say where
        if _is_librarys_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _is_librarys_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is None and _CUT_SHORT.fullmatch(str(error)) is not None
    return os.strerror(errno.ENOSPC) in str(error)
