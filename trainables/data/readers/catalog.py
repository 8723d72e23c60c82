"""All annotation formats by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretovid.trainables.config import typed_config
from paretovid.trainables.data.readers.annotations import Annotations, Reader, ReaderConfig
from paretovid.trainables.data.readers.files import UnexpectedFileError, UnexpectedFolderError
from paretovid.trainables.errors import UsageError
from paretovid.trainables.plugins.catalog import Catalog, calling_module

_HEAD_BYTES = 64 * 2**10
_FILES_LOOKED_AT = 50


def _checked(name: str, found: object, where: str) -> Reader:
    """The reader. Raises `UsageError` that says which rule of the contract it breaks."""
    rule = None
    if not isinstance(found, Reader):
        rule = f"it is {found!r}, and must be a Reader"
    elif found.name != name:
        rule = f"its `name` is {found.name!r}, and must be {name!r}, as it is registered"
    elif not (isinstance(found.config, type) and issubclass(found.config, ReaderConfig)):
        rule = f"its `config` is {found.config!r}, and must be a class derived from ReaderConfig"
    if rule is not None:
        raise UsageError(
            f"{where} breaks the contract of a reader: {rule}",
            "trainables/data/readers/annotations.py states the contract.",
        )
    assert isinstance(found, Reader)
    return found


READERS: Catalog[Reader] = Catalog("reader", "paretovid.readers", _checked)
READERS.own(
    {
        "activitynet": "paretovid.trainables.data.readers.activitynet:READER",
        "breakfast": "paretovid.trainables.data.readers.breakfast:READER",
        "charades": "paretovid.trainables.data.readers.charades:READER",
        "class_folders": "paretovid.trainables.data.readers.class_folders:READER",
        "fcvid": "paretovid.trainables.data.readers.fcvid:READER",
        "hvu": "paretovid.trainables.data.readers.hvu:READER",
        "kinetics400": "paretovid.trainables.data.readers.kinetics:READER",
        "mini_kinetics": "paretovid.trainables.data.readers.mini_kinetics:READER",
        "multithumos": "paretovid.trainables.data.readers.multithumos:READER",
        "table": "paretovid.trainables.data.readers.table:READER",
        "thumos14": "paretovid.trainables.data.readers.thumos14:READER",
    }
)


def register_reader(reader: Reader) -> None:
    """Makes a format known by its name; called by a module when it is imported.

    Raises `UsageError` if another one has the name, or if it breaks the contract.
    """
    READERS.register(reader.name, reader, calling_module())


def reader_names() -> tuple[str, ...]:
    """Names of all formats, sorted."""
    return READERS.names()


def reader(name: str) -> Reader:
    """One format. Raises `UnknownNameError` that lists the known ones."""
    return READERS.get(name)


def reader_config(name: str, settings: Mapping[str, Any]) -> ReaderConfig:
    """A format's typed settings. Raises `UsageError` for an unknown or bad one."""
    return typed_config(reader(name).config, settings, "data")


def read_annotations(name: str, config: ReaderConfig) -> Annotations:
    """What a format's files say. Of a file that looks like one of another format, the error says so.

    Raises `DataError`, which names file and line, and `UsageError`.
    """
    try:
        return reader(name).read(config)
    except (UnexpectedFileError, UnexpectedFolderError) as error:
        hint = "" if error.path is None else _other_format(error.path)
        if not hint:
            raise
        raise type(error)(error.message, f"{error.hint} {hint}", error.path) from error


def _other_format(path: Path) -> str:
    """What a file, or the first file of a folder that is of a known format, looks like; "" if nothing does."""
    files = sorted(path.iterdir())[:_FILES_LOOKED_AT] if path.is_dir() else [path]
    for file in files:
        if file.is_file() and (names := recognize(file)):
            return f"{file.name} looks like one of {' or '.join(names)}: data={names[0]}."
    return ""


def recognize(path: Path) -> tuple[str, ...]:
    """The formats that a file could be of, by its name and its first lines."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    except OSError:
        return ()
    return tuple(name for name in reader_names() if reader(name).recognizes(path, head))
