from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.breakfast import BreakfastConfig, read_breakfast
from paretovid.trainables.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path, write):
    write(tmp_path / "cereals" / "P03_cam01_P03_cereals.txt", "1-30 SIL  \r\n31-150 take_bowl  \r\n")
    write(tmp_path / "tea" / "P46_webcam02_P46_tea.txt", "1-15 SIL\n")
    write(tmp_path / "tea" / "P47_stereo01_P47_tea.txt", "1-15 SIL\n16-30 take_bowl\n31-45 SIL\n")
    write(tmp_path / "mapping.txt", "0 SIL\n1 take_bowl\n")
    return tmp_path


def config(folder, **settings):
    return BreakfastConfig(annotations=str(folder), videos="v", **settings)


def test_activities_and_file_names(folder):
    read = read_breakfast(config(folder))
    assert len(read.classes) == 10 and not read.multi_label
    cereals, webcam, stereo = read.videos
    assert (read.classes[cereals.labels[0]], cereals.split, cereals.group) == ("cereals", "train", "P03")
    assert "P03/cam01/P03_cereals" in cereals.names
    assert (webcam.split, stereo.split) == ("train", "test")  # 44 persons train, 8 test
    assert "P47/stereo/P47_tea_ch0" in stereo.names


@pytest.mark.parametrize(("split", "test"), [("s1", [0]), ("s2", []), ("s4", [1, 2]), ("video_epitoma", [2])])
def test_splits_are_by_person(folder, split, test):
    videos = read_breakfast(config(folder, split=split)).videos
    assert [number for number, video in enumerate(videos) if video.split == "test"] == test


def test_actions_with_their_intervals(folder):
    read = read_breakfast(config(folder, target="actions"))
    assert read.multi_label and read.classes == ("SIL", "take_bowl")
    cereals, webcam, stereo = read.videos
    assert [(e.label, e.start_seconds, e.end_seconds) for e in cereals.events] == [
        (0, 0.0, 2.0),
        (1, 2.0, 10.0),
    ]
    assert webcam.labels == (0,) and stereo.labels == (0, 1) and len(stereo.events) == 3


def test_one_label_a_frame(folder, write):
    write(folder / "cereals" / "P03_cam01_P03_cereals.txt", "SIL\n" * 15 + "take_bowl\n" * 30 + "SIL\n" * 15)
    events = read_breakfast(config(folder, target="actions")).videos[0].events
    assert [(e.label, e.start_seconds, e.end_seconds) for e in events] == [(0, 0, 1), (1, 1, 3), (0, 3, 4)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("P03_cam01_P03_cereals", "1-30 SIL\n31-2 take_bowl\n", r"cereals\.txt:2: the interval ends"),
        ("P03_cam01_P03_cereals", "1-30 SIL\nx\n", r"cereals\.txt:2: not a segment"),
        ("P03_cam01_P03_cereals", "1-30 SIL\n31-32 pour_milk\n", r"cereals\.txt:2: the label 'pour_milk'"),
        ("P99_cam01_P99_cereals", "1-30 SIL\n", "not the name of a video"),
        ("P03_cam01", "1-30 SIL\n", "not the name of a video"),
    ],
)
def test_bad_files(folder, write, name, text, message):
    write(folder / "cereals" / f"{name}.txt", text)
    with pytest.raises(DataError, match=message) as caught:
        read_breakfast(config(folder, target="actions"))
    assert caught.value.hint


def test_an_unknown_activity_and_an_empty_folder(folder, write, tmp_path):
    write(folder / "P03_cam01_P03_soup.txt", "1-30 SIL\n")
    with pytest.raises(DataError, match="the label 'soup' is not in the 10 activities"):
        read_breakfast(config(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no annotation of Breakfast"):
        read_breakfast(config(tmp_path / "empty"))
