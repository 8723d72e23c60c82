"""Whoever calls a function with arrays reads their shapes where the function is described."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

from paretovid import trainables

ARRAY = re.compile(r"\b(Tensor|NDArray|ndarray|Floats)\b")
SHAPE = re.compile(r"`\[[^\]]+\]`|\b[Ss]calars?\b")
"""`[B, T]`; `[...]` for any shape; or the word."""
EXCEPTIONS: frozenset[str] = frozenset()
"""Public functions that say no shape yet, as `module.Class.function`. May only shrink."""


def public_functions() -> Iterator[tuple[str, Any]]:
    """Functions of modules and methods of classes under `trainables/` that take or return arrays, by name."""
    for info in pkgutil.walk_packages(trainables.__path__, f"{trainables.__name__}."):
        module = importlib.import_module(info.name)
        for name, each in vars(module).items():
            if name.startswith("_") or getattr(each, "__module__", None) != info.name:
                continue
            if inspect.isfunction(each):
                yield f"{info.name}.{name}", each
            elif inspect.isclass(each):
                for own, member in vars(each).items():
                    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
                    if inspect.isfunction(function) and not own.startswith("_"):
                        yield f"{info.name}.{name}.{own}", getattr(each, own)


def with_arrays() -> dict[str, Any]:
    found = {}
    for name, function in public_functions():
        annotations = inspect.unwrap(getattr(function, "__func__", function)).__annotations__
        if any(ARRAY.search(str(kind)) for kind in annotations.values()):
            found[name.removeprefix("paretovid.trainables.")] = function
    return found


FUNCTIONS = with_arrays()


def says_shapes(function: Any) -> bool:
    """By its own docstring, or that of what it overrides."""
    return bool(SHAPE.search(inspect.getdoc(function) or ""))


def test_functions_with_arrays_say_their_shapes() -> None:
    silent = {name for name, function in FUNCTIONS.items() if not says_shapes(function)}
    assert silent == EXCEPTIONS


def test_the_guard_sees_what_it_is_for() -> None:
    assert len(FUNCTIONS) > 100
    assert {"evaluation.metrics.top1", "layers.model_pool.Clips.of"} <= set(FUNCTIONS)


@pytest.mark.parametrize(
    ("text", "is_said"),
    [("Scores `[N, C]`.", True), ("A scalar.", True), ("Values in [0, 1).", False), ("Logits.", False)],
)
def test_what_counts_as_a_shape(text: str, is_said: bool) -> None:
    def described() -> None: ...

    described.__doc__ = text
    assert says_shapes(described) is is_said
