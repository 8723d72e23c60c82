"""What early stopping at rungs saves and loses: sweeps drawn from complete trainings, stopped as a sweep would be.

    python -m benchmarks early_stopping bench-home/benchmarks/search_table

The trainings are those of `search_table`, each measured at a quarter and half of its own schedule and at its end. A
sweep is 16 of them in random order, one after the other. The page is `early_stopping.md`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from paretovid.platform.search.rungs import compared
from paretovid.search_spaces.schema import LEAST_OTHERS
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, non_dominated

METHODS = ("lite_eval", "hcms")
TRIALS = 16
RUNGS = (0.25, 0.5)
"""Shares of a training at which it was measured, before its end."""
KEEP = 0.5
STRICT = Reference(gflops=0.1, quality=0.5)
FROM_EPOCHS = {"all": 0, "40 epochs or more": 40}
"""What sweeps are drawn from: trainings of at least so many epochs."""
PLANS: Mapping[str, tuple[float, ...]] = {"0.25": (0.25,), "0.5": (0.5,), "0.25 and 0.5": RUNGS}

Pairs: TypeAlias = tuple[tuple[float, float], ...]
"""Of (quality, GFLOPs)."""
Judge: TypeAlias = Callable[[Pairs, Sequence[Pairs], np.random.Generator], bool]
"""A curve and those that were measured before it to whether it goes on."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One complete training."""

    epochs: int
    is_anchor: bool
    rungs: Mapping[float, Pairs]
    """Rung to its curve on validation."""
    val: Pairs
    """At its end."""
    test: Pairs
    """Of the same points."""


def by_excess(curve: Pairs, others: Sequence[Pairs], generator: np.random.Generator) -> bool:
    """As a sweep does."""
    found = compared(curve, others, KEEP)
    return found is None or found.goes_on


def by_quality(curve: Pairs, others: Sequence[Pairs], generator: np.random.Generator) -> bool:
    """By the quality of the default setting alone, whatever it costs."""
    if len(others) < LEAST_OTHERS:
        return True
    place = 1 + sum(each[0][0] >= curve[0][0] for each in others)
    return place <= math.ceil(KEEP * (1 + len(others)))


def at_random(curve: Pairs, others: Sequence[Pairs], generator: np.random.Generator) -> bool:
    """By a coin."""
    return len(others) < LEAST_OTHERS or bool(generator.random() < KEEP)


RULES: Mapping[str, Judge] = {"excess": by_excess, "mAP": by_quality, "random": at_random}


def trainings(folder: Path, method: str) -> list[Training]:
    """Those of a method in the working folder of `search_table`."""
    found = []
    for path in sorted(folder.glob(f"{method}-*.json")):
        each = json.loads(path.read_text())
        *early, last = (
            {split: tuple((q, g) for g, q in curve[split]) for split in ("val", "test")}
            for curve in each["curves"]
        )
        found.append(
            Training(
                epochs=int(each["knobs"]["epochs"]),
                is_anchor=each["origin"] == "anchor",
                rungs={share: curve["val"] for share, curve in zip(RUNGS, early, strict=True)},
                val=last["val"],
                test=last["test"],
            )
        )
    return found


def stopped_sweep(
    sweep: Sequence[Training], rungs: Sequence[float], judge: Judge, generator: np.random.Generator
) -> tuple[list[Training], int]:
    """The trainings of a sweep that come to their end, and the epochs that the others were not trained. Anchors go
    on."""
    measured: dict[float, list[Pairs]] = {rung: [] for rung in rungs}
    finished, saved = [], 0
    for each in sweep:
        for rung in rungs:
            goes_on = judge(each.rungs[rung], measured[rung], generator) or each.is_anchor
            measured[rung].append(each.rungs[rung])
            if not goes_on:
                saved += each.epochs - round(rung * each.epochs)
                break
        else:
            finished.append(each)
    return finished, saved


def share(sweep: Sequence[Training], box: Reference) -> float:
    """How much of a box the front that is chosen on validation dominates on test, in percent."""
    val = [pair for each in sweep for pair in each.val]
    test = [pair for each in sweep for pair in each.test]
    front = non_dominated([g for _, g in val], [q for q, _ in val])
    covered = hypervolume([test[i][1] for i in front], [test[i][0] for i in front], box)
    return 100 * covered / (box.gflops * (1 - box.quality))


def drawn(known: Sequence[Training], number: int) -> list[Training]:
    """A sweep: the anchors first, then others in random order."""
    anchors = [each for each in known if each.is_anchor]
    others = [each for each in known if not each.is_anchor]
    order = np.random.default_rng(number).permutation(len(others))
    return [*anchors, *(others[i] for i in order)][:TRIALS]


def rows(known: Sequence[Training], method: str, of: str, sweeps: int) -> Iterator[dict[str, Any]]:
    """A row per rule, rungs and sweep. `of`: what sweeps are drawn from."""
    known = [each for each in known if each.epochs >= FROM_EPOCHS[of]]
    whole = Reference(gflops=max(g for each in known for _, g in each.val))
    for number in range(sweeps):
        sweep = drawn(known, number)
        epochs = sum(each.epochs for each in sweep)
        before = [share(sweep, box) for box in (whole, STRICT)]
        for rule, judge in RULES.items():
            for name, rungs in PLANS.items():
                finished, saved = stopped_sweep(sweep, rungs, judge, np.random.default_rng(number))
                after = [share(finished, box) for box in (whole, STRICT)]
                yield {
                    "method": method,
                    "of": of,
                    "rule": rule,
                    "rungs": name,
                    "sweep": number,
                    "stopped": len(sweep) - len(finished),
                    "saved": saved / epochs,
                    "hypervolume": before[0] - after[0],
                    "strict": before[1] - after[1],
                }


def measure(arguments: argparse.Namespace) -> Document:
    """Draws and stops sweeps."""
    known = {method: trainings(arguments.rows, method) for method in METHODS}
    return {
        "trainings": {
            method: {name: sum(each.epochs >= least for each in found) for name, least in FROM_EPOCHS.items()}
            for method, found in known.items()
        },
        "sweeps": [
            row
            for method, each in known.items()
            for of in FROM_EPOCHS
            for row in rows(each, method, of, arguments.sweeps)
        ],
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", type=Path, help="working folder of search_table")
    parser.add_argument("--sweeps", type=int, default=20, help="to draw, of each method")


def _shown(method: str, of: str) -> Shown:
    return Shown(
        f"{method}, {of}: rule, rungs",
        "sweeps",
        ("rule", "rungs"),
        (
            Cell("stopped", f"stopped of {TRIALS}", only_mean=True, digits=1),
            Cell("saved", "epochs saved, %", percent=True, only_mean=True),
            Cell("hypervolume", "hypervolume lost", digits=2),
            Cell("strict", "strict lost", digits=2),
        ),
        where={"method": method, "of": of},
    )


MEASUREMENTS = (
    Measurement(
        name="early_stopping",
        about="what stopping trainings at a rung saves of epochs and loses of hypervolume",
        measure=measure,
        arguments=_arguments,
        page="early_stopping.md",
        alone=("trainings",),
        layouts={"sweeps": Layout("sweeps.*", ("",))},
        shown=tuple(_shown(method, of) for method in METHODS for of in FROM_EPOCHS),
        is_verbatim=True,
    ),
)
