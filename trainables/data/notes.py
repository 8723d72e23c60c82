"""What is told of a data set's videos: one line for each kind of thing, however many videos have it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = re.compile(r"\d+(\.\d+)?")


def grouped_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for people, of (file, what is told of it); things that differ in numbers alone are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for file, note in notes:
        kinds.setdefault(_NUMBERS.sub("#", note), []).append((file, note))
    return [
        f"{found[0][0]}: {found[0][1]}"
        if len(found) == 1
        else f"{len(found)} videos, the first {found[0][0]}: {found[0][1]}"
        for found in kinds.values()
    ]
