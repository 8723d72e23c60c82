"""Kinetics-400: `kinetics-400_train.csv` and `kinetics-400_val.csv`, one trimmed clip of ten seconds a row.

    label,youtube_id,time_start,time_end,split,is_cc
    testifying,---QUuC4vJs,84,94,validate,0

A clip's file is `ID_%06d_%06d` with the two times in seconds, or just `ID`. The official validation clips are `test`,
as in the papers; a part of training is `val`. The classes are in `data.classes` (the published `label_map.txt`, or
`kinetics_400_labels.csv`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import (
    ClassList,
    UnexpectedFileError,
    existing,
    file_in,
    interval,
    read_class_list,
    read_table,
)
from paretovid.trainables.errors import UsageError

_SPLITS = {"train": ("train", "training"), "test": ("val", "validate", "validation")}
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


@dataclass(frozen=True, kw_only=True, slots=True)
class KineticsConfig(ReaderConfig):
    """Settings of `data=kinetics400`.

    Arguments:
        annotations: the folder of the two files.
        train_file, test_file: their names.
    """

    annotations: str
    train_file: str = "kinetics-400_train.csv"
    test_file: str = "kinetics-400_val.csv"


def read_kinetics(config: KineticsConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    if not config.classes:
        raise UsageError(
            "data.classes has no value: the classes of Kinetics-400 are a file of their own",
            "Name the published list (label_map.txt, or kinetics_400_labels.csv), one class a line.",
        )
    files = {
        split: file_in(folder, name, f"the clips of {split}")
        for split, name in (("train", config.train_file), ("test", config.test_file))
    }
    labels = {row["label"] for path in files.values() for _, row in read_table(path, _COLUMNS)}
    classes = read_class_list(existing(config.classes, "data.classes", folder=False), labels)
    videos: list[AnnotatedVideo] = []
    for split, path in files.items():
        videos += _read_file(path, split, classes)
    return Annotations(classes=classes.names, multi_label=False, videos=tuple(videos))


def _read_file(path: Path, split: str, classes: ClassList) -> Iterator[AnnotatedVideo]:
    for where, row in read_table(path, _COLUMNS):
        said = row.get("split", "")
        if said and said not in _SPLITS[split]:
            raise UnexpectedFileError(
                f"{where}: split is {said!r}, in the file for {split}",
                f"Expected there: {' or '.join(_SPLITS[split])}. Give each file under its own setting: "
                "data.train_file, data.test_file.",
                path,
            )
        start, end = interval(row["time_start"], row["time_end"], where)
        clip = f"{row['youtube_id']}_{round(start):06d}_{round(end):06d}"
        yield AnnotatedVideo(
            video_id=clip,
            split=split,
            labels=(classes.number(row["label"], where),),
            names=(clip, row["youtube_id"]),
            where=where,
            annotated_seconds=end - start,
        )


READER = Reader(
    name="kinetics400",
    config=KineticsConfig,
    read=read_kinetics,
    recognizes=lambda path, head: head.startswith(",".join(_COLUMNS)),
)
