"""Videos of one's own in one folder per class.

    VIDEOS/swimming/a.mp4                or, divided already:       VIDEOS/train/swimming/a.mp4
    VIDEOS/running/b.mp4                                            VIDEOS/test/running/b.mp4

A folder of a split is `train` or `training`, `val`, `valid` or `validation`, `test` or `testing`, in any case; nothing
else may be beside them. Without them the videos are divided by a hash of their names, class by class. The folders are
the list of classes, in alphabetical order, unless `data.classes` names a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretovid.trainables.data.readers.annotations import (
    TO_DIVIDE,
    AnnotatedVideo,
    Annotations,
    Reader,
    ReaderConfig,
)
from paretovid.trainables.data.readers.files import ClassList, composed, existing, read_class_list
from paretovid.trainables.data.readers.matching import VideoFiles
from paretovid.trainables.data.s3 import is_object
from paretovid.trainables.errors import UsageError
from paretovid.trainables.ranges import OpenFraction

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SHOWN = 20  # classes that a note lists with their numbers of videos

_Found = tuple[Path, tuple[str, ...]]
"""A video's path below the root, and its folders."""


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
    is_divided = _is_divided(found)
    if is_divided:
        _check_strays(found, root)
    depth = 2 if is_divided else 1
    if wrong := [path for path, folders in found if len(folders) < depth]:
        raise UsageError(
            f"{root}/{wrong[0]} is in no folder of a class",
            f"Expected: {root}/{'train/' if is_divided else ''}CLASS/{wrong[0].name}.",
        )
    labels = sorted({composed(folders[depth - 1]) for _, folders in found})
    if config.classes:
        classes = read_class_list(existing(config.classes, "data.classes", folder=False), labels)
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
            split=_SPLITS[folders[0].casefold()] if is_divided else TO_DIVIDE,
            labels=(classes.number(folders[depth - 1], f"{root}/{path}"),),
            names=(path.as_posix(),),
            where=f"{root}/{path}",
        )
        for path, folders in found
    )
    notes = [_counts(classes.names, videos)]
    if is_divided:
        notes.append(_folders_of_splits(found))
    return Annotations(
        classes=classes.names,
        multi_label=False,
        videos=videos,
        test_share=config.test_share,
        notes=tuple(notes),
    )


def _is_split(folders: Sequence[str]) -> bool:
    return bool(folders) and folders[0].casefold() in _SPLITS


def _is_divided(found: Sequence[_Found]) -> bool:
    """Whether folders of splits are there. A class may be called `train`: its videos lie right in its folder."""
    in_splits = [folders for _, folders in found if _is_split(folders)]
    return len(in_splits) == len(found) or any(len(folders) > 1 for folders in in_splits)


def _check_strays(found: Sequence[_Found], root: str) -> None:
    """Raises `UsageError` for a folder beside those of the splits: its videos would be in none."""
    strays = Counter(folders[0] for _, folders in found if folders and not _is_split(folders))
    if strays:
        name, count = min(strays.items())
        beside = sorted({folders[0] for _, folders in found if _is_split(folders)})
        raise UsageError(
            f"{root}/{name} ({count} videos) is no split, but stands beside {', '.join(beside)}",
            f"Folders of splits are {', '.join(_SPLITS)}, in any case. Move {name} away or into one of them; if all "
            f"are classes, call {beside[0]} otherwise.",
        )


def _counts(classes: Sequence[str], videos: Iterable[AnnotatedVideo]) -> str:
    counts = Counter(video.labels[0] for video in videos)
    parts = [f"{name} {counts[number]}" for number, name in enumerate(classes)]
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"{len(classes)} classes, with their videos: {', '.join(parts[:_SHOWN])}{more}"


def _folders_of_splits(found: Sequence[_Found]) -> str:
    counts = Counter(folders[0] for _, folders in found)
    parts = [f"{name} {count} ({_SPLITS[name.casefold()]})" for name, count in sorted(counts.items())]
    return f"folders of splits, with their videos: {', '.join(parts)}"


READER = Reader(name="class_folders", config=ClassFoldersConfig, read=read_class_folders)
