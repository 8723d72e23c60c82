"""Reading JSON documents field by field: what is missing or wrong is an error that names the file and the field.

And the one way to write a file of tensors.
"""

from __future__ import annotations

import json
import math
import reprlib
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, final

from paretovid.trainables.errors import DataError, NonFiniteError, UnreadableError, VersionError

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = "Mapping[str, JsonValue]"
"""An object whose fields a document does not know, such as the configuration of a method."""

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_REQUIRED = object()
_LARGEST = 2**63
"""Of whole numbers: more digits are nothing that was counted or measured, and other programs cannot read them."""
_ROUNDING = 1e-6
_DEEPEST = 50
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def parse_json(text: str | bytes) -> object:
    """What a JSON text says. Raises `ValueError` for all that is none, nesting that is too deep included."""
    try:
        document: object = json.loads(text)
    except RecursionError:
        raise ValueError("its objects are nested too deeply") from None
    # Level by level: whoever walks through it later may do so by calls within calls.
    level: list[Any] = [document] if isinstance(document, dict | list) else []
    for _ in range(_DEEPEST):
        level = [
            each
            for found in level
            for each in (found.values() if isinstance(found, dict) else found)
            if isinstance(each, dict | list)
        ]
        if not level:
            return document
    raise ValueError("its objects are nested too deeply")


def unreadable(path: Path, error: OSError, hint: str = "") -> UnreadableError:
    """The error for a file that is there, perhaps, and cannot be read.

    Arguments:
        hint: what to do if it is missing or the disk fails. That the right to it is missing says nothing of the file:
            then nobody is told to remove it or to make it again.
    """
    reason = error.strerror or type(error).__name__
    if isinstance(error, PermissionError):
        hint = "Ask its owner for the right to read it; users of one group share a home best with umask 002."
    return UnreadableError(
        f"{path} cannot be read: {reason}", hint or "Is its disk there, and the file system mounted?"
    )


def check_readable(path: Path) -> None:
    """Raises `UnreadableError` for a file that the disk does not let be read, one that is missing excepted.

    To be asked before safetensors, which calls every file missing that it cannot open.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file with the mode that the umask gives. By itself safetensors shuts out all other users.

    Arguments:
        tensors: by name, each of any shape `[...]`; not views of each other.
        metadata: written into the file's header.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    # Before 0.8 safetensors writes into the file that is there, which only its owner could change the mode of.
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


@final
class Fields:
    """The fields of one JSON object. Each is asked for by its name and type.

    Every method raises `DataError` for a field that is missing without a default or of another type, and
    `NonFiniteError` for a number that is NaN or infinite.

    Arguments:
        data: what a JSON parser gave.
        where: the file, and the place in it, for messages.
        hint: what to do about a damaged document.
    """

    def __init__(self, data: object, where: str, hint: str) -> None:
        if not isinstance(data, Mapping):
            raise DataError(f"{where} holds a {type(data).__name__}, not an object", hint)
        self.where = where
        self.hint = hint
        self._data = data

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def names(self) -> tuple[str, ...]:
        """The fields that are there."""
        return tuple(self._as(str, name, "the name of a field") for name in self._data)

    def check_version(self, latest: int, earliest: int = 1) -> int:
        """The document's version; 1 where it has none. Raises `VersionError` outside `earliest` to `latest`."""
        found = self.whole("version", 1)
        if found > latest:
            raise VersionError(
                f"{self.where} is of version {found}, and this code reads versions {earliest} to {latest}",
                "A later paretovid wrote it: use that one, or a newer one.",
            )
        if found < earliest:
            raise VersionError(
                f"{self.where} is of version {found}, and this code reads versions {earliest} to {latest}",
                "An earlier paretovid wrote it: use that one, or make it again.",
            )
        return found

    def raw(self, name: str, default: object = _REQUIRED) -> object:
        """The field, of whatever type. One that is null counts as missing."""
        value = self._data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise DataError(f"{self.where} has no field {name!r}", self.hint)
            return default
        return value

    def text(self, name: str, default: str | None = None) -> str:
        return self._one(str, name, default)

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self._one(bool, name, default)

    def whole(self, name: str, default: int | None = None) -> int:
        return self._one(int, name, default)

    def number(self, name: str, default: float | None = None) -> float:
        return self._one(float, name, default)

    def fraction(self, name: str) -> float:
        """A number from 0 to 1, but for rounding."""
        value = self.number(name)
        if not -_ROUNDING <= value <= 1 + _ROUNDING:
            raise self._wrong(name, value, "a number from 0 to 1")
        return value

    def amount(self, name: str) -> float:
        """A number that is not below 0."""
        value = self.number(name)
        if value < 0:
            raise self._wrong(name, value, "a number that is not below 0")
        return value

    def amounts_by_name(self, name: str) -> dict[str, float]:
        """An object of numbers that are not below 0."""
        values = self.number_by_name(name)
        for key, value in values.items():
            if value < 0:
                raise self._wrong(f"{name}.{key}", value, "a number that is not below 0")
        return values

    def count(self, name: str) -> int:
        """A whole number that is not below 0."""
        value = self.whole(name)
        if value < 0:
            raise self._wrong(name, value, "a whole number that is not below 0")
        return value

    def optional_number(self, name: str) -> float | None:
        """None where it is missing."""
        return self.number(name) if name in self else None

    def optional_text(self, name: str) -> str | None:
        """None where it is missing."""
        return self.text(name) if name in self else None

    def wholes(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(self._as(int, value, name) for value in self._list(name, default))

    def numbers(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """A list of numbers."""
        return tuple(self._as(float, value, name) for value in self._list(name, default))

    def pairs(
        self, name: str, default: Sequence[Sequence[float]] | None = None
    ) -> tuple[tuple[float, float], ...]:
        """A list of pairs of numbers."""
        found = []
        for value in self._list(name, default):
            if not isinstance(value, list | tuple) or len(value) != 2:
                raise self._wrong(name, value, "pairs of numbers")
            found.append((float(self._finite(value[0], name)), float(self._finite(value[1], name))))
        return tuple(found)

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._as(str, value, name) for value in self._list(name, default))

    def text_by_name(self, name: str, default: Mapping[str, str] | None = None) -> dict[str, str]:
        """An object of texts."""
        return {key: self._as(str, value, f"{name}.{key}") for key, value in self._items(name, default)}

    def number_by_name(self, name: str, default: Mapping[str, float] | None = None) -> dict[str, float]:
        """An object of numbers."""
        return {key: float(self._finite(value, f"{name}.{key}")) for key, value in self._items(name, default)}

    def values_by_name(
        self, name: str, default: Mapping[str, float | str] | None = None
    ) -> dict[str, float | str]:
        """An object of numbers and words, such as the values of knobs. Whole numbers stay whole, as written."""
        return {
            key: value if isinstance(value, str) else self._finite(value, f"{name}.{key}")
            for key, value in self._items(name, default)
        }

    def whole_lists_by_name(self, name: str) -> dict[str, tuple[int, ...]]:
        """An object of lists of whole numbers."""
        found = {}
        for key, value in self._items(name, None):
            if not isinstance(value, list | tuple) or not all(type(each) is int for each in value):
                raise self._wrong(f"{name}.{key}", value, "a list of whole numbers")
            found[key] = tuple(value)
        return found

    def json(self, name: str, default: JsonObject | None = None) -> JsonObject:
        """An object whose fields nobody here knows, of texts and finite numbers at any depth."""
        found = dict(self._items(name, default))
        for key, value in found.items():
            self._check_any(value, f"{name}.{key}")
        return found

    def fields(self, name: str, default: JsonObject | None = None) -> Fields:
        """An object, to be read in the same way."""
        value = self.raw(name, _REQUIRED if default is None else default)
        return Fields(value, f"{self.where}: {name}", self.hint)

    def list_of_fields(self, name: str, default: Sequence[JsonObject] | None = None) -> list[Fields]:
        """A list of objects."""
        return [
            Fields(each, f"{self.where}: {name}[{place}]", self.hint)
            for place, each in enumerate(self._list(name, default))
        ]

    def fields_by_name(self, name: str) -> dict[str, Fields]:
        """An object of objects."""
        return {
            key: Fields(each, f"{self.where}: {name}.{key}", self.hint)
            for key, each in self._items(name, None)
        }

    def _items(self, name: str, default: Mapping[str, object] | None) -> list[tuple[str, JsonValue]]:
        value = self.raw(name, _REQUIRED if default is None else default)
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return [(self._as(str, key, f"{name}: a name"), each) for key, each in value.items()]

    def _list(self, name: str, default: Sequence[object] | None) -> Sequence[object]:
        value = self.raw(name, _REQUIRED if default is None else default)
        if not isinstance(value, list | tuple):
            raise self._wrong(name, value, "a list")
        return value

    def _one(self, kind: type[T], name: str, default: T | None) -> T:
        return self._as(kind, self.raw(name, _REQUIRED if default is None else default), name)

    def _as(self, kind: type[T], value: object, name: str) -> T:
        # To Python a flag is a number; in a document it is none.
        if kind is float:
            return kind(self._finite(value, name))  # type: ignore[call-arg]
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            if isinstance(value, str):
                self._check_text(value, name)
            elif not isinstance(value, bool) and isinstance(value, int) and abs(value) > _LARGEST:
                raise self._wrong(name, value, f"a whole number of at most {_LARGEST}")
            return value
        raise self._wrong(name, value, _NAMES[kind])

    def _check_text(self, value: str, name: str) -> None:
        """No path and no name has a NUL; functions of the system end a text there."""
        if "\0" in value:
            raise self._wrong(name, value, "a text without NUL")

    def _check_any(self, value: object, name: str, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise DataError(f"{self.where}: {name.partition('.')[0]} is nested too deeply", self.hint)
        if isinstance(value, str):
            self._check_text(value, name)
        elif isinstance(value, float):
            self._finite(value, name)
        elif isinstance(value, Mapping):
            for key, each in value.items():
                self._check_text(str(key), f"{name}: a name")
                self._check_any(each, f"{name}.{key}", depth + 1)
        elif isinstance(value, list | tuple):
            for place, each in enumerate(value):
                self._check_any(each, f"{name}[{place}]", depth + 1)
        elif type(value) is int and abs(value) > _LARGEST:
            raise self._wrong(name, value, f"a whole number of at most {_LARGEST}")

    def _finite(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, _NAMES[float])
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self._wrong(name, value, f"a number of at most {_LARGEST}")
        if not math.isfinite(value):
            raise NonFiniteError(f"{self.where}: {name} is {value}", self.hint)
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> DataError:
        shown = reprlib.repr(value)
        return DataError(
            f"{self.where}: {name} must be {wanted}, not {shown if len(shown) < 60 else shown[:60] + '…'}",
            self.hint,
        )
