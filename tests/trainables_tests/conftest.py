"""A few real videos, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten videos of two to three seconds."""
    config = MovingDigitsConfig(videos_train=6, videos_val=2, videos_test=2, min_seconds=2.0, max_seconds=3.0)
    root: Path = tmp_path_factory.mktemp("data") / "moving_digits"
    return make_moving_digits(config, root)
