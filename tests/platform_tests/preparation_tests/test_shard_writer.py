"""Rows in any order become shards, in a folder or a bucket, and each shard is written once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.platform_tests.preparation_tests.conftest import HEADER, store

from paretovid.platform.preparation.shard_writer import ShardWriter
from paretovid.platform.storage.store import BucketStore, LocalStore, Store
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.features.store import finish, noted_videos, shard_is_whole


def writer(videos: Dataset, root: Path, size: int = 4, store: Store | None = None) -> ShardWriter:
    folders = {"a": root / "a", "b": root / "b"}
    made = ShardWriter.over(videos, folders, size, "float32", store or LocalStore())
    made.widths = {"a": 2, "b": 1}
    return made


def on_machine(name: str, videos: Dataset, bucket: str, root: Path) -> ShardWriter:
    """A writer into a home in a bucket, from a machine that knows nothing of others."""
    store = BucketStore.open(f"{bucket}/home", root / name)
    return writer(videos, store.root / "features", store=store)


def pieces(number: int, *lengths: int, error: str = "", notes: str = "") -> Iterator[dict[str, Any]]:
    """Rows of a video whose step t has the features [number, t]; its last piece has the notes."""
    first = 0
    for length in lengths:
        steps = np.arange(first, first + length, dtype=np.float32)[:, None]
        rows = {"out a": np.concatenate([np.full_like(steps, number), steps], 1), "out b": steps}
        total, first = sum(lengths), first + length
        reported = notes if first == total else ""
        yield {
            "number": number,
            "first": first - length,
            "total": total,
            "error": error,
            "notes": reported,
            **rows,
        }


def test_pieces_in_any_order_become_videos_and_videos_shards(videos: Dataset, tmp_path: Path) -> None:
    made = writer(videos, tmp_path)
    assert made.open_shards() == ([0, 1, 2], 0)
    rows = [row for number in range(4) for row in pieces(number, 3, 2, 4)]
    order = np.random.default_rng(0).permutation(len(rows))
    finished = [made.add(rows[i]) for i in order]
    assert sum(finished) == 4 and finished[-1]
    assert [shard_is_whole(tmp_path / "a", shard, made.asked(shard)) for shard in range(3)] == [
        True,
        False,
        False,
    ]
    assert made.open_shards() == ([1, 2], 4)
    # A task that is tried again gives rows of what is written already.
    assert not any(made.add(row) for row in rows)
    for number in range(4, 12):
        for row in itertools.chain(*[pieces(number, 1)] * 2):
            made.add(row)
    assert made.open_shards() == ([], 12)
    opened = store(tmp_path / "a", made.num_shards)
    for number, record in enumerate(videos.records[:4]):
        expected = np.stack([np.full(9, number), np.arange(9)], 1)
        np.testing.assert_array_equal(opened.video(record.video_id), expected)


def test_a_video_that_breaks_in_the_middle_is_left_out_with_its_reason(
    videos: Dataset, tmp_path: Path
) -> None:
    made = writer(videos, tmp_path)
    rows = list(pieces(1, 3, 2))
    assert not made.add(rows[0])
    assert made.add({**rows[1], "error": "cut off", "out a": np.zeros((0, 2)), "out b": np.zeros((0, 1))})
    assert not made.add(rows[1])
    for number in (0, 2, 3):
        assert all(made.add(row) for row in pieces(number, 2))
    shard = json.loads((tmp_path / "a" / "shard_00000.json").read_text())
    assert shard["skipped"] == {videos.records[1].video_id: "cut off"}
    assert list(shard["videos"]) == [videos.records[number].video_id for number in (0, 2, 3)]


def test_what_was_odd_in_a_video_is_written_with_its_shard(videos: Dataset, tmp_path: Path) -> None:
    made = writer(videos, tmp_path)
    for number in range(12):
        for row in pieces(number, 2, 1, notes="mirrored\nno audio" if number == 5 else ""):
            made.add(row)
    odd = videos.records[5].video_id
    assert (
        noted_videos(tmp_path / "a", 3) == noted_videos(tmp_path / "b", 3) == {odd: ("mirrored", "no audio")}
    )


def test_what_was_left_out_can_be_taken_back(videos: Dataset, tmp_path: Path) -> None:
    made = writer(videos, tmp_path)
    for number in range(12):
        for row in pieces(number, 1, error="cut off" if number == 5 else ""):
            made.add(row)
    assert made.forget_skipped() == 2
    assert writer(videos, tmp_path).open_shards() == ([1], 8)


@pytest.mark.slow
def test_what_was_left_out_can_be_taken_back_from_a_bucket(
    videos: Dataset, bucket: str, tmp_path: Path
) -> None:
    first = on_machine("first", videos, bucket, tmp_path)
    for number in range(12):
        for row in pieces(number, 1, error="cut off" if number == 5 else ""):
            first.add(row)
    assert first.forget_skipped() == 2
    assert on_machine("second", videos, bucket, tmp_path).open_shards() == ([1], 8)


def test_only_the_component_that_lacks_a_shard_gets_it(videos: Dataset, tmp_path: Path) -> None:
    made = writer(videos, tmp_path)
    for number in range(12):
        for row in pieces(number, 1):
            made.add(row)
    (tmp_path / "b" / "shard_00001.npy").write_bytes(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard_*")}
    again = writer(videos, tmp_path)
    assert again.open_shards() == ([1], 8)
    for number in range(4, 8):
        for row in pieces(number, 1):
            again.add(row)
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"shard_00001.npy", "shard_00001.json"}
    assert not [p for p, stamp in before.items() if p.parent.name == "a" and p.stat().st_mtime_ns != stamp]


def test_another_machine_finds_in_the_bucket_what_was_sent(
    videos: Dataset, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = on_machine("first", videos, bucket, tmp_path)
    for number in range(10):  # the third shard is not whole
        for row in pieces(number, 1):
            first.add(row)
    second = on_machine("second", videos, bucket, tmp_path)
    assert second.open_shards() == ([2], 8)
    assert second.blobs["a"] == first.blobs["a"] and len(second.blobs["b"]) == 4
    for number in range(8, 12):
        for row in pieces(number, 1):
            second.add(row)
    second.fetch_descriptions()
    finish(second.folders["a"], HEADER, second.num_shards)
    index = json.loads((second.folders["a"] / "index.json").read_text())
    assert len(index["videos"]) == 12 and index["width"] == 2
