"""Breakfast: 52 persons prepare 10 breakfasts, several cameras at once.

Below `data.annotations` lies a text file for each video, `P03_cam01_P03_cereals.txt` (person, camera, person,
activity): either its coarse segments, `1-30 SIL` (frames from 1, both ends included, 15 per second), or one label a
frame. The video is `P03/cam01/P03_cereals.avi`; of the stereo camera one picture, `P03/stereo/P03_cereals_ch0.avi`.

Splits are by person: the four official folds (P03 to P15, P16 to P28, P29 to P41, P42 to P54), or that of VideoEpitoma
and its relatives: the first 44 persons train, the last 8 test. `val` is a part of the training persons.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    files_named,
    interval,
    read_class_list,
    read_lines,
)
from paretovid.trainables.errors import DataError, UsageError

ACTIVITIES = (
    "cereals",
    "coffee",
    "friedegg",
    "juice",
    "milk",
    "pancake",
    "salat",
    "sandwich",
    "scrambledegg",
    "tea",
)
FRAMES_PER_SECOND = 15
_TEST_PERSONS = {
    "s1": range(3, 16),
    "s2": range(16, 29),
    "s3": range(29, 42),
    "s4": range(42, 55),
    "video_epitoma": range(47, 55),
}
_PERSONS = range(3, 55)
_NAME = re.compile(r"P(?P<person>\d+)_(?P<camera>cam\d+|webcam\d+|stereo\d*)_P\d+_(?P<activity>\w+)")
_SEGMENT = re.compile(r"(\d+)\s*-\s*(\d+)\s+(\S+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakfastConfig(ReaderConfig):
    """Settings of `data=breakfast`.

    Arguments:
        annotations: the folder of the text files, such as `segmentation_coarse` or `groundTruth`.
        split: who tests.
        target: recognize the activity (10 classes, one a video), or the actions in it (several a video, with their
            intervals), whose list is `mapping.txt` beside the annotations, or `data.classes`.
    """

    annotations: str
    split: Literal["s1", "s2", "s3", "s4", "video_epitoma"] = "video_epitoma"
    target: Literal["activity", "actions"] = "activity"


def read_breakfast(config: BreakfastConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    has_actions = config.target == "actions"
    classes = _classes(config, folder)
    test = _TEST_PERSONS[config.split]
    videos = []
    for path in files_named(folder, "P*.txt"):
        match = _match(path)
        person = int(match["person"])
        events = tuple(_events(path, classes)) if has_actions else ()
        labels = tuple(dict.fromkeys(event.label for event in events))
        videos.append(
            AnnotatedVideo(
                video_id=path.stem,
                split="test" if person in test else "train",
                labels=labels if has_actions else (classes.number(match["activity"], str(path)),),
                names=_file_names(path.stem, match),
                where=str(path),
                events=events,
                group=f"P{person:02d}",
            )
        )
    if not videos:
        raise UsageError(
            f"{folder} has no annotation of Breakfast",
            "Expected anywhere below it: P03_cam01_P03_cereals.txt and so on.",
        )
    return Annotations(classes=classes.names, multi_label=has_actions, videos=tuple(videos))


def _classes(config: BreakfastConfig, folder: Path) -> ClassList:
    if config.classes:
        return read_class_list(existing(config.classes, "data.classes", folder=False), is_numbered=True)
    if config.target == "activity":
        return ClassList(names=ACTIVITIES, source="the 10 activities of Breakfast")
    inside = bool(files_named(folder, "mapping.txt"))
    return read_class_list(
        file_in(folder if inside else folder.parent, "mapping.txt", "the actions"), is_numbered=True
    )


def _match(path: Path) -> re.Match[str]:
    match = _NAME.fullmatch(path.stem)
    if match is None or int(match["person"]) not in _PERSONS:
        raise DataError(
            f"{path}: not the name of a video of Breakfast",
            "Expected: PERSON_CAMERA_PERSON_ACTIVITY.txt, persons P03 to P54, as P03_cam01_P03_cereals.txt.",
        )
    return match


def _file_names(name: str, match: re.Match[str]) -> tuple[str, ...]:
    person, camera = f"P{match['person']}", match["camera"]
    inside = f"{person}_{match['activity']}"
    if camera.startswith("stereo"):
        return name, f"{person}/stereo/{inside}_ch0", f"{person}/{camera}/{inside}_ch0"
    return name, f"{person}/{camera}/{inside}"


def _events(path: Path, classes: ClassList) -> Iterator[Interval]:
    lines = list(read_lines(path))
    if lines and _SEGMENT.fullmatch(lines[0][1]):
        yield from _segments(lines, classes)
        return
    frame = 0
    for label, run in itertools.groupby(lines, key=lambda each: each[1]):
        length = sum(1 for _ in run)
        where = lines[frame][0]
        yield _interval(frame, frame + length, label, where, classes)
        frame += length


def _segments(lines: Sequence[tuple[str, str]], classes: ClassList) -> Iterator[Interval]:
    for where, line in lines:
        match = _SEGMENT.fullmatch(line)
        if match is None:
            raise DataError(
                f"{where}: not a segment: {line[:80]!r}", "Expected: FIRST-LAST LABEL, as 1-30 SIL."
            )
        yield _interval(int(match[1]) - 1, int(match[2]), match[3], where, classes)


def _interval(first: int, end: int, label: str, where: str, classes: ClassList) -> Interval:
    """Frames `first` to `end`, from 0, half open."""
    start_seconds, end_seconds = interval(first / FRAMES_PER_SECOND, end / FRAMES_PER_SECOND, where)
    number = classes.number(label, where)
    return Interval(label=number, start_seconds=start_seconds, end_seconds=end_seconds, where=where)


READER = Reader(
    name="breakfast",
    config=BreakfastConfig,
    read=read_breakfast,
    recognizes=lambda path, head: _NAME.fullmatch(path.stem) is not None,
)
