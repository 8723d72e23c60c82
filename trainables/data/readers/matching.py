"""Finding the files of annotated videos: in a folder with all its sub-folders, or in a list of paths."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from paretovid.trainables.data.readers.files import read_lines
from paretovid.trainables.errors import DataError

_SUFFIXES = "3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf nut ogv ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def list_videos(root: Path) -> Iterator[str]:
    """Paths below a folder, with `/` between their parts, in a fixed order; links to folders are followed."""
    seen: set[str] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        # A link to a folder above would be followed for ever.
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


@final
class VideoFiles:
    """The files that are there, found by the last parts of their paths.

    Arguments:
        source: a folder, or a text file with a path on each line (absolute, or from the file's folder).
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.root = (source if source.is_dir() else source.parent).resolve()
        if source.is_dir():
            self.paths = list(list_videos(self.root))
        else:
            self.paths = [line for _, line in read_lines(source)]
        if not self.paths:
            what = "has no video" if source.is_dir() else "lists no video"
            raise DataError(
                f"{source} {what}",
                f"data.videos names a folder of videos ({', '.join(sorted(VIDEO_SUFFIXES))}) or a list of paths.",
            )
        self.ambiguous: list[str] = []
        """Names that several files have; the first by path was taken."""
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            self._by_stem[_stem(path)].append(path)

    def find(self, names: Sequence[str]) -> Path | None:
        """The file of the first of some names that there is one of; a name is a path's last parts."""
        for name in names:
            direct = self.root / name
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and direct.is_file():
                return direct
            ends = _without_suffix(name)
            fitting = [
                path
                for path in self._by_stem.get(_stem(name), ())
                if f"/{_without_suffix(path)}".endswith(f"/{ends.lstrip('/')}")
            ]
            if len(fitting) > 1:
                self.ambiguous.append(name)
            if fitting:
                return self.root / fitting[0]
        return None


def _without_suffix(path: str) -> str:
    # Only suffixes of videos: an id may hold a dot.
    return path[: -len(suffix)] if (suffix := Path(path).suffix).lower() in VIDEO_SUFFIXES else path


def _stem(path: str) -> str:
    return _without_suffix(path).rpartition("/")[2]
