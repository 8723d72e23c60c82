"""Extraction over a cluster: what it writes, and what a kill leaves for the next time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from tests.platform_tests.preparation_tests.conftest import store

from paretovid.infra.ray_cluster import Cluster, connect
from paretovid.platform.config.resolve import check_extraction
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation import extraction, hanging
from paretovid.platform.preparation.crash_counter import Attempts, start_attempts
from paretovid.platform.preparation.extraction import (
    _decode,
    _Job,
    _note_begin,
    extract_shards,
)
from paretovid.platform.storage.home import Home, HomeReference
from paretovid.search_spaces.schema import ExtractionConfig
from paretovid.trainables.backbones.catalog import FAMILIES, component, save_backbone
from paretovid.trainables.data import s3 as objects
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.errors import DataError, UnavailableDataError, UsageError
from paretovid.trainables.features.extract import extract_shard
from paretovid.trainables.features.store import FeatureStore

NAMES = (FAMILIES["small"]["coarse"], FAMILIES["small"]["audio"])


@pytest.fixture(scope="module")
def backbones(videos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    for name in NAMES:
        save_backbone(root / name, name, component(name).build(len(videos.classes)).eval())
    return {name: root / name for name in NAMES}


@pytest.fixture(scope="module")
def in_one_process(
    videos: Dataset, backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FeatureStore]:
    """What the cluster must give."""
    root = tmp_path_factory.mktemp("plain")
    folders = {name: root / "moving_digits" / name for name in NAMES}
    extract_shard(videos, videos.records, backbones, folders, 0)
    return {name: store(folder, 1) for name, folder in folders.items()}


def same(mine: FeatureStore, other: FeatureStore) -> bool:
    return list(mine) == list(other) and all(np.array_equal(mine.video(v), other.video(v)) for v in mine)


def test_who_was_begun_and_never_finished_is_known() -> None:
    attempts = Attempts()
    for number in (1, 2, 2, 3, 2):
        attempts.begin(number)
    attempts.end(3)
    assert attempts.failed(3) == [2] and attempts.failed(1) == [1, 2]
    attempts.end(2)
    assert attempts.failed(1) == [1]


def test_what_has_not_come_back_is_known_to_who_begins_it_next() -> None:
    attempts = Attempts()
    assert attempts.begin(1) == attempts.begin(2) == ""
    attempts.hangs(1, "decoder")
    assert attempts.begin(1) == "decoder" and attempts.begin(2) == ""
    assert attempts.failed(1) == [2], "the death of its process is explained"


@pytest.mark.parametrize(
    "wrong", [{"videos_per_shard": 0}, {"steps_per_batch": 0}, {"workers": 0}, {"precision": "int8"}]
)
def test_settings_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        check_extraction(ExtractionConfig(**wrong))


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    return shared_cluster


def extract(
    cluster: Cluster, videos: Dataset, backbones: dict[str, Path], root: Path, **settings: Any
) -> tuple[dict[str, FeatureStore], list[int]]:
    """The stores, and what the progress showed."""
    folders = {name: root / "moving_digits" / name for name in backbones}
    shown = []
    with Progress.silent().stage("features") as stage:
        advance = stage.advance

        def seen(count: int = 1, *, note: str = "") -> None:
            advance(count, note=note)
            shown.append(stage.count)

        stage.advance = seen  # type: ignore[method-assign]
        config = ExtractionConfig(**{"videos_per_shard": 4, **settings})
        writer = extract_shards(cluster, Home(root), videos, backbones, folders, "float32", config, stage)
    assert writer.blobs == {name: {} for name in backbones}
    return {name: store(folder, writer.num_shards) for name, folder in folders.items()}, shown


# Before those of the shared cluster: workers have the environment, and so the credentials, that theirs began with.
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_videos_of_a_bucket_give_what_those_of_a_folder_give(
    clusters, videos, backbones, in_one_process, bucket, tmp_path
):
    clusters.end()
    client = boto3.client("s3")
    name = bucket.removeprefix("s3://")
    for record in videos.records[:-1]:  # the last is not there any more
        content = Path(videos.video_path(record)).read_bytes()
        client.put_object(Bucket=name, Key=f"v/{record.video_id}.mp4", Body=content)
    moved = tuple(replace(r, path=f"{bucket}/v/{r.video_id}.mp4") for r in videos.records)
    there = replace(videos, root=tmp_path / "data", records=moved)
    with connect(cpus=2) as cluster:
        stores, shown = extract(cluster, there, backbones, tmp_path)
    kept = [record.video_id for record in videos.records[:-1]]
    assert shown == list(range(1, 13))
    for name, made in stores.items():
        assert list(made) == kept
        assert all(np.array_equal(made.video(v), in_one_process[name].video(v)) for v in kept)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("apart", [False, True])
def test_the_cluster_gives_what_one_process_gives(
    cluster, videos, backbones, in_one_process, tmp_path, apart
):
    stores, shown = extract(cluster, videos, backbones, tmp_path, separate_compute=apart, steps_per_batch=64)
    assert all(same(stores[name], in_one_process[name]) for name in NAMES)
    assert shown == list(range(1, 13))
    for name in NAMES:
        (tmp_path / "moving_digits" / name / "shard_00001.json").unlink()
    again, shown = extract(cluster, videos, backbones, tmp_path, separate_compute=apart)
    assert shown == list(range(9, 13)), "only what was missing is decoded again"
    assert all(same(again[name], in_one_process[name]) for name in NAMES)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_workers_that_die_are_replaced(cluster, videos, backbones, in_one_process, tmp_path):
    import psutil

    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        while not over.wait(0.02) and not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "_decode_and_compute" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        break

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        stores, shown = extract(cluster, videos, backbones, tmp_path)
    finally:
        over.set()
        thread.join()
    assert killed and shown == list(range(1, 13))
    assert all(same(stores[name], in_one_process[name]) for name in NAMES)


KILLER = """
import glob, os, sys, time
while True:
    for comm in glob.glob("/proc/[0-9]*/comm"):
        try:
            if open(comm).read().startswith("ray::"):
                folder = comm[:-4] + "fd/"
                if any(os.readlink(folder + number) == sys.argv[1] for number in os.listdir(folder)):
                    os.kill(int(comm.split("/")[2]), 9)
                    print(comm.split("/")[2], flush=True)
        except OSError:
            pass
    time.sleep(0.01)
"""
"""A process of its own: a thread of the tests' process, which waits for its turn, once came too late for a reader."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_video_that_kills_its_decoder_is_left_out_and_the_others_continue(
    cluster, videos, backbones, in_one_process, tmp_path
):
    """The crash is simulated: whoever opens the file is killed."""
    config = MovingDigitsConfig(videos_train=1, videos_val=1, videos_test=1, min_seconds=60, max_seconds=60)
    long = make_moving_digits(config, tmp_path / "long")
    poison = Path(long.video_path(long.records[0])).resolve()
    changed = list(videos.records)
    changed[5] = replace(changed[5], path=str(poison))
    killer = subprocess.Popen(
        [sys.executable, "-S", "-c", KILLER, str(poison)], stdout=subprocess.PIPE, text=True
    )
    try:
        stores, shown = extract(cluster, replace(videos, records=tuple(changed)), backbones, tmp_path)
    finally:
        killer.terminate()
        killed = killer.communicate()[0].split()
    assert len(set(killed)) == 3 and shown == list(range(1, 13))
    left_out = videos.records[5].video_id
    for name, made in stores.items():
        assert list(made) == [record.video_id for record in videos.records if record.video_id != left_out]
        assert all(np.array_equal(made.video(v), in_one_process[name].video(v)) for v in made)
    shard = json.loads((tmp_path / "moving_digits" / NAMES[0] / "shard_00001.json").read_text())
    assert "process died 3 times" in shard["skipped"][left_out]


def test_a_node_that_does_not_see_a_video_is_at_fault_not_the_video(videos: Dataset, tmp_path: Path) -> None:
    record = videos.records[0]
    reference = HomeReference(url=None, root=tmp_path)
    job = _Job(
        home=reference,
        root=tmp_path,
        step_seconds=0.5,
        backbones={NAMES[0]: tmp_path},
        precision="float32",
        steps=8,
    )

    def rows(seen: bool, path: str) -> list[dict[str, Any]]:
        batch = {"number": np.array([0]), "path": np.array([path]), "seen": np.array([seen])}
        return list(_decode(batch, job))

    with pytest.raises(DataError, match="is not there, seen from"):
        rows(True, "gone.mp4")
    with pytest.raises(UnavailableDataError, match="its folder is gone or empty"):
        rows(False, "gone.mp4")
    (tmp_path / "text.mp4").write_bytes(b"no video")
    (row,) = rows(False, "gone.mp4")
    assert "no such file" in row["error"][0]
    (row,) = rows(True, "text.mp4")
    assert "cannot be read as a video" in row["error"][0]
    (tmp_path / "whole.mp4").write_bytes(Path(videos.video_path(record)).read_bytes())
    found = rows(True, "whole.mp4")
    assert found and all(row["error"] == [""] for row in found)


def test_what_a_worker_raises_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes it into its logs. Injected: what a library says of an endpoint with a password in its URL."""
    job = _Job(
        home=HomeReference(url=None, root=tmp_path),
        root=tmp_path,
        step_seconds=0.5,
        backbones={NAMES[0]: tmp_path},
        precision="float32",
        steps=8,
    )

    def away(*_: Any, **__: Any) -> Any:
        raise OSError('Could not connect to the endpoint URL: "http://me:pass-word@minio:9000/x"')

    monkeypatch.setattr("paretovid.platform.preparation.extraction.read_pieces", away)
    batch = {"number": np.array([0]), "path": np.array(["a.mp4"]), "seen": np.array([True])}
    with pytest.raises(DataError, match="cannot be read on") as raised:
        list(_decode(batch, job))
    assert "http://me@minio:9000/x" in str(raised.value)
    assert "pass-word" not in "".join(traceback.format_exception(raised.value))


def test_a_bucket_that_is_away_is_at_fault_not_the_video(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbones = {NAMES[0]: tmp_path}
    reference = HomeReference(url=None, root=tmp_path)
    job = _Job(
        home=reference, root=tmp_path, step_seconds=0.5, backbones=backbones, precision="float32", steps=8
    )
    batch = {
        "number": np.array([0]),
        "path": np.array(["s3://paretovid-none/a.mp4"]),
        "seen": np.array([True]),
    }
    with pytest.raises(DataError, match=r"there is no bucket paretovid-none, seen from"):
        list(_decode(batch, job))
    (row,) = _decode({**batch, "path": np.array([f"{bucket}/a.mp4"])}, job)
    assert "no such object" in str(row["error"][0])
    monkeypatch.setitem(sys.modules, "s3fs", None)
    objects._files_at.cache_clear()
    with pytest.raises(UsageError, match="needs s3fs"):
        list(_decode(batch, job))


@pytest.mark.ray
def test_a_process_that_dies_at_once_has_noted_what_it_began(cluster: Cluster) -> None:
    import ray

    def begin_and_die(attempts: Any) -> None:
        _note_begin(attempts, 7)
        os._exit(1)

    attempts = start_attempts()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ray.remote(max_retries=2, num_cpus=1)(begin_and_die).remote(attempts))
    assert ray.get(attempts.failed.remote(3)) == [7]
    ray.kill(attempts)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", ["decoder", "file"])
def test_a_video_that_does_not_come_back_is_left_out_and_a_disk_that_does_not_is_away(
    cluster: Cluster, videos: Dataset, tmp_path: Path, where: str
) -> None:
    """Injected below our code: a decoder that reads nothing and waits for ever; a file that gives no answer."""
    import ray

    record = videos.records[0]
    job = _Job(
        home=HomeReference(url=None, root=tmp_path),
        root=videos.root,
        step_seconds=0.5,
        limits=VideoLimitsConfig(max_decode_seconds=1.0),
        backbones={NAMES[0]: tmp_path},
        precision="float32",
        steps=8,
    )
    batch = {"number": np.array([0]), "path": np.array([record.path]), "seen": np.array([True])}

    def decode(attempts: Any) -> list[str]:
        never, opened = threading.Event(), io.FileIO

        class Silent(opened):  # type: ignore[misc, valid-type]
            def read(self, size: int | None = -1) -> bytes:
                never.wait()
                return b""

        def waits(*_: Any, **__: Any) -> Any:
            never.wait()
            yield

        hanging.GRACE_SECONDS = 0.5
        if where == "file":
            io.FileIO = Silent  # type: ignore[misc]
        else:
            extraction.read_pieces = waits  # type: ignore[attr-defined]
        return [str(row["error"][0]) for row in _decode(batch, job, attempts)]

    attempts = start_attempts()
    # A process of its own, which is changed.
    answer = ray.remote(max_retries=1, max_calls=1, num_cpus=1)(decode).remote(attempts)
    if where == "decoder":
        (said,) = ray.get(answer)
        assert said.startswith(f"{videos.video_path(record)}: its decoder has not come back within 1.5 s")
    else:
        with pytest.raises(UnavailableDataError, match="a read of it has not come back"):
            ray.get(answer)
    assert ray.get(attempts.failed.remote(1)) == [], "its process has died once, and no decoder crashed"
    ray.kill(attempts)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_fault_of_ours_on_a_worker_is_reported_as_such(cluster, videos, backbones, tmp_path):
    (tmp_path / "b").mkdir()
    broken = {name: tmp_path / "b" / name for name in NAMES}
    for name, folder in backbones.items():
        broken[name].mkdir()
        for path in folder.iterdir():
            (broken[name] / path.name).write_bytes(path.read_bytes())
    (broken[NAMES[0]] / "backbone.safetensors").write_bytes(b"damaged")
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        extract(cluster, videos, broken, tmp_path)
    assert "backbone" in str(caught.value) and "Ray" not in str(caught.value)
    assert time.monotonic() - began < 90
