"""Plain data to typed configurations: an unknown key, a value of the wrong type or a number out of its range is an
error that says so."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from paretovid.trainables.errors import UsageError, unknown_name
from paretovid.trainables.ranges import check_value, type_hints

T = TypeVar("T")


def typed_config(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from plain values; nested dataclasses from nested mappings.

    Arguments:
        where: what the values configure, for messages (`method.model`).

    Raises `UnknownNameError` for a key that `cls` has not, `UsageError` for a value of another type and
    for a number that is not finite or not in the range that its field declares (`ranges.py`).
    """
    assert dataclasses.is_dataclass(cls)
    hints = type_hints(cls)
    for key in values:
        if key not in hints:
            raise unknown_name(f"setting of {where}", key, hints)
    made = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    for key, value in made.items():
        check_value(hints[key], value, f"{where}.{key}")
    return typing.cast(T, cls(**made))


def _typed(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _typed(typing.get_args(kind)[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return typed_config(typing.cast(type[Any], kind), value, where)
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
        allowed = ", ".join(str(choice) for choice in typing.get_args(kind))
        raise UsageError(f"{where} cannot be {value!r}", f"Allowed: {allowed}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        (inner,) = (choice for choice in typing.get_args(kind) if choice is not type(None))
        return _typed(inner, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        item = typing.get_args(kind)[0]
        return tuple(_typed(item, each, where) for each in value)
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    # bool is an int to Python, but a flag is not a number to a user.
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return math.inf
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is Any or typing.get_origin(kind) is dict:
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise UsageError(f"{where} must be {wanted}, not {value!r}", f"Give a value of type {wanted}.")
