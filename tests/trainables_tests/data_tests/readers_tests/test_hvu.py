from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.hvu import HvuConfig, read_hvu
from paretovid.trainables.errors import DataError, UnknownNameError, UsageError

HEAD = "Tags,youtube_id,time_start,time_end\n"


@pytest.fixture
def folder(tmp_path, write):
    write(
        tmp_path / "HVU_Tags_Categories_V1.0.csv",
        "Tag,Category\nball,object\nplaying basketball,action\ncourt,scene\ndribbling,action\n",
    )
    write(
        tmp_path / "HVU_Train_V1.0.csv",
        HEAD + "ball|court|playing basketball,gD_G1b0wV5I,101.5,103.5\r\nball,gD_G1b0wV5I,10,20\r\n",
    )
    write(tmp_path / "HVU_Val_V1.0.csv", HEAD + "dribbling,b,0,10\n")
    return tmp_path


def config(folder, **settings):
    return HvuConfig(annotations=str(folder), videos="v", **settings)


def test_tags_and_file_names_in_tenths(folder):
    read = read_hvu(config(folder))
    assert read.multi_label and read.classes == ("ball", "playing basketball", "court", "dribbling")
    assert read.categories["court"] == "scene"
    first, second, test = read.videos
    assert (first.video_id, first.labels) == ("gD_G1b0wV5I_001015_001035", (0, 2, 1))
    assert second.video_id == "gD_G1b0wV5I_000100_000200" and second.group == first.group == "gD_G1b0wV5I"
    assert test.split == "test"
    whole = read_hvu(config(folder, file_times="seconds"))
    assert whole.videos[1].names[0] == "gD_G1b0wV5I_000010_000020"


def test_tags_of_one_category(folder):
    read = read_hvu(config(folder, categories=("action",)))
    assert read.classes == ("playing basketball", "dribbling")
    assert [video.labels for video in read.videos] == [(0,), (), (1,)]
    with pytest.raises(UnknownNameError, match="'actoin'") as caught:
        read_hvu(config(folder, categories=("actoin",)))
    assert "'action'" in caught.value.hint
    with pytest.raises(UsageError, match="1 tag"):
        read_hvu(config(folder, categories=("scene",)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ball|net,a,0,10", r"HVU_Val_V1\.0\.csv:2: the label 'net'"),
        ("ball,a,10,0", r"HVU_Val_V1\.0\.csv:2: the interval ends"),
        ("ball|court,playing,a,0,10", r"HVU_Val_V1\.0\.csv:2: 5 cells"),
    ],
)
def test_bad_rows(folder, write, row, message):
    write(folder / "HVU_Val_V1.0.csv", HEAD + row)
    with pytest.raises(DataError, match=message):
        read_hvu(config(folder))
