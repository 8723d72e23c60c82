"""Which rows a search took, in a file of its own. Needs no package at all."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.walk import Step

_COLUMNS = ("method", "searcher", "seed", "row", "rung")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One search."""

    method: str
    searcher: str
    seed: int
    steps: tuple[Step, ...]


def trace_path(folder: Path, method: str, searcher: str, seed: int) -> Path:
    """Where a search is kept."""
    name = searcher.replace(",", "").replace(" ", "_")
    return folder / f"{name}-{method}-{seed:02d}.csv"


def write_trace(path: Path, trace: Trace) -> None:
    """A line per step."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((trace.method, trace.searcher, trace.seed, s.row, s.rung) for s in trace.steps)
    partial.replace(path)


def read_trace(path: Path) -> Trace:
    """What `write_trace` wrote: at least one step."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Trace(
        method=rows[0]["method"],
        searcher=rows[0]["searcher"],
        seed=int(rows[0]["seed"]),
        steps=tuple(Step(row=int(row["row"]), rung=int(row["rung"])) for row in rows),
    )
