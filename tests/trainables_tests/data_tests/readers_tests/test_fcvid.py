from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.fcvid import FcvidConfig, read_fcvid
from paretovid.trainables.errors import DataError, UsageError

SPLIT, LABEL = "FCVID_VideoName_TrainTestSplit.txt", "FCVID_Label.txt"


@pytest.fixture
def distributed(tmp_path, write):
    write(tmp_path / SPLIT, "making cake/--abc.mp4\ttrain\r\npanda/x.y_z.flv test\npanda/p2.mp4 train\n")
    write(tmp_path / LABEL, "0\t1\t0\n1.0 0.0 0.0\n1 0 1\n")
    write(tmp_path / "classes.txt", "panda\nmaking cake\nbeach\n")
    return tmp_path


def config(folder, **settings):
    return FcvidConfig(annotations=str(folder), videos="v", **settings)


def test_the_distributed_files(distributed):
    read = read_fcvid(config(distributed, classes=str(distributed / "classes.txt")))
    assert [(v.video_id, v.split, v.labels) for v in read.videos] == [
        ("--abc", "train", (1,)),
        ("x.y_z", "test", (0,)),
        ("p2", "train", (0,)),
    ]
    assert read.videos[1].names == ("panda/x.y_z.flv", "x.y_z.flv")
    assert "1 videos have several labels" in read.notes[0]
    both = read_fcvid(config(distributed, classes=str(distributed / "classes.txt"), multi_label=True))
    assert both.videos[2].labels == (0, 2)


def test_the_lists(tmp_path, write):
    write(tmp_path / "fcvid_train_split.txt", "a b/v1,120,2,0\nv2,60,1,-1,-1\n")
    write(tmp_path / "fcvid_val_split.txt", "v3,60,1")  # no line end
    write(tmp_path / "classInd.txt", "panda\nmaking cake\nbeach\n")
    read = read_fcvid(config(tmp_path))
    assert [(v.video_id, v.split, v.labels) for v in read.videos] == [
        ("a b/v1", "train", (0,)),
        ("v2", "train", (1,)),
        ("v3", "test", (1,)),
    ]


def test_labels_that_count_from_one(tmp_path, write):
    write(tmp_path / "fcvid_train_split.txt", "v1,120,3\n")
    write(tmp_path / "fcvid_val_split.txt", "v3,60,1\n")
    write(tmp_path / "classInd.txt", "panda\nmaking cake\nbeach\n")
    with pytest.raises(DataError, match=r"fcvid_train_split\.txt:1: the label '3'") as caught:
        read_fcvid(config(tmp_path))
    assert "0 to 2" in caught.value.hint
    assert read_fcvid(config(tmp_path, first_label=1)).videos[0].labels == (2,)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (LABEL, "0 1 0\n1 0 0\n", "has 2 lines"),
        (LABEL, "0 1 0\n1 0\n1 0 0\n", r"FCVID_Label\.txt:2: 2 labels, not 3"),
        (LABEL, "0 1 0\n0 0 0\n1 0 0\n", r"FCVID_Label\.txt:2: a video without a label"),
        (LABEL, "0 1 0\n0 2 0\n1 0 0\n", r"FCVID_Label\.txt:2: "),
        (SPLIT, "a train\nb val\nc test\n", r"TrainTestSplit\.txt:2: not PATH and train or test"),
    ],
)
def test_bad_files(distributed, write, name, text, message):
    write(distributed / name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_fcvid(config(distributed, classes=str(distributed / "classes.txt")))
    assert caught.value.hint


def test_classes_must_be_given(distributed):
    with pytest.raises(UsageError, match=r"data\.classes has no value"):
        read_fcvid(config(distributed))
