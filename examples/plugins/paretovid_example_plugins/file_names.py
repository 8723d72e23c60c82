"""A reader: what a file's name says before its first hyphen is its class, `running-001.mp4` for example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.catalog import register_reader
from paretovid.trainables.data.readers.matching import VideoFiles
from paretovid.trainables.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class FileNamesConfig(ReaderConfig):
    """Settings of `data=file_names`: those that every reader has."""


def read_file_names(config: FileNamesConfig) -> Annotations:
    """Raises `DataError` for a name without a class, naming the file."""
    paths = VideoFiles(config.videos).paths
    for path in paths:
        if "-" not in PurePosixPath(path).name:
            raise DataError(f"{config.videos}/{path} names no class", "Expected: CLASS-anything.mp4.")
    labels = {path: PurePosixPath(path).name.partition("-")[0] for path in paths}
    classes = tuple(sorted(set(labels.values())))
    videos = tuple(
        AnnotatedVideo(
            video_id=path, split=TO_DIVIDE, labels=(classes.index(label),), names=(path,), where=path
        )
        for path, label in labels.items()
    )
    return Annotations(classes=classes, multi_label=False, videos=videos)


READER = Reader(name="file_names", config=FileNamesConfig, read=read_file_names)
register_reader(READER)  # for plugins=[...]; the entry point alone is enough once installed
