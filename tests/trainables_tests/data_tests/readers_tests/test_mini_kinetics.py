from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.mini_kinetics import MiniKineticsConfig, read_mini_kinetics
from paretovid.trainables.errors import DataError


@pytest.fixture
def folder(tmp_path, write):
    write(tmp_path / "minik_classInd.txt", "air drumming\narchery\n")
    write(
        tmp_path / "mini_train_videofolder.txt",
        "images/train/air drumming/7LSJ2Ryv1a8_000012_000022 250 0\r\nimages/train/archery/a-b_000000_000010 9 1",
    )
    write(tmp_path / "mini_val_videofolder.txt", "XYZ 300 1\n")
    return tmp_path


def test_paths_with_spaces_and_a_last_line_without_end(folder):
    read = read_mini_kinetics(MiniKineticsConfig(annotations=str(folder), videos="v"))
    assert [(v.video_id, v.split, v.labels, v.names) for v in read.videos] == [
        ("7LSJ2Ryv1a8_000012_000022", "train", (0,), ("7LSJ2Ryv1a8_000012_000022", "7LSJ2Ryv1a8")),
        ("a-b_000000_000010", "train", (1,), ("a-b_000000_000010", "a-b")),
        ("XYZ", "test", (1,), ("XYZ", "XYZ")),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/val/x 60 2", r"mini_val_videofolder\.txt:1: the label '2'"),
        ("images/val/x 60 archery", r"mini_val_videofolder\.txt:1: not a line of a video list"),
        ("images/val/x", r"mini_val_videofolder\.txt:1: not a line of a video list"),
    ],
)
def test_bad_lines(folder, write, line, message):
    write(folder / "mini_val_videofolder.txt", line)
    with pytest.raises(DataError, match=message) as caught:
        read_mini_kinetics(MiniKineticsConfig(annotations=str(folder), videos="v"))
    assert caught.value.hint
