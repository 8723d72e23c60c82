"""MultiTHUMOS: THUMOS'14's videos with 65 classes at once. Two forms are read:

* the published one: a folder `annotations` with a file per class (instances.py), and `class_list.txt`;
* `multithumos.json` of the detection codes: {VIDEO: {"subset": "training" | "testing", "duration": 147.6,
  "actions": [[CLASS, start, end], ...]}}, CLASS being the number of `class_list.txt`, from 1 (`1 BaseballPitch`).

The validation videos of THUMOS'14 train (a part of them is `val`), the test videos are `test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import (
    ClassList,
    UnexpectedFileError,
    existing,
    file_in,
    interval,
    mapping,
    read_class_list,
    read_json,
    seconds,
    sequence,
)
from paretovid.trainables.data.readers.instances import Line, gather, read_instances, split_of
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.ranges import Positive

_CLASS_FILE = "class_list.txt"
_SUBSETS = {"training": "train", "testing": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiThumosConfig(ReaderConfig):
    """Settings of `data=multithumos`.

    Arguments:
        annotations: the published folder, or `multithumos.json`, which needs `data.classes=class_list.txt`.
        step_seconds: 16 frames at 25 per second, as for THUMOS'14.
    """

    annotations: str
    step_seconds: Positive = 0.64


def read_multithumos(config: MultiThumosConfig) -> Annotations:
    """Raises `DataError`, naming file and line or JSON key."""
    path = existing(config.annotations, "data.annotations")
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes", folder=False), is_numbered=True)
    elif path.is_dir():
        classes = read_class_list(file_in(path, _CLASS_FILE, "the classes"), is_numbered=True)
    else:
        raise UsageError(
            "data.classes has no value", f"Name the {_CLASS_FILE} that is published with the set."
        )
    if path.is_dir():
        return Annotations(
            classes=classes.names, multi_label=True, videos=gather(_from_folder(path, classes))
        )
    durations: dict[str, float] = {}
    videos = gather(_from_json(path, classes, durations), annotated_seconds=durations)
    return Annotations(classes=classes.names, multi_label=True, videos=videos)


def _from_folder(folder: Path, classes: ClassList) -> Iterator[tuple[int, Line]]:
    below = folder / "annotations" if (folder / "annotations").is_dir() else folder
    paths = {path.stem: path for path in sorted(below.glob("*.txt")) if path.name != _CLASS_FILE}
    for name, path in paths.items():
        classes.number(name, str(path))
    for name in classes.names:
        if name not in paths:
            raise DataError(
                f"{below} has no {name}.txt, the annotations of a class of {classes.source}",
                "The published folder has a file for each class.",
            )
        for line in read_instances(paths[name]):
            yield classes.number(name, line.where), line


def _from_json(path: Path, classes: ClassList, durations: dict[str, float]) -> Iterator[tuple[int, Line]]:
    for id_, entry in mapping(read_json(path), str(path)).items():
        where = f"{path}: {id_}"
        subset = mapping(entry, where).get("subset")
        if subset not in _SUBSETS:
            raise UnexpectedFileError(
                f"{where}.subset is {subset!r}", f"Allowed: {', '.join(_SUBSETS)}.", path
            )
        if split_of(id_, where) != _SUBSETS[subset]:
            raise DataError(
                f"{where}.subset is {subset!r}",
                "Names with video_validation_ are of training, those with video_test_ of testing.",
            )
        durations[id_] = seconds(entry.get("duration"), where, "duration")
        for number, action in enumerate(sequence(entry.get("actions"), f"{where}.actions")):
            here = f"{where}.actions[{number}]"
            if not isinstance(action, list) or len(action) != 3:
                raise DataError(f"{here} is {str(action)[:60]}", "[class number, start, end] is expected.")
            start, end = interval(action[1], action[2], here)
            line = Line(video_id=id_, start_seconds=start, end_seconds=end, where=here)
            yield classes.number_of_id(str(action[0]), here, first=1), line


READER = Reader(
    name="multithumos",
    config=MultiThumosConfig,
    read=read_multithumos,
    recognizes=lambda path, head: (
        path.name == "multithumos.json" or ('"actions"' in head and '"subset"' in head)
    ),
)
