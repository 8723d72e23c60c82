from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from paretovid.trainables.backbones.catalog import component, family, save_backbone
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import read_all_steps
from paretovid.trainables.errors import DataError, StaleFeaturesError, UsageError
from paretovid.trainables.features.extract import compute_features, extract_shard, headers
from paretovid.trainables.features.store import (
    FeatureStore,
    finish,
    header_fingerprint,
    load_padded,
    shard_is_whole,
    write_shard,
)

COARSE = family("small")["coarse"]


@pytest.fixture
def backbone(tmp_path):
    """A folder with an untrained coarse backbone."""
    torch.manual_seed(0)
    save_backbone(tmp_path / "backbone", COARSE, component(COARSE).build(3).eval(), {})
    return tmp_path / "backbone"


def extracted(videos, backbone: Path, root: Path, dtype: str = "float32") -> Path:
    """A store over two shards."""
    header = headers(videos, {COARSE: backbone}, dtype)[COARSE]
    folder = root / f"{COARSE}@{header_fingerprint(header)}"
    for index, records in enumerate((videos.records[:7], videos.records[7:])):
        assert extract_shard(videos, records, {COARSE: backbone}, {COARSE: folder}, index, dtype) == []
    finish(folder, header, 2)
    return folder


def test_features_are_those_of_the_backbone_on_the_decoded_steps(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    assert len(store) == len(videos.records) and store.width == component(COARSE).feature_width
    from paretovid.trainables.backbones.catalog import load_backbone

    network, _ = load_backbone(backbone)
    for record in videos.records:
        steps = read_all_steps(
            videos.video_path(record), {"c": component(COARSE).input}, step_seconds=videos.step_seconds
        )
        np.testing.assert_array_equal(store.video(record.video_id), compute_features(network, steps["c"]))


def test_padding_masks_targets_and_keys(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    split = load_padded({"coarse": store}, videos.records, videos)
    lengths = [record.num_steps for record in videos.records]
    assert split.num_steps.tolist() == lengths and split.mask.sum(dim=1).tolist() == lengths
    assert split.features["coarse"].shape == (10, max(lengths), store.width)
    assert not split.features["coarse"][~split.mask].any()
    assert [row.nonzero().flatten().tolist() for row in split.targets] == [
        list(r.labels) for r in videos.records
    ]
    assert split.video_keys.tolist() == [video_key(record.video_id) for record in videos.records]


def test_features_are_mapped_not_copied(videos, backbone, tmp_path):
    store = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    values = store.video(videos.records[0].video_id)
    assert isinstance(values, np.memmap) and not values.flags.writeable


def test_float16_is_half_as_large_and_close(videos, backbone, tmp_path):
    full = FeatureStore.open(extracted(videos, backbone, tmp_path / "features"))
    folder = extracted(videos, backbone, tmp_path / "features", "float16")
    half = FeatureStore.open(folder)
    video = videos.records[0].video_id
    assert half.video(video).dtype == np.float16 and full.fingerprint != half.fingerprint
    np.testing.assert_allclose(half.video(video), full.video(video), atol=2e-3, rtol=2e-3)
    with pytest.raises(UsageError, match="int8"):
        headers(videos, {COARSE: backbone}, "int8")


def test_a_shard_that_is_whole_is_not_made_again(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("shard_*.npy")}
    extracted(videos, backbone, tmp_path / "features")
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("shard_*.npy")}


@pytest.mark.parametrize("harm", ["byte", "short", "gone", "index", "no index"])
def test_damage_is_refused_with_the_command_that_mends_it(videos, backbone, tmp_path, harm):
    folder = extracted(videos, backbone, tmp_path / "features" / "moving_digits")
    shard, index = folder / "shard_00001.npy", folder / "index.json"
    content = shard.read_bytes()
    if harm == "byte":
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "short":
        shard.write_bytes(content[:-8])
    elif harm == "gone":
        shard.unlink()
    elif harm == "index":
        changed = json.loads(index.read_text())
        changed["header"]["weights_sha256"] = "0" * 64
        index.write_text(json.dumps(changed))
    else:
        index.unlink()
    with pytest.raises(StaleFeaturesError) as error:
        FeatureStore.open(folder)
    assert "paretovid extract data=moving_digits" in error.value.hint
    if harm not in ("index", "no index"):
        extracted(videos, backbone, tmp_path / "features" / "moving_digits")
        assert len(FeatureStore.open(folder)) == len(videos.records), "the command mends it"


def test_other_weights_other_videos_or_other_sampling_are_other_features(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    mine = headers(videos, {COARSE: backbone})[COARSE]
    torch.manual_seed(1)
    save_backbone(tmp_path / "other", COARSE, component(COARSE).build(3).eval(), {})
    other_weights = headers(videos, {COARSE: tmp_path / "other"})[COARSE]
    other_videos = headers(dataclasses.replace(videos, records=videos.records[1:]), {COARSE: backbone})[
        COARSE
    ]
    other_steps = headers(dataclasses.replace(videos, step_seconds=0.25), {COARSE: backbone})[COARSE]
    found = {header_fingerprint(h) for h in (mine, other_weights, other_videos, other_steps)}
    assert len(found) == 4
    with pytest.raises(StaleFeaturesError, match="other videos, weights, sampling"):
        FeatureStore.open(folder, expected=header_fingerprint(other_weights))


def test_a_video_that_cannot_be_read_is_named_and_has_no_features(videos, backbone, tmp_path):
    broken = dataclasses.replace(videos, root=tmp_path / "copy")
    (broken.root / "videos").mkdir(parents=True)
    for record in videos.records:
        broken.video_path(record).write_bytes(videos.video_path(record).read_bytes())
    bad = broken.records[2]
    broken.video_path(bad).write_text("this is text")
    header = headers(broken, {COARSE: backbone})[COARSE]
    folder = tmp_path / "features"
    ((path, reason),) = extract_shard(broken, broken.records, {COARSE: backbone}, {COARSE: folder}, 0)
    finish(folder, header, 1)
    store = FeatureStore.open(folder)
    assert path == str(broken.video_path(bad)) and reason
    assert bad.video_id not in store and len(store) == len(videos.records) - 1
    with pytest.raises(StaleFeaturesError, match="could not be read"):
        store.video(bad.video_id)


def test_features_that_float16_cannot_hold_are_refused_not_written(tmp_path):
    videos = {"a": np.full((2, 4), 1e6, np.float32)}
    with pytest.raises(DataError, match="not finite as float16") as error:
        write_shard(tmp_path, 0, videos, asked=["a"], skipped={}, width=4, dtype="float16")
    assert "float32" in error.value.hint and not list(tmp_path.iterdir())


def test_a_shard_of_other_videos_is_made_again_and_a_missing_one_is_named(videos, backbone, tmp_path):
    folder = extracted(videos, backbone, tmp_path / "features")
    ids = [record.video_id for record in videos.records]
    assert shard_is_whole(folder, 0, ids[:7]) and not shard_is_whole(folder, 0, ids[:6])
    with pytest.raises(DataError, match="shard 2 of 3 is missing"):
        finish(folder, headers(videos, {COARSE: backbone})[COARSE], 3)
