"""Whether a file can be decoded and how long it is, from its head and one frame; kept for the next time.

A file is looked at again only when its size or its time changed: sets have hundreds of thousands.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import av

from paretovid.trainables.data.s3 import ObjectStatus, ObjectStoreError, is_object, read_part, status
from paretovid.trainables.data.videos import VideoReader, open_container
from paretovid.trainables.errors import VideoError

_EDGE_BYTES = 64 * 2**10
CACHE = "probed.jsonl"

MapParallel = Callable[[Callable[[Path | str], "Probe"], Sequence[Path | str]], Iterable["Probe"]]
"""As `map`; results may come in any order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What was found out about one file.

    Arguments:
        duration_seconds: 0 where it cannot be decoded.
        edges: hash of its first and last 64 KiB, to find copies without reading all of every file.
        problem: why it cannot be decoded; else "".
    """

    path: str
    bytes: int = 0
    modified_nanoseconds: int = 0
    duration_seconds: float = 0.0
    edges: str = ""
    problem: str = ""


def probe(location: Path | str) -> Probe:
    """Opens a video, a file or an object (`s3://…`), and decodes one frame. Never raises for a bad one.

    Raises `ObjectStoreError` for a bucket that does not answer, or to which the right is missing.
    """
    try:
        found = _status(location)
    except ObjectStoreError:
        raise
    except OSError as error:
        return Probe(path=str(location), problem=error.strerror or f"no such object: {location}")
    seconds, edges, problem = 0.0, "", ""
    try:
        edges = _edges(location, found.bytes)
        seconds = _duration_seconds(location, found.bytes)
    except VideoError as error:
        problem = error.message
    except OSError as error:
        if is_object(location):
            raise  # of the bucket, or of the disk that it was to be downloaded to
        problem = str(error)
    return Probe(
        path=str(location),
        bytes=found.bytes,
        modified_nanoseconds=found.modified_nanoseconds,
        duration_seconds=seconds,
        edges=edges,
        problem=problem,
    )


def _status(location: Path | str) -> ObjectStatus:
    if is_object(location):
        return status(str(location))
    found = Path(location).stat()
    return ObjectStatus(bytes=found.st_size, modified_nanoseconds=found.st_mtime_ns)


def probe_all(
    locations: Sequence[Path | str],
    folder: Path,
    map_parallel: MapParallel = map,
    listed: Mapping[str, ObjectStatus] = MappingProxyType({}),
) -> dict[str, Probe]:
    """Location to `Probe`, as far as possible from `folder/probed.jsonl`, to which the others are added one by one.

    Arguments:
        listed: of objects, by URL, what is known of them already: else each is asked for.
    """
    cache = folder / CACHE
    known = {each.path: each for each in _read(cache)}
    fresh = [each for each in locations if not _is_current(known.get(str(each)), each, listed)]
    folder.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file:
        for each in map_parallel(probe, fresh):
            known[each.path] = each
            file.write(json.dumps(asdict(each)) + "\n")
    return {str(location): known[str(location)] for location in locations}


def _read(cache: Path) -> Iterable[Probe]:
    if not cache.is_file():
        return
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines():
        # The last line of a process that was killed may be a part of one.
        with contextlib.suppress(ValueError, TypeError):
            yield Probe(**json.loads(line))


def _is_current(found: Probe | None, location: Path | str, listed: Mapping[str, ObjectStatus]) -> bool:
    if found is None or not found.edges:
        return False
    try:
        now = listed.get(str(location)) or _status(location)
    except ObjectStoreError:
        raise
    except OSError:
        return False
    return (now.bytes, now.modified_nanoseconds) == (found.bytes, found.modified_nanoseconds)


def _edges(location: Path | str, size: int) -> str:
    if is_object(location):
        head = read_part(str(location), 0, min(size, _EDGE_BYTES))
        tail = read_part(str(location), max(_EDGE_BYTES, size - _EDGE_BYTES), size)
        return hashlib.sha256(head + tail).hexdigest()[:16]
    with Path(location).open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE_BYTES))
        file.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()[:16]


def _duration_seconds(path: Path | str, size: int) -> float:
    """As `VideoReader` has it; where the file's own index can be trusted, without reading all its packets."""
    with open_container(path, str(path)) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise VideoError(f"{path} has no video stream")
        try:
            decoded = next(container.decode(stream), None)
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: its first frame cannot be decoded ({error.strerror})") from error
        if decoded is None:
            raise VideoError(f"{path}: not one frame can be decoded")
        duration = _header_seconds(stream, size)
    if duration is not None:
        return duration
    with VideoReader(path, step_seconds=1.0) as reader:
        return reader.duration_seconds


def _header_seconds(stream: av.VideoStream, file_bytes: int) -> float | None:
    """What the head of the file says, if its index reaches to the end and all that it lists is in the file."""
    index = getattr(stream, "index_entries", None)
    if not index or not stream.duration or not stream.time_base:
        return None
    duration = float(stream.duration * stream.time_base)
    is_whole = max(entry.pos + entry.size for entry in index) <= file_bytes
    last = max(entry.timestamp for entry in index) * float(stream.time_base)
    return duration if is_whole and last > 0.9 * duration - 1 else None
