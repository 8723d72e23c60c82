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


def test_splits_by_other_names_in_any_case(tmp_path):
    make(tmp_path, "Training/a/1.mp4", "valid/a/2.mp4", "VALIDATION/b/3.mp4", "Testing/b/4.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    assert {v.video_id: v.split for v in read.videos} == {
        "Training/a/1.mp4": "train",
        "valid/a/2.mp4": "val",
        "VALIDATION/b/3.mp4": "val",
        "Testing/b/4.mp4": "test",
    }
    assert read.notes == (
        "2 classes, with their videos: a 2, b 2",
        "folders of splits, with their videos: Testing 1 (test), Training 1 (train), VALIDATION 1 (val), valid 1 (val)",
    )


def test_a_stray_folder_beside_the_splits_is_refused(tmp_path):
    make(tmp_path, "train/a/1.mp4", "test/b/2.mp4", "extra/c/3.mp4", "extra/c/4.mp4")
    with pytest.raises(UsageError, match=r"extra \(2 videos\) is no split, but stands beside test, train"):
        read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))


def test_a_class_may_be_called_train(tmp_path):
    make(tmp_path, "train/1.mp4", "car/2.mp4", "car/old/3.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path)))
    assert read.classes == ("car", "train") and {v.split for v in read.videos} == {""}


def test_classes_and_counts_are_a_note_of_a_given_list_too(tmp_path, write):
    make(tmp_path / "v", "running/a.mp4", "running/b.mp4", "swimming/c.mp4")
    classes = write(tmp_path / "classes.txt", "swimming\nrunning\nflying\n")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "v"), classes=str(classes)))
    assert read.notes == ("3 classes, with their videos: swimming 1, running 2, flying 0",)


def test_folders_and_class_list_in_two_normal_forms(tmp_path, write):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make(tmp_path / "v", f"train/{composed}/1.mp4", f"test/{decomposed}/2.mp4", "train/tea/3.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "v")))
    assert read.classes == (composed, "tea") and [v.labels for v in read.videos] == [(0,), (0,), (1,)]
    classes = write(tmp_path / "classes.txt", f"tea\n{decomposed}\n")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "v"), classes=str(classes)))
    assert [v.labels for v in read.videos] == [(1,), (1,), (0,)]


def test_a_class_list_with_numbers_that_are_parts_of_names(tmp_path, write):
    make(tmp_path / "v", "1 hand/a.mp4", "2 hands/b.mp4")
    classes = write(tmp_path / "classes.txt", "2 hands\n1 hand\n")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "v"), classes=str(classes)))
    assert read.classes == ("2 hands", "1 hand") and [v.labels for v in read.videos] == [(1,), (0,)]
    make(tmp_path / "w", "hand/a.mp4", "hands/b.mp4")
    read = read_class_folders(ClassFoldersConfig(videos=str(tmp_path / "w"), classes=str(classes)))
    assert read.classes == ("hand", "hands")


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
