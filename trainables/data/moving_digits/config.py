"""The parameters of `moving_digits`, and what its classes are called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from paretovid.trainables.data.moving_digits.placing import PREVAILING
from paretovid.trainables.errors import UsageError
from paretovid.trainables.ranges import Count, Fraction, Positive, Range, Seed, check_ranges

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EASY_DIGITS = (7, 6, 4, 1)
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
ACTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up left": (-math.sqrt(0.5), -math.sqrt(0.5)),
    "down right": (math.sqrt(0.5), math.sqrt(0.5)),
    "up right": (math.sqrt(0.5), -math.sqrt(0.5)),
    "down left": (-math.sqrt(0.5), math.sqrt(0.5)),
}  # the digit of a class is its number
SOUNDS = ("rising chirp", "falling chirp", "warble", "beeps")
MOTION_DIGIT = 8
SILENT_DIGIT = 9  # belongs to no class: a look-alike that is a digit
INKS = {"bright": 1.25, "dark": 0.75}
"""Of the long-range variant: ink to its share of the steps, as a multiple of `sparsity`."""
CUES = {"bright": EASY_DIGITS[0], "dark": EASY_DIGITS[1]}
"""Ink to the large digit that says that it counts."""
HUES = {"blue": 0.0, "green": 0.5, "red": 0.25, "teal": 0.75}
"""Of the lights of prevailing classes, in turns; each light has one of `SOUNDS`, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MovingDigitsConfig:
    """Parameters of the set.

    Arguments:
        appearance_classes: 0 to 8; motion_classes, sound_classes, easy_classes: 0 to 4.
        min_seconds, max_seconds: shortest and longest video.
        frame_size: pixels of the square frame, a multiple of 16.
        sparsity: share of the steps that carry evidence (at least two steps do).
        lookalikes: share of the other steps that show something that is no evidence.
        difficulty: scales contrast of clutter and noise, of picture and sound; 0 has none, 1 is usual.
        multi_label: one to three classes in a video instead of one.
        untrimmed: evidence comes in longer instances with true intervals, in videos three times as long.
        long_range: each digit is two classes, bright and dark; both inks are in every video of one, and a large
            digit in a tenth of its steps says which one counts. Needs easy_classes of 2 or more; no motion, no sound.
        action_classes: 0 to 8.
        context: share of the steps without evidence that show the nearest action's digit and light, but no movement.
        spread: how far videos differ in difficulty. 0: digits of a group look alike everywhere. Above 0, all digits of
            a video have one size and contrast, drawn per video from large and bright to small and faint; 1 is widest.
        least_sparsity: above 0, the share of the steps that carry evidence is drawn per video, from it to `sparsity`.
        stretches: probability that evidence lasts 3 to 8 steps where it begins, instead of one.
        repeats: share of the videos that show the very same digit again, all through a stretch and in others.
        prevailing_classes: 0, or 2 to 4 colours. Every video has lights in 0.6 to 1 times `sparsity` of its steps, of
            all colours if it is not very short, each with its own sound; which of them is on most often decides.
        prevailing_share: of the lights, how many have the colour that prevails.
    """

    videos_train: Count = 400
    videos_val: Count = 150
    videos_test: Count = 150
    appearance_classes: Annotated[int, Range(0, 8)] = 6
    motion_classes: Annotated[int, Range(0, len(DIRECTIONS))] = 2
    sound_classes: Annotated[int, Range(0, len(SOUNDS))] = 2
    easy_classes: Annotated[int, Range(0, len(EASY_DIGITS))] = 2
    min_seconds: Positive = 6.0
    max_seconds: Positive = 10.0
    frame_size: Annotated[int, Range(32, 512), "It must be a multiple of 16, such as 64."] = 64
    frames_per_second: Annotated[int, Range(4, 120)] = 16
    step_seconds: Positive = 0.5
    sparsity: Annotated[float, Range(0.01, 0.9)] = 0.2
    lookalikes: Fraction = 0.2
    difficulty: Annotated[float, Range(0, 3)] = 1.0
    seed: Seed = 0
    multi_label: bool = False
    untrimmed: bool = False
    long_range: bool = False
    action_classes: Annotated[int, Range(0, len(ACTIONS))] = 0
    context: Fraction = 0.0
    spread: Fraction = 0.0
    least_sparsity: Annotated[float, Range(0, 0.9)] = 0.0
    stretches: Fraction = 0.0
    repeats: Fraction = 0.0
    prevailing_classes: Annotated[int, Range(0, len(HUES))] = 0
    prevailing_share: Annotated[float, Range(0.3, 0.9)] = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        self._check_together()

    def _check_together(self) -> None:
        if self.num_classes < 2:
            raise UsageError(
                f"the class groups have {self.num_classes} class together", "Two classes or more are needed."
            )
        if self.context and not self.action_classes:
            raise UsageError(
                f"context is {self.context}, but no class is an action",
                "Set action_classes above 0, or context to 0.",
            )
        if self.frame_size % 16:
            raise UsageError(f"frame_size is {self.frame_size}", "It must be a multiple of 16, such as 64.")
        per_step = self.step_seconds * self.frames_per_second
        if per_step < 4 or abs(per_step - round(per_step)) > 1e-9:
            given = f"step_seconds={self.step_seconds} and frames_per_second={self.frames_per_second}"
            raise UsageError(
                f"{given} make {per_step:g} frames a step",
                "It must be a whole number of frames, 4 or more, such as 0.5 s at 16 per second.",
            )
        if not self.min_seconds <= self.max_seconds:
            raise UsageError(
                f"min_seconds is {self.min_seconds} and max_seconds is {self.max_seconds}",
                "The shortest video cannot be longer than the longest.",
            )
        if self.long_range:
            self._check_long_range()
        if self.is_uneven or self.repeats:
            self._check_uneven()
        shortest = 4 * self.step_seconds * (3 if self.multi_label or self.long_range else 1)
        if self.min_seconds < shortest:
            raise UsageError(
                f"min_seconds is {self.min_seconds}", f"Evidence needs room: {shortest} s or more here."
            )

    def _check_long_range(self) -> None:
        allowed = {
            "appearance_classes": self.appearance_classes >= 2,
            "easy_classes": self.easy_classes >= len(CUES),
            "motion_classes": self.motion_classes == 0,
            "sound_classes": self.sound_classes == 0,
            "multi_label": not self.multi_label,
            "untrimmed": not self.untrimmed,
            "sparsity": self.sparsity <= 0.4,
        }
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)} in the long-range variant",
                    "It needs appearance_classes and easy_classes of 2 or more, motion_classes=0, sound_classes=0, "
                    "sparsity of 0.4 or less, and is neither untrimmed nor multi-label.",
                )

    def _check_uneven(self) -> None:
        allowed = {
            "least_sparsity": self.least_sparsity <= self.sparsity,
            "sparsity": self.sparsity <= 0.4,
            "prevailing_classes": self.prevailing_classes != 1,
            "sound_classes": not (self.sound_classes and self.prevailing_classes),
            "action_classes": self.action_classes == 0,
            "multi_label": not self.multi_label,
            "untrimmed": not self.untrimmed,
            "long_range": not self.long_range,
        }
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)} with least_sparsity, stretches, repeats or prevailing_classes",
                    "They need sparsity between least_sparsity and 0.4, action_classes=0, two prevailing classes or "
                    "more (and then sound_classes=0), and one label a video; neither untrimmed nor long_range.",
                )

    @property
    def is_uneven(self) -> bool:
        """Whether videos differ in how much evidence they have, or in how long it lasts, or show lights."""
        return bool(self.least_sparsity or self.stretches or self.prevailing_classes)

    @property
    def classes(self) -> dict[str, str]:
        """Class name to group, in the order of the class numbers."""
        inks = [f"{ink} " for ink in INKS] if self.long_range else [""]
        digits = WORDS[: self.appearance_classes]
        groups = {f"{ink}{digit}": "appearance" for ink in inks for digit in digits}
        for direction in list(DIRECTIONS)[: self.motion_classes]:
            groups[f"{WORDS[MOTION_DIGIT]} drifting {direction}"] = "motion"
        groups |= dict.fromkeys(SOUNDS[: self.sound_classes], "sound")
        groups |= {f"large {WORDS[digit]}": "easy" for digit in EASY_DIGITS[: self.easy_classes]}
        groups |= {f"mostly {hue}": PREVAILING for hue in list(HUES)[: self.prevailing_classes]}
        for digit, direction in enumerate(list(ACTIONS)[: self.action_classes]):
            groups[f"{WORDS[digit]} moving {direction}"] = "action"
        return groups

    @property
    def num_classes(self) -> int:
        """C."""
        appearance = self.appearance_classes * (len(INKS) if self.long_range else 1)
        usual = appearance + self.motion_classes + self.sound_classes + self.easy_classes
        return usual + self.prevailing_classes + self.action_classes

    @property
    def frames_per_step(self) -> int:
        """Frames of one step."""
        return round(self.step_seconds * self.frames_per_second)

    def num_videos(self, split: str) -> int:
        """Videos of a split."""
        return {"train": self.videos_train, "val": self.videos_val, "test": self.videos_test}[split]
