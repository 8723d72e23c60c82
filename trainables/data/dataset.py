"""A video data set: its list of videos with labels and splits, kept in `manifest.json` beside the videos.

{"format": 1, "name": "...", "classes": [...], "step_seconds": 0.5, "multi_label": false,
 "class_groups": {class: group}, "generator": {...},
 "videos": [{"video_id", "path", "split", "labels", "num_steps", "duration_seconds",
             "step_labels", "events", "ambiguous", "content"}]}

Which training videos backbones learn from, where others are kept for what selects among them.

Both sides work it out from the videos' ids alone: the training of backbones, and a method that must not learn from
videos that its pool has seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.data.s3 import is_object, read_object
from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.documents import Fields, JsonValue, parse_json, unreadable
from paretovid.trainables.errors import DataError, UnavailableDataError, unknown_name

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
_FORMAT = 1
_MOST_STEPS = 10**7
"""Of a video: a hundred times the usual `data.max_steps`, which its file is held to when it is read."""
_LONGEST_STEP_SECONDS = 86400.0
_NEEDED = (
    "Repair it: it needs name, classes, step_seconds, multi_label and videos, each video with video_id, path, split, "
    "labels, num_steps and duration_seconds."
)
_MAKE = "Run `paretovid data make` to make the built-in set"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One instance of a class: `label` is its number, the interval is half open, in seconds."""

    label: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecord:
    """One video of a data set.

    Arguments:
        path: of the file, relative to the data set's root; absolute, or `s3://…`, for videos that stay where they are.
        labels: class numbers, ascending; exactly one unless the set is multi-label.
        num_steps: T.
        step_labels: `[T]` class number of each step, -1 where nothing is; only where known.
        events: true intervals; only where known.
        ambiguous: (start, end) in seconds where nobody can tell; detections there count neither way.
        content: hash of the file's bytes, "" where it was not taken.
    """

    video_id: str
    path: str
    split: str
    labels: tuple[int, ...]
    num_steps: int
    duration_seconds: float
    step_labels: tuple[int, ...] | None = None
    events: tuple[Event, ...] = ()
    ambiguous: tuple[tuple[float, float], ...] = ()
    content: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Videos, classes and splits.

    Arguments:
        root: the folder that holds `manifest.json`; paths of records are relative to it.
        classes: names, in the order of the class numbers.
        class_groups: class name to "sound", "appearance", "motion", "easy" or "prevailing", or to the category that a
            set puts it in (HVU); empty where unknown.
        generator: parameters that made the videos; empty for sets that were not made by us.
        limits: what each video may ask for; a setting of who uses the set, and not in its manifest.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    step_seconds: float
    multi_label: bool
    records: tuple[VideoRecord, ...]
    class_groups: Mapping[str, str] = field(default_factory=dict)
    generator: Mapping[str, Any] = field(default_factory=dict)
    limits: VideoLimitsConfig = field(default=USUAL_LIMITS, compare=False)

    def split(self, name: str) -> tuple[VideoRecord, ...]:
        """Records of one split ("train", "val", "test"), in the manifest's order."""
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
        return tuple(record for record in self.records if record.split == name)

    def video_path(self, record: VideoRecord) -> Path | str:
        """Where the record's file is: a path, or the URL of an object."""
        return located(self.root, record.path)

    def to_json(self) -> dict[str, JsonValue]:
        """The content of `manifest.json`; `from_json` reads it."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "classes": self.classes,
            "step_seconds": self.step_seconds,
            "multi_label": self.multi_label,
            "class_groups": dict(self.class_groups),
            "generator": dict(self.generator),
            "videos": [dataclasses.asdict(record) for record in self.records],
        }

    @classmethod
    def from_json(cls, data: object, root: Path) -> Dataset:
        """What `to_json` wrote, of the data set in the folder `root`; no file is looked at.

        Raises `DataError` for another format, for a field that is missing, of the wrong type or beyond what a set can
        have, and for a record that contradicts the rest; `NonFiniteError` for a number that is not finite.
        """
        manifest = Fields(data, str(root / MANIFEST), _NEEDED)
        found = manifest.raw("format", None)
        if type(found) is not int or found != _FORMAT:
            raise DataError(
                f"{manifest.where} has format {reprlib.repr(found)}",
                f"Readable is format {_FORMAT}. {_MAKE} again.",
            )
        dataset = cls(
            name=manifest.text("name"),
            root=root,
            classes=manifest.texts("classes"),
            step_seconds=manifest.number("step_seconds"),
            multi_label=manifest.flag("multi_label"),
            class_groups=manifest.text_by_name("class_groups", {}),
            generator=manifest.json("generator", {}),
            records=tuple(_record(video) for video in manifest.list_of_fields("videos")),
        )
        _check(dataset)
        return dataset

    @property
    def fingerprint(self) -> str:
        """12 hex digits of what determines the videos: ids, content, labels, splits, steps; not the root."""
        about = [self.classes, self.step_seconds, self.multi_label, [self._identity(r) for r in self.records]]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]

    def _identity(self, record: VideoRecord) -> dict[str, Any]:
        identity = dataclasses.asdict(record)
        if not record.ambiguous:
            del identity["ambiguous"]  # the fingerprints of sets without stay what they were
        if is_object(record.path) or Path(record.path).is_absolute():
            identity["path"] = Path(record.path).name  # where videos are mounted determines nothing
        if not record.content:
            path = self.root / record.path
            identity["content"] = path.stat().st_size if path.is_file() else None
        return identity


def located(root: Path, path: str) -> Path | str:
    """A record's path, seen from the data set's root: a path, or the URL of an object."""
    return path if is_object(path) else root / path


def content_hash(path: Path | str) -> str:
    """16 hex digits over the bytes of a file or object."""
    content = read_object(str(path)) if is_object(path) else Path(path).read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; a NaN or infinity is a ValueError."""
    text = json.dumps(value, allow_nan=False, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)


def save_manifest(dataset: Dataset) -> None:
    """Write `root/manifest.json` atomically."""
    write_json(dataset.root / MANIFEST, dataset.to_json())


def load_dataset(root: Path) -> Dataset:
    """Read `root/manifest.json`.

    Raises UnavailableDataError when the folder or manifest is missing or empty or none of the files is there, another
    DataError when there is one class only, when a split has no videos, or when a record contradicts the rest.
    """
    root = Path(root)
    dataset = Dataset.from_json(_read_manifest(root), root)
    if not any(is_object(record.path) or (root / record.path).is_file() for record in dataset.records):
        raise UnavailableDataError(
            f"none of the {len(dataset.records)} videos that {root / MANIFEST} lists is there",
            f"Paths are relative to {root}. {_MAKE} again, or put the files back.",
        )
    return dataset


def _read_manifest(root: Path) -> object:
    if not root.is_dir():
        raise UnavailableDataError(
            f"no data set at {root}: the folder does not exist", f"{_MAKE}, or check the path."
        )
    path = root / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if any(root.iterdir()) else "is empty"
        raise UnavailableDataError(
            f"no data set at {root}: the folder {what}",
            f"{_MAKE}; it finishes an interrupted one. A set of your own needs a manifest.json.",
        )
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", f"Repair it, or delete it. {_MAKE}.") from error


def _record(video: Fields) -> VideoRecord:
    return VideoRecord(
        video_id=video.text("video_id"),
        path=video.text("path"),
        split=video.text("split"),
        labels=video.wholes("labels"),
        num_steps=video.whole("num_steps"),
        duration_seconds=video.number("duration_seconds"),
        step_labels=video.wholes("step_labels") if "step_labels" in video else None,
        events=tuple(
            Event(
                label=event.whole("label"),
                start_seconds=event.number("start_seconds"),
                end_seconds=event.number("end_seconds"),
            )
            for event in video.list_of_fields("events", ())
        ),
        ambiguous=video.pairs("ambiguous", ()),
        content=video.text("content", ""),
    )


def _check(dataset: Dataset) -> None:
    where = dataset.root / MANIFEST
    if not dataset.records:
        raise DataError(f"{where} lists no videos", f"{_MAKE}, or add your videos to it.")
    if len(dataset.classes) < 2:
        raise DataError(
            f"{where} has {len(dataset.classes)} class: {', '.join(dataset.classes) or '(none)'}",
            "Recognition needs two classes or more.",
        )
    if len(set(dataset.classes)) < len(dataset.classes):
        raise DataError(f"{where} names a class twice", "Class names must differ.")
    if not 0 < dataset.step_seconds <= _LONGEST_STEP_SECONDS:
        raise DataError(
            f"{where}: step_seconds is {dataset.step_seconds}",
            f"It must be above 0, as 0.5, and at most {_LONGEST_STEP_SECONDS:g}.",
        )
    for record in dataset.records:
        _check_record(dataset, record)
    id_, count = Counter(record.video_id for record in dataset.records).most_common(1)[0]
    if count > 1:
        raise DataError(f"{where} lists video {id_!r} {count} times", "Each video_id must be there once.")
    sizes = {name: len(dataset.split(name)) for name in SPLITS}
    if missing := [name for name, size in sizes.items() if size == 0]:
        raise DataError(
            f"{where} has no videos in split {', '.join(missing)} (found {sizes})",
            "Training needs videos in train, val and test: knobs are chosen on val and shown on test.",
        )
    seen = {label for record in dataset.records for label in record.labels}
    if len(seen) < 2:
        raise DataError(
            f"all videos of {where} are of one class", "Recognition needs videos of two classes or more."
        )


def _check_record(dataset: Dataset, record: VideoRecord) -> None:
    classes = len(dataset.classes)
    used = [*record.labels, *(event.label for event in record.events)]
    longest = _MOST_STEPS * dataset.step_seconds
    problem = ""
    if not 0 <= record.duration_seconds <= longest:
        problem = f"a duration of {record.duration_seconds:g} s (0 to {longest:g})"
    elif record.split not in SPLITS:
        problem = f"split {record.split!r} (allowed: {', '.join(SPLITS)})"
    elif any(not 0 <= label < classes for label in used):
        problem = f"labels {tuple(used)} (allowed: 0 to {classes - 1})"
    elif not dataset.multi_label and len(record.labels) != 1:
        problem = f"labels {record.labels} (exactly one, or set multi_label to true)"
    elif not 1 <= record.num_steps <= _MOST_STEPS:
        problem = f"num_steps {record.num_steps} (1 to {_MOST_STEPS})"
    elif record.step_labels is not None and len(record.step_labels) != record.num_steps:
        problem = f"{len(record.step_labels)} step_labels for {record.num_steps} steps"
    elif record.step_labels is not None and any(not -1 <= label < classes for label in record.step_labels):
        problem = f"step_labels outside -1 to {classes - 1}"
    elif any(event.end_seconds <= event.start_seconds for event in record.events):
        problem = "an event that ends before it starts"
    elif not all(start < end for start, end in record.ambiguous):
        problem = "an ambiguous interval that ends before it starts"
    if problem:
        raise DataError(
            f"{dataset.root / MANIFEST}: video {record.video_id!r} has {problem}",
            "Repair this entry of the manifest.",
        )


_SALT = 1_000_003  # as a step: no step's own draw


def is_for_backbones(video_keys: Tensor, share: float) -> Tensor:
    """Which training videos, by the hash of their ids `[B]` int64, are among the `share` for backbones, `[B]` bool."""
    return uniform_hash(video_keys, _SALT) < share
