"""What every annotation format is read into, and the settings that all readers share.

A reader turns files into `Annotations` and touches no video; `assemble.py` finds the videos and makes the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretovid.trainables.data.s3 import is_object
from paretovid.trainables.errors import UsageError
from paretovid.trainables.ranges import Fraction, OpenFraction, Positive, check_ranges

TO_DIVIDE = ""
"""Stands for the split of a video that nobody put into one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """One annotated instance, in seconds, as the file says it: it may reach beyond the end of the video.

    Arguments:
        where: file and line (or JSON key) of the annotation, for messages.
    """

    label: int
    start_seconds: float
    end_seconds: float
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedVideo:
    """What the annotations say of one video.

    Arguments:
        split: "train", "val" or "test", or `TO_DIVIDE`; where no video is in val, `assemble` takes it from train.
        labels: class numbers, in any order.
        names: what its file may be called, the likeliest first: a path or its last parts, with or without suffix.
        where: file and line (or JSON key), for messages.
        ambiguous: (start, end) in seconds where nobody can tell; detections there count neither way.
        annotated_seconds: its length by the annotations; None where they do not say.
        group: videos of one group (the same person on several cameras) stay on one side when train is divided;
            "" stands for the video itself.
    """

    video_id: str
    split: str
    labels: tuple[int, ...]
    names: tuple[str, ...]
    where: str
    events: tuple[Interval, ...] = ()
    ambiguous: tuple[tuple[float, float], ...] = ()
    annotated_seconds: float | None = None
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """All of a set.

    Arguments:
        classes: names, in the order of the class numbers.
        categories: class to the category that the set puts it in; empty where it has none.
        test_share: of the videos that are `TO_DIVIDE`, the share that becomes test.
        notes: what was not as expected and how it was dealt with, for people.
    """

    classes: tuple[str, ...]
    multi_label: bool
    videos: tuple[AnnotatedVideo, ...]
    categories: Mapping[str, str] = field(default_factory=dict)
    test_share: float = 0.2
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    """Settings of `data=NAME` that every reader takes.

    Arguments:
        videos: the folder of the videos (searched with all its sub-folders), a text file that lists them, or
            `s3://BUCKET/PREFIX` for all below it.
        classes: the file that lists the classes, for sets that do not come with one.
        step_seconds: length of a step.
        val_share: share of the training videos that become `val`, where the set has no validation split to choose
            knobs on: the official validation split is what papers report on, and is `test` here.
        max_missing_share: share of the annotated videos that may be missing or undecodable.
        leave_out: a text file with ids of videos to ignore, one a line.
    """

    videos: str
    classes: str | None = None
    step_seconds: Positive = 1.0
    val_share: OpenFraction = 0.1
    max_missing_share: Fraction = 0.2
    leave_out: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        if "://" in self.videos and not is_object(self.videos):
            raise UsageError(
                f"data.videos is {self.videos}",
                "Give a folder, a text file that lists videos, or s3://BUCKET/PREFIX.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """One format: its name (`reader:` in `search_spaces/data/*.yaml`), its settings and how it is read.

    Arguments:
        config: the dataclass of its settings, a `ReaderConfig`.
        read: the settings to `Annotations`; raises `UsageError` for a setting that does not fit and `DataError` for
            files that do not, naming file and line (or JSON key).
        recognizes: whether a file is one of this format, by its name and its first 64 KiB of text; for the hint to
            someone who gave a file of another set.
    """

    name: str
    config: type[ReaderConfig]
    read: Callable[[Any], Annotations]
    recognizes: Callable[[Path, str], bool] = lambda path, head: False
