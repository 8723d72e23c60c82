"""The built-in set: deterministic, resumable, and with the structure that it promises."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretovid.trainables.data.dataset import SPLITS, VideoRecord, load_dataset
from paretovid.trainables.data.moving_digits.contact_sheet import contact_sheet
from paretovid.trainables.data.moving_digits.drawing import Painter, scans
from paretovid.trainables.data.moving_digits.generate import (
    MOTION_DIGIT,
    SILENT_DIGIT,
    MovingDigitsConfig,
    context_labels,
    is_made,
    make_moving_digits,
    make_video,
    plan_video,
    render_video,
)
from paretovid.trainables.data.videos import InputSpec, VideoReader, read_all_steps
from paretovid.trainables.errors import UsageError

SMALL = MovingDigitsConfig(videos_train=4, videos_val=2, videos_test=2, min_seconds=3.0, max_seconds=4.0)
CLEAN = dataclasses.replace(SMALL, difficulty=0.0, lookalikes=0.0)


def test_default_classes_fall_in_four_groups() -> None:
    classes = MovingDigitsConfig().classes
    assert list(classes)[:2] == ["zero", "one"]
    assert list(classes)[6:] == [
        "eight drifting left",
        "eight drifting right",
        "rising chirp",
        "falling chirp",
        "large seven",
        "large six",
    ]
    groups = list(classes.values())
    assert groups == ["appearance"] * 6 + ["motion"] * 2 + ["sound"] * 2 + ["easy"] * 2


def test_largest_class_groups_do_not_collide() -> None:
    config = MovingDigitsConfig(appearance_classes=8, motion_classes=4, sound_classes=4, easy_classes=4)
    assert len(config.classes) == config.num_classes == 20
    assert {MOTION_DIGIT, SILENT_DIGIT}.isdisjoint(range(8))


def test_scans_are_in_one_split_only() -> None:
    per_split = {split: {scan.tobytes() for digit in scans(split) for scan in digit} for split in SPLITS}
    assert sum(len(found) for found in per_split.values()) > 1700
    assert not per_split["train"] & per_split["val"]
    assert not per_split["train"] & per_split["test"]
    assert not per_split["val"] & per_split["test"]
    assert all(len(digit) >= 30 for split in SPLITS for digit in scans(split))


def test_same_seed_same_bytes_other_seed_others(tmp_path: Path) -> None:
    first = make_video(SMALL, tmp_path / "a", "train", 3)
    again = make_video(SMALL, tmp_path / "b", "train", 3)
    other = make_video(dataclasses.replace(SMALL, seed=1), tmp_path / "c", "train", 3)
    assert first == again
    assert (tmp_path / "a" / first.path).read_bytes() == (tmp_path / "b" / first.path).read_bytes()
    assert first.content != other.content


def test_splits_differ_in_more_than_their_scans() -> None:
    plans = [[plan_video(SMALL, split, index).step_labels for index in range(12)] for split in SPLITS]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_plans_keep_what_the_configuration_says() -> None:
    config = MovingDigitsConfig(sparsity=0.3)
    shares = []
    for index in range(60):
        record = plan_video(config, "train", index)
        assert record.labels == (index % 12,)
        assert 12 <= record.num_steps <= 20
        assert record.duration_seconds == record.num_steps * 0.5
        assert record.step_labels is not None and len(record.step_labels) == record.num_steps
        assert set(record.step_labels) <= {-1, index % 12}
        shares.append(sum(label >= 0 for label in record.step_labels) / record.num_steps)
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)
    assert min(shares) > 0


def test_evidence_is_anywhere_and_at_least_twice() -> None:
    config = MovingDigitsConfig(sparsity=0.01, min_seconds=8, max_seconds=8)
    labels = np.array([plan_video(config, "train", index).step_labels for index in range(400)]) >= 0
    assert (labels.sum(1) == 2).all()
    assert labels.mean(0).min() > 0.06 and labels.mean(0).max() < 0.20  # 2 of 16 steps each


def test_multi_label_videos_show_all_their_classes() -> None:
    config = MovingDigitsConfig(multi_label=True)
    counts = []
    for index in range(30):
        record = plan_video(config, "train", index)
        assert record.step_labels is not None
        assert set(record.step_labels) - {-1} == set(record.labels)
        assert all(record.step_labels.count(label) >= 2 for label in record.labels)
        assert list(record.labels) == sorted(record.labels)
        counts.append(len(record.labels))
    assert set(counts) == {1, 2, 3}


def test_untrimmed_videos_have_long_instances_with_true_intervals() -> None:
    config = MovingDigitsConfig(untrimmed=True, multi_label=True)
    lengths = []
    for index in range(20):
        record = plan_video(config, "train", index)
        assert record.step_labels is not None
        assert 36 <= record.num_steps <= 60
        from_events = np.full(record.num_steps, -1)
        for event in record.events:
            start, end = round(event.start_seconds / 0.5), round(event.end_seconds / 0.5)
            from_events[start:end] = event.label
            lengths.append(end - start)
        assert tuple(from_events) == record.step_labels
    assert np.mean(lengths) > 2


LONG_RANGE = MovingDigitsConfig(
    long_range=True, appearance_classes=3, motion_classes=0, sound_classes=0, min_seconds=10, max_seconds=16
)


def test_long_range_videos_hold_both_inks_and_a_cue_says_which_one_counts() -> None:
    names = list(LONG_RANGE.classes)
    assert names[:2] == ["bright zero", "bright one"] and names[3] == "dark zero"
    assert len(names) == LONG_RANGE.num_classes == 8
    for index in range(48):
        record = plan_video(LONG_RANGE, "train", index)
        own, steps = names[index % 8], record.step_labels
        assert record.labels == (index % 8,) and steps is not None and len(steps) == record.num_steps
        seen = {names[label] for label in steps if label >= 0}
        assert {event.label for event in record.events} == set(record.labels)
        if own.startswith("large"):
            assert seen == {own}
            continue
        ink = own.split()[0]
        cue = {"bright": "large seven", "dark": "large six"}[ink]
        (other,) = seen - {own, cue}
        assert (
            other.split()[0] == {"bright": "dark", "dark": "bright"}[ink]
            and other.split()[1] != own.split()[1]
        )
        count = {name: sum(names[label] == name for label in steps if label >= 0) for name in seen}
        bright, dark = (own, other) if ink == "bright" else (other, own)
        for name, share in ((bright, 0.25), (dark, 0.15), (cue, 0.1)):
            assert abs(count[name] - share * record.num_steps) < 0.51


def test_dark_digits_are_darker_than_what_is_around_them() -> None:
    contrasts: dict[str, list[float]] = {"bright": [], "dark": []}
    for index in range(6):
        frames, _, record = render_video(LONG_RANGE, "train", index)
        names = list(LONG_RANGE.classes)
        for step, label in enumerate(record.step_labels or ()):
            ink = names[label].split()[0] if label >= 0 else ""
            if ink in contrasts:
                luma = frames[step * 8 + 4, :64].astype(float)
                middle = np.median(luma)
                contrasts[ink].append(luma.max() - middle if ink == "bright" else middle - luma.min())
    assert min(contrasts["bright"]) > 40 and min(contrasts["dark"]) > 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"motion_classes": 2},
        {"easy_classes": 1},
        {"multi_label": True},
        {"appearance_classes": 1},
        {"sparsity": 0.5},
    ],
)
def test_a_long_range_set_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .* in the long-range variant"):
        dataclasses.replace(LONG_RANGE, **wrong)


def test_a_set_made_before_a_parameter_existed_is_still_that_set(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, videos_train=1, videos_val=1, videos_test=1)
    dataset = make_moving_digits(config, tmp_path)
    older = {key: value for key, value in dataset.generator.items() if key != "long_range"}
    assert is_made(config, dataclasses.replace(dataset, generator=older))
    settings = tmp_path / "moving_digits.json"
    kept = json.loads(settings.read_text())
    settings.write_text(json.dumps({key: value for key, value in kept.items() if key != "long_range"}))
    assert make_moving_digits(config, tmp_path).fingerprint == dataset.fingerprint
    with pytest.raises(UsageError, match="made with difficulty="):
        make_moving_digits(dataclasses.replace(config, difficulty=2.0), tmp_path)


def test_files_hold_what_was_planned(tmp_path: Path) -> None:
    record = make_video(SMALL, tmp_path, "val", 1)
    with VideoReader(tmp_path / record.path, step_seconds=0.5) as reader:
        assert reader.num_steps == record.num_steps
        assert reader.duration_seconds == pytest.approx(record.duration_seconds)
        assert reader.has_audio and reader.notes == ()
        assert reader.read(0, InputSpec(kind="snippet", size=64, num_frames=8)).shape == (8, 64, 64, 3)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["val_00001.mp4"]


def _bright(config: MovingDigitsConfig, root: Path, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Brightest excess over the background in each step's frame, and the step labels."""
    record = make_video(config, root, "train", index)
    spec = {"frame": InputSpec(kind="frame", size=size)}
    frames = read_all_steps(root / record.path, spec, step_seconds=0.5)["frame"].mean(-1)
    return frames.max((1, 2)) - np.median(frames, (1, 2)), np.array(record.step_labels)


def test_the_coarse_view_shows_where_there_is_something(tmp_path: Path) -> None:
    for index in (0, 2, 3, 6, 7, 10, 11):  # appearance, motion, easy
        excess, labels = _bright(dataclasses.replace(SMALL, lookalikes=0.0), tmp_path, index, 16)
        assert excess[labels >= 0].min() > excess[labels < 0].max() + 10


def test_the_picture_says_nothing_of_sound(tmp_path: Path) -> None:
    excess, labels = _bright(CLEAN, tmp_path, 8, 64)
    assert (labels >= 0).any()
    assert excess.max() < 10


def test_chirps_rise_and_fall(tmp_path: Path) -> None:
    spec = {"audio": InputSpec(kind="logmel", size=32, num_frames=20)}
    for index, sign in ((8, 1), (9, -1)):
        record = make_video(SMALL, tmp_path, "train", index)
        bands = read_all_steps(tmp_path / record.path, spec, step_seconds=0.5)["audio"]
        pitch = bands.argmax(1)[np.array(record.step_labels) >= 0]
        assert (sign * (pitch[:, 15] - pitch[:, 4]) > 4).all()


def _places(name: str, per_step: int = 8) -> list[float]:
    """Column of the brightest mass in each frame of an evidence step of a motion class."""
    config = dataclasses.replace(CLEAN, motion_classes=4)
    index = list(config.classes).index(name)
    frames, _, record = render_video(config, "train", index)
    assert record.step_labels is not None
    step = record.step_labels.index(index)
    shown = frames[step * per_step : (step + 1) * per_step, :64].astype(float)
    mass = np.clip(shown - np.median(shown) - 30, 0, None)
    axis = 1 if name.split()[-1] in ("left", "right") else 2
    profile = mass.sum(axis)
    return list((profile * np.arange(64)).sum(1) / profile.sum(1))


@pytest.mark.parametrize(("direction", "sign"), [("left", -1), ("right", 1), ("up", -1), ("down", 1)])
def test_motion_is_seen_over_the_frames_of_a_step(direction: str, sign: int) -> None:
    places = _places(f"eight drifting {direction}")
    assert sign * (places[-1] - places[0]) > 8
    assert all(sign * (after - before) > -0.5 for before, after in itertools.pairwise(places))


def test_the_middle_frame_is_the_same_whatever_the_movement() -> None:
    middles, firsts = [], []
    for drift in ((-1.0, 0.0), (1.0, 0.0), None):
        painter = Painter(
            np.random.default_rng(5),
            digits=scans("train"),
            size=64,
            frames_per_step=8,
            num_steps=2,
            difficulty=1.0,
        )
        painter.digit(1, MOTION_DIGIT, drift=drift)
        frames = painter.finish()
        middles.append(frames[12].tobytes())
        firsts.append(frames[8].tobytes())
    # A digit that stays may stand nearer to the edge; left and right are spread alike.
    assert middles[0] == middles[1]
    assert firsts[0] != firsts[1]


def ink(config: MovingDigitsConfig, index: int) -> tuple[float, float]:
    """Of a video's first step with evidence: share of the frame that is brighter than the background, and how much."""
    frames, _, record = render_video(config, "train", index)
    assert record.step_labels is not None
    step = next(step for step, label in enumerate(record.step_labels) if label >= 0)
    frame = frames[step * config.frames_per_step, : config.frame_size].astype(float)
    rise = frame - np.median(frame)
    return float((rise > 20).mean()), float(np.quantile(rise, 0.999))


def test_a_spread_makes_some_videos_large_and_bright_and_some_small_and_faint() -> None:
    config = dataclasses.replace(CLEAN, spread=1.0, appearance_classes=4, motion_classes=0, sound_classes=0)
    seen = np.array([ink(config, index) for index in range(24)])
    assert seen[:, 0].max() > 8 * seen[:, 0].min()
    assert np.corrcoef(seen.T)[0, 1] > 0.6, "the large ones are the bright ones"
    narrow = np.array([ink(dataclasses.replace(config, spread=0.2), index) for index in range(24)])
    assert narrow[:, 0].std() < 0.6 * seen[:, 0].std()


def test_a_set_made_before_a_parameter_was_there_is_still_the_set(tmp_path: Path) -> None:
    made = make_moving_digits(SMALL, tmp_path)
    path = tmp_path / "moving_digits.json"
    for file in (path, tmp_path / "manifest.json"):
        described = json.loads(file.read_text())
        del (described.get("generator") or described)["spread"]
        file.write_text(json.dumps(described))
    older = load_dataset(tmp_path)
    assert "spread" not in older.generator and is_made(SMALL, older)
    assert make_moving_digits(SMALL, tmp_path).fingerprint == made.fingerprint
    with pytest.raises(UsageError, match=r"spread=0\.0, not 1\.0"):
        make_moving_digits(dataclasses.replace(SMALL, spread=1.0), tmp_path)


def test_making_a_set_again_makes_only_what_is_missing(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = make_moving_digits(SMALL, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 8) for number in range(1, 9)]
    assert load_dataset(tmp_path) == first
    assert is_made(SMALL, first) and not is_made(CLEAN, first)
    kept = tmp_path / first.records[0].path
    lost = tmp_path / first.records[1].path
    (tmp_path / "manifest.json").unlink()
    lost.unlink()
    before = kept.stat().st_mtime_ns
    again = make_moving_digits(SMALL, tmp_path)
    assert again == first
    assert kept.stat().st_mtime_ns == before
    assert lost.is_file()


def test_a_larger_set_keeps_the_videos_that_are_there(tmp_path: Path) -> None:
    first = make_moving_digits(SMALL, tmp_path)
    larger = make_moving_digits(dataclasses.replace(SMALL, videos_train=6), tmp_path)
    assert larger.split("train")[:4] == first.split("train")
    assert len(larger.split("train")) == 6
    assert larger.fingerprint != first.fingerprint


def test_videos_of_other_parameters_are_not_mixed(tmp_path: Path) -> None:
    make_moving_digits(dataclasses.replace(SMALL, videos_train=1, videos_val=1, videos_test=1), tmp_path)
    (tmp_path / "manifest.json").unlink()  # as if it had been interrupted
    with pytest.raises(UsageError, match=r"sparsity=0\.2, not 0\.5") as caught:
        make_moving_digits(dataclasses.replace(SMALL, sparsity=0.5), tmp_path)
    assert "another name" in caught.value.hint


def test_any_mapper_gives_the_same_set(tmp_path: Path) -> None:
    def backwards(
        make: Callable[[tuple[str, int]], VideoRecord], items: Sequence[tuple[str, int]]
    ) -> Iterable[VideoRecord]:
        return [make(item) for item in reversed(items)]

    one = make_moving_digits(SMALL, tmp_path / "one")
    other = make_moving_digits(SMALL, tmp_path / "other", map_parallel=backwards)
    assert one.records == other.records
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"videos_test": 0}, "videos_test must be .*, not 0"),
        ({"appearance_classes": 9}, "appearance_classes must be .*, not 9"),
        ({"motion_classes": -1}, "motion_classes must be .*, not -1"),
        ({"appearance_classes": 0, "motion_classes": 0, "sound_classes": 0, "easy_classes": 1}, "1 class"),
        ({"min_seconds": 9, "max_seconds": 7}, "min_seconds is 9 and max_seconds is 7"),
        ({"min_seconds": 1.0}, r"2\.0 s or more"),
        ({"frame_size": 60}, "frame_size is 60"),
        ({"step_seconds": 0.33}, "frames a step"),
        ({"frames_per_second": 6}, "3 frames a step"),
        ({"sparsity": 0.0}, "sparsity must be .*, not 0"),
        ({"sparsity": float("nan")}, "sparsity must be .*, not nan"),
        ({"lookalikes": 1.5}, r"lookalikes must be .*, not 1\.5"),
        ({"difficulty": -1.0}, r"difficulty must be .*, not -1\.0"),
        ({"seed": -1}, "seed must be .*, not -1"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        MovingDigitsConfig(**changes)
    assert caught.value.hint


@pytest.mark.slow
def test_contact_sheet_shows_every_class(tmp_path: Path) -> None:
    from PIL import Image

    config = dataclasses.replace(SMALL, videos_train=1, videos_val=1, videos_test=12)
    dataset = make_moving_digits(config, tmp_path)
    contact_sheet(dataset, tmp_path / "docs" / "sheet.png")
    with Image.open(tmp_path / "docs" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 12 * 128
        orange = (np.array(sheet.convert("RGB")).astype(int) - (255, 150, 0)).__abs__().sum(-1) < 40
    assert orange.sum() > 12 * 2 * 200  # two marked steps a class at least


UNTRIMMED = dataclasses.replace(
    SMALL,
    untrimmed=True,
    step_seconds=1.0,
    min_seconds=6.0,
    max_seconds=8.0,
    action_classes=8,
    context=0.4,
    sparsity=0.3,
    appearance_classes=0,
    motion_classes=0,
    sound_classes=0,
    easy_classes=0,
)


def test_context_stands_beside_instances_and_takes_its_share_of_the_rest() -> None:
    beside = []
    for index in range(30):
        record = plan_video(UNTRIMMED, "train", index)
        context = context_labels(UNTRIMMED, "train", index)
        labels = (-1, *(record.step_labels or ()), -1)
        free = [step for step in range(record.num_steps) if labels[step + 1] < 0]
        assert all(context[step] < 0 for step in range(record.num_steps) if step not in free)
        assert sum(label >= 0 for label in context) == round(0.4 * len(free))
        assert set(context) - {-1} <= set(record.labels)
        beside += [max(labels[step], labels[step + 2]) >= 0 for step in free if context[step] >= 0]
    assert (
        np.mean(beside) > 0.45
    )  # of context, next to an instance: of all free steps it is less than a third


def test_context_looks_like_its_action_and_does_not_move() -> None:
    config = dataclasses.replace(UNTRIMMED, difficulty=0.0, lookalikes=0.0)
    seen = {"action": [], "context": [], "rest": []}  # type: ignore[var-annotated]
    for index in range(6):
        frames, _, record = render_video(config, "train", index)
        context = context_labels(config, "train", index)
        assert record.step_labels is not None
        for step, label in enumerate(record.step_labels):
            clip = frames[step * 16 : (step + 1) * 16].astype(float)
            luma, chroma = clip[:, :64], clip[:, 64:].reshape(16, 2, -1).mean(axis=(0, 2)) - 128
            kind = "action" if label >= 0 else "context" if context[step] >= 0 else "rest"
            seen[kind].append((luma.max() > 150, np.abs(luma[-1] - luma[0]).max(), np.linalg.norm(chroma)))
    shown, moved, lit = ({k: np.array(v)[:, i] for k, v in seen.items()} for i in range(3))
    assert shown["action"].all() and shown["context"].all() and not shown["rest"].any()
    assert moved["action"].min() > 60 > 20 > moved["context"].max()
    assert lit["action"].mean() == pytest.approx(lit["context"].mean(), abs=4) and lit["action"].mean() > 25


def test_sets_made_before_a_parameter_existed_are_still_whole(tmp_path: Path) -> None:
    made = make_moving_digits(SMALL, tmp_path)
    older = {k: v for k, v in made.generator.items() if k not in ("action_classes", "context")}
    assert is_made(SMALL, dataclasses.replace(made, generator=older))
    assert not is_made(UNTRIMMED, dataclasses.replace(made, generator=older))
    noted = tmp_path / "moving_digits.json"
    noted.write_text(noted.read_text().replace('"action_classes": 0,', ""))
    make_moving_digits(SMALL, tmp_path)  # not refused


def test_context_without_actions_is_refused() -> None:
    with pytest.raises(UsageError, match="context"):
        MovingDigitsConfig(context=0.2)
