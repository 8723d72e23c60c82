"""Log-mel spectrograms as networks trained on AudioSet expect them (VGGish, YAMNet).

S. Hershey et al.: "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017; constants as in YAMNet's
published code (github.com/tensorflow/models, research/audioset/yamnet, `params.py`): 25 ms windows every 10 ms,
magnitudes, 64 mel bands between 125 and 7,500 Hz, log(mel + 0.001). They differ from those of `audio.py` in
scale and offset, which a trained network would notice.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from paretovid.trainables.data.audio import SAMPLE_RATE

_WINDOW, _HOP, _FFT = 400, 160, 512  # samples
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7_500.0
_OFFSET = 1e-3


def samples_of(bins: int) -> int:
    """How many samples at 16 kHz a spectrogram of so many windows covers: 15,600 (0.975 s) for YAMNet's 96."""
    return (bins - 1) * _HOP + _WINDOW


def audioset_log_mel(samples: np.ndarray, *, bands: int, bins: int) -> np.ndarray:
    """Log-mel spectrogram of one patch.

    Arguments:
        samples: `[samples_of(bins)]` float32 at 16 kHz, from -1 to 1.
        bands: mel bands; 64 for YAMNet.
        bins: windows; 96 for YAMNet.

    Returns `[bands, bins]` float32, natural logarithm of magnitude, at least log(0.001).
    """
    starts = np.arange(bins) * _HOP
    windows = samples[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW + 1)[:-1]  # [bins, window]
    magnitude = np.abs(np.fft.rfft(windows, _FFT))
    return np.log(_mel_filters(bands) @ magnitude.T + _OFFSET).astype(np.float32)


def _mel(hz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


@cache
def _mel_filters(bands: int) -> np.ndarray:
    """`[bands, _FFT // 2 + 1]` triangles of height 1, straight on the mel scale; nothing at 0 Hz."""
    edges = np.linspace(_mel(_LOWEST_HZ), _mel(_HIGHEST_HZ), bands + 2)
    places = _mel(np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - left) / (centre - left), (right - places) / (right - centre)
    triangles = np.clip(np.minimum(rising, falling), 0.0, None)
    triangles[:, 0] = 0.0
    answer: np.ndarray = triangles
    return answer
