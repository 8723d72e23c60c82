from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paretovid.trainables.backbone_training import BackboneTrainingConfig, train_backbones
from paretovid.trainables.components import family, read_backbone_meta
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.trial import LocalContext

COARSE = family("small")["coarse"]
BRIEF = BackboneTrainingConfig(effort=0.01)


class Listening:
    """A context that remembers what it was told."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self):
        self.told = []

    def report(self, progress, checkpoint=None):
        self.told.append(dict(progress))

    def get_checkpoint(self):
        return None


def weights(folder):
    return load_file(folder / COARSE / "backbone.safetensors")


def test_it_trains_saves_and_tells_its_progress(videos, tmp_path):
    context = Listening()
    said = train_backbones(BRIEF, videos, [COARSE], tmp_path, context)
    assert list(said["trained"]) == [COARSE] and said["skipped"] == {}
    meta = read_backbone_meta(tmp_path / COARSE)
    assert meta["dataset_fingerprint"] == videos.fingerprint
    assert meta["labels"] == [*videos.classes, "background"]
    assert np.isfinite(meta["measured"]["loss"])
    assert context.told and all({"stage", "done", "total"} <= set(each) for each in context.told)


def test_a_seed_gives_the_same_weights_and_another_seed_others(videos, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_backbones(
            dataclasses.replace(BRIEF, seed=seed), videos, [COARSE], tmp_path / name, LocalContext()
        )
    first, again, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_backbone_that_is_there_is_kept_unless_it_was_trained_otherwise(videos, tmp_path):
    train_backbones(BRIEF, videos, [COARSE], tmp_path, LocalContext())
    assert train_backbones(BRIEF, videos, [COARSE], tmp_path, LocalContext())["kept"] == [COARSE]
    changed = dataclasses.replace(BRIEF, weight_decay=0.5)
    assert train_backbones(changed, videos, [COARSE], tmp_path, LocalContext())["kept"] == []


def test_video_labels_need_no_background(videos, tmp_path):
    config = dataclasses.replace(BRIEF, labels="video")
    train_backbones(config, videos, [COARSE], tmp_path, LocalContext())
    assert read_backbone_meta(tmp_path / COARSE)["labels"] == list(videos.classes)


def test_a_corrupt_video_is_left_out_and_all_corrupt_is_an_error(videos, tmp_path):
    broken = dataclasses.replace(videos, root=tmp_path / "copy")
    (broken.root / "videos").mkdir(parents=True)
    records = videos.split("train")
    for record in videos.records:
        content = b"nothing" if record == records[0] else videos.video_path(record).read_bytes()
        broken.video_path(record).write_bytes(content)
    said = train_backbones(BRIEF, broken, [COARSE], tmp_path / "one", LocalContext())
    assert list(said["skipped"]) == [str(broken.video_path(records[0]))]
    for record in records:
        broken.video_path(record).write_bytes(b"nothing")
    with pytest.raises(DataError, match="not one training video"):
        train_backbones(BRIEF, broken, [COARSE], tmp_path / "none", LocalContext())


@pytest.mark.parametrize("fields", [{"effort": 0.0}, {"background_share": 1.0}, {"labels": "frame"}])
def test_bad_settings_say_what_is_allowed(fields):
    with pytest.raises(UsageError) as error:
        BackboneTrainingConfig(**fields)
    assert error.value.hint
