"""`data=moving_digits_minute`: long videos that differ in how much matters, in which form, and how often again."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import resolve_data
from paretovid.trainables.data.dataset import SPLITS, Dataset, VideoRecord
from paretovid.trainables.data.moving_digits.contact_sheet import video_sheet
from paretovid.trainables.data.moving_digits.generate import (
    MovingDigitsConfig,
    make_moving_digits,
    plan_video,
    render_video,
    repeats,
)
from paretovid.trainables.data.moving_digits.placing import (
    PREVAILING,
    draw_lights,
    draw_repeats,
    draw_steps,
    matters,
    neighbours,
)
from paretovid.trainables.data.videos import InputSpec, read_all_steps
from paretovid.trainables.errors import UsageError


def configured(name: str, *words: str) -> MovingDigitsConfig:
    generated = resolve_data(load_sweep_config([f"data={name}", *words])).generated
    assert generated is not None
    return generated


@pytest.fixture(scope="module")
def minute() -> MovingDigitsConfig:
    return configured("moving_digits_minute")


@pytest.fixture(scope="module")
def plans(minute: MovingDigitsConfig) -> list[VideoRecord]:
    """Every third video of each split, not drawn."""
    return [
        plan_video(minute, split, index)
        for split in SPLITS
        for index in range(0, minute.num_videos(split), 3)
    ]


def shown(record: VideoRecord) -> tuple[int, ...]:
    assert record.step_labels is not None
    return record.step_labels


def share_that_matters(config: MovingDigitsConfig, record: VideoRecord) -> float:
    return float(np.mean(matters(shown(record), record.labels, list(config.classes.values()))))


def test_its_name_sizes_and_classes(minute: MovingDigitsConfig) -> None:
    assert resolve_data(load_sweep_config(["data=moving_digits_minute"])).name == "moving_digits_minute"
    assert minute.videos_val >= 400 and minute.videos_test >= 400
    assert not minute.long_range and not configured("moving_digits_long_range").is_uneven
    groups = list(minute.classes.values())
    assert (groups.count("appearance"), groups.count(PREVAILING)) == (6, 4)
    assert list(minute.classes)[-4:] == ["mostly blue", "mostly green", "mostly red", "mostly teal"]
    for split in SPLITS:
        assert minute.num_videos(split) % minute.num_classes == 0, "as many videos of each class"


def test_a_twentieth_to_a_quarter_of_a_video_matters(
    minute: MovingDigitsConfig, plans: list[VideoRecord]
) -> None:
    shares = np.array([share_that_matters(minute, record) for record in plans])
    print(
        f"steps that matter: {shares.min():.3f} to {shares.max():.3f} of a video, median {np.median(shares):.3f}"
    )
    assert shares.min() >= 0.05 and shares.max() <= 0.25
    assert shares.min() < 0.07 and shares.max() > 0.23 and 0.1 < np.median(shares) < 0.2
    steps = np.array([record.num_steps for record in plans])
    assert (steps.min(), steps.max()) == (64, 128)
    assert all(record.duration_seconds == record.num_steps / 2 for record in plans)


def test_evidence_comes_in_single_steps_and_in_stretches(plans: list[VideoRecord]) -> None:
    lengths = [
        [end - start for label, start, end in neighbours(shown(record)) if label in record.labels]
        for record in plans
    ]
    steps = np.concatenate([np.repeat(each, each) for each in lengths])
    assert 0.25 < np.mean(steps == 1) < 0.6 and 0.3 < np.mean(steps >= 3) < 0.65
    assert sum(max(each) <= 2 for each in lengths) > len(plans) / 20, "some videos have no stretch"
    assert sum(min(each) >= 2 for each in lengths) > 0, "and some have nothing else"


def test_only_the_lights_of_the_whole_video_say_which_prevails(
    minute: MovingDigitsConfig, plans: list[VideoRecord]
) -> None:
    groups = list(minute.classes.values())
    lights = np.flatnonzero(np.array(groups) == PREVAILING)
    leads = []
    for record in plans:
        counts = np.array([shown(record).count(light) for light in lights])
        assert counts.min() >= 1, "every video shows all of them"
        assert 0.14 <= counts.sum() / record.num_steps <= 0.25
        if record.labels[0] in lights:
            assert lights[counts.argmax()] == record.labels[0]
            leads.append(counts.max() / counts.sum())
            assert set(shown(record)) - set(lights.tolist()) == {-1}, "nothing else gives it away"
        else:
            assert counts.max() - counts.min() <= 1
    assert np.mean(leads) == pytest.approx(minute.prevailing_share, abs=0.02)
    assert max(leads) < 0.8, "the others are seen as well"


def test_some_videos_show_the_very_same_again(minute: MovingDigitsConfig) -> None:
    again = 0
    for index in range(minute.num_classes * 6):
        numbers = np.array(repeats(minute, "train", index))
        labels = np.array(shown(plan_video(minute, "train", index)))
        own = labels == index % minute.num_classes
        if (numbers >= 0).any():
            assert ((numbers >= 0) == own).all()
            assert np.bincount(numbers[own]).max() > 1
            again += 1
        if index % minute.num_classes >= 10:
            assert (numbers < 0).all(), "a light is no digit"
    assert 0.3 < again / (10 * 6) < 0.7


def test_what_is_shown_again_is_the_very_same() -> None:
    clean = dataclasses.replace(
        configured("moving_digits_minute", "data.min_seconds=8", "data.max_seconds=10"),
        difficulty=0.0,
        lookalikes=0.0,
        repeats=1.0,
        prevailing_classes=0,
        stretches=0.0,
    )
    for index, is_again in ((0, True), (7, True), (0, False)):
        config = clean if is_again else dataclasses.replace(clean, repeats=0.0)
        frames, _, record = render_video(config, "train", index)
        numbers = np.array(repeats(clean, "train", index))
        first, second, *_ = np.flatnonzero(numbers == np.bincount(numbers[numbers >= 0]).argmax())
        clips = frames.reshape(record.num_steps, 8, 96, 64)[:, :, :64].astype(int)
        brighter = clips - np.median(clips, axis=(2, 3), keepdims=True) > 60
        assert (brighter[first] == brighter[second]).all() == is_again
        assert brighter[first].any(axis=(1, 2)).all()


def test_lights_are_seen_at_16_pixels_and_heard() -> None:
    config = dataclasses.replace(
        configured("moving_digits_minute", "data.min_seconds=32", "data.max_seconds=32"), difficulty=0.0
    )
    index = list(config.classes).index("mostly red")
    frames, sound, record = render_video(config, "train", index)
    labels = np.array(shown(record))
    chroma = frames.reshape(record.num_steps, 8, 96, 64)[:, 4, 64:].reshape(-1, 2, 1024).mean(2)
    shift = chroma - np.median(chroma[labels < 0], axis=0)
    assert np.abs(shift[labels < 0]).max() < 1 < 20 < np.linalg.norm(shift[labels >= 0], axis=1).min()
    angles = np.arctan2(shift[:, 1], shift[:, 0]) / (2 * np.pi)
    for name, hue in (("blue", 0.0), ("green", 0.5), ("red", 0.25), ("teal", 0.75)):
        own = angles[labels == list(config.classes).index(f"mostly {name}")]
        assert np.abs((own - hue + 0.5) % 1 - 0.5).max() < 0.15
    loud = np.abs(sound.reshape(record.num_steps, -1)).max(1)
    assert loud[labels >= 0].min() > 0.1


SIX = (
    "data.videos_train=2",
    "data.videos_val=2",
    "data.videos_test=2",
    "data.min_seconds=8",
    "data.max_seconds=10",
)


def test_six_videos_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    config = configured("moving_digits_minute", *SIX)
    made = [make_moving_digits(config, tmp_path / each, name="minute") for each in ("one", "two")]
    assert made[0].fingerprint == made[1].fingerprint and len(made[0].records) == 6
    contents = [[record.content for record in dataset.records] for dataset in made]
    assert contents[0] == contents[1] and len(set(contents[0])) == 6
    other = dataclasses.replace(config, seed=1)
    assert make_moving_digits(other, tmp_path / "other").records[0].content != contents[0][0]
    record = made[0].records[0]
    spec = {"coarse": InputSpec(kind="frame", size=16)}
    views = read_all_steps(made[0].video_path(record), spec, step_seconds=0.5)
    assert views["coarse"].shape == (record.num_steps, 16, 16, 3)
    _draws_all_of(made[0], tmp_path / "sheet.png")


def _draws_all_of(dataset: Dataset, path: Path) -> None:
    from PIL import Image

    record = dataset.records[0]
    video_sheet(dataset, [record], path, columns=6)
    groups = [dataset.class_groups[name] for name in dataset.classes]
    with Image.open(path) as sheet:
        assert sheet.height > 128 * (record.num_steps // 6)
        orange = np.abs(np.array(sheet.convert("RGB")).astype(int) - (255, 150, 0)).sum(-1) < 40
    frame = 3 * 2 * (69 + 134)  # pixels of one step's frame, about
    assert orange.sum() == pytest.approx(frame * sum(matters(shown(record), record.labels, groups)), rel=0.15)


def test_shares_lie_between_their_bounds_and_reach_them() -> None:
    rng = np.random.default_rng(0)
    found = [draw_steps(rng, 100, 0.05, 0.25) for _ in range(500)]
    assert (min(found), max(found)) == (5, 25) and 10 <= np.median(found) <= 13
    assert {draw_steps(rng, 10, 0.01, 0.02) for _ in range(20)} == {2}


def test_lights_are_shared_out_evenly_but_for_the_one_that_prevails() -> None:
    rng = np.random.default_rng(0)
    assert dict(draw_lights(rng, [4, 5, 6], 20, prevailing=5, share=0.5)) in ({5: 10, 4: 5, 6: 5},)
    even = dict(draw_lights(rng, [4, 5, 6], 20, prevailing=None, share=0.5))
    assert sorted(even) == [4, 5, 6] and sorted(even.values()) == [6, 7, 7]


def test_a_run_shows_one_thing_and_others_show_it_again() -> None:
    rng = np.random.default_rng(0)
    labels = [0, 0, 0, -1, 0, 1, 0, -1, -1, 0, 0, -1, 0]
    numbers = draw_repeats(rng, labels, [0])
    assert [number >= 0 for number in numbers] == [label == 0 for label in labels]
    assert len(set(numbers[:3])) == 1 and set(numbers) <= {-1, 0, 1}


def test_what_matters_is_evidence_or_all_lights() -> None:
    groups = ["appearance", PREVAILING, PREVAILING]
    assert matters([0, 1, 2, -1], [0], groups) == [True, False, False, False]
    assert matters([0, 1, 2, -1], [1], groups) == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"least_sparsity": 0.3}, "least_sparsity"),
        ({"sparsity": 0.5}, "sparsity"),
        ({"prevailing_classes": 1}, "prevailing_classes"),
        ({"sound_classes": 2}, "sound_classes"),
        ({"action_classes": 2}, "action_classes"),
        ({"multi_label": True}, "multi_label"),
        ({"untrimmed": True}, "untrimmed"),
        (
            {"repeats": 0.5, "untrimmed": True, "least_sparsity": 0, "stretches": 0, "prevailing_classes": 0},
            "untrimmed",
        ),
    ],
    ids=str,
)
def test_what_long_videos_cannot_be_is_refused(
    minute: MovingDigitsConfig, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError, match=f"^{field} is .* with least_sparsity") as caught:
        dataclasses.replace(minute, **changes)
    assert caught.value.hint


PLANNED = {
    "moving_digits": ("7747c08bc4b28636", 6421, 0.8505),
    "moving_digits_long_range": ("5ef934fd87680245", -6129, 6.3797),
    "moving_digits_trimmed": ("95c0ec21564ee42f", 11884, 19.8195),
    "moving_digits_untrimmed": ("5189469949418df9", 4275, -5.9556),
    "moving_digits_untrimmed_multi": ("095310334a9642e5", -762, 29.0482),
}
"""Of each set that was there before: a digest of where its evidence is, checksums of a video's picture and sound."""


@pytest.mark.parametrize("name", PLANNED)
def test_the_other_sets_stay_what_they_were(name: str) -> None:
    config, (plan, seen, heard) = configured(name), PLANNED[name]
    planned = [plan_video(config, split, index).step_labels for split in SPLITS for index in range(40)]
    assert hashlib.sha256(repr(planned).encode()).hexdigest()[:16] == plan
    frames, sound, _ = render_video(config, "train", 7)
    # Noise makes up both, so that another draw anywhere changes them; rounding, which processors differ in, by little.
    stripes = np.where(np.arange(config.frame_size) % 2, 1, -1)
    assert (frames[:, : config.frame_size].astype(np.int64) * stripes).sum() == pytest.approx(seen, abs=60)
    assert (sound[::2].astype(np.float64) - sound[1::2]).sum() == pytest.approx(heard, abs=0.01)
