"""Whether a file can be decoded and how long it is, from its head and one frame; kept for the next time.

A file is looked at again only when its size or its time changed: sets have hundreds of thousands.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import av
from av.container import InputContainer

from paretovid.trainables.data.containers import faults_of, open_video, pictures_of, sound_of
from paretovid.trainables.data.display import orientation_of
from paretovid.trainables.data.limits import USUAL_LIMITS, Stopwatch, VideoLimitsConfig
from paretovid.trainables.data.regular_files import away, check_folder_is_there, check_is_there, what_else
from paretovid.trainables.data.s3 import (
    ObjectStatus,
    ObjectStoreError,
    downloaded,
    is_object,
    read_part,
    status,
)
from paretovid.trainables.data.timeline import Length, indexed_length, read_timeline
from paretovid.trainables.errors import VideoError

_EDGE_BYTES = 64 * 2**10
_VERSION = 3
"""Of what is found out: what an older one has found is looked at again."""
CACHE = "probed.jsonl"
_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG))
"""Answers that are about the name, where any other is the disk's."""

MapParallel = Callable[[Callable[[Path | str], "Probe"], Sequence[Path | str]], Iterable["Probe"]]
"""As `map`; results may come in any order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What was found out about one file.

    Arguments:
        duration_seconds: 0 where it cannot be decoded.
        edges: hash of its first and last 64 KiB, to find copies without reading all of every file.
        problem: why it cannot be decoded; else "".
        notes: what is not as expected, and how it is dealt with.
        made_by: the version of the code and the limits that were in force.
    """

    path: str
    bytes: int = 0
    modified_nanoseconds: int = 0
    duration_seconds: float = 0.0
    edges: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()
    made_by: str = ""


def probe(location: Path | str, limits: VideoLimitsConfig = USUAL_LIMITS) -> Probe:
    """Opens a video, a file or an object (`s3://…`), and decodes one frame. Never raises for a bad one.

    Arguments:
        limits: what a video may ask for; that of steps is the caller's to check, who knows how long one is.

    Raises `ObjectStoreError` for a bucket that does not answer, or to which the right is missing, and
    `UnavailableDataError` for a disk that does not let a file be read, or a file that is missing with its whole folder:
    neither says anything of the video, and what is found out is kept.
    """
    try:
        if not is_object(location) and (other := what_else(location)):
            return Probe(path=str(location), problem=f"{other}, not a file")
        found = _status(location)
    except ObjectStoreError:
        raise
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno not in _NOT_THERE:
            raise away(location, error) from error
        if error.errno == errno.ENOENT and not is_object(location):
            check_folder_is_there(location)
        return Probe(path=str(location), problem=error.strerror or f"no such object: {location}")
    edges, problem, length = "", "", Length(0.0, ())
    try:
        edges = _edges(location, found.bytes)
        length = _length(location, found.bytes, limits)
    except VideoError as error:
        problem = error.message
        if not is_object(location):
            check_is_there(location)
    except ObjectStoreError:
        raise
    except OSError as error:
        if is_object(location):
            raise  # of the bucket, or of the disk that it was to be downloaded to
        raise away(location, error) from error
    return Probe(
        path=str(location),
        bytes=found.bytes,
        modified_nanoseconds=found.modified_nanoseconds,
        duration_seconds=length.seconds,
        edges=edges,
        problem=problem,
        notes=length.notes,
        made_by=_made_by(limits),
    )


def _made_by(limits: VideoLimitsConfig) -> str:
    return f"{_VERSION}/{limits.max_pixels}/{limits.max_decode_seconds:g}"


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
    limits: VideoLimitsConfig = USUAL_LIMITS,
) -> dict[str, Probe]:
    """Location to `Probe`, as far as possible from `folder/probed.jsonl`, to which the others are added one by one.

    Arguments:
        listed: of objects, by URL, what is known of them already: else each is asked for.
        limits: what a video may ask for.
    """
    cache = folder / CACHE
    known = {each.path: each for each in _read(cache)}
    made_by = _made_by(limits)
    fresh = [each for each in locations if not _is_current(known.get(str(each)), each, listed, made_by)]
    folder.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file:
        for each in map_parallel(functools.partial(probe, limits=limits), fresh):
            known[each.path] = each
            file.write(json.dumps(asdict(each)) + "\n")
    return {str(location): known[str(location)] for location in locations}


def _read(cache: Path) -> Iterable[Probe]:
    if not cache.is_file():
        return
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines():
        # The last line of a process that was killed may be a part of one.
        with contextlib.suppress(ValueError, TypeError):
            fields = json.loads(line)
            yield Probe(**{**fields, "notes": tuple(fields.get("notes", ()))})


def _is_current(
    found: Probe | None, location: Path | str, listed: Mapping[str, ObjectStatus], made_by: str
) -> bool:
    if found is None or not found.edges or found.made_by != made_by:
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


def _length(location: Path | str, size: int, limits: VideoLimitsConfig) -> Length:
    """As `VideoReader` has it; where the file's own index can be trusted, without reading all its packets."""
    name = str(location)
    stopwatch = Stopwatch(name, limits)
    with stopwatch, faults_of(name):
        with open_video(location, name, limits, stopwatch.check) as container:
            pictures, notes = pictures_of(container, name)
            notes += sound_of(container)[1] if container.streams.audio else []
            limits.check_pixels(name, pictures.codec_context.width, pictures.codec_context.height)
            notes += _first_frame_notes(container, pictures, name)
            length = indexed_length(container, pictures, name, size)
        if length is None:
            # All of an object is faster to download than to read piece by piece.
            whole = downloaded(name) if is_object(location) else contextlib.nullcontext(Path(location))
            with whole as path, open_video(path, name, limits, stopwatch.check) as container:
                pictures = pictures_of(container, name)[0]
                timeline = read_timeline(container, pictures, name, stopwatch.check)
            length = Length(timeline.duration_seconds, timeline.notes)
    return Length(length.seconds, (*notes, *length.notes))


def _first_frame_notes(container: InputContainer, pictures: av.VideoStream, name: str) -> list[str]:
    try:
        frame = next(container.decode(pictures), None)
    except av.error.FFmpegError as error:
        raise VideoError(f"{name}: its first frame cannot be decoded ({error.strerror})") from error
    if frame is None:
        raise VideoError(f"{name}: not one frame can be decoded")
    note = orientation_of(frame).note
    return [note] if note else []
