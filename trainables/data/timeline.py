"""When each frame of a video is shown and how long the video is, from its packets; nothing is decoded.

A packet's duration is in decoding order, which is not that of showing where a file has B-frames, so lengths come from
the frames' own time stamps. Where these begin again (two recordings one after the other in a transport stream), the
second is placed after the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import av
import numpy as np
from av.container import InputContainer

from paretovid.trainables.errors import VideoError

# Containers whose frames have the same time stamps after a seek; AVI, for one, stores none and counts.
_EXACT_SEEKING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
_INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"  # its index lists every frame
_RAW = ("h264", "hevc", "m4v", "mpegvideo")
"""Streams without a container. FFmpeg supposes a rate for them; their packets have that of the stream's own headers."""
_PROGRAM = "mpeg"
_RESTART_SECONDS = 0.5  # time stamps in decoding order never fall; so much is no inaccuracy
_FEW_PACKETS = 64  # the first frame shown is among the first so many packets, however they are ordered
_LONG = 10  # times what the frames' usual distance gives
_DEFAULT_SECONDS = 0.04  # how long the only frame of a video is shown, where the file does not say


@final
class Restarts:
    """Counts how often the time stamps of a track have begun again."""

    def __init__(self, unit_seconds: float) -> None:
        self._tolerance = _RESTART_SECONDS / unit_seconds
        self._last: int | None = None
        self.count = 0

    def after(self, packet: av.Packet[Any]) -> int:
        """The count, with this packet, the next in the file's order."""
        if packet.dts is not None:
            if self._last is not None and packet.dts < self._last - self._tolerance:
                self.count += 1
            self._last = packet.dts
        return self.count


@final
class Continued:
    """Gives packets time stamps that never begin again.

    Arguments:
        unit_seconds: of the track's time stamps.
        offsets_seconds: what is added after so many restarts, from `Timeline`.
    """

    def __init__(self, unit_seconds: float, offsets_seconds: Sequence[float]) -> None:
        self._offsets = [round(seconds / unit_seconds) for seconds in offsets_seconds]
        self._restarts = Restarts(unit_seconds)

    def shift(self, packet: av.Packet[Any]) -> bool:
        """Changes the time stamps of the next packet, if it is after a restart. True if it is the first after one."""
        if len(self._offsets) == 1 or packet.size == 0:
            return False
        before = self._restarts.count
        offset = self._offsets[min(self._restarts.after(packet), len(self._offsets) - 1)]
        if offset and packet.pts is not None:
            packet.pts += offset
        if offset and packet.dts is not None:
            packet.dts += offset
        return self._restarts.count > before


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Of one track of pictures, with N frames in the order in which they are shown."""

    stamps: np.ndarray
    """`[N]` int64, ascending: the frames' time stamps as `Continued` gives them; their numbers if `is_counted`."""
    times: np.ndarray
    """`[N]` float64: seconds from the first frame."""
    origin_seconds: float
    """The time stamp that counts as 0."""
    duration_seconds: float
    is_counted: bool
    """The file has no time stamps: its frames are counted."""
    keys: np.ndarray
    """Numbers of the frames that decoding can start at, ascending; empty where a seek cannot be trusted."""
    offsets_seconds: tuple[float, ...]
    """What to add to time stamps after 0, 1, ... restarts."""
    is_whole: bool
    """No packet is missing or damaged as far as the container can tell."""
    notes: tuple[str, ...]

    def shown_at(self, seconds: float) -> int:
        """Number of the frame that is shown at a time."""
        return max(0, int(np.searchsorted(self.times, seconds + 1e-6, side="right")) - 1)


@dataclass(slots=True)
class _Part:
    """The packets up to a restart."""

    stamps: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    last_duration: int = 0
    """Of the last packet of the file's order. That of any other is the distance to the next one in decoding order."""
    durations: list[int] = field(default_factory=list)

    def add(self, packet: av.Packet[Any]) -> None:
        self.stamps.append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            self.keys.append(packet.pts)
        self.last_duration = packet.duration or 0
        self.durations.append(self.last_duration)


def read_timeline(
    container: InputContainer, stream: av.VideoStream, name: str, check: Callable[[], None]
) -> Timeline:
    """Of a file, by reading through it.

    Arguments:
        name: of the file, for messages.
        check: called for every packet; raises when it takes too long.

    Raises `VideoError` for a track without frames, or with time stamps that cannot be.
    """
    unit = float(stream.time_base or 1)
    parts, is_whole = [_Part()], True
    restarts = Restarts(unit)
    try:
        for packet in container.demux(stream):
            check()
            if packet.size == 0 or packet.is_discard:
                continue
            if restarts.after(packet) == len(parts):
                parts.append(_Part())
            is_whole = is_whole and not packet.is_corrupt
            parts[-1].add(packet)
    except av.error.FFmpegError:
        is_whole = False
    if not parts[0].stamps:
        raise VideoError(
            f"{name} has a video stream without a single frame", "Check that the file was copied whole."
        )
    if _must_be_counted(container.format.name, parts):
        timeline = _counted(container, stream, parts, is_whole)
    else:
        timeline = _stamped(name, container.format.name, unit, parts, is_whole)
    return replace(timeline, notes=(*_truncation_note(container, stream, timeline), *timeline.notes))


def _must_be_counted(container: str, parts: Sequence[_Part]) -> bool:
    stamps = [stamp for part in parts for stamp in part.stamps]
    if any(stamp is None for stamp in stamps):
        return True
    # A program stream has a time stamp for some frames only. Where FFmpeg guesses the others wrong two are the same,
    # and those after them are early; the rate is constant.
    return container == _PROGRAM and len(parts) == 1 and len(set(stamps)) < len(stamps)


def _truncation_note(
    container: InputContainer, stream: av.VideoStream, timeline: Timeline
) -> tuple[str, ...]:
    declared, slack = (container.duration or 0) / 1e6, 1.0  # may be that of longer sound
    if stream.duration:
        declared, slack = float(stream.duration * (stream.time_base or 1)), 0.25
    if declared > timeline.duration_seconds + slack:
        return (f"truncated at {timeline.duration_seconds:.1f} s of {declared:.1f} s: what is there is used",)
    return () if timeline.is_whole else ("damaged, or not whole: what is there is used",)


def _counted(
    container: InputContainer, stream: av.VideoStream, parts: Sequence[_Part], is_whole: bool
) -> Timeline:
    count = sum(len(part.stamps) for part in parts)
    usual = float(np.median([duration for part in parts for duration in part.durations]))
    seconds = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    origin = 0.0
    if container.format.name in (*_RAW, _PROGRAM) and usual > 0:
        seconds = usual * float(stream.time_base or 1)
    if container.format.name == _PROGRAM and parts[0].keys:
        origin = min(parts[0].keys) * float(stream.time_base or 1)
    return Timeline(
        stamps=np.arange(count),
        times=np.arange(count) * seconds,
        origin_seconds=origin,
        duration_seconds=count * seconds,
        is_counted=True,
        keys=np.zeros(0, np.int64),
        offsets_seconds=(0.0,),
        is_whole=is_whole,
        notes=(),
    )


def _stamped(name: str, container: str, unit: float, parts: Sequence[_Part], is_whole: bool) -> Timeline:
    stamps = [np.unique(_known(part.stamps)) for part in parts]
    distances = np.concatenate([np.diff(each) for each in stamps])
    usual = float(np.median(distances)) if len(distances) else _DEFAULT_SECONDS / unit
    offsets, end = [0], 0.0
    for part, each in zip(parts, stamps, strict=True):
        if part is not parts[0]:
            offsets.append(round(end) - int(each[0]))
        end = offsets[-1] + int(each[-1]) + (part.last_duration if part.last_duration > 0 else usual)
    first = int(stamps[0][0])
    last = offsets[-1] + int(stamps[-1][-1])
    if max(abs(first), abs(last), last - first) >= 2**62:
        raise VideoError(
            f"{name} has time stamps that cannot be", "The file is damaged, or was made to do damage."
        )
    joined = np.unique(np.concatenate([each + offset for each, offset in zip(stamps, offsets, strict=True)]))
    times = (joined - first) * unit
    duration = max(end * unit - first * unit, 0.0)
    keys = np.zeros(0, np.int64)
    if is_whole and len(parts) == 1 and container in _EXACT_SEEKING:
        keys = np.unique(np.searchsorted(joined, _known(parts[0].keys)))
    return Timeline(
        stamps=joined,
        times=times,
        origin_seconds=first * unit,
        duration_seconds=duration,
        is_counted=False,
        keys=keys,
        offsets_seconds=tuple(offset * unit for offset in offsets),
        is_whole=is_whole,
        notes=(*_restart_note(offsets, stamps, first, unit), *_length_note(duration, times, usual * unit)),
    )


def _known(stamps: Iterable[int | None]) -> np.ndarray:
    return np.array([stamp for stamp in stamps if stamp is not None], np.int64)


def _restart_note(
    offsets: Sequence[int], stamps: Sequence[np.ndarray], first: int, unit: float
) -> tuple[str, ...]:
    if len(offsets) == 1:
        return ()
    at = (offsets[1] + int(stamps[1][0]) - first) * unit
    times = "once" if len(offsets) == 2 else f"{len(offsets) - 1} times"
    return (f"its time stamps begin again {times}, first at {at:.1f} s: what follows is placed after it",)


def _length_note(duration_seconds: float, times: np.ndarray, usual_seconds: float) -> tuple[str, ...]:
    if duration_seconds <= _LONG * usual_seconds * len(times):
        return ()
    ends = np.append(times[1:], duration_seconds)
    longest = int(np.argmax(ends - times))
    return (
        f"{duration_seconds:.1f} s long with {len(times)} frames that are usually {usual_seconds:.2g} s apart: one "
        f"stands still from {times[longest]:.1f} to {ends[longest]:.1f} s",
    )


@dataclass(frozen=True, slots=True)
class Length:
    """What `Timeline` says of it."""

    seconds: float
    notes: tuple[str, ...]


def indexed_length(
    container: InputContainer, stream: av.VideoStream, name: str, file_bytes: int
) -> Length | None:
    """As `read_timeline` has it, of a file whose own index lists all frames, from its first and last packets.

    None for other files, and where what the index lists is not in the file. The container is then anywhere.
    """
    index = list(stream.index_entries or ()) if container.format.name == _INDEXED else []
    listed = np.array([entry.timestamp for entry in index], np.int64)
    if not index or stream.frames != len(index) or (np.diff(listed) < 0).any():
        return None
    if max(entry.pos + entry.size for entry in index) > file_bytes:
        return None
    edges = _Part()
    container.seek(int(listed[0]), stream=stream)
    for number, packet in enumerate(container.demux(stream)):
        if number == _FEW_PACKETS or packet.size == 0:
            break
        if not packet.is_discard:
            edges.add(packet)
    last_key = max((entry.timestamp for entry in index if entry.is_keyframe), default=int(listed[0]))
    container.seek(int(last_key), stream=stream)
    for packet in container.demux(stream):
        if packet.size and packet.is_corrupt:
            return None
        if packet.size and not packet.is_discard:
            edges.add(packet)
    if not edges.stamps or any(stamp is None for stamp in edges.stamps):
        return None
    return _length_of(name, container.format.name, edges, listed, float(stream.time_base or 1))


def _length_of(name: str, container: str, edges: _Part, listed: np.ndarray, unit: float) -> Length:
    timeline = _stamped(name, container, unit, [edges], True)
    distances = np.diff(np.unique(listed))
    usual = float(np.median(distances)) if len(distances) else _DEFAULT_SECONDS / unit
    # An index is in decoding order: it tells how far frames are apart, and roughly when each is shown.
    if edges.last_duration <= 0:
        return Length(float(timeline.times[-1] + usual * unit), ())
    times = (listed - listed[0]) * unit
    return Length(timeline.duration_seconds, _length_note(timeline.duration_seconds, times, usual * unit))
