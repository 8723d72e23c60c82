"""What is written beside stored features: it is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.errors import DataError, StaleFeaturesError, VersionError
from paretovid.trainables.features.index import (
    INDEX_FILE,
    FeaturesHeader,
    FeaturesIndex,
    ShardDescription,
    ShardFile,
)

HINT = "make it again"
HEADER = FeaturesHeader(
    component="resnet8_w16@64",
    dataset="some",
    dataset_fingerprint="3a46fd007c08",
    weights_sha256="ab" * 32,
    video_share=0.5,
    sampling={"kind": "frame", "size": 64, "step_seconds": 0.5},
    dtype="float16",
    precision="bfloat16",
    code_version="270bbd0050a7",
)
ROWS = ShardFile(file="shard_00000.npy", sha256="cd" * 32, num_bytes=384, asked="ef" * 32)
SHARD = ShardDescription(
    rows=ROWS,
    width=8,
    videos={"a": (0, 0, 6), "b": (0, 6, 4)},
    skipped={"c": "cut"},
    notes={"a": ("mirrored",)},
)
INDEX = FeaturesIndex(
    fingerprint=HEADER.fingerprint,
    header=HEADER,
    width=8,
    shards=(ROWS,),
    videos=SHARD.videos,
    skipped=SHARD.skipped,
    notes=SHARD.notes,
    made_with={"numpy": "2.0"},
)


def index_of(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(INDEX.to_json()))
    return {**found, **changed}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps(INDEX.to_json()))
    assert FeaturesIndex.read(tmp_path, HINT) == INDEX
    assert ShardDescription.parse(json.dumps(SHARD.to_json()), "here", HINT) == SHARD


def test_every_field_of_the_header_is_in_the_fingerprint() -> None:
    others: dict[str, Any] = {"video_share": 0.25, "sampling": {"size": 32}, "limits": {"max_steps": 7}}
    changed = {
        dataclasses.replace(HEADER, **{field.name: others.get(field.name, "other")}).fingerprint
        for field in dataclasses.fields(HEADER)
    }
    assert len(changed | {HEADER.fingerprint}) == len(dataclasses.fields(HEADER)) + 1


def test_what_earlier_versions_wrote_is_read_under_the_fingerprint_that_it_has() -> None:
    """Without a version; a header without share and precision has a fingerprint over what it has."""
    header = {
        name: value
        for name, value in HEADER.to_json().items()
        if name not in ("video_share", "precision", "dtype")
    }
    found = index_of(header=header, fingerprint="d1c1b8a1b5c5")
    del found["version"], found["made_with"]
    with pytest.raises(DataError, match="header was changed"):
        FeaturesIndex.from_json(found, "here", HINT)
    found["fingerprint"] = "ab042c73058e"
    read = FeaturesIndex.from_json(found, "here", HINT)
    assert (read.header.video_share, read.header.precision, read.header.dtype) == (1.0, "float32", "float32")
    assert read.fingerprint == "ab042c73058e" != read.header.fingerprint
    shard = json.loads(json.dumps(SHARD.to_json()))
    del shard["version"]
    assert ShardDescription.from_json(shard, "here", HINT) == SHARD


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused_and_not_taken_for_damage(tmp_path: Path, version: int) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps(index_of(version=version)))
    with pytest.raises(VersionError, match=rf"{INDEX_FILE} is of version {version}") as refused:
        FeaturesIndex.read(tmp_path, HINT)
    assert not isinstance(refused.value, StaleFeaturesError) and refused.value.hint
    with pytest.raises(VersionError, match=f"here is of version {version}"):
        ShardDescription.from_json({**SHARD.to_json(), "version": version}, "here", HINT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("fingerprint"), "has no field 'fingerprint'"),
        (lambda d: d["header"].update(weights_sha256="0" * 64), "header was changed"),
        (lambda d: d["header"].update(video_share=float("nan")), "video_share is nan"),
        (lambda d: d["header"].pop("component"), "has no field 'component'"),
        (lambda d: d.update(width="8"), "width must be a whole number"),
        (lambda d: d["videos"].update(a=[0, 0]), "videos.a must be 3 numbers"),
        (lambda d: d["videos"].update(a=[0, 0, 1.5]), "videos.a must be a list of whole numbers"),
        (lambda d: d["shards"][0].pop("sha256"), r"shards\[0\] has no field 'sha256'"),
    ],
)
def test_damage_says_what_and_where_and_what_to_do(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    document = index_of()
    change(document)
    (tmp_path / INDEX_FILE).write_text(json.dumps(document))
    with pytest.raises(
        StaleFeaturesError, match=f"index of the features in .* is damaged: .*{said}"
    ) as refused:
        FeaturesIndex.read(tmp_path, HINT)
    assert refused.value.hint == HINT and str(tmp_path) in refused.value.message
