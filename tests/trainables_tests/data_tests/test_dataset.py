"""The manifest of a data set: written, read back, and refused where it cannot be used."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.data.dataset import (
    Dataset,
    Event,
    VideoRecord,
    load_dataset,
    save_manifest,
)
from paretovid.trainables.data.video_keys import video_key
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError


def record(split: str, label: int, **changes: Any) -> VideoRecord:
    name = f"{split}_{label}"
    values: dict[str, Any] = {
        "video_id": name,
        "path": f"videos/{name}.mp4",
        "split": split,
        "labels": (label,),
        "num_steps": 2,
        "duration_seconds": 1.2,
        **changes,
    }
    return VideoRecord(**values)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    event = Event(label=0, start_seconds=0.5, end_seconds=1.0)
    records = [record(split, label) for split in ("train", "val", "test") for label in (0, 1)]
    records[0] = record("train", 0, step_labels=(-1, 0), events=(event,), content="abc")
    made = Dataset(
        name="pets",
        root=tmp_path,
        classes=("cat", "dog"),
        step_seconds=0.5,
        multi_label=False,
        records=tuple(records),
        class_groups={"cat": "easy", "dog": "sound"},
        generator={"seed": 3},
    )
    (tmp_path / "videos").mkdir()
    for one in records:
        Path(made.video_path(one)).write_bytes(b"1234")
    return made


def change_manifest(dataset: Dataset, change: Callable[[dict[str, Any]], None]) -> None:
    save_manifest(dataset)
    path = dataset.root / "manifest.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def test_what_is_saved_is_loaded(dataset: Dataset) -> None:
    save_manifest(dataset)
    loaded = load_dataset(dataset.root)
    assert loaded == dataset
    assert loaded.fingerprint == dataset.fingerprint
    assert [r.video_id for r in loaded.split("val")] == ["val_0", "val_1"]
    assert [path.name for path in dataset.root.iterdir() if path.is_file()] == ["manifest.json"]


def test_unknown_split(dataset: Dataset) -> None:
    with pytest.raises(UnknownNameError, match="test, train, val"):
        dataset.split("validation")


@pytest.mark.parametrize(
    "change",
    [
        {"step_seconds": 1.0},
        {"classes": ("cat", "wolf")},
        {"multi_label": True},
        {"records": "one label"},
        {"records": "one split"},
        {"records": "one content"},
        {"records": "one less"},
    ],
    ids=str,
)
def test_fingerprint_covers_what_determines_the_videos(dataset: Dataset, change: dict[str, Any]) -> None:
    first, *others = dataset.records
    records = {
        "one label": (dataclasses.replace(first, labels=(1,)), *others),
        "one split": (dataclasses.replace(first, split="val"), *others),
        "one content": (dataclasses.replace(first, content="abd"), *others),
        "one less": tuple(others),
    }
    if "records" in change:
        change = {"records": records[change["records"]]}
    assert dataclasses.replace(dataset, **change).fingerprint != dataset.fingerprint


def test_fingerprint_follows_the_size_of_files_without_content(dataset: Dataset, tmp_path: Path) -> None:
    before = dataset.fingerprint
    Path(dataset.video_path(dataset.records[0])).write_bytes(
        b"other size"
    )  # its content hash is in the record
    assert dataset.fingerprint == before
    Path(dataset.video_path(dataset.records[1])).write_bytes(b"other size")
    assert dataset.fingerprint != before


def test_videos_that_stay_where_they_are(dataset: Dataset, tmp_path: Path) -> None:
    first, *others = dataset.records

    def placed(folder: str) -> Dataset:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "cat.mp4"
        path.write_bytes(b"1234")
        return dataclasses.replace(
            dataset, records=(dataclasses.replace(first, path=str(path)), *others), root=tmp_path
        )

    here, there = placed("here"), placed("there")
    assert here.video_path(here.records[0]) == tmp_path / "here" / "cat.mp4"
    assert here.fingerprint == there.fingerprint != dataset.fingerprint


def test_ambiguous_intervals_are_kept_and_count_for_the_fingerprint(dataset: Dataset) -> None:
    first, *others = dataset.records
    vague = dataclasses.replace(first, ambiguous=((0.5, 1.0), (2.0, 2.25)))
    changed = dataclasses.replace(dataset, records=(vague, *others))
    save_manifest(changed)
    assert load_dataset(dataset.root) == changed
    assert changed.fingerprint != dataset.fingerprint


def test_the_fingerprint_of_a_set_without_them_stays_as_it_was(dataset: Dataset) -> None:
    hashed = tuple(dataclasses.replace(record, content="abc") for record in dataset.records)
    assert dataclasses.replace(dataset, records=hashed).fingerprint == "830a4a3a9b50"


def test_fingerprint_does_not_depend_on_the_place_or_name(dataset: Dataset, tmp_path: Path) -> None:
    moved = dataset.root.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert dataclasses.replace(dataset, root=moved, name="animals").fingerprint == _fingerprint_of(
        moved, dataset
    )


def _fingerprint_of(root: Path, dataset: Dataset) -> str:
    here = dataclasses.replace(dataset, root=root)
    save_manifest(here)
    return load_dataset(root).fingerprint


def test_video_keys_are_stable_and_fit_in_int64() -> None:
    assert video_key("train_00000") == 6416060435520472437
    keys = {video_key(f"video {number}") for number in range(1000)}
    assert len(keys) == 1000
    assert all(0 <= key < 2**63 for key in keys)


def test_folder_missing_or_empty(tmp_path: Path) -> None:
    for root, reason in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "is empty")):
        with pytest.raises(DataError, match=reason) as caught:
            load_dataset(root)
        assert str(root) in caught.value.message
        assert "paretovid data make" in caught.value.hint


def test_unfinished_folder(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match=r"no manifest\.json"):
        load_dataset(tmp_path)


def _keep(split: str) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        described["videos"] = [video for video in described["videos"] if video["split"] == split]

    return change


def _set(number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda described: described["videos"][number].update(values)


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no videos": (lambda d: d.update(videos=[]), "lists no videos"),
    "one class": (lambda d: d.update(classes=["cat"]), "has 1 class: cat"),
    "same class twice": (lambda d: d.update(classes=["cat", "cat"]), "names a class twice"),
    "one class used": (lambda d: [v.update(labels=[0]) for v in d["videos"]], "are of one class"),
    "splits missing": (_keep("train"), "no videos in split val, test"),
    "unknown split": (_set(2, split="dev"), "split 'dev'"),
    "label out of range": (_set(1, labels=[2]), r"labels \(2,\) \(allowed: 0 to 1\)"),
    "two labels": (_set(1, labels=[0, 1]), "exactly one"),
    "no label": (_set(1, labels=[]), "exactly one"),
    "no steps": (_set(1, num_steps=0), "num_steps 0"),
    "step labels": (_set(1, step_labels=[0]), "1 step_labels for 2 steps"),
    "step label out of range": (_set(1, step_labels=[0, 7]), "outside -1 to 1"),
    "event backwards": (
        _set(1, events=[{"label": 0, "start_seconds": 1.0, "end_seconds": 0.5}]),
        "ends before it starts",
    ),
    "ambiguous backwards": (_set(1, ambiguous=[[1.0, 0.5]]), "ambiguous interval that ends before it starts"),
    "ambiguous empty": (_set(1, ambiguous=[[1.0, 1.0]]), "ambiguous interval that ends before it starts"),
    "ambiguous NaN": (_set(1, ambiguous=[[math.nan, 1.0]]), "ambiguous is nan"),
    "ambiguous number": (_set(1, ambiguous=[1.0]), "ambiguous must be pairs of numbers"),
    "same id twice": (_set(1, video_id="train_0"), "'train_0' 2 times"),
    "missing key": (lambda d: d["videos"][0].pop("num_steps"), r"videos\[0\] has no field 'num_steps'"),
    "wrong type": (_set(0, labels=5), "labels must be a list, not 5"),
    "steps as text": (_set(0, num_steps="7"), "num_steps must be a whole number, not '7'"),
    "steps with a fraction": (_set(0, num_steps=2.9), "num_steps must be a whole number, not 2.9"),
    "steps of 400 digits": (_set(0, num_steps=10**400), "num_steps must be a whole number of at most"),
    "billions of steps": (_set(0, num_steps=2 * 10**9), "num_steps 2000000000 "),
    "longer than the universe": (_set(0, duration_seconds=1e308), r"a duration of 1e\+308 s"),
    "before its beginning": (_set(0, duration_seconds=-1), "a duration of -1 s"),
    "labels as text": (_set(0, labels="1"), "labels must be a list, not '1'"),
    "classes as text": (lambda d: d.update(classes="ab"), "classes must be a list, not 'ab'"),
    "no name": (lambda d: d.update(name=None), "has no field 'name'"),
    "a flag as text": (
        lambda d: d.update(multi_label="false"),
        "multi_label must be true or false, not 'false'",
    ),
    "step_seconds as a flag": (
        lambda d: d.update(step_seconds=True),
        "step_seconds must be a number, not True",
    ),
    "step_seconds without end": (lambda d: d.update(step_seconds=1e308), r"step_seconds is 1e\+308"),
    "a NUL": (_set(0, path="a\0b"), "path must be a text without NUL"),
    "format as a flag": (lambda d: d.update(format=True), "has format True"),
    "step_seconds": (lambda d: d.update(step_seconds=0), r"step_seconds is 0\.0"),
    "other format": (lambda d: d.update(format=2), "has format 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_manifests_that_cannot_be_used_are_refused_with_a_hint(dataset: Dataset, name: str) -> None:
    change, reason = BAD[name]
    change_manifest(dataset, change)
    with pytest.raises((DataError, NonFiniteError), match=reason) as caught:
        load_dataset(dataset.root)
    assert "manifest.json" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "not JSON {", "[]", "null"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_dataset(tmp_path)


def test_all_videos_gone(dataset: Dataset) -> None:
    save_manifest(dataset)
    first, *others = [Path(dataset.video_path(one)) for one in dataset.records]
    for path in others:
        path.unlink()
    assert len(load_dataset(dataset.root).records) == 6  # single videos may fail later, each by name
    first.unlink()
    with pytest.raises(DataError, match="none of the 6 videos"):
        load_dataset(dataset.root)


def test_multi_label_videos_may_have_any_number_of_labels(dataset: Dataset) -> None:
    records = (record("train", 0, labels=(0, 1)), record("train", 1, labels=()), *dataset.records[2:])
    save_manifest(dataclasses.replace(dataset, multi_label=True, records=records))
    assert load_dataset(dataset.root).records[0].labels == (0, 1)


def test_not_a_number_is_never_written(dataset: Dataset) -> None:
    save_manifest(dataset)
    with pytest.raises(ValueError, match="JSON compliant"):
        save_manifest(dataclasses.replace(dataset, step_seconds=float("nan")))
    assert load_dataset(dataset.root) == dataset
