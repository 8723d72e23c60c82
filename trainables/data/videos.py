"""Reading videos: frames, snippets and log-mel audio of steps, decoded forward and only as far as asked.

A video of duration d has T = max(1, floor(d / step_seconds)) steps. Which frame is shown when is known from
the packets' time stamps, read at opening without decoding; so variable frame rates are right, the number of
steps of a truncated file is what is really there, and reading a step decodes nothing after its last frame.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, final

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter

from paretovid.trainables.data.audio import SAMPLE_RATE, AudioTrack, log_mel
from paretovid.trainables.data.audioset_mel import audioset_log_mel, samples_of
from paretovid.trainables.data.flow import flow
from paretovid.trainables.data.s3 import ObjectStoreError, downloaded, is_object, open_object
from paretovid.trainables.errors import UsageError, VideoError

# Containers of real videos. FFmpeg's probing would also take a text file for ANSI art, an image for a video
# of one frame, or a playlist that makes it fetch what the playlist names.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,nut,ivf,mxf,wtv"
# Containers whose frames have the same time stamps after a seek; AVI, for one, stores none and counts.
_EXACT_SEEKING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
_EXPECTED = "Expected a video file with a video stream, such as MP4, MKV, WebM, MOV or AVI."
_KEPT_BYTES = 512 * 2**20  # decoded frames of the current step that are kept for its other readers


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What a component is shown of a step.

    Arguments:
        kind: "frame": the frame shown at the middle of the step; "snippet": frames spread evenly over it; "flow":
            the optical flow between such frames; "logmel": log-mel spectrogram of its audio.
        size: pixels of the square frame (another shape is squeezed to it), or mel bands.
        num_frames: frames of a snippet or behind a flow, or time bins of a log-mel.
        short_side: the frame's shorter side is brought to so many pixels and the middle square of `size` cut out,
            as networks trained elsewhere expect; 0: the whole frame, squeezed.
        span_seconds: a snippet or flow covers so much time around the middle of the step, beyond it if need be, with
            the first or last frame repeated where the video ends; 0: the step.
        scale: of a log-mel: "power" (`audio.py`: the step), or "audioset" (`audioset_mel.py`: as much time around the
            middle of the step as its bins take).
    """

    kind: Literal["frame", "snippet", "flow", "logmel"]
    size: int
    num_frames: int = 1
    short_side: int = 0
    span_seconds: float = 0.0
    scale: Literal["power", "audioset"] = "power"

    def __post_init__(self) -> None:
        if self.kind not in ("frame", "snippet", "flow", "logmel"):
            raise UsageError(f"input kind {self.kind!r}", "Allowed: frame, snippet, flow, logmel.")
        if self.kind == "flow" and self.num_frames < 2:
            raise UsageError("flow of one frame", "It takes two frames or more.")
        if self.size < 1 or self.num_frames < 1:
            raise UsageError(f"input of size {self.size} x {self.num_frames}", "Both must be 1 or more.")
        if self.short_side and self.short_side < self.size:
            raise UsageError(
                f"a square of {self.size} pixels cannot be cut out of a side of {self.short_side}",
                "short_side must be 0 or at least size.",
            )
        if self.span_seconds < 0:
            raise UsageError(f"span_seconds is {self.span_seconds}", "It must be 0 (the step) or more.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step: `[S, S, 3]`, `[F, S, S, 3]`, `[F - 1, S, S, 2]` or `[mels, bins]`."""
        if self.kind == "logmel":
            return self.size, self.num_frames
        if self.kind == "flow":
            return self.num_frames - 1, self.size, self.size, 2
        image = (self.size, self.size, 3)
        return image if self.kind == "frame" else (self.num_frames, *image)


def count_steps(duration_seconds: float, step_seconds: float) -> int:
    """T: whole steps of a video, at least one."""
    return max(1, math.floor(duration_seconds / step_seconds + 1e-6))


@final
class VideoReader:
    """Steps of one video, decoded lazily; a context manager.

    Going back within a step is free. Going back further, and going forward past a key frame, starts at the last
    key frame before what is asked for, so that frames between two reads are not decoded; where a file's key
    frames cannot be trusted, at the start of the file. Same bytes, step and specification: same array.

    Arguments:
        source: a path, the bytes of a file, or the URL of an object (`s3://…`), which is downloaded until this is
            closed.
        name: for messages; the path by default.

    Raises VideoError, naming the file, when it is missing, empty, no video or has no video stream, and on
    reading when no frame can be decoded; `ObjectStoreError` for a bucket that does not answer.
    """

    def __init__(self, source: Path | str | bytes, *, step_seconds: float, name: str | None = None) -> None:
        if not step_seconds > 0:
            raise UsageError(f"step_seconds is {step_seconds}", "It must be above 0, as 0.5.")
        began = time.perf_counter()
        self.name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
        self.step_seconds = step_seconds
        self.frames_decoded = 0
        self._download = contextlib.ExitStack()
        if is_object(source):
            try:
                source = self._download.enter_context(downloaded(str(source)))
            except FileNotFoundError as error:
                raise VideoError(f"{self.name}: no such object", "Check the URL. " + _EXPECTED) from error
        self._source = source
        self._notes: list[str] = []
        self._reformatters: dict[tuple[int, int], VideoReformatter] = {}
        self._lookback_seconds = 0.0  # of snippets that begin before their step
        self._audio: AudioTrack | None = None
        try:
            self._container = open_container(source, self.name)
        except BaseException:
            self._download.close()
            raise
        try:
            self._read_index()
            self._start_decoding()
        except BaseException:
            self._container.close()
            self._download.close()
            raise
        self.decode_seconds = time.perf_counter() - began
        """Seconds spent so far on opening, decoding, resizing and spectrograms."""
        self.flow_seconds = 0.0
        """Seconds spent so far on optical flow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give files and decoded frames back."""
        self._kept.clear()
        self._container.close()
        if self._audio is not None:
            self._audio.close()
        self._download.close()

    @property
    def num_steps(self) -> int:
        """T."""
        return count_steps(self.duration_seconds, self.step_seconds)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not as expected and how it was dealt with; grows while reading."""
        return tuple(self._notes)

    def read(self, step: int, spec: InputSpec) -> np.ndarray:
        """One step as a component wants it.

        Returns uint8 RGB `[S, S, 3]` (frame) or `[F, S, S, 3]` (snippet), uint8 `[F - 1, S, S, 2]` (flow, see
        `flow.py`), or float32 `[mels, bins]` (logmel). Raises IndexError for a step outside 0..T-1.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"{self.name}: step {step} of {self.num_steps}")
        began = time.perf_counter()
        try:
            if spec.kind == "logmel":
                return self._read_log_mel(step, spec)
            count = 1 if spec.kind == "frame" else spec.num_frames
            span = self.step_seconds if spec.kind == "frame" else spec.span_seconds or self.step_seconds
            # The next reader of this step or of the next may begin as long before it.
            self._lookback_seconds = max(self._lookback_seconds, (span - self.step_seconds) / 2)
            middle = (step + 0.5) * self.step_seconds
            self._forget_before(self._shown_at(step * self.step_seconds - self._lookback_seconds))
            wanted = [self._shown_at(middle + ((i + 0.5) / count - 0.5) * span) for i in range(count)]
            images = {frame: self._image(frame, spec) for frame in sorted(set(wanted))}
            if spec.kind == "frame":
                return images[wanted[0]]
            snippet = np.stack([images[i] for i in wanted])
            return snippet if spec.kind == "snippet" else self._flow(snippet)
        finally:
            self.decode_seconds += time.perf_counter() - began

    def _flow(self, snippet: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        moved = flow(snippet)
        spent = time.perf_counter() - began
        self.flow_seconds += spent
        self.decode_seconds -= spent  # which `read` adds with everything else
        return moved

    # Which frame is shown when

    def _read_index(self) -> None:
        """Time stamps of all frames, from the packets; nothing is decoded."""
        streams = [s for s in self._container.streams.video if not s.disposition & _COVER_ART]
        if not streams:
            raise VideoError(f"{self.name} has no video stream", _EXPECTED)
        stream = streams[0]
        self._stream_index = stream.index
        self.has_audio = bool(self._container.streams.audio)
        stamps: list[int | None] = []
        keys: list[int] = []
        end, whole = 0, True
        try:
            for packet in self._container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                whole = whole and not packet.is_corrupt
                stamps.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        except av.error.FFmpegError:
            whole = False
        if not stamps:
            raise VideoError(f"{self.name} has a video stream without a single frame", _EXPECTED)
        self._set_stamps(stream, stamps, end)
        # Numbers of the frames that decoding can start at, ascending.
        self._keys = np.zeros(0, np.int64)
        if whole and not self._is_counted and self._container.format.name in _EXACT_SEEKING:
            self._keys = np.unique(np.searchsorted(self._stamps, np.array(keys, np.int64)))
        declared, slack = (self._container.duration or 0) / 1e6, 1.0  # may be that of longer sound
        if stream.duration:
            declared, slack = float(stream.duration * (stream.time_base or 1)), 0.5 * self.step_seconds
        if not whole or declared > self.duration_seconds + slack:
            of = f" of {declared:.1f} s" if declared else ""
            self._notes.append(f"truncated at {self.duration_seconds:.1f} s{of}: what is there is used")
        if not self.has_audio:
            self._notes.append("no audio: silence")

    def _set_stamps(self, stream: av.VideoStream, stamps: list[int | None], end: int) -> None:
        known = [stamp for stamp in stamps if stamp is not None]
        # Streams without time stamps (raw H.264) run at a constant rate; their frames are counted.
        self._is_counted = len(known) < len(stamps)
        if self._is_counted:
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            self._stamps = np.arange(len(stamps))
            self._times = self._stamps / rate
            self._origin_seconds = 0.0
            self.duration_seconds = len(stamps) / rate
            return
        unit = float(stream.time_base or 1)
        self._stamps = np.unique(np.array(known, np.int64))
        self._times = (self._stamps - self._stamps[0]) * unit
        self._origin_seconds = float(self._stamps[0]) * unit
        usual = float(np.median(np.diff(self._times))) if len(self._times) > 1 else 0.04
        self.duration_seconds = max(end * unit - self._origin_seconds, 0.0)
        if end <= self._stamps[-1]:  # the last packet does not say how long it is shown
            self.duration_seconds = float(self._times[-1]) + usual

    def _shown_at(self, seconds: float) -> int:
        """Number of the frame that is shown at a time."""
        return max(0, int(np.searchsorted(self._times, seconds + 1e-6, side="right")) - 1)

    # Decoding

    def _start_decoding(self) -> None:
        self._container.close()
        self._container = open_container(self._source, self.name)
        stream = self._container.streams[self._stream_index]
        # One thread: a threaded decoder works several frames ahead of what was asked for.
        stream.thread_type = "NONE"  # type: ignore[attr-defined]
        stream.codec_context.thread_count = 1
        self._frames = self._decode_all()
        self._begun_at = 0  # number of the frame that decoding began at
        self._is_damaged = False  # a frame since then was patched up by the decoder
        self._kept: dict[int, av.VideoFrame] = {}  # frames of the current step, by number, ascending
        self._kept_bytes = 0
        self._kept_from = 0  # frames before this one are gone
        self._position = -1  # number of the last decoded frame

    def _seek(self, number: int) -> bool:
        """Continues at a key frame; False if that is not where the file then is."""
        try:
            self._move_to(int(self._stamps[number]))
        except (av.error.FFmpegError, OSError):
            return False
        self._frames = self._decode_all()
        self._kept.clear()
        self._kept_bytes = 0
        self._begun_at = self._kept_from = number
        self._is_damaged = False
        self._position = number - 1
        # A seek may end early, and frames shown before a key frame may come after it and lack what they refer to.
        for decoded, frame in self._frames:
            if decoded >= number:
                self._keep(decoded, frame)
                return decoded == number
        return False

    def _move_to(self, stamp: int) -> None:
        self._container.seek(stamp, stream=self._container.streams[self._stream_index])

    def _key_before(self, number: int) -> int:
        """Number of the last key frame that is not after a frame; 0 if none is known."""
        place = int(np.searchsorted(self._keys, number, side="right")) - 1
        return int(self._keys[place]) if place >= 0 else 0

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers, skipping what is damaged."""
        stream = self._container.streams[self._stream_index]
        packets = self._container.demux(stream)
        count = 0
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                where = float(self._times[max(0, self._position)])
                self._note(f"damaged near {where:.1f} s: the last good frame is shown instead")
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)
                stamp = count if self._is_counted or frame.pts is None else frame.pts
                count += 1
                self.frames_decoded += 1
                yield int(np.searchsorted(self._stamps, stamp, side="right")) - 1, frame

    def _frame(self, number: int) -> av.VideoFrame:
        """The frame of a number, or the closest that could be decoded."""
        key = self._key_before(number)
        is_behind = number < self._kept_from
        if (is_behind or key > self._position + 1) and not (key > 0 and self._seek(key)):
            if key > 0:
                self._distrust_keys()
            elif is_behind:
                self._start_decoding()
        self._decode_to(number)
        if self._begun_at > 0 and (self._is_damaged or number not in self._kept):
            # What is shown of a damaged part comes from the frames before it, and must not depend on where decoding
            # began.
            self._distrust_keys()
            self._decode_to(number)
        if not self._kept:
            raise VideoError(f"{self.name}: not one frame can be decoded", f"It is damaged. {_EXPECTED}")
        before = [kept for kept in self._kept if kept <= number]
        return self._kept[before[-1]] if before else next(iter(self._kept.values()))

    def _distrust_keys(self) -> None:
        """Starts the file again, and from now on whenever it has to go back."""
        self._keys = np.zeros(0, np.int64)
        self._start_decoding()

    def _decode_to(self, number: int) -> None:
        while self._position < number:
            decoded = next(self._frames, None)
            if decoded is None:
                break
            self._keep(*decoded)

    def _keep(self, number: int, frame: av.VideoFrame) -> None:
        self._position = max(self._position, number)
        self._is_damaged = self._is_damaged or frame.is_corrupt
        self._kept[number] = frame
        self._kept_bytes += _frame_bytes(frame)
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._drop_oldest()

    def _forget_before(self, number: int) -> None:
        """Let go of frames that are no longer shown when this one would be (it may be a damaged one)."""
        numbers = list(self._kept)
        for after in numbers[1:]:
            if after > number:
                break
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._kept))
        self._kept_bytes -= _frame_bytes(self._kept.pop(oldest))
        self._kept_from = max(self._kept_from, oldest + 1)

    # What components are shown

    def _image(self, number: int, spec: InputSpec) -> np.ndarray:
        frame = self._frame(number)
        width = height = spec.size
        if spec.short_side:
            shrink = spec.short_side / min(frame.width, frame.height)
            width, height = (
                max(spec.short_side, round(side * shrink)) for side in (frame.width, frame.height)
            )
        reformatter = self._reformatters.setdefault((width, height), VideoReformatter())
        resized = reformatter.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA)
        top, left = (height - spec.size) // 2, (width - spec.size) // 2
        image = resized.to_ndarray()[top : top + spec.size, left : left + spec.size]
        turns = round(frame.rotation / 90) % 4
        if turns == 0:
            return np.ascontiguousarray(image)
        self._note(f"rotated by {turns * 90} degrees counter-clockwise, as its metadata says")
        return np.ascontiguousarray(np.rot90(image, turns))

    def _read_log_mel(self, step: int, spec: InputSpec) -> np.ndarray:
        start, stop = (round((step + i) * self.step_seconds * SAMPLE_RATE) for i in (0, 1))
        if spec.scale == "audioset":
            start = round((step + 0.5) * self.step_seconds * SAMPLE_RATE) - samples_of(spec.num_frames) // 2
            stop = start + samples_of(spec.num_frames)
        samples = np.zeros(stop - start, np.float32)
        if self.has_audio:
            if self._audio is None:
                self._audio = AudioTrack(open_container(self._source, self.name), self._origin_seconds)
            samples = self._audio.samples(start, stop)
            if self._audio.damaged_at_seconds is not None:
                self._note(f"audio damaged at {self._audio.damaged_at_seconds:.1f} s: silence after it")
        transform = audioset_log_mel if spec.scale == "audioset" else log_mel
        return transform(samples, bands=spec.size, bins=spec.num_frames)

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


_COVER_ART = av.stream.Disposition.attached_pic


def read_all_steps(
    source: Path | str | bytes, specs: Mapping[str, InputSpec], *, step_seconds: float
) -> dict[str, np.ndarray]:
    """All steps of a video for some components, decoded once: `[T, ...]` per key, as `VideoReader.read`."""
    with VideoReader(source, step_seconds=step_seconds) as reader:
        return read_steps(reader, specs)


def read_steps(reader: VideoReader, specs: Mapping[str, InputSpec]) -> dict[str, np.ndarray]:
    """As `read_all_steps`, `[T, ...]` per input, of an open reader, whose notes the caller then has."""
    steps = [
        {key: reader.read(step, spec) for key, spec in specs.items()} for step in range(reader.num_steps)
    ]
    return {key: np.stack([values[key] for values in steps]) for key in specs}


def open_container(source: Path | str | bytes, name: str) -> InputContainer:
    """A file that is really a video, or a `VideoError` that names it. The caller closes it.

    Of an object (`s3://…`) only what is asked for is read.
    """
    if is_object(source):
        return _open_object(str(source), name)
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.exists():
            raise VideoError(f"{name}: no such file", "Check the path. " + _EXPECTED)
        if path.is_dir():
            raise VideoError(f"{name} is a folder", "Name the videos in it. " + _EXPECTED)
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise VideoError(f"{name} is empty", _EXPECTED)
    return _open(io.BytesIO(source) if isinstance(source, bytes) else str(source), name)


def _open(file: Any, name: str) -> InputContainer:
    try:
        answer: InputContainer = av.open(
            file, "r", options={"format_whitelist": _FORMATS}, metadata_errors="replace"
        )
        return answer
    except ObjectStoreError:
        raise  # a bucket that is away says nothing of the video
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{name} cannot be read as a video ({reason})", _EXPECTED) from error


def _open_object(url: str, name: str) -> InputContainer:
    try:
        file = open_object(url)
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such object", "Check the URL. " + _EXPECTED) from error
    if file.seek(0, io.SEEK_END) == 0:
        raise VideoError(f"{name} is empty", _EXPECTED)
    file.seek(0)
    return _open(file, name)


def _frame_bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
