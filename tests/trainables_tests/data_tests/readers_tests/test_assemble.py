"""From annotations to a data set, with real videos."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from typing import Any

import pytest
from tests.odd_videos import CASES

from paretovid.trainables.data.dataset import load_dataset, save_manifest
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Interval,
    ReaderConfig,
)
from paretovid.trainables.data.readers.assemble import LEFT_OUT, assemble, divide, read_dataset
from paretovid.trainables.data.readers.table import TableConfig
from paretovid.trainables.errors import DataError, UsageError


def annotated(id_: str, split: str, label: int, **changes: Any) -> AnnotatedVideo:
    values = {
        "video_id": id_,
        "split": split,
        "labels": (label,),
        "names": (id_,),
        "where": f"list.txt: {id_}",
    }
    return AnnotatedVideo(**{**values, **changes})


def event(start: float, end: float, label: int = 0) -> Interval:
    return Interval(label=label, start_seconds=start, end_seconds=end, where=f"list.txt:{label}")


IDS = tuple("abcdef")


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_video):
    """Six videos of two seconds."""
    folder = tmp_path_factory.mktemp("videos")
    for id_ in IDS:
        write_video(folder / f"{id_}.mp4")
    return folder


@pytest.fixture
def folder(files, tmp_path):
    return shutil.copytree(files, tmp_path / "videos")


def pets(*videos: AnnotatedVideo, **changes: Any) -> Annotations:
    usual = [annotated(id_, "train" if id_ < "e" else "test", number % 2) for number, id_ in enumerate(IDS)]
    replaced = {video.video_id: video for video in videos}
    kept = [replaced.pop(video.video_id, video) for video in usual]
    values: dict[str, Any] = {
        "classes": ("cat", "dog"),
        "multi_label": False,
        "videos": (*kept, *replaced.values()),
    }
    return Annotations(**{**values, **changes})


def made(folder, read: Annotations, **settings: Any):
    config = ReaderConfig(videos=str(folder), **{"step_seconds": 0.5, **settings})
    return assemble(read, config, folder.parent / "home", name="pets")


def test_records(folder):
    found = made(folder, pets())
    dataset = found.dataset
    assert Counter(record.split for record in dataset.records) == {"train": 2, "val": 2, "test": 2}
    a = dataset.records[0]
    assert (a.video_id, a.path, a.labels, a.num_steps) == ("a", str(folder / "a.mp4"), (0,), 4)
    assert a.duration_seconds == pytest.approx(2.0, abs=0.1)
    assert not found.left_out and not found.notes and found.annotated == 6


def test_the_place_of_the_videos_does_not_change_the_fingerprint(folder, tmp_path):
    before = made(folder, pets()).dataset.fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert made(moved, pets()).dataset.fingerprint == before
    (moved / "a.mp4").write_bytes((moved / "a.mp4").read_bytes() + b"\0")
    assert made(moved, pets()).dataset.fingerprint != before


# Splits


def test_val_is_a_tenth_of_each_class_and_the_same_everywhere():
    videos = [annotated(f"v{number}", "train", number % 4) for number in range(200)]
    split = {video.video_id: video.split for video in divide(videos, 0.1, 0.2)}
    chosen = [video for video in videos if split[video.video_id] == "val"]
    assert Counter(video.labels[0] for video in chosen) == {0: 5, 1: 5, 2: 5, 3: 5}
    assert {video.video_id: video.split for video in divide(videos[::-1], 0.1, 0.2)} == split
    assert sorted(video.video_id for video in chosen)[:3] == ["v0", "v101", "v118"]


def test_groups_stay_together_and_their_own_splits_are_kept():
    # Class 1 is of persons who also show class 0, and of few of them: chosen class by class, they would be parted.
    videos = [annotated(f"v{n}", "train", int(n % 35 == 0), group=f"P{n // 5}") for n in range(100)]
    videos.append(annotated("t", "test", 0, group="P99"))
    by_group: dict[str, set[str]] = {}
    for video in divide(videos, 0.1, 0.2):
        by_group.setdefault(video.group, set()).add(video.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert sum(splits == {"val"} for splits in by_group.values()) == 2 and by_group["P99"] == {"test"}


def test_a_val_split_of_the_set_is_used():
    videos = [annotated(f"v{n}", "val" if n < 3 else "train", 0) for n in range(50)]
    assert [video.split for video in divide(videos, 0.5, 0.2)] == [video.split for video in videos]


def test_undivided_sets_get_all_three():
    videos = [annotated(f"v{n}", TO_DIVIDE, n % 2) for n in range(100)]
    counts = Counter(video.split for video in divide(videos, 0.1, 0.2))
    assert counts == {"train": 72, "val": 8, "test": 20}


def test_splits_do_not_depend_on_which_videos_are_there(folder):
    videos = [annotated(id_, TO_DIVIDE, 0) for id_ in IDS]
    whole = {r.video_id: r.split for r in made(folder, pets(*videos)).dataset.records}
    missing = next(id_ for id_, split in whole.items() if split == "train")
    (folder / f"{missing}.mp4").unlink()
    rest = {r.video_id: r.split for r in made(folder, pets(*videos)).dataset.records}
    assert rest == {id_: split for id_, split in whole.items() if id_ != missing}


# Missing and undecodable


def test_missing_and_undecodable_videos_are_listed(folder):
    (folder / "b.mp4").write_bytes(b"no video")
    videos = [annotated(id_, "val" if id_ == "a" else "train", n % 2) for n, id_ in enumerate("aghij")]
    found = made(folder, pets(*videos), max_missing_share=0.5)
    assert {each.video_id for each in found.left_out} == {"b", "g", "h", "i", "j"}
    reasons = {each.video_id: each for each in found.left_out}
    assert reasons["g"].where == "list.txt: g" and reasons["g"].reason == f"no g.mp4 in {folder}"
    assert "cannot be read as a video" in reasons["b"].reason
    with pytest.raises(DataError, match=r"5 of 10 annotated videos \(50%\) are missing") as caught:
        made(folder, pets(*videos), max_missing_share=0.49)
    assert "data.max_missing_share=0.49" in caught.value.hint and "list.txt: b" in caught.value.hint


def test_a_pipe_among_the_videos_is_left_out(folder):
    os.mkfifo(folder / "g.mp4")
    found = made(folder, pets(annotated("g", "train", 0)))
    assert [(each.video_id, each.reason) for each in found.left_out] == [("g", "a named pipe, not a file")]


def test_videos_with_another_suffix_are_a_note(folder):
    shutil.copy(folder / "a.mp4", folder / "z.vob")
    (folder / "y.vob").write_text("no video")
    (folder / "notes.txt").write_text("no video")
    os.mkfifo(folder / "x.vob")
    (note,) = made(folder, pets()).notes
    assert (
        note.startswith("1 files of ")
        and "are videos with another suffix" in note
        and note.endswith(": z.vob")
    )


def test_ogg_may_be_a_video_and_no_more_than_fifty_files_are_looked_into(folder):
    for number in range(49):
        (folder / f"{number:02d}.ogg").write_text("no video")
    for name in ("x.ogg", "y.ogg"):
        shutil.copy(folder / "a.mp4", folder / name)
    (note,) = made(folder, pets()).notes
    assert note.startswith("1 files of ") and note.endswith(": x.ogg")
    assert "(of the first 50 that were looked into)" in note


def test_ids_in_two_normal_forms_are_one_video(folder, tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (folder / "a.mp4").rename(folder / f"{decomposed}.mp4")
    same = pets(annotated(composed, "train", 0), annotated(decomposed, "train", 0))
    assert composed in {r.video_id for r in made(folder, same, max_missing_share=0.5).dataset.records}
    listed = tmp_path / "leave_out.txt"
    listed.write_text(decomposed + "\n")
    found = made(folder, same, leave_out=str(listed), max_missing_share=0.5)
    assert not {composed, decomposed} & {r.video_id for r in found.dataset.records}


def test_what_is_odd_in_a_file_is_told_with_its_name(folder):
    for id_, case in {"a": "apac_only.mp4", "b": "far.mkv", "c": "apac_only.mp4"}.items():
        shutil.copy(CASES / case, folder / f"{id_}.mp4")
        with (folder / f"{id_}.mp4").open("ab") as file:
            file.write(id_.encode())  # or they would be the same video twice
    found = made(folder, pets())
    warned = {(each.video_id, each.file): each.reason for each in found.warnings}
    assert warned.keys() == {(id_, str(folder / f"{id_}.mp4")) for id_ in "abc"}
    assert warned["a", str(folder / "a.mp4")] == "no decoder for sound of codec apac: silence"
    sound = f"2 videos, the first {folder / 'a.mp4'}: no decoder for sound of codec apac: silence"
    assert sound in found.notes and any(
        note.startswith(f"{folder / 'b.mp4'}: 364.0 s") for note in found.notes
    )


def test_a_video_beyond_a_limit_is_left_out_until_the_limit_is_raised(folder):
    shutil.copy(CASES / "far.mkv", folder / "b.mp4")
    config = ReaderConfig(videos=str(folder), step_seconds=0.5, max_missing_share=0.5)

    def left_out(**limits: Any) -> dict[str, str]:
        found = assemble(
            pets(), config, folder.parent / "home", name="pets", limits=VideoLimitsConfig(**limits)
        )
        return {each.video_id: each.reason for each in found.left_out}

    assert left_out(max_steps=700) == {"b": f"{folder / 'b.mp4'} is 364 s long by its time stamps, 728 steps"}
    assert "64 x 48 pixels" in left_out(max_pixels=3000)["b"]
    assert left_out() == {}


def test_the_wrong_folder(folder):
    videos = pets(*(annotated(id_, "train", 0, names=(f"v_{id_}",)) for id_ in IDS))
    with pytest.raises(DataError, match=r"6 of 6 annotated videos \(100%\)") as caught:
        made(folder, videos, max_missing_share=1.0)
    assert "v_a.mp4" in caught.value.hint and "6 videos, such as a.mp4" in caught.value.hint


def test_a_split_that_lost_all_its_videos(folder):
    for id_ in "ef":
        (folder / f"{id_}.mp4").unlink()
    with pytest.raises(DataError, match="no video is in test"):
        made(folder, pets(), max_missing_share=0.5)


# Leakage


def test_one_id_in_two_splits_is_refused(folder):
    read = pets()
    again = dataclasses.replace(read.videos[0], split="test", where="val.txt:7")
    with pytest.raises(
        DataError, match=r"val\.txt:7: video 'a' of test is also in train: list\.txt: a"
    ) as caught:
        made(folder, dataclasses.replace(read, videos=(*read.videos, again)))
    assert "data.leave_out" in caught.value.hint


def test_repeated_entries(folder):
    read = pets()
    same = dataclasses.replace(read, videos=(*read.videos, read.videos[0], read.videos[1]))
    # Other objects, as a reader would make them.
    same = dataclasses.replace(same, videos=tuple(dataclasses.replace(video) for video in same.videos))
    assert "2 entries repeat" in made(folder, same).notes[0]
    other = dataclasses.replace(read.videos[0], labels=(1,), where="list.txt:9")
    with pytest.raises(DataError, match=r"list\.txt:9: video 'a' has other labels than at list\.txt: a"):
        made(folder, dataclasses.replace(read, videos=(*read.videos, other)))


def test_the_same_video_under_two_names_is_refused_across_splits_only(folder):
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    made(folder, pets(annotated("b", "train", 0), annotated("a", "train", 0)), val_share=0.01)
    shutil.copy(folder / "a.mp4", folder / "e.mp4")
    with pytest.raises(DataError, match=r"e\.mp4 of test .*is the same video as .*a\.mp4 of") as caught:
        made(folder, pets())
    assert "list.txt: e" in caught.value.message and "list.txt: a" in caught.value.message
    left = folder.parent / "leave_out.txt"
    left.write_text("e\nb\n")
    assert len(made(folder, pets(), leave_out=str(left)).dataset.records) == 4


def test_files_that_only_begin_and_end_alike_are_no_copies(folder):
    data = (folder / "a.mp4").read_bytes()
    padding = bytes(200_000)
    (folder / "a.mp4").write_bytes(data + padding + b"1" + padding)
    (folder / "e.mp4").write_bytes(data + padding + b"2" + padding)
    assert len(made(folder, pets()).dataset.records) == 6


def test_one_file_for_two_videos_is_refused(folder):
    with pytest.raises(DataError, match=r"a\.mp4 would be both 'a' .* and 'b'"):
        made(folder, pets(annotated("b", "train", 1, names=("b_000000_000010", "a"))))


def test_an_id_to_leave_out_that_is_not_there(folder, tmp_path):
    left = tmp_path / "left.txt"
    left.write_text("a\nzz\n")
    with pytest.raises(DataError, match=r"left\.txt:2: the annotations have no video 'zz'"):
        made(folder, pets(), leave_out=str(left))


# Intervals


def test_intervals_beyond_the_end_are_clipped_with_a_note(folder):
    events = (event(0.5, 1.0), event(1.5, 4000.36), event(1.0, 1.0), event(7, 9), event(0, 2.05))
    video = annotated("a", "train", 0, events=events, ambiguous=((0.0, 0.5), (1.9, 9.0), (5.0, 6.0)))
    found = made(folder, pets(video))
    (record,) = [record for record in found.dataset.records if record.video_id == "a"]
    end = record.duration_seconds
    spans = [(each.start_seconds, each.end_seconds) for each in record.events]
    assert spans == [(0.5, 1.0), (1.5, end), (0, min(2.05, end))]
    assert record.ambiguous == ((0.0, 0.5), (1.9, end))
    assert [note.partition(":")[0] for note in found.notes] == [
        "interval clipped at the end",
        "empty interval left out",
        "interval after the end left out",
    ]
    assert "list.txt:0" in found.notes[0]


def test_notes_of_one_kind_are_counted(folder):
    videos = [annotated(id_, "train", n % 2, annotated_seconds=60.0) for n, id_ in enumerate("abcd")]
    (note,) = made(folder, pets(*videos)).notes
    assert note.startswith("4 times shorter than annotated: list.txt: a: 2.0 s of 60.0 s")


def test_classes_without_videos_are_reported(folder):
    notes = made(folder, pets(classes=("cat", "dog", "eel"))).notes
    assert [note.partition(":")[0] for note in notes] == [
        "1 of 3 classes have no video in train",
        "1 of 3 classes have no video in test",
    ]


# The files under home


def test_the_manifest_is_written_and_left_alone_if_nothing_changed(folder, tmp_path):
    table = tmp_path / "videos.csv"
    rows = [
        f"{id_}.mp4,{'cat' if n % 2 else 'dog'},{'train' if n < 4 else 'test'}" for n, id_ in enumerate(IDS)
    ]
    table.write_text("path,label,split\n" + "\n".join(rows))
    config = TableConfig(annotations=str(table), videos=str(folder), max_missing_share=0.3)
    home = tmp_path / "home" / "pets"
    assembled = read_dataset("table", config, home, name="pets")
    assert load_dataset(home) == assembled.dataset
    manifest = home / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert read_dataset("table", config, home, name="pets").dataset == assembled.dataset
    assert manifest.stat().st_mtime_ns == before
    assert json.loads((home / LEFT_OUT).read_text())["left_out"] == []

    (folder / "a.mp4").unlink()
    again = read_dataset("table", config, home, name="pets").dataset
    assert len(again.records) == 5 and load_dataset(home) == again
    assert again.generator == {"reader": "table"}
    (left_out,) = json.loads((home / LEFT_OUT).read_text())["left_out"]
    assert (left_out["video_id"], left_out["where"]) == ("a.mp4", f"{table}:2")

    elsewhere = dataclasses.replace(config, videos=str(shutil.copytree(folder, tmp_path / "elsewhere")))
    notes = read_dataset("table", elsewhere, home, name="pets").notes
    assert "pets had 5 videos in other places until now" in notes[0]
    assert not any(
        "other places" in note for note in read_dataset("table", elsewhere, home, name="pets").notes
    )


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_manifest_of_someone_else_is_never_written_over(folder, tmp_path, is_broken):
    table = tmp_path / "videos.csv"
    table.write_text("path,label\n" + "\n".join(f"{id_}.mp4,{id_ < 'd'}" for id_ in IDS))
    home = tmp_path / "home" / "pets"
    save_manifest(dataclasses.replace(made(folder, pets()).dataset, root=home))
    if is_broken:
        (home / "manifest.json").write_text("{ to be repaired")
    before = (home / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="not made by reader table") as caught:
        read_dataset("table", TableConfig(annotations=str(table), videos=str(folder)), home, name="pets")
    assert "data.name=" in caught.value.hint and (home / "manifest.json").read_bytes() == before
