"""Mini-Kinetics: 200 classes of Kinetics-400, 121 thousand clips for training and 10 thousand for testing.

Its lists (lists.py) are those of AR-Net's and FrameExit's code: `mini_train_videofolder.txt`,
`mini_val_videofolder.txt` and `minik_classInd.txt`, one class a line; their paths are folders of frames, whose last
part is the clip: `ID_%06d_%06d`. The official validation clips are `test`; a part of training is `val`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from paretovid.trainables.data.readers.annotations import AnnotatedVideo, Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import ClassList, existing, file_in, read_class_list
from paretovid.trainables.data.readers.lists import read_list
from paretovid.trainables.ranges import Whole

_TIMES = re.compile(r"_\d{6}_\d{6}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniKineticsConfig(ReaderConfig):
    """Settings of `data=mini_kinetics`.

    Arguments:
        annotations: the folder of the three files.
        train_file, test_file, class_file: their names. `data.classes` goes before `class_file`.
        first_label: the number of the first class in the lists, if the list of classes gives none.
    """

    annotations: str
    train_file: str = "mini_train_videofolder.txt"
    test_file: str = "mini_val_videofolder.txt"
    class_file: str = "minik_classInd.txt"
    first_label: Whole = 0


def read_mini_kinetics(config: MiniKineticsConfig) -> Annotations:
    """Raises `DataError`, naming file and line."""
    folder = existing(config.annotations, "data.annotations", folder=True)
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes", folder=False), is_numbered=True)
    else:
        classes = read_class_list(file_in(folder, config.class_file, "the classes"), is_numbered=True)
    videos: list[AnnotatedVideo] = []
    for split, name in (("train", config.train_file), ("test", config.test_file)):
        path = file_in(folder, name, f"the clips of {split}")
        videos += _read_file(path, split, classes, config.first_label)
    return Annotations(classes=classes.names, multi_label=False, videos=tuple(videos))


def _read_file(path: Path, split: str, classes: ClassList, first: int) -> Iterator[AnnotatedVideo]:
    for video in read_list(path):
        clip = PurePosixPath(video.path).name
        labels = {classes.number_of_id(label, video.where, first=first) for label in video.labels}
        yield AnnotatedVideo(
            video_id=clip,
            split=split,
            labels=tuple(labels),
            names=(clip, _TIMES.sub("", clip)),
            where=video.where,
        )


READER = Reader(
    name="mini_kinetics",
    config=MiniKineticsConfig,
    read=read_mini_kinetics,
    recognizes=lambda path, head: path.name in ("mini_train_videofolder.txt", "mini_val_videofolder.txt"),
)
