"""Curves of caps per video, at the default setting of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.points import Point
from benchmarks.harness.results import Row, Rows

KNOBS = ("max_gflops", "cap_rule")


def under_caps(points: Sequence[Point], rule: str = "stop") -> list[dict[str, Any]]:
    """mAP and GFLOPs on test under each cap that a trial kept, and the uncapped run last (cap 0).

    A trial keeps a cap only if it changes an answer. One that continues cheaply and is not kept though the other rule's
    is had nothing cheaper to continue with, and is that one.
    """
    default = _without_cap(points[0])
    by_rule: dict[str, dict[float, Point]] = {"stop": {}, "cheap": {}}
    for point in points:
        cap = float(point.setting.get("max_gflops") or 0)
        if cap and _without_cap(point) == default:
            by_rule[str(point.setting["cap_rule"])][cap] = point
    found = by_rule["stop"] if rule == "stop" else {**by_rule["stop"], **by_rule["cheap"]}
    return [
        {"cap": cap, "map": point.test.qualities["map"], "gflops": point.test.gflops}
        for cap, point in [*sorted(found.items()), (0.0, points[0])]
    ]


def _without_cap(point: Point) -> dict[str, Any]:
    return {name: value for name, value in point.setting.items() if name not in KNOBS}


def complete_caps(rows: Rows, by: tuple[str, ...] = ("trial",)) -> Rows:
    """A row per group, seed and cap, the uncapped run as cap `none`; a cap that a trial did not keep is that run."""
    found: list[Row] = []
    for key, of_group in rows.groups(by).items():
        caps = sorted({float(row["cap"]) for row in of_group.rows} - {0.0})
        for (seed,), group in of_group.groups(("seed",)).items():
            by_cap = {float(row["cap"]): row for row in group.rows}
            for cap in (*caps, 0.0):
                row = by_cap.get(cap, by_cap[0.0])
                own = {**dict(zip(by, key, strict=True)), "seed": seed, "cap": cap or "none"}
                found.append({**own, "map": row["map"], "gflops": row["gflops"]})
    return Rows(tuple(found))
