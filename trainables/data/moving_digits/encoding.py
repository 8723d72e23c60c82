"""Writing videos with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from paretovid.trainables.data.audio import SAMPLE_RATE


def encode_mp4(path: Path, frames: np.ndarray, audio: np.ndarray, *, frames_per_second: int) -> None:
    """Write an MP4 with H.264 and AAC, the same bytes for the same input.

    Arguments:
        frames: `[F, H * 3 // 2, W]` uint8, planar YUV 4:2:0.
        audio: `[samples]` float32, mono 16 kHz.
    """
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        video = container.add_stream("libx264", rate=frames_per_second)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1] * 2 // 3, "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any number of cores
        video.options = {"preset": "ultrafast", "crf": "20", "threads": "1", "flags": "+bitexact"}
        video.codec_context.gop_size = 2 * frames_per_second
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sound.bit_rate = 64_000
        sound.codec_context.thread_count = 1
        sound.options = {"flags": "+bitexact"}
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, frames_per_second)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
