"""Optical flow between the frames of a clip: dense inverse search (DIS) as OpenCV has it.

T. Kroeger, R. Timofte, D. Dai, L. Van Gool: "Fast Optical Flow using Dense Inverse Search", ECCV 2016.

Flow is no network: its cost has no multiply-accumulates to count and is counted apart, in seconds (`VideoReader`).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from paretovid.trainables.errors import UsageError

ZERO = 128
"""The value of no movement in a stored flow."""
REACH_PIXELS = 4.0
"""Movement from one frame to the next that a stored flow can show; more is cut to it."""


@functools.cache
def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "optical flow needs OpenCV, which is not installed",
            "pip install 'paretovid[flow]' (opencv-python-headless); method.model.motion=difference needs none.",
        ) from error
    # The rows are shared out to threads, and what one has found guides its next row: as many threads, as many flows.
    cv2.setNumThreads(1)
    return cv2


def flow(frames: np.ndarray) -> np.ndarray:
    """Flow from each frame to the next.

    Arguments:
        frames: `[F, S, S, 3]` uint8 RGB, F of 2 or more.

    Returns `[F - 1, S, S, 2]` uint8, right and down positive, `ZERO` for none and 127 steps for `REACH_PIXELS`.
    Raises `UsageError` if OpenCV is not installed.
    """
    cv2 = _cv2()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    moved = np.stack([search.calc(grey[i], grey[i + 1], None) for i in range(len(grey) - 1)])
    steps = np.rint(moved / REACH_PIXELS * 127).clip(-127, 127)
    return (steps + ZERO).astype(np.uint8)
