from __future__ import annotations

import pytest

from paretovid.trainables.data.readers.thumos14 import Thumos14Config, read_thumos14
from paretovid.trainables.errors import DataError, UsageError

VAL = "TH14_Temporal_annotations_validation/annotation"
TEST = "TH14_Temporal_Annotations_Test/annotations/annotation"


@pytest.fixture
def folder(tmp_path, write):
    write(tmp_path / "detclasslist.txt", "22 CliffDiving\n7 BaseballPitch\n26 Diving\n")
    one = "video_validation_0000266  72.8 76.4\r\nvideo_validation_0000266  80.0 81.5\r\n"
    write(tmp_path / VAL / "BaseballPitch_val.txt", one)
    write(tmp_path / VAL / "CliffDiving_val.txt", "video_validation_0000001  1.0 2.0\n")
    write(tmp_path / VAL / "Diving_val.txt", "video_validation_0000001  1.0 2.5\n")
    write(tmp_path / VAL / "Ambiguous_val.txt", "video_validation_0000266  10.0 11.0\n")
    for name in ("BaseballPitch", "CliffDiving", "Diving"):
        write(tmp_path / TEST / f"{name}_test.txt", "video_test_0000004  0.2 1.1\n")
    write(tmp_path / TEST / "Ambiguous_test.txt", "video_test_0000004 3 4\nvideo_test_0000009 3 4\n")
    return tmp_path


def config(folder, **settings):
    return Thumos14Config(annotations=str(folder), videos="v", **settings)


def test_files_of_both_subsets(folder):
    read = read_thumos14(config(folder))
    assert read.classes == ("BaseballPitch", "CliffDiving", "Diving") and read.multi_label
    test, both, pitch = read.videos
    assert (test.video_id, test.split, sorted(test.labels)) == ("video_test_0000004", "test", [0, 1, 2])
    assert test.ambiguous == ((3.0, 4.0),)
    assert (both.split, sorted(both.labels)) == ("train", [1, 2])
    assert [(e.label, e.start_seconds, e.end_seconds) for e in pitch.events] == [
        (0, 72.8, 76.4),
        (0, 80.0, 81.5),
    ]
    assert pitch.ambiguous == ((10.0, 11.0),)
    assert config(folder).step_seconds == 0.64


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (f"{VAL}/Diving_val.txt", "video_validation_0000001  9 8\n", r"Diving_val\.txt:1: the interval ends"),
        (f"{VAL}/Diving_val.txt", "\nvideo_validation_0000001 9\n", r"Diving_val\.txt:2: not NAME START END"),
        (
            f"{VAL}/Diving_val.txt",
            "video_test_0000001 8 9\n",
            r"Diving_val\.txt:1: video_test_0000001 is no video of",
        ),
        (f"{VAL}/Diving_val.txt", "v_abc 8 9\n", r"Diving_val\.txt:1: video 'v_abc'"),
        (f"{VAL}/Surfing_val.txt", "video_validation_0000001 8 9\n", "the label 'Surfing' is not in"),
    ],
)
def test_bad_files(folder, write, name, text, message):
    write(folder / name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_thumos14(config(folder))
    assert caught.value.hint


def test_missing_files(folder):
    (folder / TEST / "Diving_test.txt").unlink()
    with pytest.raises(DataError, match=r"no Diving_test\.txt"):
        read_thumos14(config(folder))
    (folder / "detclasslist.txt").unlink()
    with pytest.raises(UsageError, match=r"no detclasslist\.txt"):
        read_thumos14(config(folder))
