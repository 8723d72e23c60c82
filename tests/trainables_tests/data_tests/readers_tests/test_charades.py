from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.charades import CharadesConfig, read_charades
from paretovid.trainables.errors import DataError

HEAD = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


@pytest.fixture
def folder(tmp_path, write):
    write(tmp_path / "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    write(
        tmp_path / "Charades_v1_train.csv",
        HEAD
        + '46GP8,HR43,Kitchen,6,7,Yes,"She cooks,\nat home",food;stove,,c001 11.90 21.20;c000 0.00 12.60,30.5\r\n'
        + "EMPTY,HR43,Bed,6,7,Yes,s,,d,,12.0\r\n",
    )
    # Some copies lack the column `objects`.
    write(tmp_path / "Charades_v1_test.csv", "id,subject,actions,length\nT1,Z,c000 0 5;c000 7 9,10\n")
    return tmp_path


def config(folder):
    return CharadesConfig(annotations=str(folder), videos="v")


def test_actions_none_and_missing_columns(folder):
    read = read_charades(config(folder))
    assert read.multi_label and read.classes == ("Holding some clothes", "Putting clothes somewhere")
    first, empty, test = read.videos
    assert (first.labels, first.annotated_seconds, first.group) == ((1, 0), 30.5, "HR43")
    assert (first.events[0].start_seconds, first.events[0].end_seconds) == (11.9, 21.2)
    assert empty.labels == () == empty.events
    assert (test.split, test.labels, len(test.events)) == ("test", (0,), 2)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ("c002 1 2", r"Charades_v1_test\.csv:3: the label 'c002'"),
        ("c000 2 1", r"Charades_v1_test\.csv:3: the interval ends"),
        ("c000 2", r"Charades_v1_test\.csv:3: the action 'c000 2'"),
    ],
)
def test_bad_actions(folder, write, actions, message):
    write(folder / "Charades_v1_test.csv", f"id,actions,length\nT1,,10\nT2,{actions},10\n")
    with pytest.raises(DataError, match=message) as caught:
        read_charades(config(folder))
    assert caught.value.hint


def test_the_list_of_another_set(folder, write):
    write(folder / "Charades_v1_classes.txt", "abseiling\nair drumming\n")
    with pytest.raises(DataError, match=r"classes\.txt:1: not a class of Charades"):
        read_charades(config(folder))
