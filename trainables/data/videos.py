"""Reading videos: frames, snippets and log-mel audio of steps, decoded forward and only as far as asked.

A video of duration d has T = max(1, floor(d / step_seconds)) steps. Which frame is shown when is known from
the packets' time stamps, read at opening without decoding; so variable frame rates are right, the number of
steps of a truncated file is what is really there, and reading a step decodes nothing after its last frame.

docs/formats.md lists what is read, how, and what is told of it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, final

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from paretovid.trainables.data.audio import SAMPLE_RATE, AudioTrack, log_mel
from paretovid.trainables.data.audioset_mel import audioset_log_mel, samples_of
from paretovid.trainables.data.containers import (
    EXPECTED,
    OpenVideo,
    faults_of,
    open_video,
    pictures_of,
    sound_of,
)
from paretovid.trainables.data.decoding import FrameDecoder
from paretovid.trainables.data.display import orientation_of
from paretovid.trainables.data.flow import flow
from paretovid.trainables.data.limits import USUAL_LIMITS, Stopwatch, VideoLimitsConfig
from paretovid.trainables.data.s3 import downloaded, is_object
from paretovid.trainables.data.timeline import read_timeline
from paretovid.trainables.errors import UsageError, VideoError


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

    Going back within a step is free; further, see `decoding.py`. Same bytes, step and specification: same array.

    Arguments:
        source: a path, the bytes of a file, or the URL of an object (`s3://…`), which is downloaded until this is
            closed.
        name: for messages; the path by default.
        limits: what the video may ask for.

    Raises VideoError, naming the file, when it is missing, empty, no video, has no video stream or is beyond a limit,
    and on reading when no frame can be decoded or whatever else a decoder raises; `ObjectStoreError` for a bucket that
    does not answer, another `OSError` for a disk.
    """

    def __init__(
        self,
        source: Path | str | bytes,
        *,
        step_seconds: float,
        name: str | None = None,
        limits: VideoLimitsConfig = USUAL_LIMITS,
    ) -> None:
        if not step_seconds > 0:
            raise UsageError(f"step_seconds is {step_seconds}", "It must be above 0, as 0.5.")
        self.name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
        self.step_seconds = step_seconds
        self._limits = limits
        self._notes: list[str] = []
        self._reformatters: dict[tuple[int, int], VideoReformatter] = {}
        self._lookback_seconds = 0.0  # of snippets that begin before their step
        self._audio: AudioTrack | None = None
        self._stopwatch = Stopwatch(self.name, limits)
        self._files = contextlib.ExitStack()
        try:
            with self._stopwatch, faults_of(self.name):
                self._open(source)
        except BaseException:
            self._files.close()
            raise
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
        self._files.close()

    @property
    def num_steps(self) -> int:
        """T."""
        return count_steps(self.duration_seconds, self.step_seconds)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not as expected and how it was dealt with; grows while reading."""
        return tuple(self._notes)

    def notes_for(self, specs: Iterable[InputSpec]) -> tuple[str, ...]:
        """The notes that matter to whoever is shown this: tracks of sound that are missing only to who hears."""
        hears = any(spec.kind == "logmel" for spec in specs)
        return tuple(note for note in self._notes if hears or note not in self._silence)

    @property
    def frames_decoded(self) -> int:
        """So far."""
        return self._decoder.frames_decoded

    @property
    def decode_seconds(self) -> float:
        """Seconds spent so far on opening, decoding, resizing and spectrograms."""
        return self._stopwatch.seconds

    def read(self, step: int, spec: InputSpec) -> np.ndarray:
        """One step as a component wants it.

        Returns uint8 RGB `[S, S, 3]` (frame) or `[F, S, S, 3]` (snippet), uint8 `[F - 1, S, S, 2]` (flow, see
        `flow.py`), or float32 `[mels, bins]` (logmel). Raises IndexError for a step outside 0..T-1.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"{self.name}: step {step} of {self.num_steps}")
        with faults_of(self.name):
            with self._stopwatch:
                if spec.kind == "logmel":
                    return self._read_log_mel(step, spec)
                images = self._read_images(step, spec)
            if spec.kind == "frame":
                only: np.ndarray = images[0]
                return only
            return images if spec.kind == "snippet" else self._flow(images)

    def _flow(self, snippet: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        moved = flow(snippet)
        self.flow_seconds += time.perf_counter() - began
        return moved

    def _open(self, source: Path | str | bytes) -> None:
        if is_object(source):
            try:
                source = self._files.enter_context(downloaded(str(source)))
            except FileNotFoundError as error:
                raise VideoError(f"{self.name}: no such object", "Check the URL. " + EXPECTED) from error
        self._source = source
        with self._reopen() as container:
            pictures, notes = pictures_of(container, self.name)
            self._notes += notes
            self._limits.check_pixels(self.name, pictures.codec_context.width, pictures.codec_context.height)
            sound, silence = sound_of(container)
            self._sound_index = None if sound is None else sound.index
            index = pictures.index
            self._timeline = read_timeline(container, pictures, self.name, self._stopwatch.check)
            self._notes += [*self._timeline.notes, *silence]
            self._silence = silence
        self.duration_seconds = self._timeline.duration_seconds
        self.has_audio = sound is not None
        """A track of sound is there that can be decoded."""
        self._limits.check_steps(self.name, self.duration_seconds, self.num_steps)
        self._decoder = FrameDecoder(
            self.name, self._reopen, index, self._timeline, self._limits, self._stopwatch, self._note
        )
        self._files.callback(self._decoder.close)

    def _reopen(self) -> OpenVideo:
        return open_video(self._source, self.name, self._limits, self._stopwatch.check)

    # What components are shown

    def _read_images(self, step: int, spec: InputSpec) -> np.ndarray:
        """`[F, S, S, 3]`."""
        count = 1 if spec.kind == "frame" else spec.num_frames
        span = self.step_seconds if spec.kind == "frame" else spec.span_seconds or self.step_seconds
        # The next reader of this step or of the next may begin as long before it.
        self._lookback_seconds = max(self._lookback_seconds, (span - self.step_seconds) / 2)
        middle = (step + 0.5) * self.step_seconds
        shown_at = self._timeline.shown_at
        self._decoder.forget_before(shown_at(step * self.step_seconds - self._lookback_seconds))
        wanted = [shown_at(middle + ((i + 0.5) / count - 0.5) * span) for i in range(count)]
        images = {frame: self._image(frame, spec) for frame in sorted(set(wanted))}
        return np.stack([images[i] for i in wanted])

    def _image(self, number: int, spec: InputSpec) -> np.ndarray:
        frame = self._decoder.frame(number)
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
        orientation = orientation_of(frame)
        if orientation.note:
            self._note(orientation.note)
        return orientation.apply(image)

    def _read_log_mel(self, step: int, spec: InputSpec) -> np.ndarray:
        start, stop = (round((step + i) * self.step_seconds * SAMPLE_RATE) for i in (0, 1))
        if spec.scale == "audioset":
            start = round((step + 0.5) * self.step_seconds * SAMPLE_RATE) - samples_of(spec.num_frames) // 2
            stop = start + samples_of(spec.num_frames)
        samples = np.zeros(stop - start, np.float32)
        if self._sound_index is not None:
            samples = self._sound(self._sound_index).samples(start, stop)
            if self._audio is not None and self._audio.damaged_at_seconds is not None:
                self._note(f"audio damaged near {self._audio.damaged_at_seconds:.1f} s: silence there")
        transform = audioset_log_mel if spec.scale == "audioset" else log_mel
        return transform(samples, bands=spec.size, bins=spec.num_frames)

    def _sound(self, index: int) -> AudioTrack:
        if self._audio is None:
            timeline = self._timeline
            self._audio = AudioTrack(
                self._reopen, index, timeline.origin_seconds, timeline.offsets_seconds, self._stopwatch.check
            )
            self._files.callback(self._audio.close)
        return self._audio

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


def read_all_steps(
    source: Path | str | bytes, specs: Mapping[str, InputSpec], *, step_seconds: float
) -> dict[str, np.ndarray]:
    """All steps of a video for some components, decoded once: `[T, ...]` per key, as `VideoReader.read`."""
    with VideoReader(source, step_seconds=step_seconds) as reader:
        return read_steps(reader, specs)


def read_steps(reader: VideoReader, specs: Mapping[str, InputSpec]) -> dict[str, np.ndarray]:
    """As `read_all_steps`, `[T, ...]` per input, of an open reader, whose notes the caller then has."""
    with faults_of(reader.name):  # all steps together may take more memory than there is
        steps = [
            {key: reader.read(step, spec) for key, spec in specs.items()} for step in range(reader.num_steps)
        ]
        return {key: np.stack([values[key] for values in steps]) for key in specs}
