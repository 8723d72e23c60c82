"""Videos that lie in a bucket: found, probed and read as those of a folder are."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import boto3
import numpy as np
import pytest

from paretovid.trainables.data import s3 as objects
from paretovid.trainables.data import videos as videos_module
from paretovid.trainables.data.readers import probing
from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Annotations, ReaderConfig
from paretovid.trainables.data.readers.assemble import Assembled, assemble
from paretovid.trainables.data.readers.class_folders import ClassFoldersConfig, read_class_folders
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.data.videos import InputSpec, VideoReader, read_all_steps
from paretovid.trainables.errors import DataError, VideoError

IDS = tuple("abcdef")


def send(folder: Path, url: str) -> None:
    name, _, prefix = url.removeprefix("s3://").partition("/")
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            boto3.client("s3").put_object(Bucket=name, Key=key, Body=path.read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_video) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number, id_ in enumerate(IDS):
        write_video(root / ("cat", "dog")[number % 2] / f"{id_}.mp4")
    return root


@pytest.fixture
def url(folder: Path, bucket: str) -> str:
    send(folder, f"{bucket}/sets/pets")
    return f"{bucket}/sets/pets"


def pets(*extra: str) -> Annotations:
    listed = tuple(
        AnnotatedVideo(
            video_id=id_,
            split="train" if id_ < "e" else "test",
            labels=(number % 2,),
            names=(id_,),
            where=f"list.txt: {id_}",
        )
        for number, id_ in enumerate((*IDS, *extra))
    )
    return Annotations(classes=("cat", "dog"), multi_label=False, videos=listed)


def made(source: Path | str, home: Path, read: Annotations | None = None) -> Assembled:
    config = ReaderConfig(videos=str(source), step_seconds=0.5)
    return assemble(read or pets(), config, home, name="pets")


def test_a_set_in_a_bucket_is_that_of_the_folder(folder: Path, url: str, tmp_path: Path) -> None:
    there, here = made(url, tmp_path / "there").dataset, made(folder, tmp_path / "here").dataset
    assert [record.path for record in there.records][:2] == [f"{url}/cat/a.mp4", f"{url}/dog/b.mp4"]
    assert [dataclasses.replace(r, path="", content="") for r in there.records] == [
        dataclasses.replace(r, path="", content="") for r in here.records
    ]
    assert [there.video_path(record) for record in there.records] == [r.path for r in there.records]
    elsewhere = [dataclasses.replace(r, path=r.path.replace("sets", "moved")) for r in there.records]
    assert dataclasses.replace(there, records=tuple(elsewhere)).fingerprint == there.fingerprint
    other = [dataclasses.replace(there.records[0], content="other"), *there.records[1:]]
    assert dataclasses.replace(there, records=tuple(other)).fingerprint != there.fingerprint


def test_an_object_is_probed_without_a_download_and_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was downloaded")

    monkeypatch.setattr(videos_module, "downloaded", never)
    monkeypatch.setattr(probing, "downloaded", never)
    first = made(url, tmp_path)
    monkeypatch.setattr(probing, "_length", never)
    assert made(url, tmp_path) == first


def test_a_bucket_that_fails_while_a_head_is_read_is_not_held_against_the_video(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise ObjectStoreError("the bucket is busy", is_passing=True)

    with monkeypatch.context() as patched:
        patched.setattr(objects, "read_part", busy)
        with pytest.raises(ObjectStoreError, match="busy"):
            made(url, tmp_path)
    assert not made(url, tmp_path).left_out


def test_missing_and_broken_objects_are_counted(folder: Path, bucket: str, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "cat" / "a.mp4").write_bytes(b"no video")
    (broken / "cat" / "c.mp4").write_bytes(b"")
    send(broken, f"{bucket}/x")
    config = ReaderConfig(videos=f"{bucket}/x", max_missing_share=0.5)
    left_out = assemble(pets("g"), config, tmp_path / "home", name="pets").left_out
    assert [each.video_id for each in left_out] == ["a", "c", "g"]
    assert "cannot be read as a video" in left_out[0].reason and "is empty" in left_out[1].reason
    assert left_out[2].reason == f"no g.mp4 in {bucket}/x"


def test_one_video_in_two_splits_is_refused_in_a_bucket_too(
    folder: Path, bucket: str, tmp_path: Path
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    shutil.copy(copied / "cat" / "a.mp4", copied / "cat" / "e.mp4")
    send(copied, f"{bucket}/x")
    with pytest.raises(DataError, match=r"x/cat/e\.mp4 of test .* is the same video as .*x/cat/a\.mp4"):
        made(f"{bucket}/x", tmp_path / "home")


def test_a_prefix_without_videos_and_a_bucket_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{bucket}/none has no video"):
        made(f"{bucket}/none", tmp_path)
    with pytest.raises(ObjectStoreError, match="there is no bucket paretovid-none"):
        made("s3://paretovid-none/x", tmp_path)


def test_a_list_may_name_files_and_objects(folder: Path, url: str, tmp_path: Path) -> None:
    lines = [
        f"{url}/cat/a.mp4",
        f"{url}/cat/gone.mp4",
        *(str(path) for path in folder.rglob("*.mp4") if path.stem != "a"),
    ]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(lines))
    records = made(listed, tmp_path / "home").dataset.records
    assert records[0].path == f"{url}/cat/a.mp4" and records[1].path == str(folder / "dog" / "b.mp4")


def test_folders_of_classes_in_a_bucket(folder: Path, url: str) -> None:
    there = read_class_folders(ClassFoldersConfig(videos=url))
    here = read_class_folders(ClassFoldersConfig(videos=str(folder)))
    assert there.classes == ("cat", "dog")
    assert [(v.video_id, v.labels) for v in there.videos] == [(v.video_id, v.labels) for v in here.videos]


def test_a_video_is_read_from_a_bucket_as_from_a_disk(folder: Path, url: str, tmp_path: Path) -> None:
    specs = {
        "frame": InputSpec(kind="frame", size=16),
        "audio": InputSpec(kind="logmel", size=24, num_frames=20),
    }
    there = read_all_steps(f"{url}/cat/a.mp4", specs, step_seconds=0.5)
    here = read_all_steps(folder / "cat" / "a.mp4", specs, step_seconds=0.5)
    assert all(np.array_equal(there[name], here[name]) for name in specs)
    with VideoReader(f"{url}/cat/a.mp4", step_seconds=0.5) as reader:
        copy = Path(str(reader._source))
        assert copy.exists() and reader.name == f"{url}/cat/a.mp4"
    assert not copy.exists()
    with pytest.raises(VideoError, match=f"{url}/cat/none.mp4: no such object"):
        VideoReader(f"{url}/cat/none.mp4", step_seconds=0.5)
