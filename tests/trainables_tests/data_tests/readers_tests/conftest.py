"""Small real videos, and text files, for the readers' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paretovid.trainables.data.audio import SAMPLE_RATE
from paretovid.trainables.data.moving_digits.encoding import encode_mp4


def _encode(path: Path, seconds: float) -> None:
    rng = np.random.default_rng(sum(path.name.encode()))
    frames = rng.integers(0, 255, (round(8 * seconds), 48, 32), dtype=np.uint8)
    audio = rng.normal(0, 0.1, round(SAMPLE_RATE * seconds)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_mp4(path, frames, audio, frames_per_second=8)


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """`write_video(path, seconds=2.0)` encodes a video that differs from those of other file names."""

    def write(path: Path, seconds: float = 2.0) -> Path:
        _encode(path, seconds)
        return path

    return write


@pytest.fixture
def write() -> Callable[[Path, str], Path]:
    """`write(path, text)` makes folders on the way."""

    def write_text(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return write_text
