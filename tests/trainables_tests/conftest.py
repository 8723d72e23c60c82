"""A few real videos, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paretovid.platform.storage.home import Home
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.training.config import TrainingConfig, TrialConfig


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten videos of two to three seconds."""
    config = MovingDigitsConfig(videos_train=6, videos_val=2, videos_test=2, min_seconds=2.0, max_seconds=3.0)
    root: Path = tmp_path_factory.mktemp("data") / "moving_digits"
    return make_moving_digits(config, root)


@pytest.fixture(scope="module")
def lite_eval_trial(
    small_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory
) -> TrialConfig:
    """A configuration over a few real videos, in a home of the test module's own."""
    home = small_home_copy(tmp_path_factory.mktemp("home"))
    features = home.features("moving_digits")
    return TrialConfig(
        sweep="s",
        trial="t",
        method="lite_eval",
        model={"target_usage": 0.4},
        training_knobs={"gamma": 0.4},
        training=TrainingConfig(epochs=4, batch_size=4, checkpoint_every_epochs=2),
        dataset=str(home.data("moving_digits")),
        features={
            "coarse": str(next(features.glob("mobilenet*"))),
            "fine": str(next(features.glob("resnet*"))),
        },
        output=str(tmp_path_factory.mktemp("out")),
    )
