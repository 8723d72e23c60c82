"""Which trials are trained on past a rung: those whose curves lie furthest above the others' at equal cost.

At a share of its epochs a trial is measured, and compared with those that were measured there before it, as they come:
nobody waits for others. The first ones always go on, as there is nothing to compare them with.

A quality alone says little: a cheap trial and an expensive one are both worth having. So curves are compared at their
own costs: the **excess** of a curve is how far its best point lies above the median of what the others reach for no
more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from paretovid.search_spaces.schema import LEAST_OTHERS

Curve: TypeAlias = Sequence[tuple[float, float]]
"""Pairs of quality (a fraction) and GFLOPs."""

MOST_OTHERS = 64
"""Trials that one is compared with, the latest: the time for it grows with their square."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One curve among others."""

    excess: float
    place: int
    """By excess, 1 for the best of it and the others; of equals the earlier are better."""
    goes_on: bool


def compared(curve: Curve, others: Sequence[Curve], keep: float) -> Comparison | None:
    """Where a curve stands at a rung; None with fewer than `LEAST_OTHERS` others: then it goes on.

    Arguments:
        others: of the trials that were measured there before, stopped ones too, in their order.
        keep: the share that goes on, above 0 and below 1; rounded up.
    """
    if len(others) < LEAST_OTHERS:
        return None
    own, *rest = excesses([curve, *others[-MOST_OTHERS:]])
    place = 1 + sum(each >= own for each in rest)
    return Comparison(excess=own, place=place, goes_on=place <= math.ceil(keep * (1 + len(rest))))


def excesses(curves: Sequence[Curve]) -> list[float]:
    """How far the best point of each curve lies above the median of what the others reach at its cost or less, in
    quality. A curve that has no point so cheap reaches 0 there; one without points has an excess of minus infinity.
    """
    costs = sorted({cost for curve in curves for _, cost in curve})
    if not costs:
        return [-math.inf] * len(curves)
    best = np.zeros((len(curves), len(costs)))
    for row, curve in zip(best, curves, strict=True):
        places = np.searchsorted(costs, [cost for _, cost in curve])
        np.maximum.at(row, places, [quality for quality, _ in curve])
    best = np.maximum.accumulate(best, axis=1)
    found = []
    for index, curve in enumerate(curves):
        medians = np.median(np.delete(best, index, axis=0), axis=0)
        places = np.searchsorted(costs, [cost for _, cost in curve])
        above = [quality - float(medians[place]) for (quality, _), place in zip(curve, places, strict=True)]
        found.append(max(above, default=-math.inf))
    return found
