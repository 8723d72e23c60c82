from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.catalog import read_annotations
from paretovid.trainables.data.readers.kinetics import KineticsConfig, read_kinetics
from paretovid.trainables.errors import DataError, UsageError

HEAD = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.fixture
def folder(tmp_path, write):
    write(tmp_path / "label_map.txt", "abseiling\nmassaging person's head\ntesting, 1 2 3\n")
    write(
        tmp_path / "kinetics-400_train.csv",
        HEAD + '"abseiling",---QUuC4vJs,84,94,train,0\r\n"testing, 1 2 3",a_-B,0,10,train,1\r\n',
    )
    write(tmp_path / "kinetics-400_val.csv", HEAD + "massaging person's head,zz,9,19,validate,0\n")
    return tmp_path


def config(folder, **settings):
    settings = {"classes": str(folder / "label_map.txt"), **settings}
    return KineticsConfig(annotations=str(folder), videos="v", **settings)


def test_clips(folder):
    read = read_kinetics(config(folder))
    assert [(v.video_id, v.split, v.labels) for v in read.videos] == [
        ("---QUuC4vJs_000084_000094", "train", (0,)),
        ("a_-B_000000_000010", "train", (2,)),
        ("zz_000009_000019", "test", (1,)),
    ]
    assert read.videos[0].names == ("---QUuC4vJs_000084_000094", "---QUuC4vJs")
    assert not read.multi_label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "abseiling,a,10,5,train,0\n", r"train\.csv:2: the interval ends"),
        (
            HEAD + "abseiling,a,0,10,train,0\nabsailing,a,0,10,train,0\n",
            r"train\.csv:3: the label 'absailing'",
        ),
        (HEAD + "abseiling,a,0,10,validate,0\n", r"train\.csv:2: split is 'validate'"),
        ("youtube_id,time_start,time_end,split\na,0,10,test\n", r"train\.csv:1: the column label is missing"),
    ],
    ids=["end before start", "label", "the file for testing", "the file without labels"],
)
def test_bad_files(folder, write, text, message):
    write(folder / "kinetics-400_train.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        read_kinetics(config(folder))
    assert caught.value.hint


def test_a_file_of_another_set(folder, write):
    write(folder / "kinetics-400_train.csv", "Tags,youtube_id,time_start,time_end\nball|court,a,1.5,2.5\n")
    with pytest.raises(DataError, match="the column label is missing") as caught:
        read_annotations("kinetics400", config(folder))
    assert "data=hvu" in caught.value.hint


def test_classes_must_be_given(folder):
    with pytest.raises(UsageError, match=r"data\.classes has no value"):
        read_kinetics(config(folder, classes=None))
