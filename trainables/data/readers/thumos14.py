"""THUMOS'14, temporal annotations: `CLASS_val.txt`, `CLASS_test.txt` and `Ambiguous_{val,test}.txt` (instances.py).

Below `data.annotations` lie the folders of both archives and `detclasslist.txt`, which gives the 20 classes the numbers
7, 9, 12, ... of UCF101; here they count from 0 in that order. The validation videos train (a part of them is `val`),
the test videos are `test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import ClassList, existing, file_in, files_named, read_class_list
from paretovid.trainables.data.readers.instances import Line, gather, read_instances, split_of
from paretovid.trainables.errors import DataError
from paretovid.trainables.ranges import Positive

_SUFFIXES = {"_val": "train", "_test": "test"}
_AMBIGUOUS = "Ambiguous"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumos14Config(ReaderConfig):
    """Settings of `data=thumos14`.

    Arguments:
        annotations: the folder above the annotations of both subsets.
        step_seconds: 16 frames at 25 per second, the snippets of weakly supervised localization.
        class_file: its name; `data.classes` goes before it.
    """

    annotations: str
    step_seconds: Positive = 0.64
    class_file: str = "detclasslist.txt"


def read_thumos14(config: Thumos14Config) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes", folder=False), is_numbered=True)
    else:
        classes = read_class_list(file_in(folder, config.class_file, "the classes"), is_numbered=True)
    files = [
        (path, name, split)
        for suffix, split in _SUFFIXES.items()
        for path in files_named(folder, f"*{suffix}.txt")
        if (name := path.stem.removesuffix(suffix))
    ]
    for path, name, _ in files:
        if name != _AMBIGUOUS:
            classes.number(name, str(path))
    for suffix, split in _SUFFIXES.items():
        found = {name for _, name, its_split in files if its_split == split}
        if missing := [name for name in classes.names if name not in found]:
            raise DataError(
                f"{folder} has no {missing[0]}{suffix}.txt, the annotations of a class of {classes.source}",
                "Unpack the annotations of the validation and of the test videos there; each has a file per class.",
            )
    return Annotations(
        classes=classes.names,
        multi_label=True,
        videos=gather(_instances(files, classes), _ambiguous(files)),
    )


def _instances(files: list[tuple[Path, str, str]], classes: ClassList) -> Iterator[tuple[int, Line]]:
    for path, name, split in files:
        if name == _AMBIGUOUS:
            continue
        for line in read_instances(path):
            if split_of(line.video_id, line.where) != split:
                raise DataError(
                    f"{line.where}: {line.video_id} is no video of this subset",
                    "*_val.txt is about video_validation_*, *_test.txt about video_test_*.",
                )
            yield classes.number(name, line.where), line


def _ambiguous(files: list[tuple[Path, str, str]]) -> Iterator[Line]:
    for path, name, _ in files:
        if name == _AMBIGUOUS:
            yield from read_instances(path)


READER = Reader(
    name="thumos14",
    config=Thumos14Config,
    read=read_thumos14,
    recognizes=lambda path, head: (
        path.stem.endswith(tuple(_SUFFIXES))
        and head.lstrip().startswith(("video_validation_", "video_test_"))
    ),
)
