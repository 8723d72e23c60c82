"""Files that may be opened: a pipe or a device among them would block for ever, or never end."""

from __future__ import annotations

import stat
from pathlib import Path

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
