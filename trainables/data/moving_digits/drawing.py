"""How `moving_digits` looks and sounds: digits, look-alikes, clutter, chirps and distractor sounds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import final

import numpy as np

from paretovid.trainables.data.audio import SAMPLE_RATE

# Side of a digit, as a share of the frame's.
_SIDES = {"small": (0.30, 0.33), "medium": (0.45, 0.50), "large": (0.70, 0.86)}
# Side as a share of the frame, and opacity, where videos differ.
_EASIEST, _HARDEST = (0.80, 1.0), (0.20, 0.5)
_UNLIKE = 2.0  # distance from every scan of what is no digit; 99 % of fresh scans are within 1.7 of another
_DUSK, _GREY = (60, 85), (105, 130)  # luma of the background
_BRIGHT, _DARK = (175, 215), (18, 40)  # luma of a digit
_TRAVEL = 0.22  # way of a drifting digit in one step, as a share of the frame's side


@final
class Painter:
    """Draws one video step by step into frames `[F, H, W]`.

    Arguments:
        digits: scans of each digit, `[n, 8, 8]` in 0..1.
        size: H = W, pixels.
        difficulty: scales contrast of background and clutter, and noise.
        is_grey: a background of medium grey, on which digits can be dark as well as bright.
        hardness: 0 to 1, gives all digits one size and contrast: large and bright to small and faint. None: sizes by
            kind, full contrast.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        digits: Sequence[np.ndarray],
        size: int,
        frames_per_step: int,
        num_steps: int,
        difficulty: float,
        is_grey: bool = False,
        hardness: float | None = None,
    ) -> None:
        self._rng = rng
        self._base = _GREY if is_grey else _DUSK
        self._hardness = hardness
        self._digits = digits
        self._all_scans = np.concatenate(digits).reshape(-1, 64)
        self._size = size
        self._per_step = frames_per_step
        self._difficulty = difficulty
        self._lights: dict[int, np.ndarray] = {}
        self._luma = self._background(num_steps * frames_per_step)
        for _ in range(3):
            self._stroke(num_steps)

    def digit(
        self,
        step: int,
        digit: int,
        *,
        side: str = "small",
        drift: tuple[float, float] | None = None,
        is_dark: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        """A fresh scan of a digit; `drift` is its direction (x, y), otherwise it keeps its place.

        `rng`: what scan, size, place and brightness are drawn with; in the same state again, it is the very same.
        """
        rng = rng or self._rng
        self._show(rng, step, self._scan(digit, rng), side=side, drift=drift, is_dark=is_dark)

    def light(self, step: int, hue: float) -> None:
        """Tints the frames of a step; `hue` in turns, and a little beside it."""
        angle = 2 * np.pi * (hue + self._rng.normal(0, 0.04))
        self._lights[step] = self._rng.uniform(25, 45) * np.array([np.cos(angle), np.sin(angle)])

    def lookalike(self, step: int, silent_digit: int, *, is_dark: bool = False) -> None:
        """Something of a digit's size and brightness that is no evidence; now and then a large one."""
        rng = self._rng
        shape = self._scan(silent_digit, rng) if rng.random() < 0.3 else self._mosaic()
        direction = (0.0, rng.choice([-1.0, 1.0])) if rng.random() < 0.25 else None
        side = "large" if rng.random() < 0.15 else "small"
        self._show(rng, step, shape, side=side, drift=direction, is_dark=is_dark)

    def _mosaic(self) -> np.ndarray:
        """Halves of two digits, each on its head: size, ink and strokes of a digit, yet unlike every scan."""
        for _ in range(20):
            first, second = (
                self._scan(int(digit), self._rng) for digit in self._rng.choice(10, 2, replace=False)
            )
            shape = np.concatenate([first[:4][::-1], second[4:][::-1]])
            if np.square(self._all_scans - shape.reshape(-1)).sum(1).min() > _UNLIKE**2:
                break
        return shape

    def finish(self) -> np.ndarray:
        """`[F, H * 3 // 2, W]` uint8, planar YUV 4:2:0."""
        rng, (frames, height, width) = self._rng, self._luma.shape
        noise = rng.standard_normal(self._luma.shape, dtype=np.float32)
        self._luma += 2.5 * self._difficulty * noise
        planes = np.empty((frames, height * 3 // 2, width), np.uint8)
        planes[:, :height] = np.clip(self._luma, 16, 235)
        tint = rng.integers(-18, 19, 2) + 128  # one tint per video, which says nothing
        chroma = planes[:, height:].reshape(frames, 2, -1)
        chroma[:] = tint[:, None]
        for step, shift in self._lights.items():
            shown = np.clip(tint + shift, 16, 240).astype(np.uint8)
            chroma[step * self._per_step : (step + 1) * self._per_step] = shown[:, None]
        return planes

    def _scan(self, digit: int, rng: np.random.Generator) -> np.ndarray:
        scans = self._digits[digit]
        answer: np.ndarray = scans[rng.integers(len(scans))]
        return answer

    def _show(
        self,
        rng: np.random.Generator,
        step: int,
        shape: np.ndarray,
        *,
        side: str,
        drift: tuple[float, float] | None,
        is_dark: bool,
    ) -> None:
        per_step = self._per_step
        pixels = round(self._size * rng.uniform(*_SIDES[side]))
        opacity = 1.0
        if self._hardness is not None:
            pixels, opacity = self._at_hardness(self._hardness, rng)
        patch = opacity * self._ink(shape, pixels, rng)
        # The place in the middle of the step is spread alike for all movements: a still says nothing.
        room = (self._size - pixels) / 2
        reach = min(room, self._size * _TRAVEL / 2)
        middle = self._size / 2 + rng.uniform(-(room - reach), room - reach, 2)
        direction = np.array(drift or (0.0, 0.0))
        along = np.arange(per_step) / per_step - 0.5  # 0 at the frame in the middle of the step
        corners = np.rint(middle - pixels / 2 + 2 * reach * along[:, None] * direction).astype(int)
        corners = corners.clip(0, self._size - pixels)
        level = rng.uniform(*(_DARK if is_dark else _BRIGHT))
        for frame, (x, y) in zip(self._luma[step * per_step : (step + 1) * per_step], corners, strict=True):
            region = frame[y : y + pixels, x : x + pixels]
            region += (level - region) * patch

    def _at_hardness(self, hardness: float, rng: np.random.Generator) -> tuple[int, float]:
        """Side in pixels and opacity of a digit at this hardness: sizes in equal ratios, opacity evenly."""
        share = _EASIEST[0] * (_HARDEST[0] / _EASIEST[0]) ** hardness * rng.uniform(0.95, 1.05)
        return round(self._size * share), _EASIEST[1] + hardness * (_HARDEST[1] - _EASIEST[1])

    def _ink(self, shape: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
        """A scan as opacity `[side, side]`, slanted and turned a little."""
        slant, turn = rng.normal(0, 0.12), rng.normal(0, 0.08)
        grid = (np.arange(side) + 0.5) / side * 2 - 1
        x, y = grid[None, :], grid[:, None]
        across = (x + (slant + turn) * y) * 4.2 + 3.5 + 1
        down = (y - turn * x) * 4.2 + 3.5 + 1
        padded = np.pad(shape, 1)
        across, down = across.clip(0, 8.999), down.clip(0, 8.999)
        left, top = across.astype(int), down.astype(int)
        right_share, low_share = across - left, down - top
        upper = padded[top, left] * (1 - right_share) + padded[top, left + 1] * right_share
        lower = padded[top + 1, left] * (1 - right_share) + padded[top + 1, left + 1] * right_share
        ink = upper * (1 - low_share) + lower * low_share
        answer: np.ndarray = np.clip(ink * 1.8 - 0.3, 0, 1).astype(np.float32)
        return answer

    def _background(self, frames: int) -> np.ndarray:
        """Slow waves of low spatial frequency, `[F, H, W]` float32."""
        rng, size = self._rng, self._size
        grid = np.arange(size) / size * 2 * np.pi
        times = np.arange(frames) / self._per_step
        space, sway = [], []
        for _ in range(3):
            kx, ky = rng.uniform(-1.6, 1.6, 2)
            phase = kx * grid[None, :] + ky * grid[:, None] + rng.uniform(0, 2 * np.pi)
            speed = rng.uniform(0.1, 0.5) * times
            space += [np.cos(phase), np.sin(phase)]
            sway += [np.cos(speed), np.sin(speed)]
        waves = np.array(sway, np.float32).T @ np.array(space, np.float32).reshape(6, -1)
        base = rng.uniform(*self._base)
        return (base + 8.0 * self._difficulty * waves).reshape(frames, size, size)

    def _stroke(self, num_steps: int) -> None:
        """A faint bar that wanders through the whole video."""
        rng, size = self._rng, self._size
        frames = num_steps * self._per_step
        length = size // 3
        angle, grid = rng.uniform(0, np.pi), np.arange(length) - (length - 1) / 2
        distance = np.abs(grid[None, :] * np.sin(angle) - grid[:, None] * np.cos(angle))
        extent = grid[None, :] ** 2 + grid[:, None] ** 2 < (length / 2) ** 2
        level = rng.uniform(18, 32) * self._difficulty
        patch = (level * np.clip(2.0 - distance, 0, 1) * extent).astype(np.float32)
        speed = rng.uniform(0.05, 0.2, 2) * np.arange(frames)[:, None] / self._per_step
        turns = speed + rng.uniform(0, 1, 2)
        # A triangle wave goes to and fro between the edges.
        corners = np.rint(np.abs((turns % 1) * 2 - 1) * (size - length)).astype(int)
        for frame, (x, y) in zip(self._luma, corners, strict=True):
            frame[y : y + length, x : x + length] += patch


@functools.cache
def scans(split: str) -> tuple[np.ndarray, ...]:
    """Of each digit the scans that belong to a split, `[n, 8, 8]` float32 in 0..1: 60, 20 and 20 percent."""
    from sklearn.datasets import load_digits  # only making the set needs scikit-learn

    images, targets = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16.0).astype(np.float32)
    low, high = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}[split]
    chosen: list[np.ndarray] = []
    for digit in range(10):
        own = images[targets == digit]
        # Writers follow one another in the file: shuffled, each split has all of them.
        own = own[np.random.default_rng(digit).permutation(len(own))]
        chosen.append(own[round(low * len(own)) : round(high * len(own))])
    return tuple(chosen)


def render_audio(
    rng: np.random.Generator, sounds: Sequence[str | None], *, step_seconds: float, difficulty: float
) -> np.ndarray:
    """Sound track, `[samples]` float32 at 16 kHz.

    Arguments:
        sounds: per step the name of the evidence sound; steps without get a distractor now and then.
    """
    per_step = round(step_seconds * SAMPLE_RATE)
    track = rng.standard_normal(per_step * len(sounds), dtype=np.float32) * np.float32(0.012 * difficulty)
    for step, name in enumerate(sounds):
        if name is None:
            if rng.random() < 0.6:
                continue
            name = str(rng.choice(["tone", "there and back", "noise", "click"]))
        heard = _sound(rng, name, per_step)
        track[step * per_step : (step + 1) * per_step] += heard * np.float32(rng.uniform(0.15, 0.35))
    answer: np.ndarray = np.clip(track, -1, 1)
    return answer


def _sound(rng: np.random.Generator, name: str, samples: int) -> np.ndarray:
    """One sound that fills a step, `[samples]` float32 in -1..1, fading in and out."""
    progress = np.linspace(0, 1, samples, dtype=np.float32)
    seconds = samples / SAMPLE_RATE
    low, high = rng.uniform(350, 600), rng.uniform(1400, 2400)
    fade = np.minimum(1, 12 * np.minimum(progress, 1 - progress))
    if name == "noise":
        answer: np.ndarray = fade * rng.standard_normal(samples, dtype=np.float32) * 0.4
        return answer
    if name == "click":
        answer = np.exp(-progress * rng.uniform(30, 80)) * rng.standard_normal(samples, dtype=np.float32)
        return answer
    pitch = {
        "rising chirp": low + (high - low) * progress,
        "falling chirp": high + (low - high) * progress,
        "there and back": low + (high - low) * (1 - np.abs(2 * progress - 1)),
        "warble": (low + high) / 2 + (high - low) / 4 * np.sin(2 * np.pi * 6 * progress),
    }.get(name, np.full(samples, rng.uniform(low, high)))  # Hz
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / samples * seconds)
    beats = (np.sin(2 * np.pi * 4 * progress) > 0) if name == "beeps" else 1.0
    answer = (fade * beats * wave).astype(np.float32)
    return answer
