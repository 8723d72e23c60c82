"""Finding the files of annotated videos: in a folder with all its sub-folders, in a bucket, or in a list of paths."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from paretovid.trainables.data.readers.files import composed, existing, read_lines, walk
from paretovid.trainables.data.s3 import MAX_CONNECTIONS, ObjectStatus, is_object, list_objects, status
from paretovid.trainables.errors import DataError

_SUFFIXES = "3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf nut ogv ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def list_files(root: Path) -> Iterator[str]:
    """Paths below a folder, with `/` between their parts, in a fixed order; links to folders are followed, and what is
    hidden is left out. Raises `UnavailableDataError` for a folder that cannot be listed."""
    seen: set[str] = set()
    for folder, names, files in walk(root, follow_links=True):
        # A link to a folder above would be followed for ever.
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _is_video(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@final
class VideoFiles:
    """The files that are there, found by the last parts of their paths.

    Arguments:
        source: a folder, `s3://BUCKET/PREFIX`, or a text file with a path or URL on each line (paths absolute, or from
            the file's folder).
        setting: its name, for messages.

    Raises `UsageError` if it is not there, `DataError` if it has no videos, `UnavailableDataError` for a folder in it
    and `ObjectStoreError` for a bucket that cannot be listed.
    """

    def __init__(self, source: str, setting: str = "data.videos") -> None:
        self.source = source
        self.status: Mapping[str, ObjectStatus] = {}
        """Of objects, by URL, where they were listed."""
        is_list, found = False, []
        if is_object(source):
            self.root: Path | str = source.rstrip("/")
            listed = {
                url: each
                for url, each in list_objects(source).items()
                if "/." not in url.removeprefix(self.root)
            }
            self.status = {url: each for url, each in listed.items() if _is_video(url)}
            found = sorted(url.removeprefix(f"{self.root}/") for url in listed)
        else:
            path = existing(source, setting)
            self.root = (path if path.is_dir() else path.parent).resolve()
            is_list = not path.is_dir()
            found = [line for _, line in read_lines(path)] if is_list else list(list_files(self.root))
            self.status = _statuses([name for name in found if is_object(name)]) if is_list else {}
        self.paths = found if is_list else [name for name in found if _is_video(name)]
        self.others: list[str] = [] if is_list else [name for name in found if not _is_video(name)]
        """Files that have another suffix than those of videos."""
        if not self.paths:
            other = f" ({len(self.others)} other files, such as {self.others[0]})" if self.others else ""
            raise DataError(
                f"{source} {'lists' if is_list else 'has'} no video{other}",
                f"{setting} names a folder of videos ({', '.join(sorted(VIDEO_SUFFIXES))}), s3://BUCKET/PREFIX, or a "
                "list of paths.",
            )
        self.ambiguous: list[str] = []
        """Names that several files have; the first by path was taken."""
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.paths:
            self._by_stem[composed(_stem(name))].append(name)

    def at(self, name: str) -> Path | str:
        """Where a name lies: a path, or the URL of an object."""
        written = [self._at(each) for each in _spellings(name)]
        return written[0] if len(written) == 1 else next(filter(self._is_there, written), written[0])

    def _at(self, name: str) -> Path | str:
        if is_object(name):
            return name
        return self.root / name if isinstance(self.root, Path) else f"{self.root}/{name}"

    def find(self, names: Sequence[str]) -> Path | str | None:
        """The file of the first of some names that there is one of; a name is a path's last parts."""
        for name in names:
            if _is_video(name) and self._is_there(self.at(name)):
                return self.at(name)
            ends = composed(_without_suffix(name)).lstrip("/")
            fitting = [
                path
                for path in self._by_stem.get(composed(_stem(name)), ())
                if f"/{composed(_without_suffix(path))}".endswith(f"/{ends}")
            ]
            if len(fitting) > 1:
                self.ambiguous.append(name)
            if fitting:
                return self.at(fitting[0])
        return None

    def _is_there(self, location: Path | str) -> bool:
        return (
            location in self.status
            if isinstance(location, str)
            else location.exists() and not location.is_dir()
        )


def _spellings(name: str) -> Sequence[str]:
    """A name as it is written, then in the two normal forms of Unicode: a list may have been made on another system."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))))


def _statuses(urls: Sequence[str]) -> dict[str, ObjectStatus]:
    """Of those that are there."""

    def one(url: str) -> ObjectStatus | None:
        try:
            return status(url)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(MAX_CONNECTIONS // 2) as pool:
        return {url: found for url, found in zip(urls, pool.map(one, urls), strict=True) if found is not None}


def _without_suffix(path: str) -> str:
    # Only suffixes of videos: an id may hold a dot.
    return path[: -len(suffix)] if (suffix := Path(path).suffix).lower() in VIDEO_SUFFIXES else path


def _stem(path: str) -> str:
    return _without_suffix(path).rpartition("/")[2]
