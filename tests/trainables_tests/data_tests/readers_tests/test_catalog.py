from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from paretovid.trainables.data.readers.catalog import (
    read_annotations,
    reader,
    reader_config,
    reader_names,
    recognize,
)
from paretovid.trainables.errors import UnknownNameError, UsageError


def test_names():
    with pytest.raises(UnknownNameError, match="'activity_net'") as caught:
        reader("activity_net")
    assert "'activitynet'" in caught.value.hint and len(reader_names()) == 11


@pytest.mark.parametrize("name", reader_names())
def test_settings_are_typed(name):
    settings = {"annotations": "a", "videos": "v", "step_seconds": 1}
    if name == "class_folders":
        del settings["annotations"]
    config = reader_config(name, settings)
    assert config.step_seconds == 1.0 and config.max_missing_share == 0.2
    for bad in (
        {"max_missing_share": 1.5},
        {"val_share": 0},
        {"step_seconds": -1},
        {"videos": "https://h/v"},
    ):
        with pytest.raises(UsageError):
            reader_config(name, {**settings, **bad})
    with pytest.raises(UnknownNameError, match="'anotations'"):
        reader_config(name, {**settings, "anotations": "a"})


@pytest.mark.parametrize(
    ("name", "text", "format_"),
    [
        ("a.json", '{"version": "VERSION 1.3", "database": {', "activitynet"),
        ("a.json", '{"video_test_1": {"subset": "testing", "actions": [[1, 2, 3]]}}', "multithumos"),
        ("train.csv", "label,youtube_id,time_start,time_end,split\n", "kinetics400"),
        ("x.csv", "\ufeffTags,youtube_id,time_start,time_end\n", "hvu"),
        ("x.csv", "id,subject,scene,quality\n", "charades"),
        ("Diving_test.txt", "video_test_0000004  1 2\n", "thumos14"),
        ("P03_cam01_P03_tea.txt", "1-30 SIL\n", "breakfast"),
    ],
)
def test_files_of_known_sets_are_recognized(tmp_path: Path, name, text, format_):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert recognize(path) == (format_,)
    assert recognize(tmp_path / "missing") == ()


def test_a_folder_of_another_format_is_named_by_who_knows_them_all(tmp_path):
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\n")
    config = reader_config("thumos14", {"annotations": str(tmp_path), "videos": str(tmp_path)})
    with pytest.raises(UsageError, match="has no ") as caught:
        read_annotations("thumos14", config)
    assert caught.value.hint.endswith("train.csv looks like one of kinetics400: data=kinetics400.")
    with pytest.raises(UsageError, match="has no ") as bare:
        reader("thumos14").read(config)
    assert "looks like" not in bare.value.hint
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (it was made here)
    assert (type(again), again.hint) == (type(caught.value), caught.value.hint)
