"""Precisions that features can be computed in."""

from __future__ import annotations

from typing import Literal, get_args

from paretovid.trainables.errors import UsageError

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def check_precision(precision: str) -> Precision:
    """Raises `UsageError` unless features can be computed in this precision."""
    for known in PRECISIONS:
        if precision == known:
            return known
    raise UsageError(f"features cannot be computed in {precision!r}", f"Allowed: {', '.join(PRECISIONS)}.")
