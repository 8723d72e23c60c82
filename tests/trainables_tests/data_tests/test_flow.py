"""Optical flow of clips: direction, size, and the seconds it takes, which are counted apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paretovid.trainables.data import flow as module
from paretovid.trainables.data.flow import REACH_PIXELS, ZERO, flow
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_video
from paretovid.trainables.data.videos import InputSpec, VideoReader, read_all_steps
from paretovid.trainables.errors import UsageError

SPEC = InputSpec(kind="flow", size=48, num_frames=16)


def moving(dx: int, dy: int, frames: int = 4) -> np.ndarray:
    """A textured picture that moves by (dx, dy) pixels a frame, `[F, 48, 48, 3]`."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (16, 16)), np.ones((6, 6))).astype(np.uint8)
    shots = [texture[20 - i * dy : 68 - i * dy, 20 - i * dx : 68 - i * dx] for i in range(frames)]
    return np.stack([np.stack([shot] * 3, axis=-1) for shot in shots])


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-2, 0), (0, 2), (1, -1)])
def test_flow_points_where_the_picture_moves(dx: int, dy: int) -> None:
    found = flow(moving(dx, dy))
    assert found.shape == (3, 48, 48, 2) and found.dtype == np.uint8
    middle = (found[:, 8:-8, 8:-8].astype(float) - ZERO).mean(axis=(0, 1, 2)) * REACH_PIXELS / 127
    assert middle == pytest.approx((dx, dy), abs=0.3)


def test_what_stands_still_has_none_and_what_is_too_fast_is_cut() -> None:
    assert (flow(moving(0, 0)) == ZERO).all()
    fast = flow(moving(6, 0, frames=2))[0, 12:-12, 12:-12, 0]
    assert fast.max() == ZERO + 127


def test_a_reader_gives_flow_and_counts_its_seconds_apart(tmp_path: Path) -> None:
    config = MovingDigitsConfig(step_seconds=1.0, min_seconds=4.0, max_seconds=4.0)
    video = tmp_path / make_video(config, tmp_path, "test", 6).path
    together = read_all_steps(video, {"flow": SPEC}, step_seconds=1.0)["flow"]
    with VideoReader(video, step_seconds=1.0) as reader:
        assert together.shape == (reader.num_steps, *SPEC.shape)
        assert reader.flow_seconds == 0
        later = reader.read(2, SPEC)
        assert reader.flow_seconds > 0 and reader.decode_seconds > 0
    assert np.array_equal(later, together[2])


def test_flow_of_one_frame_is_refused_and_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="one frame"):
        InputSpec(kind="flow", size=48)
    module._cv2.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UsageError) as caught:
        flow(moving(1, 0))
    module._cv2.cache_clear()
    assert "paretovid[flow]" in caught.value.hint
