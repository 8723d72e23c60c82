"""ActivityNet v1.3: `activity_net.v1-3.min.json`, untrimmed videos with the intervals of their activities.

{"version": "VERSION 1.3",
 "taxonomy": [{"nodeName", "nodeId", "parentName", "parentId"}, ...],
 "database": {ID: {"subset": "training", "duration": 82.7, "annotations": [{"label", "segment": [start, end]}, ...]}}}

Files are named `v_ID`. The numbers of the classes are not canonical (the published lists differ): here they follow the
names of the taxonomy's leaves in alphabetical order, or `data.classes`. The labels of "testing" are withheld, so the
official validation videos are `test`, as in the papers, and a part of training is `val`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretovid.trainables.data.readers.annotations import (
    AnnotatedVideo,
    Annotations,
    Interval,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.files import (
    ClassList,
    UnexpectedFileError,
    existing,
    interval,
    mapping,
    read_class_list,
    read_json,
    seconds,
    sequence,
)
from paretovid.trainables.errors import DataError

_SPLITS = {"training": "train", "validation": "test"}
_WITHHELD = "testing"
_VERSION = "1.3"


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivityNetConfig(ReaderConfig):
    """Settings of `data=activitynet`.

    Arguments:
        annotations: `activity_net.v1-3.min.json`.
        multi_label: keep all labels of a video. Otherwise the few videos that have several are of the class that
            they show longest.
    """

    annotations: str
    multi_label: bool = False


def read_activitynet(config: ActivityNetConfig) -> Annotations:
    """Raises `DataError`, naming the file and the JSON key."""
    path = existing(config.annotations, "data.annotations", folder=False)
    database, described = _open(path)
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes"), _labels(database, path))
    else:
        classes = _taxonomy_leaves(described, path)
    videos, several = [], 0
    for id_, entry in database.items():
        where = f"{path}: database.{id_}"
        subset = mapping(entry, where).get("subset")
        if subset == _WITHHELD:
            continue
        if subset not in _SPLITS:
            allowed = ", ".join([*_SPLITS, _WITHHELD])
            raise UnexpectedFileError(f"{where}.subset is {subset!r}", f"Allowed: {allowed}.", path)
        events = tuple(_events(entry, where, classes))
        labels = tuple(dict.fromkeys(event.label for event in events))
        if not labels and not config.multi_label:
            raise DataError(
                f"{where} has no annotations", "Remove it, or list its id in data.leave_out=FILE."
            )
        if len(labels) > 1 and not config.multi_label:
            several += 1
            labels = (_longest(events),)
        duration = entry.get("duration")
        videos.append(
            AnnotatedVideo(
                video_id=id_,
                split=_SPLITS[subset],
                labels=labels,
                names=(f"v_{id_}", id_),
                where=where,
                events=events,
                annotated_seconds=None if duration is None else seconds(duration, where, "duration"),
            )
        )
    notes = (
        f"{several} videos have several labels: the one shown longest counts (data.multi_label=true: all)",
    )
    return Annotations(
        classes=classes.names,
        multi_label=config.multi_label,
        videos=tuple(videos),
        notes=notes if several else (),
    )


def _open(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    described = mapping(read_json(path), str(path))
    if "database" not in described:
        raise UnexpectedFileError(
            f"{path} has no key 'database' (found: {', '.join(list(described)[:5]) or 'nothing'})",
            "activity_net.v1-3.min.json is expected.",
            path,
        )
    version = str(described.get("version", "")).upper().removeprefix("VERSION").strip()
    if version != _VERSION:
        raise DataError(
            f"{path}: version is {described.get('version')!r}",
            "ActivityNet's VERSION 1.3 is expected: other versions have other classes and splits.",
        )
    return mapping(described["database"], f"{path}: database"), described


def _taxonomy_leaves(described: Mapping[str, Any], path: Path) -> ClassList:
    where = f"{path}: taxonomy"
    nodes = [mapping(node, where) for node in sequence(described.get("taxonomy"), where)]
    parents = {node.get("parentName") for node in nodes}
    leaves = sorted(str(node["nodeName"]) for node in nodes if node.get("nodeName") not in parents)
    return ClassList(names=tuple(leaves), source=where)


def _labels(database: Mapping[str, object], path: Path) -> set[str]:
    """All that the annotations use."""
    found = set()
    for id_, entry in database.items():
        where = f"{path}: database.{id_}"
        for annotation in sequence(mapping(entry, where).get("annotations", []), f"{where}.annotations"):
            found.add(str(mapping(annotation, where).get("label")))
    return found


def _events(entry: Mapping[str, Any], where: str, classes: ClassList) -> Iterator[Interval]:
    for number, annotation in enumerate(sequence(entry.get("annotations"), f"{where}.annotations")):
        here = f"{where}.annotations[{number}]"
        label, segment = mapping(annotation, here).get("label"), annotation.get("segment")
        if not isinstance(segment, list) or len(segment) != 2:
            raise DataError(f"{here}.segment is {segment!r}", "[start, end] in seconds is expected.")
        start, end = interval(segment[0], segment[1], here)
        yield Interval(
            label=classes.number(str(label), here), start_seconds=start, end_seconds=end, where=here
        )


def _longest(events: tuple[Interval, ...]) -> int:
    """The class with the most seconds; of equal ones that which is annotated first."""
    shown: dict[int, float] = defaultdict(float)
    for event in events:
        shown[event.label] += event.end_seconds - event.start_seconds
    return max(shown, key=shown.__getitem__)


READER = Reader(
    name="activitynet",
    config=ActivityNetConfig,
    read=read_activitynet,
    recognizes=lambda path, head: '"database"' in head or '"taxonomy"' in head or "activity_net" in path.name,
)
