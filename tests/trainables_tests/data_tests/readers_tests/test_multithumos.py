from __future__ import annotations

import json

import pytest

from paretovid.trainables.data.readers.multithumos import MultiThumosConfig, read_multithumos
from paretovid.trainables.errors import DataError, UsageError


@pytest.fixture
def published(tmp_path, write):
    write(tmp_path / "class_list.txt", "1 BaseballPitch\n2 Run\n")
    write(tmp_path / "annotations" / "BaseballPitch.txt", "video_validation_0000266 72.80 76.40\n")
    write(
        tmp_path / "annotations" / "Run.txt", "video_validation_0000266 70 71\n  video_test_0000004 0.5 1  \n"
    )
    return tmp_path


@pytest.fixture
def content():
    return {
        "video_validation_0000266": {
            "subset": "training",
            "duration": 1315.0,
            "actions": [[1, 72.8, 4000.36], [2, 70, 71]],
        },
        "video_test_0000004": {"subset": "testing", "duration": 33.0, "actions": [[2, 0.5, 1.0]]},
    }


def described(read):
    return [(v.video_id, v.split, sorted(v.labels), len(v.events)) for v in read.videos]


WANTED = [("video_test_0000004", "test", [1], 1), ("video_validation_0000266", "train", [0, 1], 2)]


def test_the_published_folder(published):
    read = read_multithumos(MultiThumosConfig(annotations=str(published), videos="v"))
    assert read.classes == ("BaseballPitch", "Run") and read.multi_label
    assert described(read) == WANTED


def test_the_json_counts_classes_from_one(published, content):
    path = published / "multithumos.json"
    path.write_text(json.dumps(content))
    classes = str(published / "class_list.txt")
    read = read_multithumos(MultiThumosConfig(annotations=str(path), videos="v", classes=classes))
    assert described(read) == WANTED
    assert read.videos[1].annotated_seconds == 1315.0
    assert read.videos[1].events[0].end_seconds == 4000.36  # clipped when the file is known
    (published / "class_list.txt").write_text("BaseballPitch\nRun\n")  # without numbers, as some copies
    assert (
        described(read_multithumos(MultiThumosConfig(annotations=str(path), videos="v", classes=classes)))
        == WANTED
    )
    with pytest.raises(UsageError, match=r"data\.classes has no value"):
        read_multithumos(MultiThumosConfig(annotations=str(path), videos="v"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["video_test_0000004"]["actions"].append([0, 1, 2]), r"actions\[1\]: the label '0'"),
        (lambda c: c["video_test_0000004"]["actions"].append([1, 3, 2]), r"actions\[1\]: the interval ends"),
        (lambda c: c["video_test_0000004"]["actions"].append([1, 3]), r"actions\[1\] is \[1, 3\]"),
        (lambda c: c["video_test_0000004"].update(subset="training"), "subset is 'training'"),
        (lambda c: c["video_test_0000004"].update(subset="val"), "subset is 'val'"),
        (lambda c: c.update(abc=c["video_test_0000004"]), "video 'abc'"),
    ],
)
def test_bad_json(published, content, change, message):
    change(content)
    path = published / "multithumos.json"
    path.write_text(json.dumps(content))
    classes = str(published / "class_list.txt")
    with pytest.raises(DataError, match=message) as caught:
        read_multithumos(MultiThumosConfig(annotations=str(path), videos="v", classes=classes))
    assert "multithumos.json: " in caught.value.message and caught.value.hint


def test_a_class_without_a_file(published):
    (published / "annotations" / "Run.txt").unlink()
    with pytest.raises(DataError, match=r"no Run\.txt"):
        read_multithumos(MultiThumosConfig(annotations=str(published), videos="v"))
