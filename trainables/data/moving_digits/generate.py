"""`moving_digits`, the built-in video set: real H.264 + AAC files in which no view decides every class.

Classes fall in four groups. *Appearance*: which digit, legible in the 64-pixel frame but not at 16 pixels,
where it is one blob among others. *Motion*: one digit that drifts one way or another within a step; a still
frame is the same for all of them. *Sound*: which chirp; the picture says nothing. *Easy*: a digit so large
that 16 pixels suffice. Only a share of the steps (`sparsity`) carries evidence; the others hold clutter, and
some hold look-alikes: mosaics of halves of different digits, or a digit that belongs to no class.

The *long-range* variant (`long_range`) is about context: every video of an appearance class holds bright digits of one
kind and dark digits of another, and a large digit, seen in a few steps, says which of them the video is about. The
same step is evidence in one video and none in the next; only the rest of the video tells.

In *uneven* videos (`data=moving_digits_minute`) evidence is a share that differs between them, lasts one step or
several, and may be the very same again. Their own group, *prevailing*, is decided by no step: all videos have lights
of several colours, each with its sound, and which of them is seen most often in the whole video is the class.

A further group, *action* (none by default), is for localization: a digit of its own that makes a movement of its own,
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretovid.trainables.data.dataset import (
    SPLITS,
    Dataset,
    VideoRecord,
    content_hash,
    save_manifest,
    write_json,
)
from paretovid.trainables.data.moving_digits.config import (
    ACTIONS,
    CUES,
    DIRECTIONS,
    HUES,
    INKS,
    MOTION_DIGIT,
    SILENT_DIGIT,
    SOUNDS,
    WORDS,
    MovingDigitsConfig,
)
from paretovid.trainables.data.moving_digits.drawing import Painter, render_audio, scans
from paretovid.trainables.data.moving_digits.encoding import encode_mp4
from paretovid.trainables.data.moving_digits.placing import (
    PREVAILING,
    cut,
    cut_unevenly,
    draw_lights,
    draw_repeats,
    draw_steps,
    events,
    spread_out,
)
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.errors import UsageError

__all__ = [
    "MOTION_DIGIT",
    "NAME",
    "SILENT_DIGIT",
    "MovingDigitsConfig",
    "context_labels",
    "is_made",
    "make_moving_digits",
    "make_video",
    "plan_video",
    "render_video",
    "repeats",
]

NAME = "moving_digits"
_LEAST_LIT = 0.6
"""Fewest steps with a light, as a share of the most."""
_DRAWN = ("appearance", "motion", "easy")
"""Groups whose evidence is a digit, which can be shown again."""
_SETTINGS = "moving_digits.json"  # what the videos beside it are made with; there before the first of them


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
    elif config.is_uneven:
        step_labels = _place_unevenly(config, rng, steps, labels[0])
    else:
        step_labels = _place_evidence(config, rng, steps, labels)
    return VideoRecord(
        video_id=f"{split}_{index:05d}",
        path=f"videos/{split}_{index:05d}.mp4",
        split=split,
        labels=tuple(sorted(labels)),
        num_steps=steps,
        duration_seconds=steps * config.step_seconds,
        step_labels=tuple(step_labels),
        events=tuple(e for e in events(step_labels, config.step_seconds) if e.label in labels),
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


def repeats(config: MovingDigitsConfig, split: str, index: int) -> tuple[int, ...]:
    """Of each step of a video a number: steps with the same one show the very same; -1 for the others."""
    step_labels = plan_video(config, split, index).step_labels
    assert step_labels is not None
    rng = _rng(config, split, index, stage=4)
    if rng.random() >= config.repeats:
        return (-1,) * len(step_labels)
    digits = [k for k, group in enumerate(config.classes.values()) if group in _DRAWN]
    return tuple(draw_repeats(rng, step_labels, digits))


def _place_evidence(
    config: MovingDigitsConfig, rng: np.random.Generator, steps: int, labels: Sequence[int]
) -> list[int]:
    """Class per step, -1 where nothing is. Several classes share the evidence, two steps each at least."""
    each = max(2, round(config.sparsity * steps / len(labels)))
    lengths = (2, 4) if config.untrimmed else (1, 1)
    return spread_out(rng, steps, [run for label in labels for run in cut(rng, label, each, lengths)])


def _place_unevenly(
    config: MovingDigitsConfig, rng: np.random.Generator, steps: int, label: int
) -> list[int]:
    """Class per step, -1 where nothing is, where videos differ in how much evidence they have and in which form."""
    lights = [k for k, group in enumerate(config.classes.values()) if group == PREVAILING]
    counts = []
    if label not in lights:
        counts.append(
            (label, draw_steps(rng, steps, config.least_sparsity or config.sparsity, config.sparsity))
        )
    if lights:
        lit = draw_steps(rng, steps, _LEAST_LIT * config.sparsity, config.sparsity)
        prevailing = label if label in lights else None
        counts += draw_lights(rng, lights, lit, prevailing=prevailing, share=config.prevailing_share)
    runs = [run for shown, count in counts for run in cut_unevenly(rng, shown, count, config.stretches)]
    return spread_out(rng, steps, runs)


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
        other = str(rng.choice([word for word in WORDS[: config.appearance_classes] if word != digit]))
        for each, share in INKS.items():
            shown = classes.index(f"{each} {digit if each == ink else other}")
            seen += [shown] * max(2, round(share * config.sparsity * steps))
        seen += [classes.index(f"large {WORDS[CUES[ink]]}")] * max(1, round(0.1 * steps))
    return [int(shown) for shown in rng.permutation(seen + [-1] * (steps - len(seen)))]


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
    again = repeats(config, split, index)
    sounds: list[str | None] = []
    for step, label in enumerate(record.step_labels):
        if context[step] >= 0:
            _draw_action(painter, step, list(config.classes)[context[step]], is_moving=False)
            sounds.append(None)
        else:
            # What is shown again is drawn anew with the same chance.
            same = _rng(config, split, index, stage=5, number=again[step]) if again[step] >= 0 else None
            sounds.append(_draw_step(config, painter, rng, step, label, same))
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
    config: MovingDigitsConfig,
    painter: Painter,
    rng: np.random.Generator,
    step: int,
    label: int,
    same: np.random.Generator | None,
) -> str | None:
    """Draw one step; returns the sound that its evidence makes, if any. `same`: what a digit is drawn with."""
    name, group = list(config.classes.items())[label] if label >= 0 else ("", "")
    if group == "appearance":
        painter.digit(step, WORDS.index(name.split()[-1]), is_dark=name.startswith("dark "), rng=same)
    elif group == "motion":
        painter.digit(step, MOTION_DIGIT, drift=DIRECTIONS[name.split()[-1]], rng=same)
    elif group == "action":
        _draw_action(painter, step, name)
    elif group == "easy":
        painter.digit(step, WORDS.index(name.split()[-1]), side="large", rng=same)
    elif group == PREVAILING:
        hue = name.split()[-1]
        painter.light(step, HUES[hue])
        return SOUNDS[list(HUES).index(hue)]
    elif rng.random() < config.lookalikes:
        painter.lookalike(step, SILENT_DIGIT, is_dark=config.long_range and bool(rng.random() < 0.5))
    return name if group == "sound" else None


def _draw_action(painter: Painter, step: int, name: str, *, is_moving: bool = True) -> None:
    word, _, direction = name.split(" ", 2)
    digit = WORDS.index(word)
    painter.digit(step, digit, side="medium", drift=ACTIONS[direction] if is_moving else None)
    painter.light(step, digit / len(ACTIONS))


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


def _rng(
    config: MovingDigitsConfig, split: str, index: int, *, stage: int, number: int | None = None
) -> np.random.Generator:
    seed = [config.seed, SPLITS.index(split), index, stage]
    return np.random.default_rng(seed if number is None else [*seed, number])
