"""Videos for tests that are odd in one way each; where nothing else is said as the base of tests/fixtures/cases.

The base: 40 frames at 10 a second, 64 x 48; frame n has a grey centre of value 16 + 5 n; corners red (top left), green,
blue (bottom left), yellow; a tone of 1 kHz at 1.0 to 1.5 s and 3.0 to 3.5 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from paretovid.trainables.data.videos import InputSpec, VideoReader

CASES = Path(__file__).parent / "fixtures" / "cases"
PICTURE = InputSpec(kind="frame", size=48)
SOUND = InputSpec(kind="logmel", size=24, num_frames=20)
BASE = [2, 7, 12, 17, 22, 27, 32, 37]
"""The frames in the middle of the base's steps of half a second."""
TONES = [2, 6]
"""The steps of the base that have a tone."""
CORNERS = ["red", "green", "blue", "yellow"]
_COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
_TICKS = 1000  # a second


def picture(number: int) -> np.ndarray:
    """Frame of the base, `[48, 64, 3]`."""
    image = np.full((48, 64, 3), 16 + 5 * number, np.uint8)
    image[:12, :16], image[:12, 48:] = _COLOURS["red"], _COLOURS["green"]
    image[36:, :16], image[36:, 48:] = _COLOURS["blue"], _COLOURS["yellow"]
    return image


def tone(seconds: float = 4.0, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    """Sound of the base, `[channels, samples]` float32."""
    at = np.arange(round(seconds * rate)) / rate
    is_on = ((at >= 1.0) & (at < 1.5)) | ((at >= 3.0) & (at < 3.5))
    return np.tile((0.5 * is_on * np.sin(2 * np.pi * 1000 * at)).astype(np.float32), (channels, 1))


def encoded_sound(
    stream: av.AudioStream, samples: np.ndarray, first: int = 0, layout: str = "mono"
) -> list[Any]:
    """Packets of `[channels, samples]`."""
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.pts = stream.codec_context.sample_rate, first
    format_ = stream.codec_context.format.name
    resampler = av.AudioResampler(format=format_, layout=layout, rate=frame.sample_rate)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return [packet for each in [*frames, None] for packet in stream.encode(each)]


def write(
    path: Path,
    times: Sequence[float] | None = None,
    *,
    codec: str = "libx264",
    sound: str | None = None,
    container: str | None = None,
    rate: int = 10,
    prepare: Callable[[av.VideoStream], None] = lambda stream: None,
    keep_sound: Callable[[float], bool] = lambda seconds: True,
    options: dict[str, str] | None = None,
) -> Path:
    """A video that shows frame n of the base at `times[n]`.

    Arguments:
        sound: codec of the base's sound; None: it has none.
        keep_sound: which packets of sound are written, by their time.
    """
    is_regular = times is None
    times = [number / rate for number in range(40)] if times is None else times
    with av.open(str(path), "w", format=container) as file:
        video: Any = file.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if codec == "libx264":
            video.options = {"crf": "8", "bf": "2", "g": "10", "threads": "1", **(options or {})}
            if not is_regular:
                video.time_base = video.codec_context.time_base = Fraction(1, _TICKS)
        prepare(video)
        heard: Any = None if sound is None else file.add_stream(sound, rate=48_000, layout="mono")
        packets: list[Any] = []
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number if is_regular else round(seconds * _TICKS)
            frame.time_base = Fraction(1, rate if is_regular else _TICKS)
            packets += video.encode(frame)
        packets += video.encode(None)
        if heard is not None:
            spoken = encoded_sound(heard, tone())
            packets += [each for each in spoken if keep_sound(float(each.pts * each.time_base))]
        for packet in sorted(packets, key=lambda each: float((each.dts or 0) * each.time_base)):
            file.mux(packet)
    return path


def shown(reader: VideoReader, steps: Iterable[int] | None = None) -> list[int]:
    """The number of the base's frame that each step shows."""
    images = [reader.read(step, PICTURE) for step in steps or range(reader.num_steps)]
    return [round((float(np.median(image[16:32, 16:32])) - 14) / 5) for image in images]


def heard(reader: VideoReader) -> list[int]:
    """The steps that have a tone for most of their time."""
    levels = [reader.read(step, SOUND).max(axis=0) for step in range(reader.num_steps)]
    return [step for step, level in enumerate(levels) if (level > 0).mean() > 0.5]


def corners(image: np.ndarray) -> list[str]:
    """Colours at the top left, top right, bottom left and bottom right."""
    places = [image[y, x].astype(int) for y in (3, -4) for x in (3, -4)]
    return [min(_COLOURS, key=lambda name: np.abs(place - _COLOURS[name]).sum()) for place in places]
