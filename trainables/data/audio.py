"""Audio of a video: decoded forward and only as far as asked, mono 16 kHz; and log-mel spectrograms of it."""

from __future__ import annotations

from functools import cache
from typing import final

import av
import numpy as np
from av.container import InputContainer

SAMPLE_RATE = 16_000  # Hz
_WINDOW = 400  # samples: 25 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7_600.0
_FLOOR = 1e-4  # power below which sound counts as silence: log-mel of silence is log(_FLOOR)


@final
class AudioTrack:
    """The first audio stream of a container, as mono float32 samples at 16 kHz.

    Arguments:
        container: opened for this track alone; closed with it.
        origin_seconds: the time stamp that counts as 0, the video's first frame.
    """

    def __init__(self, container: InputContainer, origin_seconds: float) -> None:
        self._container = container
        self._origin = origin_seconds
        self._stream = container.streams.audio[0]
        self._stream.codec_context.thread_count = 1
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        self._packets = container.demux(self._stream)
        self._chunks: list[tuple[int, np.ndarray]] = []  # (place of the first sample, samples)
        self._end: int | None = None  # place after the last sample; None before the first
        self._finished = False
        self.damaged_at_seconds: float | None = None

    def close(self) -> None:
        """Give the container back."""
        self._container.close()

    def samples(self, start: int, stop: int) -> np.ndarray:
        """`[stop - start]` float32 in -1..1; zeros where the track has none."""
        while not self._finished and (self._end is None or self._end < stop):
            self._decode_packet()
        wanted = np.zeros(stop - start, np.float32)
        for place, chunk in self._chunks:
            low, high = max(place, start), min(place + len(chunk), stop)
            if low < high:
                wanted[low - start : high - start] = chunk[low - place : high - place]
        return wanted

    def _decode_packet(self) -> None:
        try:
            packet = next(self._packets, None)
            frames = [] if packet is None else packet.decode()
            self._finished = packet is None
            # A packet of size 0 says that the stream ended: the resampler still holds samples.
            is_last = packet is not None and packet.size == 0
            for frame in [*frames, *([None] if is_last else [])]:
                self._append(frame)
        except av.error.FFmpegError:
            self._finished = True
            self.damaged_at_seconds = (self._end or 0) / SAMPLE_RATE

    def _append(self, frame: av.AudioFrame | None) -> None:
        if frame is not None and self._end is None:
            self._end = round(((frame.time or 0.0) - self._origin) * SAMPLE_RATE)
        for resampled in self._resampler.resample(frame):
            chunk = resampled.to_ndarray().reshape(-1)
            assert self._end is not None
            self._chunks.append((self._end, chunk))
            self._end += len(chunk)


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
