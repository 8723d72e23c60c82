"""Paths in a home's documents, written relative to the home: `home:sweeps/s/trials/t0001`.

A home can be moved or copied, and nothing in it needs to be changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_MARK = "home:"


def to_home(value: Any, root: Path) -> Any:
    """Plain data with every absolute path at or below `root` written relative to it."""
    return replaced_paths(value, root, _MARK)


def from_home(value: Any, root: Path) -> Any:
    """The reverse of `to_home`, for a home that may lie elsewhere now."""
    if isinstance(value, dict):
        return {key: from_home(each, root) for key, each in value.items()}
    if isinstance(value, list):
        return [from_home(each, root) for each in value]
    if isinstance(value, str) and value.startswith(_MARK):
        return str(root / value.removeprefix(_MARK))
    return value


def replaced_paths(value: Any, before: Path, now: str) -> Any:
    """Plain data with `before` replaced at the beginning of every string that is a path at or below it.

    Arguments:
        now: another root, or the mark of `to_home`, which the rest of a path follows at once.
    """
    if isinstance(value, dict):
        return {key: replaced_paths(each, before, now) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [replaced_paths(each, before, now) for each in value]
    if isinstance(value, str) and (value == str(before) or value.startswith(f"{before}/")):
        rest = value[len(str(before)) :]
        return now + (rest.removeprefix("/") if now == _MARK else rest)
    return value
