"""FCVID: 91,223 web videos of 239 classes, half for training and half for testing.

Two forms are read:

* the distributed one: `FCVID_VideoName_TrainTestSplit.txt` (path and `train` or `test` on each line) beside
  `FCVID_Label.txt` (on each line 239 zeros and ones, tab or space between them), with the classes in `data.classes`;
* the lists of AR-Net's code: `fcvid_train_split.txt` and `fcvid_val_split.txt` (lists.py) with `classInd.txt`.

The official test half is `test`; a part of training is `val`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import (
    ClassList,
    existing,
    file_in,
    files_named,
    read_class_list,
    read_lines,
)
from paretovid.trainables.data.readers.lists import read_list
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.ranges import Whole

_SPLIT_FILE, _LABEL_FILE = "FCVID_VideoName_TrainTestSplit.txt", "FCVID_Label.txt"
_LISTS = {"train": "fcvid_train_split.txt", "test": "fcvid_val_split.txt"}
_CLASS_FILE = "classInd.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class FcvidConfig(ReaderConfig):
    """Settings of `data=fcvid`.

    Arguments:
        annotations: the folder of the files above.
        multi_label: keep all labels of a video. Otherwise one that has several is of the class with the lowest
            number, as the lists' users train it.
        first_label: the number of the first class in the lists, if `data.classes` gives none.
    """

    annotations: str
    multi_label: bool = False
    first_label: Whole = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    path: str
    split: str
    labels: tuple[int, ...]
    where: str


def read_fcvid(config: FcvidConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    is_distributed = bool(files_named(folder, _SPLIT_FILE))
    lines = list(_distributed(config, folder) if is_distributed else _listed(config, folder))
    several = sum(len(line.labels) > 1 for line in lines)
    videos = tuple(
        AnnotatedVideo(
            video_id=PurePosixPath(line.path).stem if PurePosixPath(line.path).suffix else line.path,
            split=line.split,
            labels=line.labels if config.multi_label else line.labels[:1],
            names=(line.path, PurePosixPath(line.path).name),
            where=line.where,
        )
        for line in lines
    )
    note = f"{several} videos have several labels: the first counts (data.multi_label=true: all)"
    return Annotations(
        classes=_classes(config, folder).names,
        multi_label=config.multi_label,
        videos=videos,
        notes=(note,) if several and not config.multi_label else (),
    )


def _classes(config: FcvidConfig, folder: Path) -> ClassList:
    if config.classes:
        return read_class_list(existing(config.classes, "data.classes", folder=False), is_numbered=True)
    if not files_named(folder, _CLASS_FILE):
        raise UsageError(
            "data.classes has no value, and FCVID's classes are in no other file",
            f"Name a file with the 239 classes, one a line, or put it into {folder} as {_CLASS_FILE}.",
        )
    return read_class_list(file_in(folder, _CLASS_FILE, "the classes"), is_numbered=True)


def _distributed(config: FcvidConfig, folder: Path) -> Iterator[_Line]:
    names = list(read_lines(file_in(folder, _SPLIT_FILE, "the official split")))
    label_file = file_in(folder, _LABEL_FILE, "the labels")
    rows = list(read_lines(label_file))
    if len(names) != len(rows):
        raise DataError(
            f"{label_file} has {len(rows)} lines, {_SPLIT_FILE} {len(names)}",
            "Line by line they are of the same video: take both from one distribution.",
        )
    width = len(_classes(config, folder).names)
    for (where, line), (label_where, row) in zip(names, rows, strict=True):
        path, split = [*line.rsplit(None, 1), ""][:2]
        if split not in ("train", "test"):
            raise DataError(f"{where}: not PATH and train or test: {line[:80]!r}", "Repair this line.")
        flags = [_flag(text) for text in row.split()]
        if len(flags) != width or None in flags:
            raise DataError(
                f"{label_where}: {len(flags)} labels, not {width} zeros and ones",
                f"The class list has {width} classes: give the one of this distribution as data.classes.",
            )
        labels = tuple(number for number, flag in enumerate(flags) if flag)
        if not labels:
            raise DataError(
                f"{label_where}: a video without a label", "Every video of FCVID has one or more."
            )
        yield _Line(path=path, split=split, labels=labels, where=where)


def _flag(text: str) -> bool | None:
    """None for what is neither zero nor one; some copies of the file write them as 1.0."""
    try:
        return {0.0: False, 1.0: True}.get(float(text))
    except ValueError:
        return None


def _listed(config: FcvidConfig, folder: Path) -> Iterator[_Line]:
    classes = _classes(config, folder)
    for split, name in _LISTS.items():
        for video in read_list(file_in(folder, name, "a list of videos")):
            labels = {
                classes.number_of_id(label, video.where, first=config.first_label) for label in video.labels
            }
            yield _Line(path=video.path, split=split, labels=tuple(sorted(labels)), where=video.where)


READER = Reader(
    name="fcvid",
    config=FcvidConfig,
    read=read_fcvid,
    recognizes=lambda path, head: path.name.lower().startswith("fcvid_"),
)
