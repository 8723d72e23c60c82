"""Which numbers a setting may have, declared where the setting is: in its type.

    dropout: Dropout = 0.4                                       a name of this module
    usages: tuple[Fraction, ...] = (0.1, 0.5)                    of each value
    thetas: tuple[Annotated[float, THETA.range], ...] = (0.5,)   of an inference knob
    target: Annotated[Fraction, "The share of steps ..."] = 0.1  a text besides the range: the hint of its error

Every dataclass of settings calls `check_ranges(self)` when it is made, and `typed_config` checks the same ranges with
the setting's full name. A number without a range must at least be finite; tests demand a range of every number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import UsageError

_WORDS_OF_JSON = {"Mapping": Mapping, "Sequence": Sequence, "JsonValue": JsonValue}
"""The type of plain JSON names itself, also in modules that do not import the words of its definition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers. Neither NaN nor an infinity is in any.

    Arguments:
        low, high: its ends; infinite: no bound on that side.
        above, below: the low, the high end is not in it.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        # A whole number is always finite, and may be too large to ask.
        if not isinstance(value, int) and not math.isfinite(value):
            return False
        is_high_enough = value > self.low if self.above else value >= self.low
        return is_high_enough and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        """Fits behind "must be"."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            opened, closed = "(" if self.above else "[", ")" if self.below else "]"
            return f"in {opened}{self.low:.9g}, {self.high:.9g}{closed}"
        if math.isfinite(self.low):
            return f"above {self.low:.9g}" if self.above else f"{self.low:.9g} or more"
        if math.isfinite(self.high):
            return f"below {self.high:.9g}" if self.below else f"{self.high:.9g} or less"
        return "a finite number"

    def words(self, noun: str = "number") -> str:
        """What is allowed, as a sentence."""
        low = f"{'above' if self.above else 'from'} {self.low:.9g}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            between = "and" if self.above else "to"
            return f"Give a {noun} {low} {between} {'below' if self.below else 'at most'} {self.high:.9g}.".replace(
                "to at most", "to"
            )
        if math.isfinite(self.low):
            return f"Give a finite {noun} {low}{'' if self.above else ' upwards'}."
        return f"Give a {noun}, {self}." if math.isfinite(self.high) else f"Give a finite {noun}."


FINITE = Range()

Finite = Annotated[float, FINITE]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
OpenFraction = Annotated[float, Range(0, 1, above=True, below=True)]
"""Neither nothing nor all."""
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
Dropout = Annotated[float, Range(0, 1, below=True), "0: none. At 1 nothing would be left to learn from."]
Weight = Annotated[float, Range(0, 1e6)]
"""Of a part of a loss."""
Decay = Annotated[float, Range(0, 1)]
"""Of weights, per step and unit of the learning rate."""
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Width = Annotated[int, Range(1, 65_536)]
"""Units of a layer."""
Seed = Annotated[int, Range(0, 999_999_999)]


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """The range of one number of a configuration."""

    kind: type[float] | type[int]
    range: Range | None
    """None: none is declared; it must be finite."""
    hint: str

    def problem(self, value: Any) -> str:
        """What is wrong with a value, as an end of a sentence; empty if nothing is."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return ""
        allowed = FINITE if self.range is None else self.range
        if value not in allowed:
            return f"must be {allowed}, not {value!r}"
        if self.kind is int and value != int(value):
            return f"must be a whole number, not {value!r}"
        return ""


def type_hints(cls: type[Any]) -> dict[str, Any]:
    """Field to type of a dataclass, the declared ranges with it."""
    return _type_hints(typing.cast(Hashable, cls))


@functools.cache
def _type_hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns=_WORDS_OF_JSON, include_extras=True)


def declared(kind: Any) -> Declared | None:
    """The range that a type declares; None for what is no number."""
    plain, *extras = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
    if plain not in (int, float):
        return None
    found = next((each for each in extras if isinstance(each, Range)), None)
    # The last text is the outermost, which knows most.
    texts = [each for each in extras if isinstance(each, str)][-1:]
    words = (found or FINITE).words("whole number" if plain is int else "number")
    return Declared(plain, found, " ".join((words, *texts)))


def without_none(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union but None; of another type itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(each for each in typing.get_args(kind) if each is not type(None))
    return (kind,)


def check_value(kind: Any, value: Any, where: str) -> None:
    """Checks every number in a value of type `kind` that has its type already. `where`: its name, for messages.

    Raises `UsageError` for a number out of its range.
    """
    if value is None:
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_ranges(value, where)
        return
    for each in without_none(kind):
        if (number := declared(each)) is not None:
            if problem := number.problem(value):
                raise UsageError(f"{where} {problem}", number.hint)
            continue
        for inner, item, name in _items(each, value):
            check_value(inner, item, f"{where}{name}")


def _items(kind: Any, value: Any) -> Iterator[tuple[Any, Any, str]]:
    """Type, value and name of everything in a sequence or a mapping."""
    arguments = typing.get_args(kind)
    if isinstance(value, (list, tuple)) and typing.get_origin(kind) in (list, tuple):
        for index, item in enumerate(value):
            yield arguments[0], item, f"[{index}]"
    elif isinstance(value, Mapping) and typing.get_origin(kind) is dict:
        for key, item in value.items():
            yield arguments[1], item, f".{key}"


def check_ranges(config: Any, where: str = "") -> None:
    """Checks every number of a dataclass of settings, those of nested ones included.

    Arguments:
        where: what it configures, for messages; "" names the fields alone.

    Raises `UsageError` for the first number out of its range, NaN and infinities among them.
    """
    for name, kind in type_hints(type(config)).items():
        check_value(kind, getattr(config, name), f"{where}.{name}" if where else name)


def field_number(cls: type[Any], path: str) -> Declared | None:
    """The range of a field of a dataclass of settings; None if it is no number, or not there.

    Arguments:
        path: dotted if nested: `network.dropout`.
    """
    first, _, rest = path.partition(".")
    for kind in without_none(type_hints(cls).get(first)):
        if not rest:
            return declared(kind)
        if dataclasses.is_dataclass(kind):
            return field_number(typing.cast(type[Any], kind), rest)
    return None
