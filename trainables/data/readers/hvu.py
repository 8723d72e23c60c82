"""HVU: `HVU_Train_V1.0.csv`, `HVU_Val_V1.0.csv`, and the tags in `HVU_Tags_Categories_V1.0.csv`.

    Tags,youtube_id,time_start,time_end
    ball|court|playing basketball,abc,101.5,103.5

3,142 tags of six categories (action, attribute, concept, event, object, scene); a clip has 17 of them on average. A
clip's file is `ID_%06d_%06d` with the two times in tenths of seconds (as the crawlers cut them), or just `ID`. The
official validation clips are `test`; a part of training is `val`. A tag that a clip has not counts as negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import ClassList, existing, file_in, interval, read_table
from paretovid.trainables.errors import UsageError, unknown_name

_COLUMNS = ("Tags", "youtube_id", "time_start", "time_end")
_CLASS_COLUMNS = ("Tag", "Category")


@dataclass(frozen=True, kw_only=True, slots=True)
class HvuConfig(ReaderConfig):
    """Settings of `data=hvu`.

    Arguments:
        annotations: the folder of the three files.
        train_file, test_file, class_file: their names. `data.classes` goes before `class_file`.
        categories: of the tags to recognize; empty: all six.
        file_times: what the numbers in file names count.
    """

    annotations: str
    train_file: str = "HVU_Train_V1.0.csv"
    test_file: str = "HVU_Val_V1.0.csv"
    class_file: str = "HVU_Tags_Categories_V1.0.csv"
    categories: tuple[str, ...] = ()
    file_times: Literal["tenths", "seconds"] = "tenths"


def read_hvu(config: HvuConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    if config.classes:
        class_file = existing(config.classes, "data.classes", folder=False)
    else:
        class_file = file_in(folder, config.class_file, "the tags")
    categories = {row["Tag"]: row["Category"] for _, row in read_table(class_file, _CLASS_COLUMNS)}
    for category in config.categories:
        if category not in categories.values():
            raise unknown_name("category of HVU", category, set(categories.values()))
    all_tags = ClassList(names=tuple(categories), source=str(class_file))
    wanted = [tag for tag in categories if not config.categories or categories[tag] in config.categories]
    if len(wanted) < 2:
        raise UsageError(
            f"data.categories={list(config.categories)} has {len(wanted)} tag", "Two are needed."
        )
    numbers = {tag: number for number, tag in enumerate(wanted)}
    videos: list[AnnotatedVideo] = []
    for split, name in (("train", config.train_file), ("test", config.test_file)):
        path = file_in(folder, name, f"the clips of {split}")
        videos += _read_file(path, split, all_tags, numbers, 10 if config.file_times == "tenths" else 1)
    return Annotations(
        classes=tuple(wanted),
        multi_label=True,
        videos=tuple(videos),
        categories={tag: categories[tag] for tag in wanted},
    )


def _read_file(
    path: Path, split: str, all_tags: ClassList, numbers: dict[str, int], per_second: int
) -> Iterator[AnnotatedVideo]:
    for where, row in read_table(path, _COLUMNS):
        seconds = interval(row["time_start"], row["time_end"], where)
        start, end = (round(time * per_second) for time in seconds)
        clip = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        tags = [tag.strip() for tag in row["Tags"].split("|") if tag.strip()]
        for tag in tags:
            all_tags.number(tag, where)
        yield AnnotatedVideo(
            video_id=clip,
            split=split,
            labels=tuple(numbers[tag] for tag in tags if tag in numbers),
            names=(clip, row["youtube_id"]),
            where=where,
            annotated_seconds=seconds[1] - seconds[0],
            # Clips of one video look alike; the official split may part them, ours does not.
            group=row["youtube_id"],
        )


READER = Reader(
    name="hvu",
    config=HvuConfig,
    read=read_hvu,
    recognizes=lambda path, head: head.startswith((",".join(_COLUMNS), ",".join(_CLASS_COLUMNS))),
)
