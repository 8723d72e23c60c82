"""All annotation formats by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretovid.trainables.config import typed_config
from paretovid.trainables.data.readers import (
    activitynet,
    breakfast,
    charades,
    class_folders,
    fcvid,
    hvu,
    kinetics,
    mini_kinetics,
    multithumos,
    table,
    thumos14,
)
from paretovid.trainables.data.readers.annotations import Reader, ReaderConfig
from paretovid.trainables.errors import unknown_name

_READERS = {
    module.READER.name: module.READER
    for module in (
        activitynet,
        breakfast,
        charades,
        class_folders,
        fcvid,
        hvu,
        kinetics,
        mini_kinetics,
        multithumos,
        table,
        thumos14,
    )
}
_HEAD_BYTES = 64 * 2**10


def reader_names() -> tuple[str, ...]:
    """Names of all formats, sorted."""
    return tuple(sorted(_READERS))


def reader(name: str) -> Reader:
    """One format. Raises `UnknownNameError` that lists the known ones."""
    if name not in _READERS:
        raise unknown_name("reader", name, _READERS)
    return _READERS[name]


def reader_config(name: str, settings: Mapping[str, Any]) -> ReaderConfig:
    """A format's typed settings. Raises `UsageError` for an unknown or bad one."""
    return typed_config(reader(name).config, settings, "data")


def recognize(path: Path) -> tuple[str, ...]:
    """The formats that a file could be of, by its name and its first lines."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    except OSError:
        return ()
    return tuple(name for name in reader_names() if _READERS[name].recognizes(path, head))
