"""Reading JSON documents field by field: what is missing or wrong is an error that names the file and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar, final

from paretovid.trainables.errors import DataError, NonFiniteError, VersionError

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = "Mapping[str, JsonValue]"
"""An object whose fields a document does not know, such as the configuration of a method."""

T = TypeVar("T")
_REQUIRED = object()
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


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
        return tuple(str(name) for name in self._data)

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

    def optional_number(self, name: str) -> float | None:
        """None where it is missing."""
        return self.number(name) if name in self else None

    def optional_text(self, name: str) -> str | None:
        """None where it is missing."""
        return self.text(name) if name in self else None

    def wholes(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(self._as(int, value, name) for value in self._list(name, default))

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
        """An object whose fields nobody here knows."""
        return dict(self._items(name, default))

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
        return [(str(key), each) for key, each in value.items()]

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
            return value
        raise self._wrong(name, value, _NAMES[kind])

    def _finite(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, _NAMES[float])
        if not math.isfinite(value):
            raise NonFiniteError(f"{self.where}: {name} is {value}", self.hint)
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> DataError:
        shown = repr(value)
        return DataError(
            f"{self.where}: {name} must be {wanted}, not {shown if len(shown) < 60 else shown[:60] + '…'}",
            self.hint,
        )
