"""What a single video may ask for, so that one file made to harm, or made by accident, costs a data set no more."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from typing import Annotated, final

from paretovid.trainables.errors import VideoError
from paretovid.trainables.ranges import Count, Positive, Range, check_ranges

Pixels = Annotated[int, Range(1, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoLimitsConfig:
    """Limits of one video; one that is beyond any of them is left out, and the others go on.

    Arguments:
        max_pixels: width times height of a frame.
        max_steps: T.
        max_decode_seconds: all the time that opening and decoding may take, of all reads together.
    """

    max_pixels: Pixels = 8192 * 8192
    max_steps: Count = 100_000
    max_decode_seconds: Positive = 1200.0

    def __post_init__(self) -> None:
        check_ranges(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the settings."""
        return tuple(field.name for field in fields(cls))

    def differing(self) -> dict[str, float]:
        """The limits that are not the usual ones."""
        usual = asdict(USUAL_LIMITS)
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def check_pixels(self, name: str, width: int, height: int) -> None:
        """Raises `VideoError` for a frame that is too large."""
        if width * height > self.max_pixels:
            raise VideoError(
                f"{name} has frames of {width} x {height} pixels",
                f"Allowed are max_pixels={self.max_pixels}; raise it if that is what the video is.",
            )

    def check_steps(self, name: str, duration_seconds: float, num_steps: int) -> None:
        """Raises `VideoError` for a video of too many steps."""
        if num_steps > self.max_steps:
            raise VideoError(
                f"{name} is {duration_seconds:.6g} s long by its time stamps, {num_steps} steps",
                f"Allowed are max_steps={self.max_steps}; raise it, or step_seconds, if it really is that long.",
            )


USUAL_LIMITS = VideoLimitsConfig()


@final
class Stopwatch:
    """Seconds that a video has taken, and may take, over all reads of it.

    Arguments:
        name: of the video, for messages.
    """

    def __init__(self, name: str, limits: VideoLimitsConfig) -> None:
        self._name, self._limits = name, limits
        self._since: float | None = None
        self.seconds = 0.0
        """Of what was measured so far."""

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        assert self._since is not None
        self.seconds += time.perf_counter() - self._since
        self._since = None

    def check(self) -> None:
        """Raises `VideoError` when the time is up.

        Called for every packet and every read of the file, as no decoder can be interrupted.
        """
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        if self.seconds + running > self._limits.max_decode_seconds:
            raise VideoError(
                f"{self._name} was decoded for more than {self._limits.max_decode_seconds:g} s",
                "Raise max_decode_seconds for such long videos, or leave it out.",
            )
