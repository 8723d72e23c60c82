"""Whose fault an error is: the place's (its disks, mounts and buckets), or that of what ran in it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import InfrastructureError, ParetovidError
from paretovid.trainables.redaction.texts import redacted

_T = TypeVar("_T")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
_OF_A_DISK = frozenset((errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO))
"""Only a disk, a mount or a device answers so, wherever the file is."""
_OF_A_PATH = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    )
)
"""A file of the trial's own may be answered so; below a home, features or a data set the place is at fault."""
_NUMBER = re.compile(r"os error (\d+)|Os \{ code: (\d+)")
"""How libraries in Rust (safetensors) put the number into their text."""
_FULL_TEXT = re.compile(r"No space left on device|database or disk is full|^\d+ requested and -?\d+ written$")
"""The second is SQLite's, which MLflow's store passes on; the third NumPy's, which gives no number for a file that a
full disk cuts short."""
# What earlier versions wrote of a trial that failed.
_FORMER = re.compile(
    r"^(no features in |features are (missing|damaged)|the index of the features in "
    r"|the features in .* have fingerprint|no data set at |none of the \d+ videos that "
    r"|s3://\S+ (cannot be reached|refuses)|no permission to \w+ s3://"
    r"|there is no bucket |no credentials for s3://"
    r"|(FileNotFoundError|PermissionError|NotADirectoryError|TimeoutError|OSError): "
    r"\[Errno (2|5|13|20|107|110|116|121)\])"
)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An error that is the place's."""

    reason: str
    """One line that names the file, folder or bucket."""
    is_full: bool = False
    """There is no room, or no right, to write: waiting does not help."""


def infrastructure_fault(error: BaseException, places: Sequence[Path | str] = ()) -> Fault | None:
    """The place's fault that an error comes of, or one that it was raised from; None if it is nobody's or the trial's.

    Arguments:
        places: what the place is made of: home, features, data set. A file that is missing elsewhere is the trial's.
    """
    for each in _chain(error):
        if isinstance(each, InfrastructureError | ObjectStoreError):
            return Fault(reason=_first_line(each.message), is_full=_is_full(each))
        number = _number_of(each)
        if number in _FULL:
            room = "" if _is_of_another_process(error) else _room(each)
            return Fault(reason=_described(each) + room, is_full=True)
        if number in _OF_A_DISK or (number in _OF_A_PATH and _names(each, places)):
            return Fault(reason=_described(each))
    return None


def was_infrastructure(reason: str) -> bool:
    """Whether the reason of a failure, as earlier versions have written it, says that the place was at fault."""
    return _FORMER.search(reason) is not None


def while_away(call: Callable[[], _T], *, places: Sequence[Path | str], seconds: float) -> _T:
    """What `call` gives, again and again for so long while the place is away. Raises what it raised last."""
    until = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except OSError as error:
            fault = infrastructure_fault(error, places)
            if fault is None or fault.is_full or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from. What Ray wraps another process's error in has that in `cause`, and is
    left out: it passes for an error of the same type, and its text is that process's traceback."""
    seen: list[BaseException] = []
    each: object = error
    while isinstance(each, BaseException) and each not in seen:
        seen.append(each)
        wrapped = getattr(each, "cause", None)
        if isinstance(wrapped, BaseException):
            each = wrapped
            continue
        yield each
        each = each.__cause__


def _is_of_another_process(error: BaseException | None) -> bool:
    """Whether Ray has brought it here: the disk may be another machine's."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(getattr(error, "cause", None), BaseException):
            return True
        seen.append(error)
        error = error.__cause__
    return False


def _number_of(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, ParetovidError):
        return None
    text = str(error)
    if _FULL_TEXT.search(text):
        return errno.ENOSPC
    found = _NUMBER.search(text)
    if found is not None:
        return int(found[1] or found[2])
    if isinstance(error, FileNotFoundError):  # safetensors raises one without a number
        return errno.ENOENT
    return errno.EACCES if isinstance(error, PermissionError) else None


def _is_full(error: BaseException) -> bool:
    return any(_number_of(each) in _FULL for each in _chain(error))


def _names(error: BaseException, places: Sequence[Path | str]) -> bool:
    text = f"{error} {getattr(error, 'filename', None) or ''}"
    return any(len(str(place)) > 1 and str(place) in text for place in places)


def _described(error: BaseException) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        # Of a copied folder: source, target and text of every file that failed.
        _, target, _ = error.args[0][0]
        number = _number_of(error)
        return redacted(f"{target}: {os.strerror(number) if number else 'it cannot be copied'}")
    if isinstance(error, OSError) and error.filename and error.strerror:
        return redacted(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.errno is None and _number_of(error) == errno.ENOSPC:
        return redacted(f"{os.strerror(errno.ENOSPC)} ({_first_line(str(error))})")
    return _first_line(str(error)) or type(error).__name__


def _room(error: BaseException) -> str:
    """How much is free where a file had no room: a part of it may have fitted, and be removed again."""
    filename = getattr(error, "filename", None)
    if _number_of(error) != errno.ENOSPC or not isinstance(filename, str):
        return ""
    for folder in Path(filename).absolute().parents:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
            return f" ({free / 2**30:.1f} GiB free)" if free >= 2**30 else f" ({free / 2**20:.1f} MiB free)"
    return ""


def _first_line(text: str) -> str:
    return redacted((text.strip().splitlines() or [""])[0])
