"""Plain data to typed configurations: an unknown key or a value of the wrong type is an error that says so."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from paretovid.trainables.errors import UsageError, unknown_name

T = TypeVar("T")


def typed_config(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from plain values; nested dataclasses from nested mappings.

    Arguments:
        where: what the values configure, for messages (`method.model`).

    Raises `UnknownNameError` for a key that `cls` has not, `UsageError` for a value of another type.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise unknown_name(f"setting of {where}", key, hints)
    made = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    return typing.cast(T, cls(**made))


def _typed(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
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
        return float(value)
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
