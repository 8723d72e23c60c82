"""Whoever calls a function with arrays reads their shapes where the function is described."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
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


def silent_in(folder: Path) -> list[str]:
    """`FILE:FUNCTION` of public functions with arrays that say no shape, read without importing Ray or MLflow."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [
            each for each in tree.body if isinstance(each, ast.ClassDef) and not each.name.startswith("_")
        ]
        nodes = [*tree.body, *(each for one in classes for each in one.body)]
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                kinds = [node.returns, *(each.annotation for each in arguments)]
                has_arrays = any(ARRAY.search(ast.unparse(kind)) for kind in kinds if kind is not None)
                if has_arrays and not SHAPE.search(ast.get_docstring(node) or ""):
                    found.append(f"{path.relative_to(folder.parent)}:{node.name}")
    return found


FUNCTIONS = with_arrays()


def says_shapes(function: Any) -> bool:
    """By its own docstring, or that of what it overrides."""
    return bool(SHAPE.search(inspect.getdoc(function) or ""))


def test_functions_with_arrays_say_their_shapes() -> None:
    silent = {name for name, function in FUNCTIONS.items() if not says_shapes(function)}
    assert silent == EXCEPTIONS


@pytest.mark.parametrize("folder", ["platform", "infra"])
def test_functions_with_arrays_of_other_folders_do_too(folder: str) -> None:
    assert silent_in(Path(__file__).parents[2] / folder) == []


def test_a_silent_function_is_seen_unless_it_is_private_or_has_no_arrays(tmp_path: Path) -> None:
    said = 'def said(x: Tensor) -> None:\n    """`[B]`."""\n'
    silent = "class A:\n    def silent(self) -> np.ndarray: ...\n    def _own(self, x: Tensor): ...\n"
    (tmp_path / "a.py").write_text(
        f"{said}{silent}def none(x: int) -> int: ...\nclass _B:\n    def f(self, x: Tensor): ...\n"
    )
    assert silent_in(tmp_path) == [f"{tmp_path.name}/a.py:silent"]


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
