"""Files that may be opened: a pipe or a device among them would block for ever, or never end.

And whose fault it is that one cannot be read."""

from __future__ import annotations

import stat
from pathlib import Path

from paretovid.trainables.errors import UnavailableDataError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def what_else(path: Path | str) -> str:
    """What a path is that is no regular file, such as `a named pipe`; "" for a file. Links are followed.

    Raises `OSError` for one that is not there.
    """
    mode = Path(path).stat().st_mode
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def check_is_there(path: Path | str) -> None:
    """Raises `UnavailableDataError` for a file that a data set lists and that is away: its mount may be gone.

    To be asked of one that was there and could not be read, before that is held against it.
    """
    try:
        Path(path).stat()
    except OSError as error:
        raise away(path, error) from error


def check_folder_is_there(path: Path | str) -> None:
    """Raises `UnavailableDataError` for a file that a data set lists and that is missing with all that was beside it:
    a mount that is gone leaves no folder, or an empty one. A file that is missing among others is its own problem.

    To be asked of one that could not be read, before that is held against it.
    """
    path = Path(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if _is_gone_or_empty(path.parent):
            raise UnavailableDataError(
                f"{path} is not there, and its folder is gone or empty",
                "Is its disk mounted? Repair it, and the same command resumes.",
            ) from error
    except OSError as error:
        raise away(path, error) from error
    except ValueError:  # a NUL in the name: nobody has such a file
        return


def _is_gone_or_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        raise away(folder, error) from error


def away(path: Path | str, error: OSError) -> UnavailableDataError:
    """The error for a file of a data set that the disk does not let be read."""
    return UnavailableDataError(
        f"{path} cannot be read: {error.strerror or error}",
        "Is its disk mounted, and have you the right to read it? Repair it, and the same command resumes.",
    )
