"""Audio of a video: decoded forward and only as far as asked, mono 16 kHz; and log-mel spectrograms of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import final

import av
import numpy as np

from paretovid.trainables.data.containers import OpenVideo
from paretovid.trainables.data.timeline import Continued

SAMPLE_RATE = 16_000  # Hz
_WINDOW = 400  # samples: 25 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7_600.0
_FLOOR = 1e-4  # power below which sound counts as silence: log-mel of silence is log(_FLOOR)
_BLOCK = SAMPLE_RATE  # samples that are kept, and let go of, together
_KEPT_BLOCKS = 600  # ten minutes, 38 MB
_GAP_SECONDS = (
    0.05  # further from its place than that, sound is where its time stamp says: less is inaccuracy
)


@final
class AudioTrack:
    """One track of sound, as mono float32 samples at 16 kHz.

    Samples follow each other from the first on; where time stamps say that some are missing there is silence. Memory,
    and the time of a step, do not grow with the length; going back by more than ten minutes decodes from the start.

    Arguments:
        reopen: opens the file once more, for this track alone.
        stream_index: of the track.
        origin_seconds: the time stamp that counts as 0, the video's first frame.
        offsets_seconds: of time stamps that begin again, `Timeline.offsets_seconds`.
        check: called for every packet; raises when it takes too long.
    """

    def __init__(
        self,
        reopen: Callable[[], OpenVideo],
        stream_index: int,
        origin_seconds: float,
        offsets_seconds: Sequence[float] = (0.0,),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._reopen = reopen
        self._stream_index = stream_index
        self._origin = origin_seconds
        self._offsets = offsets_seconds
        self._check = check
        self.damaged_at_seconds: float | None = None
        """Where the first packet was that cannot be decoded."""
        self._opened: OpenVideo | None = None
        self._start()

    def close(self) -> None:
        """Give the file and the samples back."""
        self._blocks.clear()
        if self._opened is not None:
            self._opened.close()

    def samples(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start]` float32 in -1..1; zeros where the track has none."""
        if self._forgotten_before is not None and start < self._forgotten_before:
            self._start()
        self._wanted_from = start
        while not self._finished and (self._end is None or self._end < stop):
            self._decode_packet()
        wanted = np.zeros(stop - start, np.float32)
        for number in range(start // _BLOCK, -(-stop // _BLOCK)):
            if (block := self._blocks.get(number)) is not None:
                low, high = max(start, number * _BLOCK), min(stop, (number + 1) * _BLOCK)
                wanted[low - start : high - start] = block[low - number * _BLOCK : high - number * _BLOCK]
        return wanted

    def _start(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = self._reopen()
        stream = self._opened.container.streams[self._stream_index]
        stream.codec_context.thread_count = 1
        self._packets = self._opened.container.demux(stream)
        self._continued = Continued(float(stream.time_base or 1), self._offsets)
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None  # of the sound that the resampler takes
        self._due: float | None = None  # when the next frame begins if nothing is missing; None: nobody knows
        self._blocks: dict[int, np.ndarray] = {}  # number to samples
        self._forgotten_before: int | None = None  # place of the first sample that was not let go of
        self._end: int | None = None  # place after the last sample; None before the first
        self._finished = False
        self._wanted_from = 0  # place of the first sample that is being asked for

    def _decode_packet(self) -> None:
        self._check()
        try:
            packet = next(self._packets, None)
        except av.error.FFmpegError:  # of the container: there is no way on
            packet = None
            self._note_damage()
        if packet is None:
            self._finish()
            return
        # A packet of size 0 says that the stream ended: decoder and resampler still hold samples.
        is_last = packet.size == 0
        try:
            if self._continued.shift(packet):
                self._due = None
            for frame in packet.decode():
                assert isinstance(frame, av.AudioFrame)
                self._append(frame)
        except (av.error.FFmpegError, ValueError):
            self._note_damage()
            self._flush()
            self._due = None
        if is_last:
            self._finish()

    def _note_damage(self) -> None:
        if self.damaged_at_seconds is None:
            self.damaged_at_seconds = max(0, self._end or 0) / SAMPLE_RATE

    def _finish(self) -> None:
        if not self._finished:
            self._flush()
        self._finished = True

    def _append(self, frame: av.AudioFrame) -> None:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        stamp = None if frame.time is None else frame.time - self._origin
        is_due = self._due is not None and (stamp is None or abs(stamp - self._due) <= _GAP_SECONDS)
        if self._resampler is None or kind != self._kind or not is_due:
            self._flush()
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._kind = kind
            self._due = stamp if stamp is not None else self._due or 0.0
            self._end = round(self._due * SAMPLE_RATE)
        assert self._due is not None
        self._due += frame.samples / frame.sample_rate
        for resampled in self._resampler.resample(frame):
            self._store(resampled.to_ndarray().reshape(-1))

    def _flush(self) -> None:
        """Takes what the resampler still holds."""
        resampler, self._resampler = self._resampler, None
        for resampled in [] if resampler is None else resampler.resample(None):
            self._store(resampled.to_ndarray().reshape(-1))

    def _store(self, chunk: np.ndarray) -> None:
        assert self._end is not None
        while len(chunk):
            number, offset = divmod(self._end, _BLOCK)
            part, chunk = np.split(chunk, [_BLOCK - offset])
            if number not in self._blocks:
                self._blocks[number] = np.zeros(_BLOCK, np.float32)
            self._blocks[number][offset : offset + len(part)] = part
            self._end += len(part)
        while len(self._blocks) > _KEPT_BLOCKS:
            oldest = min(self._blocks)
            if (oldest + 1) * _BLOCK > self._wanted_from:
                break
            del self._blocks[oldest]
            self._forgotten_before = (oldest + 1) * _BLOCK


def log_mel(samples: np.ndarray, *, bands: int, bins: int) -> np.ndarray:
    """Log-mel spectrogram of one segment.

    Arguments:
        samples: `[N]` float32 at 16 kHz. Nothing outside of the segment is looked at.
        bands: mel bands between 60 and 7,600 Hz.
        bins: windows of 25 ms, spread evenly over the segment.

    Returns `[bands, bins]` float32, natural logarithm of power, at least log(1e-4).
    """
    if len(samples) < _WINDOW:
        samples = np.pad(samples, (0, _WINDOW - len(samples)))
    starts = np.linspace(0, len(samples) - _WINDOW, bins).round().astype(int)
    windows = samples[starts[:, None] + np.arange(_WINDOW)] * _hann()  # [bins, window]
    spectrum = np.fft.rfft(windows, _FFT)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return np.log(np.maximum(_mel_filters(bands) @ power.T, np.float32(_FLOOR)))


@cache
def _hann() -> np.ndarray:
    return np.hanning(_WINDOW + 1)[:-1].astype(np.float32)


@cache
def _mel_filters(bands: int) -> np.ndarray:
    """`[bands, _FFT // 2 + 1]` triangles, each summing to 1 so that bands are comparable."""
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, bands + 2) / 2595.0) - 1.0)
    frequency = np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE)
    # Narrow low bands would fall between two bins of the spectrum: no triangle is narrower than a bin.
    bin_hz = SAMPLE_RATE / _FFT
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequency - centre) / np.maximum(centre - left, bin_hz) + 1.0
    falling = 1.0 - (frequency - centre) / np.maximum(right - centre, bin_hz)
    triangles = np.clip(np.minimum(rising, falling), 0.0, None)
    answer: np.ndarray = (triangles / triangles.sum(1, keepdims=True)).astype(np.float32)
    return answer
