"""The picture of what was looked at in a video."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from paretovid.platform.registry.storyboard import MOST_STEPS, _shown_steps, draw_storyboard
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_video

READS = [{"source": "coarse", "step": step} for step in range(6)] + [
    {"source": "fine", "step": step} for step in (0, 4, 2)
]
ANSWERS = [
    {"step": step, "label": label, "score": 0.5} for step, label in ((0, "zero"), (4, "one"), (2, "one"))
]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    config = MovingDigitsConfig(min_seconds=3.0, max_seconds=3.0)
    return tmp_path / make_video(config, tmp_path, "test", 0).path


@pytest.mark.parametrize("answers", [ANSWERS, []], ids=["walk", "one answer"])
def test_a_storyboard_is_drawn(video: Path, tmp_path: Path, answers: list[dict[str, object]]) -> None:
    prediction = {
        "looks": READS,
        "steps": ["fine", "coarse", "fine", "coarse", "fine", "coarse"],
        "answers": answers,
        "labels": [{"label": "one", "score": 0.9}],
        "gflops": 0.04,
        "step_seconds": 0.5,
    }
    path = tmp_path / "pictures" / "a.png"
    draw_storyboard(video, prediction, path, ground_truth="one")
    with Image.open(path) as picture:
        assert picture.width > 600 and picture.height > 200
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 500  # frames, not an empty page


def test_a_long_video_shows_what_was_looked_at() -> None:
    reads = [{"source": "coarse", "step": step} for step in range(1000)] + [{"source": "fine", "step": 777}]
    shown = _shown_steps(1000, reads)
    assert len(shown) == MOST_STEPS and shown == sorted(set(shown)) and 777 in shown
    assert _shown_steps(5, reads[:3]) == [0, 1, 2, 3, 4]
