"""Frames of a video by their number, decoded forward and only as far as asked.

Going back further than what is kept, and going forward past a key frame, starts at the last key frame before what is
asked for, so that frames between two reads are not decoded; where a file's key frames cannot be trusted, at the
start of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import av
import numpy as np

from paretovid.trainables.data.containers import EXPECTED, OpenVideo
from paretovid.trainables.data.limits import Stopwatch, VideoLimitsConfig
from paretovid.trainables.data.timeline import Continued, Timeline
from paretovid.trainables.errors import VideoError

_KEPT_BYTES = 512 * 2**20  # decoded frames of the current step that are kept for its other readers


@final
class FrameDecoder:
    """The frames of one track.

    Arguments:
        name: of the file, for messages.
        reopen: opens the file once more.
        stream_index: of the track.
        stopwatch: is asked for every packet whether there is time left.
        note: is told what was not as expected.
    """

    def __init__(
        self,
        name: str,
        reopen: Callable[[], OpenVideo],
        stream_index: int,
        timeline: Timeline,
        limits: VideoLimitsConfig,
        stopwatch: Stopwatch,
        note: Callable[[str], None],
    ) -> None:
        self._name = name
        self._reopen = reopen
        self._stream_index = stream_index
        self._timeline = timeline
        self._limits = limits
        self._stopwatch = stopwatch
        self._note = note
        self._keys = timeline.keys
        self.frames_decoded = 0
        self._opened: OpenVideo | None = None
        self._start()

    def close(self) -> None:
        """Give the file and decoded frames back."""
        self._kept.clear()
        if self._opened is not None:
            self._opened.close()

    def frame(self, number: int) -> av.VideoFrame:
        """The frame of a number, or the closest that could be decoded.

        Raises `VideoError` if not one can be, if one is too large, or if it takes too long.
        """
        key = self._key_before(number)
        is_behind = number < self._kept_from
        if (is_behind or key > self._position + 1) and not (key > 0 and self._seek(key)):
            if key > 0:
                self._distrust_keys()
            elif is_behind:
                self._start()
        self._decode_to(number)
        if self._begun_at > 0 and (self._is_damaged or number not in self._kept):
            # What is shown of a damaged part comes from the frames before it, and must not depend on where decoding
            # began.
            self._distrust_keys()
            self._decode_to(number)
        if not self._kept:
            raise VideoError(
                f"{self._name}: not one frame can be decoded",
                f"It is damaged, or its frames are larger than max_pixels={self._limits.max_pixels}. {EXPECTED}",
            )
        before = [kept for kept in self._kept if kept <= number]
        return self._kept[before[-1]] if before else next(iter(self._kept.values()))

    def forget_before(self, number: int) -> None:
        """Let go of frames that are no longer shown when this one would be (it may be a damaged one)."""
        numbers = list(self._kept)
        for after in numbers[1:]:
            if after > number:
                break
            self._drop_oldest()

    def _start(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = self._reopen()
        self._container = self._opened.container
        stream = self._container.streams[self._stream_index]
        # One thread: a threaded decoder works several frames ahead of what was asked for.
        stream.thread_type = "NONE"  # type: ignore[attr-defined]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
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
            self._move_to(int(self._timeline.stamps[number]))
        except av.error.FFmpegError:
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
        continued = Continued(float(stream.time_base or 1), self._timeline.offsets_seconds)
        count = 0
        while True:
            self._stopwatch.check()
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                continued.shift(packet)
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                where = float(self._timeline.times[max(0, self._position)])
                self._note(f"damaged near {where:.1f} s: the last good frame is shown instead")
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)
                self._limits.check_pixels(self._name, frame.width, frame.height)
                stamp = count if self._timeline.is_counted or frame.pts is None else frame.pts
                count += 1
                self.frames_decoded += 1
                yield int(np.searchsorted(self._timeline.stamps, stamp, side="right")) - 1, frame

    def _distrust_keys(self) -> None:
        """Starts the file again, and from now on whenever it has to go back."""
        self._keys = np.zeros(0, np.int64)
        self._start()

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

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._kept))
        self._kept_bytes -= _frame_bytes(self._kept.pop(oldest))
        self._kept_from = max(self._kept_from, oldest + 1)


def _frame_bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
