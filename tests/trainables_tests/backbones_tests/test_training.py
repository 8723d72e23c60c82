from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.odd_videos import CASES

from paretovid.trainables.backbones import training as backbone_training
from paretovid.trainables.backbones.catalog import component, family
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.backbones.training import BackboneTrainingConfig, train_backbones
from paretovid.trainables.context import LocalContext
from paretovid.trainables.data.dataset import is_for_backbones
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import DataError, UnavailableDataError, UsageError
from paretovid.trainables.layers.functional import classification_loss

COARSE = family("small")["coarse"]
BRIEF = BackboneTrainingConfig(effort=0.01)


class Listening:
    """A context that remembers what was reported to it."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self):
        self.reported = []

    def report(self, progress, checkpoint=None):
        self.reported.append(dict(progress))

    def get_checkpoint(self):
        return None

    def heartbeat(self):
        return False


def weights(folder):
    return load_file(folder / COARSE / "backbone.safetensors")


def test_it_trains_saves_and_reports_its_progress(videos, tmp_path):
    context = Listening()
    said = train_backbones(BRIEF, videos, [COARSE], tmp_path, context)
    assert list(said.trained) == [COARSE] and said.skipped == {}
    described = BackboneDescription.read(tmp_path / COARSE)
    assert described.origin.dataset_fingerprint == videos.fingerprint
    assert described.origin.labels == (*videos.classes, "background")
    assert np.isfinite(described.measured["loss"]) and described.measured == said.trained[COARSE]
    assert context.reported and all({"stage", "done", "total"} <= set(each) for each in context.reported)


@pytest.mark.slow
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
    assert train_backbones(BRIEF, videos, [COARSE], tmp_path, LocalContext()).kept == (COARSE,)
    changed = dataclasses.replace(BRIEF, weight_decay=0.5)
    assert train_backbones(changed, videos, [COARSE], tmp_path, LocalContext()).kept == ()


def test_video_labels_need_no_background(videos, tmp_path):
    config = dataclasses.replace(BRIEF, labels="video")
    train_backbones(config, videos, [COARSE], tmp_path, LocalContext())
    assert BackboneDescription.read(tmp_path / COARSE).origin.labels == videos.classes


@pytest.mark.slow
def test_what_classifies_is_not_taught_a_class_more(videos, tmp_path):
    member = family("x3d_pool")["xs"]
    with pytest.raises(UsageError, match="classifies by itself") as error:
        train_backbones(BRIEF, videos, [member], tmp_path, LocalContext())
    assert "labels=video" in error.value.hint
    for labels in ("video", "trimmed"):
        train_backbones(dataclasses.replace(BRIEF, labels=labels), videos, [member], tmp_path, LocalContext())
        assert BackboneDescription.read(tmp_path / member).num_outputs == len(videos.classes)


def test_members_of_a_pool_learn_tags_each_by_itself(videos, tmp_path, monkeypatch):
    seen = []
    original = classification_loss

    def watched(logits, targets, multi_label):
        seen.append((multi_label, sorted(set(targets.flatten().tolist()))))
        return original(logits, targets, multi_label)

    monkeypatch.setattr(backbone_training, "classification_loss", watched)
    two = [dataclasses.replace(record, labels=(0, 1)) for record in videos.records]
    tagged = dataclasses.replace(videos, multi_label=True, records=tuple(two))
    config = dataclasses.replace(BRIEF, labels="video")
    for place, (name, expected) in enumerate(
        ((family("x3d_pool")["xs"], (True, 1.0)), (COARSE, (False, 0.5)))
    ):
        seen.clear()
        train_backbones(config, tagged, [name], tmp_path / str(place), LocalContext())
        assert {(multi, targets[-1]) for multi, targets in seen} == {expected}


def test_a_share_of_the_videos_is_kept_from_the_backbones(videos, tmp_path, monkeypatch):
    keys = torch.tensor([video_key(record.video_id) for record in videos.split("train")])
    many = torch.tensor([video_key(str(number)) for number in range(4000)])
    for share in (0.2, 0.7):
        assert float(is_for_backbones(many, share).double().mean()) == pytest.approx(share, abs=0.03)
    assert is_for_backbones(many, 1.0).all()
    assert bool(
        (is_for_backbones(many, 0.7) | ~is_for_backbones(many, 0.2)).all()
    )  # a larger share adds videos
    read = []
    original = VideoReader

    def noted(path, **named):
        read.append(path.stem)
        return original(path, **named)

    monkeypatch.setattr(backbone_training, "VideoReader", noted)
    config = dataclasses.replace(BRIEF, video_share=0.6)
    train_backbones(config, videos, [COARSE], tmp_path, LocalContext())
    is_chosen = is_for_backbones(keys, 0.6).tolist()
    chosen = [r.video_id for r, taken in zip(videos.split("train"), is_chosen, strict=True) if taken]
    assert read == chosen and 0 < len(chosen) < len(keys)
    with pytest.raises(DataError, match="none of"):
        train_backbones(
            dataclasses.replace(BRIEF, video_share=1e-9), videos, [COARSE], tmp_path, LocalContext()
        )


def test_trimmed_clips_are_those_with_evidence_and_know_no_background(videos, tmp_path):
    config = dataclasses.replace(BRIEF, labels="trimmed")
    train_backbones(config, videos, [COARSE], tmp_path, LocalContext())
    origin = BackboneDescription.read(tmp_path / COARSE).origin
    assert origin.labels == videos.classes and origin.training["labels"] == "trimmed"
    samples = backbone_training.decode_samples(videos, [component(COARSE)], "trimmed", config, LocalContext())
    evidence = sum(label >= 0 for record in videos.split("train") for label in record.step_labels or ())
    assert len(samples.targets) == evidence and (samples.targets.sum(axis=1) == 1).all()


def test_flow_is_moved_and_made_faster_but_not_turned():
    spec = component(family("localization")["flow"])
    still = torch.full((8, *spec.input.shape), 128, dtype=torch.uint8)
    right = still.clone()
    right[..., 0] = 160
    torch.manual_seed(0)
    varied = backbone_training.varied(right, spec) - 128
    assert varied[..., 0].mean(dim=(1, 2, 3)).std() > 1  # each at its own speed
    assert varied[..., 0].mean() == pytest.approx(32, abs=4) and varied[..., 1].mean() == pytest.approx(
        0, abs=0.2
    )


@pytest.mark.slow
def test_a_corrupt_video_is_left_out_and_all_corrupt_is_an_error(videos, tmp_path):
    broken = dataclasses.replace(videos, root=tmp_path / "copy")
    (broken.root / "videos").mkdir(parents=True)
    records = videos.split("train")
    for record in videos.records:
        content = b"nothing" if record == records[0] else videos.video_path(record).read_bytes()
        broken.video_path(record).write_bytes(content)
    said = train_backbones(BRIEF, broken, [COARSE], tmp_path / "one", LocalContext())
    assert list(said.skipped) == [str(broken.video_path(records[0]))]
    for record, case in zip(records, ("apac_only.mp4", "twice.ts", "ps.mpg"), strict=False):
        broken.video_path(record).write_bytes((CASES / case).read_bytes())
    assert train_backbones(BRIEF, broken, [COARSE], tmp_path / "odd", LocalContext()).skipped == {}
    strict = dataclasses.replace(broken, limits=VideoLimitsConfig(max_steps=15))
    said = train_backbones(BRIEF, strict, [COARSE], tmp_path / "strict", LocalContext())
    assert list(said.skipped) == [str(broken.video_path(records[1]))]
    for record in records:
        broken.video_path(record).write_bytes(b"nothing")
    with pytest.raises(DataError, match="not one training video"):
        train_backbones(BRIEF, broken, [COARSE], tmp_path / "none", LocalContext())


def test_a_video_that_is_away_ends_training_and_nothing_is_trained_of_what_is_left(
    videos, tmp_path, monkeypatch
):
    part = dataclasses.replace(videos, root=tmp_path / "copy")
    shutil.copytree(videos.root, part.root)
    path = part.video_path(part.split("train")[-1])
    path.rename(tmp_path / "aside")
    said = train_backbones(BRIEF, part, [COARSE], tmp_path / "others", LocalContext())
    assert list(said.skipped) == [str(path)], "one that is missing among others is its own problem"
    assert "no such file" in said.skipped[str(path)]
    (tmp_path / "aside").rename(path)
    path.parent.rename(tmp_path / "aside")
    for mount_point in (False, True):
        path.parent.mkdir() if mount_point else None
        with pytest.raises(
            UnavailableDataError, match="is not there, and its folder is gone or empty"
        ) as error:
            train_backbones(BRIEF, part, [COARSE], tmp_path / "out", LocalContext())
        assert error.value.hint and not (tmp_path / "out" / COARSE).exists()
    path.parent.rmdir()
    (tmp_path / "aside").rename(path.parent)

    def refuse(opened, **_):
        raise OSError(code, os.strerror(code), str(opened))

    monkeypatch.setattr(backbone_training, "VideoReader", refuse)  # injected, as no disk here is away
    for code in (errno.EACCES, errno.ESTALE):
        with pytest.raises(UnavailableDataError, match=os.strerror(code)):
            train_backbones(BRIEF, part, [COARSE], tmp_path / "out", LocalContext())
    assert not (tmp_path / "out" / COARSE).exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"effort": 0.0},
        {"background_share": 1.0},
        {"labels": "frame"},
        {"video_share": 0.0},
        {"video_share": 1.1},
    ],
)
def test_bad_settings_say_what_is_allowed(fields):
    with pytest.raises(UsageError) as error:
        BackboneTrainingConfig(**fields)
    assert error.value.hint


WORKER = """
import hashlib, json, sys
from pathlib import Path
import torch
from paretovid.trainables.backbones import training as backbone_training
from paretovid.trainables.backbones.training import BackboneTrainingConfig, train_backbones
from paretovid.trainables.backbones.catalog import family
from paretovid.trainables.data.dataset import load_dataset

class Context:
    rank, world_size, device = int(sys.argv[1]), 2, torch.device("cpu")
    reports = 0
    def report(self, progress, checkpoint=None):
        self.reports += 1
    def get_checkpoint(self):
        return None

data, meeting, out = map(Path, sys.argv[2:5])
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=Context.rank, world_size=2)
made, original = [], backbone_training._train_one
def remember(*arguments):
    made.append(original(*arguments))
    return made[-1]
backbone_training._train_one = remember
context, names = Context(), [family("small")["coarse"], family("small")["audio"]]
config = BackboneTrainingConfig(effort=0.01)
said = train_backbones(config, load_dataset(data), names, out, context)
again = train_backbones(config, load_dataset(data), names, out, context)
digest = hashlib.sha256()
for backbone, _ in made:
    for name, value in backbone.named_parameters():
        digest.update(value.detach().numpy().tobytes())
    digest.update(backbone.input_mean.numpy().tobytes() + backbone.input_std.numpy().tobytes())
print(json.dumps([digest.hexdigest(), context.reports, len(said.trained), again.kept == tuple(names)]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_workers_train_one_network(videos, tmp_path):
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                str(rank),
                str(videos.root),
                str(tmp_path / "meet"),
                str(tmp_path),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (json.loads(worker.communicate(timeout=50)[0]) for worker in workers)
    assert first == second, "same weights, and as many reports: Ray waits for all ranks at each"
    assert first[2:] == [2, True]


def drawn(groups: list[str], counts: list[int], own: tuple[str, ...]) -> list[float]:
    """Share of the samples that each class gets, of so many steps each."""
    targets = np.repeat(np.eye(len(groups), dtype=np.float32), counts, axis=0)
    weights = backbone_training._sampling(targets, groups, own, BackboneTrainingConfig())
    return [float(share) for share in targets.T @ weights]


def test_rare_evidence_and_what_a_component_is_for_are_drawn_more_often():
    groups = ["motion", "appearance", "background"]
    assert drawn(groups, [10, 30, 400], ("motion",)) == pytest.approx([0.49, 0.21, 0.3])
    assert drawn(groups, [10, 30, 400], ()) == pytest.approx([0.175, 0.525, 0.3])
    assert drawn(["", "", "background"], [10, 30, 400], ("motion",)) == pytest.approx([0.175, 0.525, 0.3])
    assert drawn(["", ""], [10, 30], ("motion",)) == pytest.approx([0.25, 0.75])


def test_a_memory_limit_keeps_a_part_of_the_steps(videos, tmp_path):
    spec = component(family("small")["fine"])
    assert backbone_training._steps_that_fit([spec], 1, 6) == 2**20 // (64 * 64 * 3 * 6)
    assert backbone_training._steps_that_fit([spec], 1, 10**6) == 1
    labelled = np.arange(16) % 2 == 0
    kept = backbone_training._choose_steps(labelled, 5, np.random.default_rng(0))
    assert len(set(kept.tolist())) == 5 and sorted(kept.tolist()) == kept.tolist() and labelled[kept].all()
    assert backbone_training._choose_steps(labelled, 8, np.random.default_rng(0)).tolist() == [
        *range(0, 16, 2)
    ]


def test_a_file_with_other_steps_than_its_record_says_is_labelled_as_far_as_known(videos):
    record = dataclasses.replace(videos.records[0], num_steps=3, step_labels=(1, -1, 0))
    longer = backbone_training._targets(record, 5, 2, "step")
    assert longer.argmax(axis=1).tolist() == [1, 2, 0, 2, 2]
    assert backbone_training._targets(record, 1, 2, "step").tolist() == [[0, 1, 0]]
    assert backbone_training._targets(record, 3, 2, "trimmed").tolist() == [[0, 1], [0, 0], [1, 0]]


def test_a_disk_that_is_away_is_not_held_against_the_videos(videos, tmp_path, monkeypatch):
    def away(path, **named):
        raise OSError("stale file handle")

    monkeypatch.setattr(backbone_training, "VideoReader", away)
    with pytest.raises(DataError, match="cannot be read: stale file handle"):
        train_backbones(BRIEF, videos, [COARSE], tmp_path, LocalContext())


def test_labels_fall_back_where_steps_are_not_known(videos):
    plain = [dataclasses.replace(record, step_labels=None) for record in videos.records]
    config = dataclasses.replace(BRIEF, labels="trimmed")
    assert backbone_training.labels_taught(config, videos) == "trimmed"
    assert (
        backbone_training.labels_taught(config, dataclasses.replace(videos, records=tuple(plain))) == "video"
    )
