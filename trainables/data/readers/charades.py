"""Charades: `Charades_v1_train.csv`, `Charades_v1_test.csv` and `Charades_v1_classes.txt`.

The column `actions` holds `c092 11.90 21.20;c147 0.00 12.60`, or nothing: such a video is a negative of all 157
classes. Files are named by their id. The official test videos are `test`; `val` is a part of training, divided by the
column `subject`, so that nobody is on both sides, as in the official split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import (
    AnnotatedVideo,
    Annotations,
    Interval,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.files import (
    ClassList,
    existing,
    file_in,
    interval,
    read_lines,
    read_table,
    seconds,
)
from paretovid.trainables.errors import DataError

_COLUMNS = ("id", "actions", "length")


@dataclass(frozen=True, kw_only=True, slots=True)
class CharadesConfig(ReaderConfig):
    """Settings of `data=charades`.

    Arguments:
        annotations: the folder of the three files.
        train_file, test_file, class_file: their names. `data.classes` goes before `class_file`.
    """

    annotations: str
    train_file: str = "Charades_v1_train.csv"
    test_file: str = "Charades_v1_test.csv"
    class_file: str = "Charades_v1_classes.txt"


def read_charades(config: CharadesConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    if config.classes:
        class_file = existing(config.classes, "data.classes", folder=False)
    else:
        class_file = file_in(folder, config.class_file, "the classes")
    codes, names = _read_classes(class_file)
    videos: list[AnnotatedVideo] = []
    for split, name in (("train", config.train_file), ("test", config.test_file)):
        videos += _read_file(file_in(folder, name, f"the videos of {split}"), split, codes)
    return Annotations(classes=names.names, multi_label=True, videos=tuple(videos))


def _read_classes(path: Path) -> tuple[ClassList, ClassList]:
    """Codes (`c000`) and names (`Holding some clothes`)."""
    codes, names = [], []
    for where, line in read_lines(path):
        code, _, name = line.partition(" ")
        if not (code[:1] == "c" and code[1:].isdecimal() and name):
            raise DataError(
                f"{where}: not a class of Charades: {line[:80]!r}", "Expected: c000 Holding some clothes."
            )
        codes.append(code)
        names.append(name.strip())
    return ClassList(names=tuple(codes), source=str(path)), ClassList(names=tuple(names), source=str(path))


def _read_file(path: Path, split: str, codes: ClassList) -> Iterator[AnnotatedVideo]:
    for where, row in read_table(path, _COLUMNS):
        events = tuple(_events(row["actions"], where, codes))
        yield AnnotatedVideo(
            video_id=row["id"],
            split=split,
            labels=tuple(dict.fromkeys(event.label for event in events)),
            names=(row["id"],),
            where=where,
            events=events,
            annotated_seconds=seconds(row["length"], where, "length") if row["length"] else None,
            group=row.get("subject", ""),
        )


def _events(actions: str, where: str, codes: ClassList) -> Iterator[Interval]:
    for action in filter(None, (part.strip() for part in actions.split(";"))):
        words = action.split()
        if len(words) != 3:
            raise DataError(
                f"{where}: the action {action!r}", "Expected: c092 11.90 21.20, ';' between actions."
            )
        start, end = interval(words[1], words[2], where)
        label = codes.number(words[0], where)
        yield Interval(label=label, start_seconds=start, end_seconds=end, where=where)


READER = Reader(
    name="charades",
    config=CharadesConfig,
    read=read_charades,
    recognizes=lambda path, head: path.name.startswith("Charades_v1") or head.startswith("id,subject,scene"),
)
