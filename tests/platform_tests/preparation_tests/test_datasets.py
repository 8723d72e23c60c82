"""Data sets from annotation files: configuration in, manifest out. Features and backbones: test_sweep.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from tests.platform_tests.conftest import SMALL_DATA, copied
from tests.platform_tests.test_sweep import paretovid

from paretovid.infra import ray_cluster
from paretovid.infra.object_store import ObjectStore
from paretovid.platform.config.load import data_settings, group_options, load_sweep_config
from paretovid.platform.config.resolve import resolve_data, resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution.cluster import cluster_of
from paretovid.platform.preparation import datasets
from paretovid.platform.preparation import prepare as pipeline
from paretovid.platform.preparation.datasets import make_data, upload_data
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.store import BucketStore
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.data.moving_digits.encoding import encode_mp4
from paretovid.trainables.data.readers.catalog import reader_config, reader_names
from paretovid.trainables.errors import DataError, UnknownNameError, UsageError
from paretovid.trainables.features.store import FeatureStore


def test_a_manifest_may_not_name_a_place_outside_of_the_home(tmp_path: Path) -> None:
    videos = [
        {
            **{"video_id": split, "path": f"s3://bucket/{split}.mp4", "split": split},
            **{"labels": [number % 2], "num_steps": 1, "duration_seconds": 1.0},
        }
        for number, split in enumerate(("train", "val", "test"))
    ]
    described = {"format": 1, "name": "../../x", "classes": ["a", "b"], "step_seconds": 0.5}
    (tmp_path / "manifest.json").write_text(json.dumps({**described, "multi_label": False, "videos": videos}))
    home = Home(tmp_path / "mirror", BucketStore(ObjectStore("s3://bucket/home"), tmp_path / "mirror"))
    with pytest.raises(UsageError, match=r"name='\.\./\.\./x' is not allowed"):
        upload_data(home, tmp_path)


@pytest.fixture
def own_videos(tmp_path: Path) -> Path:
    """Two classes of four real videos in a folder each."""
    rng = np.random.default_rng(0)
    for label in ("jump", "run"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(4):
            frames = rng.integers(0, 255, (16, 48, 32), dtype=np.uint8)
            silence = np.zeros(32_000, np.float32)
            encode_mp4(tmp_path / "videos" / label / f"{number}.mp4", frames, silence, frames_per_second=8)
    return tmp_path / "videos"


def words(own_videos: Path, *more: str) -> list[str]:
    home = own_videos.parent / "home"
    return [f"home={home}", "data=class_folders", "data.name=mine", f"data.videos={own_videos}", *more]


@pytest.mark.slow
@pytest.mark.parametrize("name", reader_names())
def test_each_reader_can_be_chosen(name: str) -> None:
    assert name in group_options("data")
    needed = [f"data.{key}=x" for key in ("annotations", "classes", "videos")]
    if name == "class_folders":
        needed = needed[1:]
    settings = data_settings(load_sweep_config([f"data={name}", *needed]))
    assert settings.pop("reader") == name
    assert reader_config(name, settings).videos == "x"


def test_what_only_the_user_knows_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"data\.annotations has no value") as caught:
        load_sweep_config(["data=activitynet"])
    assert "data.annotations=VALUE data.videos=VALUE" in caught.value.hint


def test_a_folder_per_class_becomes_a_data_set(own_videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_videos / "run" / "broken.mp4").write_bytes(b"no video")
    config = load_sweep_config(words(own_videos))
    made = make_data(config, resolve_data(config), Progress(1))
    root = own_videos.parent / "home" / "data" / "mine"
    assert load_dataset(root) == made and made.name == "mine" and len(made.records) == 8
    assert {record.split for record in made.records} == {"train", "val", "test"}
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "left out: 1 of 9 annotated videos" in text and "broken.mp4" in text
    assert json.loads((root / "left_out.json").read_text())["left_out"][0]["video_id"] == "run/broken.mp4"

    assert make_data(config, resolve_data(config), Progress(1)).fingerprint == made.fingerprint
    text = "".join(capsys.readouterr())
    assert "8 videos of mine" in text and "9/9" not in text  # nothing is looked at again


def test_too_many_missing(own_videos: Path) -> None:
    (own_videos / "run" / "broken.mp4").write_bytes(b"no video")
    config = load_sweep_config(words(own_videos, "data.max_missing_share=0.1"))
    with pytest.raises(DataError, match=r"1 of 9 annotated videos \(11%\)"):
        make_data(config, resolve_data(config), Progress(1))


@pytest.mark.slow
def test_settings_are_checked_before_anything_starts(own_videos: Path) -> None:
    resolve_preparation(load_sweep_config(words(own_videos)))
    with pytest.raises(UnknownNameError, match="'step_second'"):
        resolve_preparation(load_sweep_config(words(own_videos, "data.step_second=1")))
    with pytest.raises(UnknownNameError, match="unknown reader: 'activity_net'"):
        resolve_preparation(load_sweep_config(words(own_videos, "data.reader=activity_net")))
    with pytest.raises(UsageError, match="no such file or folder"):
        resolve_preparation(load_sweep_config(words(own_videos / "missing")))
    assert not (own_videos.parent / "home").exists()


def test_a_pool_is_not_taught_background_and_that_is_reported_at_once() -> None:
    words = ["backbones=x3d_pool", "backbones.training.labels=step"]
    with pytest.raises(UsageError, match="classifies by itself"):
        resolve_preparation(load_sweep_config(words))
    resolve_preparation(load_sweep_config([words[0], "backbones.training.labels=trimmed"]))


def test_a_whole_extraction_starts_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos, backbones and features each ask for one."""
    started: list[str] = []
    config = load_sweep_config([f"home={tmp_path}"])

    @contextlib.contextmanager
    def connection(address: str, *settings: object) -> Iterator[None]:
        started.append(address)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        yield
        monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def prepared(plan: Any, progress: Progress) -> Any:
        for _ in range(3):
            with cluster_of(plan.config):
                pass
        return SimpleNamespace(features={})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray_cluster, "_connection", connection)
    monkeypatch.setattr(pipeline, "prepare", prepared)
    pipeline.extract(config, Progress.silent())
    assert started == ["local"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_extraction_that_is_killed_resumes_with_what_is_missing(
    shared_cluster: ray_cluster.Cluster, prepared_home: Path, tmp_path: Path
) -> None:
    copied(prepared_home, tmp_path, "data", "backbones")
    words = ["extract", *SMALL_DATA, "extraction.videos_per_shard=2", "extraction.workers=1"]
    command = [str(Path(sys.executable).with_name("paretovid")), *words, f"home={tmp_path}"]

    def shards() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*/shard_*.json")}

    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while len(shards()) < 3 * 4 and first.poll() is None:
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    kept = shards()
    assert 3 * 4 <= len(kept) < 16 * 4
    paretovid(*words, home=tmp_path)
    again = shards()
    assert len(again) == 16 * 4
    # Of a shard that not all components had when it was killed, those that had it keep theirs.
    assert all(again[path] == stamp for path, stamp in kept.items())
    for whole in prepared_home.glob("features/*/*"):
        mine, other = (
            FeatureStore.open(root / whole.relative_to(prepared_home)) for root in (tmp_path, prepared_home)
        )
        assert list(mine) == list(other) and all(np.array_equal(mine.video(v), other.video(v)) for v in mine)


def test_extraction_keeps_to_the_same_share() -> None:
    failures = [("a.mp4", "damaged"), ("b.mp4", "damaged")]
    pipeline._check_enough(failures, 10, 0.2)
    with pytest.raises(DataError, match="2 of 10 videos could not be read"):
        pipeline._check_enough(failures, 10, 0.1)


VIDEOS_OF_THIS_SIZE = ["data.min_seconds=2", "data.max_seconds=2"]


def test_a_few_videos_are_made_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "cluster_of", lambda config: pytest.fail("a cluster is asked for"))
    few = [f"data.videos_{split}=2" for split in ("train", "val", "test")]
    config = load_sweep_config([f"home={tmp_path}", *VIDEOS_OF_THIS_SIZE, *few])
    made = make_data(config, resolve_data(config), Progress.silent())
    assert len(made.records) == 6 and all(Path(made.video_path(record)).is_file() for record in made.records)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("shared_cluster")
def test_many_videos_are_made_on_the_cluster_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_in(home: Path) -> dict[str, bytes]:
        few = [f"data.videos_{split}=2" for split in ("train", "val", "test")]
        config = load_sweep_config([f"home={home}", *VIDEOS_OF_THIS_SIZE, *few])
        made = make_data(config, resolve_data(config), Progress.silent())
        return {record.video_id: Path(made.video_path(record)).read_bytes() for record in made.records}

    here = made_in(tmp_path / "here")
    monkeypatch.setattr(datasets, "_MADE_HERE", 5)
    on_cluster, asked = datasets._ray_map, []

    def counted(function: Callable[..., Any], items: Sequence[Any]) -> Iterable[Any]:
        asked.append(len(items))
        return on_cluster(function, items)

    monkeypatch.setattr(datasets, "_ray_map", counted)
    assert made_in(tmp_path / "there") == here
    assert asked == [6]


def test_for_a_home_in_a_bucket_many_videos_are_made_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the nodes of a cluster write is on their disks."""
    monkeypatch.setattr(datasets, "cluster_of", lambda config: pytest.fail("a cluster is asked for"))
    bucket = Home(tmp_path / "mirror", BucketStore(ObjectStore("s3://bucket/home"), tmp_path / "mirror"))
    config = load_sweep_config(["cluster=address", "cluster.address=nowhere:1", f"home={tmp_path}"])
    with datasets._mapping(config, bucket, datasets._MADE_HERE + 1) as map_parallel:
        assert list(map_parallel(abs, range(-20, 0))) == list(range(20, 0, -1))
