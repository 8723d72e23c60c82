from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.table import TableConfig, read_own_table
from paretovid.trainables.errors import DataError, UsageError


def read(tmp_path, write, text, name="videos.csv", **settings):
    return read_own_table(TableConfig(annotations=str(write(tmp_path / name, text)), videos="v", **settings))


def test_paths_and_labels(tmp_path, write):
    found = read(tmp_path, write, 'path,label\r\n"a, b/c d.mp4",running\r\ne.mp4,swimming\r\n')
    assert found.classes == ("running", "swimming") and not found.multi_label
    assert [(v.video_id, v.split, v.labels) for v in found.videos] == [
        ("a, b/c d.mp4", "", (0,)),
        ("e.mp4", "", (1,)),
    ]
    assert "2 classes: all labels of videos.csv" in found.notes[0]


def test_several_labels_intervals_splits_and_groups(tmp_path, write):
    text = (
        "path,label,split,start,end,group\n"
        "a.mp4,run|jump,train,1.5,2,anna\n"
        "a.mp4,run,train,3,4,anna\n"
        "b.mp4,,test,,,\n"
    )
    a, b = read(tmp_path, write, text, multi_label=True).videos
    assert (a.labels, a.split, a.group) == ((1, 0), "train", "anna")
    assert [(e.label, e.start_seconds, e.where[-1]) for e in a.events] == [
        (1, 1.5, "2"),
        (0, 1.5, "2"),
        (1, 3.0, "3"),
    ]
    assert (b.labels, b.split, b.events) == ((), "test", ())


def test_tabs(tmp_path, write):
    found = read(tmp_path, write, "path\tlabel\na\tx, y\nb\tz\n", name="videos.tsv")
    assert found.classes == ("x, y", "z")


def test_a_class_list_with_numbers_that_are_parts_of_names(tmp_path, write):
    classes = write(tmp_path / "classes.txt", "1 hand\n2 hands\n")
    found = read(tmp_path, write, "path,label\na,2 hands\nb,1 hand\n", classes=str(classes))
    assert [v.labels for v in found.videos] == [(1,), (0,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "lists no videos"),
        ("path,label,\na,b,\nc,d,\n", ":1: a column has no name: a comma too many"),
        ("path;label\na;b\n", ":1: the columns are divided by semicolons"),
        ("path,lable\na,b\n", ":1: the column label is missing"),
        ("path,label,weight\na,b,1\n", ":1: the column 'weight'"),
        ("path,label\na,b\nc,b|d\n", ":3: 'c' has 2 labels"),
        ("path,label\na,b|d\nc,\n", ":2: 'a' has 2 labels"),
        ("path,label\na,b\nc,\nd,e\n", ":3: 'c' has 0 labels"),
        ("path,label\na,b\na,d\n", ":3: 'a' has 2 labels"),
        ("path,label\na,b\n,d\n", ":3: no path"),
        ("path,label,split\na,b,train\na,b,test\nc,d,train\n", ":3: split of 'a' is 'test', but 'train' at"),
        ("path,label,split\na,b,training\nc,d,train\n", ":2: the split 'training'"),
        ("path,label,start,end\na,b,2,1\nc,d,,\n", ":2: the interval ends"),
        ("path,label,start,end\na,b,2,\nc,d,,\n", ":2: the end is ''"),
        ("path,label\na,b\n", "lists 1 class"),
    ],
)
def test_bad_tables(tmp_path, write, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, write, text)
    assert "videos.csv" in caught.value.message and caught.value.hint


def test_shares_of_own_sets_are_checked(tmp_path, write):
    with pytest.raises(UsageError, match=r"data\.test_share must be in"):
        read(tmp_path, write, "path,label\na,b\n", test_share=0.0)
    with pytest.raises(UsageError, match=r"data\.val_share must be in"):
        read(tmp_path, write, "path,label\na,b\n", val_share=1.0)
