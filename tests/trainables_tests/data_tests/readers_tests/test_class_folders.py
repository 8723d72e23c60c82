from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.class_folders import ClassFoldersConfig, read_class_folders
from paretovid.trainables.errors import DataError, UsageError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_a_folder_per_class(tmp_path):
    make(tmp_path, "running/b c.mp4", "swimming/deep/a.webm", "swimming/note.txt", ".cache/x.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    assert read.classes == ("running", "swimming")
    assert [(v.video_id, v.split, v.labels) for v in read.videos] == [
        ("running/b c.mp4", "", (0,)),
        ("swimming/deep/a.webm", "", (1,)),
    ]


def test_folders_of_splits(tmp_path):
    make(tmp_path, "train/running/a.mp4", "val/running/b.mp4", "test/swimming/a.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    assert [(v.video_id, v.split, v.labels) for v in read.videos] == [
        ("test/swimming/a.mp4", "test", (1,)),
        ("train/running/a.mp4", "train", (0,)),
        ("val/running/b.mp4", "val", (0,)),
    ]


def test_bad_folders(tmp_path):
    make(tmp_path, "running/a.mp4", "running/b.mp4")
    with pytest.raises(UsageError, match="videos of 1 class: running"):
        read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    make(tmp_path, "loose.mp4")
    with pytest.raises(UsageError, match=r"loose\.mp4 is in no folder of a class") as caught:
        read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    assert "CLASS/loose.mp4" in caught.value.hint


def test_a_folder_that_the_class_list_lacks(tmp_path, write):
    make(tmp_path / "v", "running/a.mp4", "swiming/b.mp4")
    classes = write(tmp_path / "classes.txt", "swimming\nrunning\n")
    with pytest.raises(DataError, match=r"swiming/b\.mp4: the label 'swiming'") as caught:
        read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "v"), classes=str(classes)))
    assert "'swimming'" in caught.value.hint
