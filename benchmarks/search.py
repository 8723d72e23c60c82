"""Searchers side by side on a table of real trainings: ours, random draws and other packages'.

    python -m benchmarks.peers ax benchmarks/results/search_table/*.npz --out peers  # in Ax's environment
    python -m benchmarks search --peers peers

A search suggests places, gets the nearest trainings of `search_table` that it has not had, and pays their epochs. Its
front is chosen on validation and shown on both splits. Searches that are in the folder of `--peers` are not repeated;
the page is `search.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Rows
from benchmarks.harness.tables import span, table
from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.ours import OURS, RANDOM, OurSearch, RandomPlaces
from benchmarks.peers.searchers import NAMES, NotInstalledError, searcher
from benchmarks.peers.traces import Trace, read_trace, trace_path, write_trace
from benchmarks.peers.walk import LAST, Curve, Searcher, curve_at, epochs_spent, never, walk
from benchmarks.search_table import METHODS, TABLES
from paretovid.platform.search.rungs import compared
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, non_dominated

BUDGET = 800
"""Epochs of a search: 20 trainings of the platform's default length."""
MARKS = (200, 400, 800)
"""Epochs after which fronts are shown."""
ENOUGH = 0.98
"""Of the whole table's hypervolume."""
STRICT = Reference(gflops=0.1, quality=0.5)
DEFAULT = "tpe, point"
_STOPPED = ", stopped"
KEPT = 0.5
"""Of the trainings that are compared at the first rung."""
STOPPED = tuple(f"{name}{_STOPPED}" for name in (RANDOM, DEFAULT, "tpe, curve", "curves"))
MINE = (RANDOM, *OURS, *STOPPED)
EVERYONE = (*MINE, *NAMES)


def stops_by_excess(curve: Curve, others: Sequence[Curve]) -> bool:
    """Whether early stopping ends a training at its first rung."""
    found = compared(_turned(curve), [_turned(each) for each in others], KEPT)
    return found is not None and not found.goes_on


def _turned(curve: Curve) -> list[tuple[float, float]]:
    return [(quality, gflops) for gflops, quality in curve]


def made(table: CurveTable, name: str, seed: int) -> Searcher:
    """A searcher of this name. Raises `NotInstalledError` for a peer that is not there."""
    name = name.removesuffix(_STOPPED)
    if name == RANDOM:
        return RandomPlaces(len(table.knobs), seed)
    return OurSearch(table, name, seed) if name in OURS else searcher(name, table, seed)


def search(table: CurveTable, name: str, seed: int, budget_epochs: int = BUDGET) -> Trace:
    """One search. Raises `NotInstalledError` for a peer that is not there."""
    stops = stops_by_excess if name.endswith(_STOPPED) else never
    steps = walk(table, made(table, name, seed), budget_epochs=budget_epochs, stops=stops)
    return Trace(method=table.method, searcher=name, seed=seed, steps=tuple(steps))


Pairs = list[tuple[tuple[float, float], tuple[float, float]]]
"""(GFLOPs, mAP) on validation, and on test, of the same points."""


def pairs_of(table: CurveTable, row: int, rung: int) -> Pairs:
    """A row's points."""
    return list(zip(curve_at(table, row, rung), curve_at(table, row, rung, "test"), strict=True))


def whole_box(known: CurveTable) -> Reference:
    """Quality 0 at the most expensive point of any finished training."""
    rows = range(len(known.rows))
    return Reference(gflops=max(g for r in rows for pair in pairs_of(known, r, LAST) for g, _ in pair))


def shares(pairs: Pairs, box: Reference) -> tuple[float, float]:
    """Percent of a box that the front chosen on validation dominates there and on test."""
    front = non_dominated([val[0] for val, _ in pairs], [val[1] for val, _ in pairs])
    size = box.gflops * (1 - box.quality)
    val, test = (
        100 * hypervolume([pairs[i][s][0] for i in front], [pairs[i][s][1] for i in front], box) / size
        for s in (0, 1)
    )
    return val, test


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A search after a step."""

    epochs: int
    val: float
    test: float
    """Percent of the box."""


def course(table: CurveTable, trace: Trace, box: Reference) -> Iterator[Moment]:
    """A search, step by step."""
    pairs: Pairs = []
    # Of a peer every curve counts; a sweep of ours has no result of a training that it has stopped.
    for step, epochs in zip(trace.steps, epochs_spent(table, trace.steps), strict=True):
        if step.rung == LAST or trace.searcher in NAMES:
            pairs += pairs_of(table, step.row, step.rung)
            front = non_dominated([val[0] for val, _ in pairs], [val[1] for val, _ in pairs])
            pairs = [pairs[i] for i in front]
        val, test = shares(pairs, box)
        yield Moment(epochs=epochs, val=val, test=test)


def figures(table: CurveTable, trace: Trace) -> dict[str, Any]:
    """The figures of one search."""
    row: dict[str, Any] = {
        "method": trace.method,
        "searcher": trace.searcher,
        "seed": trace.seed,
        "trainings": len({step.row for step in trace.steps}),
    }
    everything = [pair for r in range(len(table.rows)) for pair in pairs_of(table, r, LAST)]
    for name, box in (("whole", whole_box(table)), ("strict", STRICT)):
        goals = shares(everything, box)
        moments = list(course(table, trace, box))
        for place, split in enumerate(("val", "test")):
            reached = [m.epochs for m in moments if getattr(m, split) >= ENOUGH * goals[place]]
            row[f"{name}.{split}.reached"] = bool(reached and reached[0] <= BUDGET)
            row[f"{name}.{split}.epochs"] = min([*reached, BUDGET])
            for mark in MARKS:
                known = [getattr(m, split) for m in moments if m.epochs <= mark]
                row[f"{name}.{split}.{mark}"] = known[-1] if known else 0.0
    return row


def measure(arguments: argparse.Namespace) -> Document:
    """Runs what can be run here and is not in the folder, and reads the rest."""
    tables = {method: CurveTable.read(TABLES / f"{method}.npz") for method in METHODS}
    folder: Path = arguments.peers
    folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    for seed in range(arguments.seeds):
        for name in EVERYONE:
            for each in tables.values():
                path = trace_path(folder, each.method, name, seed)
                if not path.exists() and name not in reasons and not arguments.only_read:
                    try:
                        write_trace(path, search(each, name, seed))
                    except NotInstalledError as error:
                        reasons[name] = str(error)
    traces = sorted(map(read_trace, folder.glob("*.csv")), key=lambda t: (EVERYONE.index(t.searcher), t.seed))
    there = {trace.searcher for trace in traces}
    return {
        "searches": [figures(tables[trace.method], trace) for trace in traces],
        "steps": [
            {
                "method": t.method,
                "searcher": t.searcher,
                "seed": t.seed,
                "step": i,
                "row": s.row,
                "rung": s.rung,
            }
            for t in traces
            for i, s in enumerate(t.steps)
        ],
        "missing": [
            {"searcher": name, "reason": reasons.get(name, "no searches of it in the folder")}
            for name in EVERYONE
            if name not in there
        ],
    }


_TITLE = (
    "seeds",
    "trainings",
    "epochs to 98 % on validation",
    "reached",
    "epochs to 98 % on test",
    "reached",
    *(f"test, {mark} epochs" for mark in MARKS),
    *(f"minus {DEFAULT}, {mark}" for mark in MARKS[1:]),
)


def _shown(method: str, box: str) -> Callable[[Results], str]:
    """A line per searcher."""

    def text(results: Results) -> str:
        searches = results["searches"].matching({"method": method})
        default = searches.matching({"searcher": DEFAULT})
        groups = searches.groups(("searcher",))
        lines = [[str(name), *_cells(group, default, box)] for (name,), group in groups.items()]
        missing = results.tables.get("missing", Rows(()))
        lines += [
            [f"{row['searcher']} (not run: {row['reason']})", *[""] * len(_TITLE)] for row in missing.rows
        ]
        return table([f"{method}, {box} box", *_TITLE], lines)

    return text


def _cells(group: Rows, default: Rows, box: str) -> list[str]:
    """A searcher's line; differences are from the default search, seed by seed."""

    def reached(split: str) -> list[str]:
        epochs, flags = (group.numbers(f"{box}.{split}.{each}") for each in ("epochs", "reached"))
        return [span(epochs, digits=0), f"{sum(flags):.0f}"]

    def difference(mark: int) -> str:
        column = f"{box}.test.{mark}"
        values = {row["seed"]: float(row[column]) for row in default.rows}
        own = {row["seed"]: float(row[column]) for row in group.rows}
        return span((own[seed] - values[seed] for seed in own if seed in values), digits=2)

    return [
        str(len(group.rows)),
        _mean(group.numbers("trainings"), 1),
        *reached("val"),
        *reached("test"),
        *(_mean(group.numbers(f"{box}.test.{mark}"), 2) for mark in MARKS),
        *(difference(mark) for mark in MARKS[1:]),
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{sum(values) / len(values):.{digits}f}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--peers", type=Path, required=True, help="folder of the searches, a CSV file each")
    parser.add_argument("--only-read", action="store_true", help="searches nothing, reads the folder")


MEASUREMENTS = (
    Measurement(
        name="search",
        about="searchers on a table of real trainings: ours, random draws, Optuna, Ax, Syne Tune and NePS",
        measure=measure,
        arguments=_arguments,
        layouts={
            "searches": Layout("searches.*", ("",)),
            "steps": Layout("steps.*", ("",)),
            "missing": Layout("missing.*", ("",)),
        },
        shown=tuple(_shown(method, box) for method in METHODS for box in ("whole", "strict")),
        is_verbatim=True,
    ),
)
