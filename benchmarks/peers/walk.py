"""One search on a table: a searcher suggests, and the nearest row that is not used is what it trained.

Needs NumPy alone. What is kept of a search is which rows it took and how far it trained them: every figure follows from
that and the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from benchmarks.peers.curve_table import RUNGS, CurveTable, rung_epochs

Curve: TypeAlias = Sequence[tuple[float, float]]
"""(GFLOPs, mAP) on validation, the default setting first."""
LAST = len(RUNGS) - 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """A row, and how far it was trained in this step."""

    row: int
    """Its index in the table."""
    rung: int
    """Index in `RUNGS`; `LAST` is trained to the end."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a searcher wants to know."""

    place: Sequence[float]
    """K numbers from 0 to 1."""
    key: int
    """Of its configuration: one that is asked again, at a later rung, is trained on from where it was."""
    rung: int = LAST


class Searcher(Protocol):
    """What suggests places of the unit cube."""

    def ask(self) -> Question:
        """The next place."""

    def report(self, curve: Curve, rung: int) -> None:
        """What came of the question asked last, and at which rung: an earlier one if the training was stopped."""


Make: TypeAlias = Callable[[CurveTable, int], Searcher]
"""A searcher for a table, with a seed."""
Stops: TypeAlias = Callable[[Curve, Sequence[Curve]], bool]
"""Whether a training ends at the first rung: its curve there, and those of the ones before it."""


def never(curve: Curve, others: Sequence[Curve]) -> bool:
    """Everything is trained as far as was asked."""
    return False


def epochs_spent(table: CurveTable, steps: Sequence[Step]) -> list[int]:
    """Epochs spent until the end of each step; a row that goes on costs what is left."""
    behind: dict[int, int] = {}
    spent: list[int] = []
    for step in steps:
        epochs = rung_epochs(table.rows[step.row].epochs)[step.rung]
        spent.append((spent[-1] if spent else 0) + epochs - behind.get(step.row, 0))
        behind[step.row] = epochs
    return spent


def walk(table: CurveTable, searcher: Searcher, *, budget_epochs: int, stops: Stops = never) -> list[Step]:
    """A search until its epochs are spent or the table is used up; the last training may exceed the epochs."""
    steps: list[Step] = []
    seen: list[Curve] = []
    rows: dict[int, int] = {}
    while not steps or epochs_spent(table, steps)[-1] < budget_epochs:
        question = searcher.ask()
        if question.key not in rows:
            if len(rows) == len(table.rows):
                break
            rows[question.key] = table.nearest(question.place, set(rows.values()))
            first = curve_at(table, rows[question.key], 0)
            is_stopped = stops(first, seen)
            seen.append(first)
        else:
            is_stopped = False
        rung = 0 if is_stopped else question.rung
        steps.append(Step(row=rows[question.key], rung=rung))
        searcher.report(curve_at(table, steps[-1].row, rung), rung)
    return steps


def curve_at(table: CurveTable, row: int, rung: int, split: str = "val") -> Curve:
    """A row's curve."""
    curves: Sequence[Mapping[str, Curve]] = table.rows[row].curves
    return curves[rung][split]
