"""Which points nothing beats, how much they cover, and where the bend is. Two objectives only.

Cost is to be low, quality high. Everything here is exact and knows nothing of trials or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paretovid.trainables.errors import NonFiniteError


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The corner that a hypervolume is measured from: points outside it count nothing."""

    quality: float = 0.0
    """Worst quality that is worth anything, a fraction."""
    gflops: float
    """The most expensive cost that is worth anything, GFLOPs per video."""

    def to_json(self, objective: str) -> dict[str, float]:
        """Plain data, the quality under the name of its objective."""
        return {objective: self.quality, "gflops": self.gflops}


def reference_of(given: Sequence[Reference | None], most_gflops: float) -> Reference:
    """The corner that some sweeps are measured from, for all who ask: fronts, and progress while one runs.

    Arguments:
        given: each sweep's own corner, if it has one. Where all have, the largest corner that holds them all.
        most_gflops: GFLOPs per video of the most expensive operating point on either split, baselines included. Where
            a sweep has given no corner, it is quality 0 at this cost, and the most expensive point counts nothing
            itself.
    """
    known = [reference for reference in given if reference is not None]
    if known and len(known) == len(given):
        return Reference(quality=min(r.quality for r in known), gflops=max(r.gflops for r in known))
    return Reference(gflops=most_gflops)


def _check(costs: Sequence[float], qualities: Sequence[float]) -> None:
    if len(costs) != len(qualities):
        raise ValueError(f"{len(costs)} costs but {len(qualities)} qualities")
    for value in (*costs, *qualities):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"a point with the value {value} has no place on a front", "Leave failed trials out."
            )


def non_dominated(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats on both objectives, cheapest first.

    A point beats another if it is at least as good in both and better in one. Of points with equal cost and
    equal quality the first given is kept.
    """
    _check(costs, qualities)
    front: list[int] = []
    best = -math.inf
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], i)):
        if qualities[i] > best:
            front.append(i)
            best = qualities[i]
    return front


def hypervolume(costs: Sequence[float], qualities: Sequence[float], reference: Reference) -> float:
    """Area between the reference corner and the staircase of the points, in GFLOPs times quality (fraction).

    Exact. Dominated points and points outside the reference corner add nothing; no points: 0.
    """
    area, best = 0.0, reference.quality
    # From the cheapest on, a better point adds a slab as wide as what it saves against the reference.
    for i in non_dominated(costs, qualities):
        if costs[i] < reference.gflops and qualities[i] > best:
            area += (reference.gflops - costs[i]) * (qualities[i] - best)
            best = qualities[i]
    return area


def knee(costs: Sequence[float], qualities: Sequence[float]) -> int:
    """Index of the front's bend: the point furthest above the line from its cheapest to its best point.

    Both axes are scaled to the front's own range. Ties go to the cheaper point; a front of one or two points
    has no bend, and its cheapest is given. Raises `ValueError` without points.
    """
    front = non_dominated(costs, qualities)
    if not front:
        raise ValueError("no points, no knee")
    first, last = front[0], front[-1]
    width, height = costs[last] - costs[first], qualities[last] - qualities[first]
    if len(front) < 3:
        return first

    def above(i: int) -> float:
        return (qualities[i] - qualities[first]) / height - (costs[i] - costs[first]) / width

    return max(front, key=lambda i: (above(i), -costs[i]))


def thinned(costs: Sequence[float], qualities: Sequence[float], limit: int) -> list[int]:
    """At most `limit` (>= 2) indices of the front that show its shape, cheapest first; both ends stay.

    The point whose loss would shrink the covered area least goes first.
    """
    kept = non_dominated(costs, qualities)
    while len(kept) > max(2, limit):
        losses = [
            (costs[kept[k + 1]] - costs[kept[k]]) * (qualities[kept[k]] - qualities[kept[k - 1]])
            for k in range(1, len(kept) - 1)
        ]
        del kept[1 + losses.index(min(losses))]
    return kept
