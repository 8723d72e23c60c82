"""`moving_digits`, the built-in video set: real H.264 + AAC files in which no view decides every class.

Classes fall in four groups. *Appearance*: which digit, legible in the 64-pixel frame but not at 16 pixels,
where it is one blob among others. *Motion*: one digit that drifts one way or another within a step; a still
frame is the same for all of them. *Sound*: which chirp; the picture says nothing. *Easy*: a digit so large
that 16 pixels suffice. Only a share of the steps (`sparsity`) carries evidence; the others hold clutter, and
some hold look-alikes: mosaics of halves of different digits, or a digit that belongs to no class.

The *long-range* variant (`long_range`) is about context: every video of an appearance class holds bright digits of one
kind and dark digits of another, and a large digit, seen in a few steps, says which of them the video is about. The
same step is evidence in one video and none in the next; only the rest of the video tells.

A fifth group, *action* (none by default), is for localization: a digit of its own that makes a movement of its own,
in a light of its own (the running track of a long jump). Its **context** is that digit standing still in that light,
next to the instances: all that a single frame of the action shows, and no action.

Digits are the 8x8 scans that ship inside scikit-learn; each scan is in one split only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from paretovid.trainables.data.dataset import (
    SPLITS,
    Dataset,
    Event,
    VideoRecord,
    content_hash,
    save_manifest,
    write_json,
)
from paretovid.trainables.data.moving_digits.drawing import Painter, render_audio, scans
from paretovid.trainables.data.moving_digits.encoding import encode_mp4
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.errors import UsageError
from paretovid.trainables.ranges import Count, Fraction, Positive, Range, Seed, check_ranges

NAME = "moving_digits"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_EASY_DIGITS = (7, 6, 4, 1)
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_ACTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up left": (-math.sqrt(0.5), -math.sqrt(0.5)),
    "down right": (math.sqrt(0.5), math.sqrt(0.5)),
    "up right": (math.sqrt(0.5), -math.sqrt(0.5)),
    "down left": (-math.sqrt(0.5), math.sqrt(0.5)),
}  # the digit of a class is its number
_SOUNDS = ("rising chirp", "falling chirp", "warble", "beeps")
MOTION_DIGIT = 8
SILENT_DIGIT = 9  # belongs to no class: a look-alike that is a digit
_INKS = {"bright": 1.25, "dark": 0.75}
"""Of the long-range variant: ink to its share of the steps, as a multiple of `sparsity`."""
_CUES = {"bright": _EASY_DIGITS[0], "dark": _EASY_DIGITS[1]}
"""Ink to the large digit that says that it counts."""
_SETTINGS = "moving_digits.json"  # what the videos beside it are made with; there before the first of them


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
    """

    videos_train: Count = 400
    videos_val: Count = 150
    videos_test: Count = 150
    appearance_classes: Annotated[int, Range(0, 8)] = 6
    motion_classes: Annotated[int, Range(0, len(_DIRECTIONS))] = 2
    sound_classes: Annotated[int, Range(0, len(_SOUNDS))] = 2
    easy_classes: Annotated[int, Range(0, len(_EASY_DIGITS))] = 2
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
    action_classes: Annotated[int, Range(0, len(_ACTIONS))] = 0
    context: Fraction = 0.0
    spread: Fraction = 0.0

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
        shortest = 4 * self.step_seconds * (3 if self.multi_label or self.long_range else 1)
        if self.min_seconds < shortest:
            raise UsageError(
                f"min_seconds is {self.min_seconds}", f"Evidence needs room: {shortest} s or more here."
            )

    def _check_long_range(self) -> None:
        allowed = {
            "appearance_classes": self.appearance_classes >= 2,
            "easy_classes": self.easy_classes >= len(_CUES),
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

    @property
    def classes(self) -> dict[str, str]:
        """Class name to group, in the order of the class numbers."""
        inks = [f"{ink} " for ink in _INKS] if self.long_range else [""]
        digits = _WORDS[: self.appearance_classes]
        groups = {f"{ink}{digit}": "appearance" for ink in inks for digit in digits}
        for direction in list(_DIRECTIONS)[: self.motion_classes]:
            groups[f"{_WORDS[MOTION_DIGIT]} drifting {direction}"] = "motion"
        groups |= dict.fromkeys(_SOUNDS[: self.sound_classes], "sound")
        groups |= {f"large {_WORDS[digit]}": "easy" for digit in _EASY_DIGITS[: self.easy_classes]}
        for digit, direction in enumerate(list(_ACTIONS)[: self.action_classes]):
            groups[f"{_WORDS[digit]} moving {direction}"] = "action"
        return groups

    @property
    def num_classes(self) -> int:
        """C."""
        appearance = self.appearance_classes * (len(_INKS) if self.long_range else 1)
        usual = appearance + self.motion_classes + self.sound_classes + self.easy_classes
        return usual + self.action_classes

    @property
    def frames_per_step(self) -> int:
        """Frames of one step."""
        return round(self.step_seconds * self.frames_per_second)

    def num_videos(self, split: str) -> int:
        """Videos of a split."""
        return {"train": self.videos_train, "val": self.videos_val, "test": self.videos_test}[split]


def plan_video(config: MovingDigitsConfig, split: str, index: int) -> VideoRecord:
    """What is in a video and when, without drawing it; `content` is empty."""
    rng = _rng(config, split, index, stage=0)
    longer = 3 if config.untrimmed else 1
    low = math.ceil(config.min_seconds / config.step_seconds - 1e-9)
    high = max(low, math.floor(config.max_seconds / config.step_seconds + 1e-9))
    steps = int(rng.integers(low * longer, high * longer + 1))
    labels = [index % config.num_classes]  # balanced, also in the first videos of a split
    if config.multi_label:
        others = [label for label in range(config.num_classes) if label != labels[0]]
        extra = min(int(rng.integers(0, 3)), len(others))
        labels += [int(label) for label in rng.choice(others, extra, replace=False)]
    if config.long_range:
        step_labels = _place_in_context(config, rng, steps, labels[0])
    else:
        step_labels = _place_evidence(config, rng, steps, labels)
    events = [event for event in _events(step_labels, config.step_seconds) if event.label in labels]
    return VideoRecord(
        video_id=f"{split}_{index:05d}",
        path=f"videos/{split}_{index:05d}.mp4",
        split=split,
        labels=tuple(sorted(labels)),
        num_steps=steps,
        duration_seconds=steps * config.step_seconds,
        step_labels=tuple(step_labels),
        events=tuple(events),
    )


def context_labels(config: MovingDigitsConfig, split: str, index: int) -> tuple[int, ...]:
    """Of each step of a video, the action whose context it shows; -1 for the others."""
    record = plan_video(config, split, index)
    assert record.step_labels is not None
    labels = np.array(record.step_labels)
    actions = [k for k, group in enumerate(config.classes.values()) if group == "action"]
    own = np.flatnonzero(np.isin(labels, actions))
    found = np.full(len(labels), -1)
    free = np.flatnonzero(labels < 0)
    if config.context == 0 or not len(own):
        return tuple(found.tolist())
    # Nearest first, mostly but not always: runs of context differ in length, and some instances have none.
    far = np.abs(np.arange(len(labels))[:, None] - own)
    jitter = _rng(config, split, index, stage=3).exponential(1.5, len(labels))
    order = free[np.argsort((far.min(axis=1) + jitter)[free], kind="stable")]
    chosen = order[: round(config.context * len(free))]
    found[chosen] = labels[own[far.argmin(axis=1)]][chosen]
    return tuple(found.tolist())


def _place_evidence(
    config: MovingDigitsConfig, rng: np.random.Generator, steps: int, labels: Sequence[int]
) -> list[int]:
    """Class per step, -1 where nothing is. Several classes share the evidence, two steps each at least."""
    each = max(2, round(config.sparsity * steps / len(labels)))
    runs: list[tuple[int, int]] = []  # (class, steps)
    for label in labels:
        left = each
        while left > 0:
            run = min(left, int(rng.integers(2, 5))) if config.untrimmed else 1
            runs.append((label, run))
            left -= run
    order = rng.permutation(len(runs))
    free = steps - sum(run for _, run in runs)
    # Gaps before, between and after the runs: a uniformly random way to share the free steps out.
    places = np.sort(rng.choice(free + len(runs), len(runs), replace=False))
    gaps = np.diff(np.concatenate([[-1], places])) - 1
    step_labels: list[int] = []
    for gap, run in zip(gaps, order, strict=True):
        step_labels += [-1] * int(gap) + [runs[run][0]] * runs[run][1]
    return step_labels + [-1] * (steps - len(step_labels))


def _place_in_context(
    config: MovingDigitsConfig, rng: np.random.Generator, steps: int, label: int
) -> list[int]:
    """Class per step of a long-range video: what is seen there, which the video need not be about; -1: nothing."""
    classes = list(config.classes)
    seen: list[int] = []
    if classes[label].startswith("large"):
        seen += [label] * max(2, round(config.sparsity * steps))
    else:
        ink, digit = classes[label].split()
        other = str(rng.choice([word for word in _WORDS[: config.appearance_classes] if word != digit]))
        for each, share in _INKS.items():
            shown = classes.index(f"{each} {digit if each == ink else other}")
            seen += [shown] * max(2, round(share * config.sparsity * steps))
        seen += [classes.index(f"large {_WORDS[_CUES[ink]]}")] * max(1, round(0.1 * steps))
    return [int(shown) for shown in rng.permutation(seen + [-1] * (steps - len(seen)))]


def _events(step_labels: Sequence[int], step_seconds: float) -> Iterator[Event]:
    """Neighbouring steps of one class are one instance."""
    start = 0
    for step in range(1, len(step_labels) + 1):
        if step == len(step_labels) or step_labels[step] != step_labels[start]:
            if step_labels[start] >= 0:
                yield Event(
                    label=step_labels[start],
                    start_seconds=start * step_seconds,
                    end_seconds=step * step_seconds,
                )
            start = step


def render_video(
    config: MovingDigitsConfig, split: str, index: int
) -> tuple[np.ndarray, np.ndarray, VideoRecord]:
    """Draw a video; deterministic.

    Returns frames `[F, H * 3 // 2, W]` uint8 in planar YUV 4:2:0 as PyAV takes it, mono audio `[samples]`
    float32 at 16 kHz, and the record without `content`.
    """
    record = plan_video(config, split, index)
    assert record.step_labels is not None
    rng = _rng(config, split, index, stage=1)
    painter = Painter(
        rng,
        digits=scans(split),
        size=config.frame_size,
        frames_per_step=config.frames_per_step,
        num_steps=record.num_steps,
        difficulty=config.difficulty,
        is_grey=config.long_range,
        hardness=_hardness(config, split, index),
    )
    context = context_labels(config, split, index)
    sounds: list[str | None] = []
    for step, label in enumerate(record.step_labels):
        if context[step] >= 0:
            _draw_action(painter, step, list(config.classes)[context[step]], is_moving=False)
            sounds.append(None)
        else:
            sounds.append(_draw_step(config, painter, rng, step, label))
    audio = render_audio(
        _rng(config, split, index, stage=2),
        sounds,
        step_seconds=config.step_seconds,
        difficulty=config.difficulty,
    )
    return painter.finish(), audio, record


def _hardness(config: MovingDigitsConfig, split: str, index: int) -> float | None:
    """Of a video's digits, 0 to `spread`; None where they look as their group does."""
    if config.spread == 0:
        return None
    return config.spread * float(_rng(config, split, index, stage=3).random())


def _draw_step(
    config: MovingDigitsConfig, painter: Painter, rng: np.random.Generator, step: int, label: int
) -> str | None:
    """Draw one step; returns the sound that its evidence makes, if any."""
    name, group = list(config.classes.items())[label] if label >= 0 else ("", "")
    if group == "appearance":
        painter.digit(step, _WORDS.index(name.split()[-1]), is_dark=name.startswith("dark "))
    elif group == "motion":
        painter.digit(step, MOTION_DIGIT, drift=_DIRECTIONS[name.split()[-1]])
    elif group == "action":
        _draw_action(painter, step, name)
    elif group == "easy":
        painter.digit(step, _WORDS.index(name.split()[-1]), side="large")
    elif rng.random() < config.lookalikes:
        painter.lookalike(step, SILENT_DIGIT, is_dark=config.long_range and bool(rng.random() < 0.5))
    return name if group == "sound" else None


def _draw_action(painter: Painter, step: int, name: str, *, is_moving: bool = True) -> None:
    word, _, direction = name.split(" ", 2)
    digit = _WORDS.index(word)
    painter.digit(step, digit, side="medium", drift=_ACTIONS[direction] if is_moving else None)
    painter.light(step, digit / len(_ACTIONS))


def make_video(config: MovingDigitsConfig, root: Path, split: str, index: int) -> VideoRecord:
    """Write `root/videos/<split>_<index>.mp4` atomically, unless it is there; returns its record."""
    record = plan_video(config, split, index)
    path = Path(root) / record.path
    if not path.is_file():
        frames, audio, _ = render_video(config, split, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as partial:
            encode_mp4(partial, frames, audio, frames_per_second=config.frames_per_second)
            partial.replace(path)
    return dataclasses.replace(record, content=content_hash(path))


Item = tuple[str, int]
MapParallel = Callable[[Callable[[Item], VideoRecord], Sequence[Item]], Iterable[VideoRecord]]


def make_moving_digits(
    config: MovingDigitsConfig,
    root: Path,
    map_parallel: MapParallel | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    name: str = NAME,
) -> Dataset:
    """Make the set, or what is missing of it, and write its manifest last.

    Arguments:
        map_parallel: as the built-in `map`, in any order of results; sequential by default.
        progress: called with the number of videos done and in all.

    Raises UsageError when the folder holds videos of other parameters. Other numbers of videos are no other
    parameters: videos that are there are kept.
    """
    root = Path(root)
    _note_settings(config, root)
    items = [(split, index) for split in SPLITS for index in range(config.num_videos(split))]
    made = (map_parallel or map)(functools.partial(_make_item, config, root), items)
    records = []
    for record in made:
        records.append(record)
        if progress is not None:
            progress(len(records), len(items))
    order = {f"{split}_{index:05d}": place for place, (split, index) in enumerate(items)}
    dataset = Dataset(
        name=name,
        root=root,
        classes=tuple(config.classes),
        step_seconds=config.step_seconds,
        multi_label=config.multi_label,
        records=tuple(sorted(records, key=lambda record: order[record.video_id])),
        class_groups=config.classes,
        generator=dataclasses.asdict(config),
    )
    save_manifest(dataset)
    return dataset


def _make_item(config: MovingDigitsConfig, root: Path, item: Item) -> VideoRecord:
    return make_video(config, root, *item)


def is_made(config: MovingDigitsConfig, dataset: Dataset) -> bool:
    """Whether a loaded data set was made with exactly these parameters."""
    return _completed(dataset.generator) == dataclasses.asdict(config)


def _completed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they were noted; one that did not exist then was at its default."""
    return {**dataclasses.asdict(MovingDigitsConfig()), **found}


def _note_settings(config: MovingDigitsConfig, root: Path) -> None:
    """Note the parameters before the first video, so that an interrupted set is not continued with others."""
    path = root / _SETTINGS
    wanted = _settings_of_a_video(config)
    if path.is_file():
        found = _completed(_read_json(path))
        different = [key for key in wanted if found.get(key) != wanted[key]]
        if different:
            key = different[0]
            raise UsageError(
                f"{root} holds videos made with {key}={found.get(key)}, not {wanted[key]}"
                + (f" (and {len(different) - 1} more)" if different[1:] else ""),
                "Give the set another name, or delete this folder.",
            )
        return
    write_json(path, wanted)


def _settings_of_a_video(config: MovingDigitsConfig) -> dict[str, Any]:
    """The parameters that a single video depends on."""
    return {key: value for key, value in dataclasses.asdict(config).items() if not key.startswith("videos_")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return {}


def _rng(config: MovingDigitsConfig, split: str, index: int, *, stage: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, SPLITS.index(split), index, stage])
