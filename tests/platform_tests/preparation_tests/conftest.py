"""What tests of extraction and of its shards share: a small data set, and features that are finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.features.index import FeaturesHeader
from paretovid.trainables.features.store import FeatureStore, finish

HEADER = FeaturesHeader(
    component="c",
    dataset="moving_digits",
    dataset_fingerprint="3a46fd007c08",
    weights_sha256="ab" * 32,
    video_share=1.0,
    sampling={},
    dtype="float32",
    precision="float32",
    code_version="270bbd0050a7",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = MovingDigitsConfig(videos_train=6, videos_val=3, videos_test=3, min_seconds=2.0, max_seconds=3.0)
    return make_moving_digits(config, tmp_path_factory.mktemp("data") / "moving_digits")


def store(folder: Path, num_shards: int) -> FeatureStore:
    finish(folder, HEADER, num_shards)
    return FeatureStore.open(folder)
