"""Videos of one's own, listed in a CSV file (or TSV, by its suffix):

    path,label,split,start,end,group
    trip/a.mp4,swimming,train,,,
    trip/b.mp4,"running|jumping, both feet",test,2.5,4.0,anna

`path` is below `data.videos` (or absolute), `label` one class or several with `|` between them. The others may be
left out: `split` (train, val, test; else divided by a hash of the path), `start` and `end` in seconds (a video may
have a row for each interval), `group` (videos of one group stay together when train is divided). Classes are those of
`data.classes`, else all labels of the file in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from paretovid.trainables.data.dataset import SPLITS
from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Interval,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.files import (
    ClassList,
    composed,
    existing,
    interval,
    read_class_list,
    read_table,
)
from paretovid.trainables.errors import DataError
from paretovid.trainables.ranges import OpenFraction

_COLUMNS = ("path", "label")
_OPTIONAL = ("split", "start", "end", "group")

_Row = tuple[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(ReaderConfig):
    """Settings of `data=table`.

    Arguments:
        annotations: the file.
        multi_label: videos may have any number of labels.
        test_share: share of the videos that become `test`, where the file does not say which.
    """

    annotations: str
    multi_label: bool = False
    test_share: OpenFraction = 0.2


def read_own_table(config: TableConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    path = existing(config.annotations, "data.annotations", folder=False)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: list[_Row] = list(read_table(path, _COLUMNS, delimiter=delimiter))
    if not rows:
        raise DataError(f"{path} lists no videos", "Below its head it needs a line per video: PATH,LABEL.")
    if "" in rows[0][1]:
        raise DataError(
            f"{path}:1: a column has no name: {'a tab' if delimiter != ',' else 'a comma'} too many?",
            "Repair the first line.",
        )
    if unknown := set(rows[0][1]) - {*_COLUMNS, *_OPTIONAL}:
        raise DataError(
            f"{path}:1: the column {sorted(unknown)[0]!r}", f"Allowed: {', '.join([*_COLUMNS, *_OPTIONAL])}."
        )
    if config.classes:
        used = {name for _, row in rows for name in _labels(row)}
        classes = read_class_list(existing(config.classes, "data.classes", folder=False), used)
        notes: tuple[str, ...] = ()
    else:
        names = sorted({composed(name) for _, row in rows for name in _labels(row)})
        classes = ClassList(names=tuple(names), source=f"the labels of {path}")
        notes = (f"{len(names)} classes: all labels of {path.name}, in alphabetical order",)
    grouped: dict[str, list[_Row]] = {}
    for where, row in rows:
        grouped.setdefault(row["path"], []).append((where, row))
    videos = tuple(_video(name, its_rows, classes, config.multi_label) for name, its_rows in grouped.items())
    return Annotations(
        classes=classes.names,
        multi_label=config.multi_label,
        videos=videos,
        test_share=config.test_share,
        notes=notes,
    )


def _labels(row: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in row["label"].split("|") if name.strip()]


def _video(name: str, rows: Sequence[_Row], classes: ClassList, multi_label: bool) -> AnnotatedVideo:
    where, first = rows[0]
    if not name:
        raise DataError(f"{where}: no path", "Every line needs the path of a video.")
    labels: dict[int, str] = {}
    events = []
    for here, row in rows:
        for column in ("split", "group"):
            if row.get(column, "") != first.get(column, ""):
                raise DataError(
                    f"{here}: {column} of {name!r} is {row[column]!r}, but {first[column]!r} at {where}",
                    "All lines of a video must be in one split: else what is trained on is also tested on.",
                )
        numbers = [classes.number(label, here) for label in _labels(row)]
        labels |= dict.fromkeys(numbers, here)
        if row.get("start") or row.get("end"):
            start, end = interval(row.get("start"), row.get("end"), here)
            events += [
                Interval(label=number, start_seconds=start, end_seconds=end, where=here) for number in numbers
            ]
    if not multi_label and len(labels) != 1:
        raise DataError(
            f"{list(labels.values())[-1] if labels else where}: {name!r} has {len(labels)} labels",
            "Exactly one is expected; data.multi_label=true allows any number, as 'running|jumping'.",
        )
    split = first.get("split", "")
    if split and split not in SPLITS:
        raise DataError(f"{where}: the split {split!r}", f"Allowed: {', '.join(SPLITS)}.")
    return AnnotatedVideo(
        video_id=PurePath(name).as_posix(),
        split=split or TO_DIVIDE,
        labels=tuple(labels),
        names=(name,),
        where=where,
        events=tuple(events),
        group=first.get("group", ""),
    )


READER = Reader(
    name="table",
    config=TableConfig,
    read=read_own_table,
)
