"""Videos of one's own in one folder per class.

    VIDEOS/swimming/a.mp4                or, divided already:       VIDEOS/train/swimming/a.mp4
    VIDEOS/running/b.mp4                                            VIDEOS/test/running/b.mp4

Without folders `train`, `val` and `test` the videos are divided by a hash of their names, class by class. The folders
are the list of classes, in alphabetical order, unless `data.classes` names a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.dataset import SPLITS
from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.files import ClassList, existing, read_class_list
from paretovid.trainables.data.readers.matching import VideoFiles
from paretovid.trainables.data.s3 import is_object
from paretovid.trainables.errors import UsageError
from paretovid.trainables.ranges import OpenFraction


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFoldersConfig(ReaderConfig):
    """Settings of `data=class_folders`.

    Arguments:
        test_share: share of the videos that become `test`, where no folders say which.
    """

    test_share: OpenFraction = 0.2


def read_class_folders(config: ClassFoldersConfig) -> Annotations:
    """Raises `UsageError` for folders that do not fit."""
    root = config.videos.rstrip("/")
    if not is_object(root):
        existing(root, "data.videos", folder=True)
    found = [(path, path.parts[:-1]) for path in (Path(name) for name in VideoFiles(root).paths)]
    is_divided = all(folders and folders[0] in SPLITS for _, folders in found)
    depth = 2 if is_divided else 1
    if wrong := [path for path, folders in found if len(folders) < depth]:
        raise UsageError(
            f"{root}/{wrong[0]} is in no folder of a class",
            f"Expected: {root}/{'train/' if is_divided else ''}CLASS/{wrong[0].name}.",
        )
    labels = sorted({folders[depth - 1] for _, folders in found})
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes", folder=False))
    elif len(labels) < 2:
        raise UsageError(
            f"{root} has videos of {len(labels)} class: {', '.join(labels) or '(none)'}",
            "Expected two folders or more, one per class, with videos in them.",
        )
    else:
        classes = ClassList(names=tuple(labels), source=f"the folders of {root}")
    videos = tuple(
        AnnotatedVideo(
            video_id=path.as_posix(),
            split=folders[0] if is_divided else TO_DIVIDE,
            labels=(classes.number(folders[depth - 1], f"{root}/{path}"),),
            names=(path.as_posix(),),
            where=f"{root}/{path}",
        )
        for path, folders in found
    )
    return Annotations(classes=classes.names, multi_label=False, videos=videos, test_share=config.test_share)


READER = Reader(name="class_folders", config=ClassFoldersConfig, read=read_class_folders)
