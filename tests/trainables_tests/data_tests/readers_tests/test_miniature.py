"""A dozen small videos in the exact layout of ActivityNet: read, decoded and extracted with the real backbones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from paretovid.trainables.backbones.catalog import component, family, save_backbone
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.data.readers.activitynet import ActivityNetConfig
from paretovid.trainables.data.readers.assemble import read_dataset
from paretovid.trainables.features.extract import extract_shard, headers
from paretovid.trainables.features.store import FeatureStore, finish

CLASSES = ("Archery", "Drinking coffee", "Surfing")
SUBSETS = {"training": 7, "validation": 4, "testing": 2}
TAXONOMY = [
    {"nodeName": "Root", "nodeId": 0, "parentName": None, "parentId": None},
    *(
        {"nodeName": name, "nodeId": n, "parentName": "Root", "parentId": 0}
        for n, name in enumerate(CLASSES, 1)
    ),
]
TRUNCATED, TEXT = "-tr_3", "va_1"


def entry(subset, *annotations, duration):
    listed = [{"label": label, "segment": [start, end]} for label, start, end in annotations]
    return {"subset": subset, "duration": duration, "resolution": "32x32", "url": "", "annotations": listed}


@pytest.fixture
def miniature(tmp_path, write_video):
    """`v_ID.mp4` as the crawler writes them, one cut short, one that is a web page, and one that was taken down."""
    database = {}
    for subset, count in SUBSETS.items():
        for number in range(count):
            id_ = f"{'-' if subset == 'training' else ''}{subset[:2]}_{number}"
            seconds = 2.0 + number % 3
            label = CLASSES[number % 3]
            labels = [(label, 0.5, 1.25), (label, 1.5, seconds + 3)] if subset != "testing" else []
            database[id_] = entry(subset, *labels, duration=seconds)
            write_video(tmp_path / "videos" / f"v_{id_}.mp4", seconds)
    database["gone"] = entry("validation", ("Surfing", 1, 2), duration=3.0)
    path = tmp_path / "videos" / f"v_{TRUNCATED}.mp4"
    path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "videos" / f"v_{TEXT}.mp4").write_bytes(b"<html>Video unavailable</html>")
    described = {"version": "VERSION 1.3", "taxonomy": TAXONOMY, "database": database}
    (tmp_path / "activity_net.v1-3.min.json").write_text(json.dumps(described))
    return tmp_path


@pytest.mark.slow
def test_from_the_published_files_to_features(miniature):
    config = ActivityNetConfig(
        annotations=str(miniature / "activity_net.v1-3.min.json"), videos=str(miniature / "videos")
    )
    home = miniature / "home" / "data" / "activitynet"
    assembled = read_dataset("activitynet", config, home, name="activitynet")
    dataset = load_dataset(home)
    assert dataset == assembled.dataset and dataset.classes == CLASSES
    assert {each.video_id for each in assembled.left_out} == {TEXT, "gone"} and assembled.annotated == 12
    sizes = {split: len(dataset.split(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 4, "val": 3, "test": 3}  # val has one of each class
    assert {record.labels[0] for record in dataset.split("val")} == {0, 1, 2}
    assert any(note.startswith("10 times interval clipped") for note in assembled.notes)

    torch.manual_seed(0)
    backbones = {}
    for name in family("small").values():
        backbones[name] = miniature / "backbones" / name
        save_backbone(backbones[name], name, component(name).build(len(CLASSES)).eval())
    made_of = headers(dataset, backbones)
    stores = {name: miniature / f"{name}@{header.fingerprint}" for name, header in made_of.items()}
    failures = extract_shard(dataset, dataset.records, backbones, stores, 0)
    assert failures == []  # what is there of the truncated one is used
    for name, header in made_of.items():
        finish(stores[name], header, 1)
        store = FeatureStore.open(stores[name])
        for record in dataset.records:
            features = store.video(record.video_id)
            assert features.shape == (record.num_steps, component(name).feature_width)
            assert np.isfinite(features).all()
