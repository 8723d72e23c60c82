from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.data.readers.activitynet import ActivityNetConfig, read_activitynet
from paretovid.trainables.data.readers.catalog import read_annotations
from paretovid.trainables.errors import DataError, UsageError

TAXONOMY = [
    {"parentName": None, "nodeName": "Root", "nodeId": 0, "parentId": None},
    {"parentName": "Root", "nodeName": "Sports", "nodeId": 1, "parentId": 0},
    {"parentName": "Sports", "nodeName": "Surfing", "nodeId": 2, "parentId": 1},
    {"parentName": "Sports", "nodeName": "Archery", "nodeId": 3, "parentId": 1},
    {"parentName": "Root", "nodeName": "Drinking coffee", "nodeId": 4, "parentId": 0},
]


def entry(subset: str, *annotations: tuple[str, float, float], duration: float = 20.0) -> dict[str, Any]:
    return {
        "subset": subset,
        "duration": duration,
        "resolution": "320x240",
        "url": "",
        "annotations": [{"label": label, "segment": [start, end]} for label, start, end in annotations],
    }


def described() -> dict[str, Any]:
    return {
        "version": "VERSION 1.3",
        "taxonomy": TAXONOMY,
        "database": {
            "-a_1": entry("training", ("Surfing", 0.5, 4), ("Surfing", 6, 8)),
            "b": entry("training", ("Archery", 1, 2), ("Drinking coffee", 3, 9), ("Archery", 10, 12)),
            "c": entry("validation", ("Archery", 0, 30.5)),
            "d": entry("testing"),
        },
    }


def config(tmp_path: Path, content: dict[str, Any], **settings: Any) -> ActivityNetConfig:
    path = tmp_path / "activity_net.v1-3.min.json"
    path.write_text(json.dumps(content))
    return ActivityNetConfig(annotations=str(path), videos="videos", **settings)


def test_videos_labels_and_intervals(tmp_path):
    read = read_activitynet(config(tmp_path, described()))
    assert read.classes == ("Archery", "Drinking coffee", "Surfing")  # leaves only
    a, b, c = read.videos  # the labels of "testing" are withheld
    assert (a.video_id, a.split, a.labels, a.names) == ("-a_1", "train", (2,), ("v_-a_1", "-a_1"))
    assert [(e.label, e.start_seconds, e.end_seconds) for e in a.events] == [(2, 0.5, 4.0), (2, 6.0, 8.0)]
    assert b.labels == (1,)  # shown for 6 s, the other for 3 s
    assert (c.split, c.annotated_seconds) == ("test", 20.0)
    assert read.notes[0].startswith("1 videos have several labels")


def test_all_labels_when_asked_for(tmp_path):
    read = read_activitynet(config(tmp_path, described(), multi_label=True))
    assert read.multi_label and read.videos[1].labels == (0, 1) and not read.notes


def test_a_class_list_decides_the_order(tmp_path):
    classes = tmp_path / "classInd.txt"
    classes.write_text("0 Surfing\n1 Drinking coffee\n2 Archery\n")
    read = read_activitynet(config(tmp_path, described(), classes=str(classes)))
    assert read.classes[0] == "Surfing" and read.videos[0].labels == (0,)


def _set(content: dict[str, Any], id_: str, **values: Any) -> None:
    content["database"][id_].update(values)


BAD = {
    "end before start": (
        lambda d: d["database"]["b"]["annotations"][1].update(segment=[9, 3]),
        r"database\.b\.annotations\[1\]: the interval ends \(3 s\) before it starts",
    ),
    "label outside the taxonomy": (
        lambda d: d["database"]["c"]["annotations"][0].update(label="Archry"),
        r"database\.c\.annotations\[0\]: the label 'Archry' is not in .*taxonomy",
    ),
    "parent as a label": (
        lambda d: d["database"]["c"]["annotations"][0].update(label="Sports"),
        "the label 'Sports' is not in",
    ),
    "no segment": (lambda d: d["database"]["c"]["annotations"][0].pop("segment"), r"\[0\]\.segment is None"),
    "time as text": (
        lambda d: d["database"]["c"]["annotations"][0].update(segment=["x", 3]),
        r"database\.c\.annotations\[0\]: the start is 'x'",
    ),
    "other version": (lambda d: d.update(version="VERSION 1.2"), "version is 'VERSION 1.2'"),
    "no version": (lambda d: d.pop("version"), "version is None"),
    "unknown subset": (lambda d: _set(d, "a_", subset="train"), r"database\.a_\.subset is 'train'"),
    "no annotations": (lambda d: _set(d, "c", annotations=[]), r"database\.c has no annotations"),
    "annotations are no list": (lambda d: _set(d, "c", annotations=None), "not a JSON list"),
    "no taxonomy": (lambda d: d.pop("taxonomy"), "taxonomy is 'None', not a JSON list"),
    "bad duration": (lambda d: _set(d, "c", duration=-1), "duration is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_file_and_key(tmp_path, name):
    change, message = BAD[name]
    content = described()
    content["database"]["a_"] = content["database"].pop("-a_1")
    change(content)
    with pytest.raises(DataError, match=message) as caught:
        read_activitynet(config(tmp_path, content))
    assert "activity_net.v1-3.min.json" in caught.value.message and caught.value.hint


def test_a_class_list_of_another_set(tmp_path):
    classes = tmp_path / "kinetics.txt"
    classes.write_text("abseiling\nair drumming\n")
    with pytest.raises(DataError, match=r"'Surfing' is not in .*kinetics\.txt") as caught:
        read_activitynet(config(tmp_path, described(), classes=str(classes)))
    assert "data.classes" in caught.value.hint


def test_an_annotation_file_of_another_set(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps({"video_test_1": {"subset": "testing", "duration": 3.0, "actions": [[1, 0.0, 2.0]]}})
    )
    with pytest.raises(DataError, match="no key 'database'") as caught:
        read_annotations("activitynet", ActivityNetConfig(annotations=str(path), videos="v"))
    assert "data=multithumos" in caught.value.hint


def test_the_file_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_activitynet(ActivityNetConfig(annotations=str(tmp_path / "no.json"), videos="v"))
