"""A table of trainings with their whole curves, packed in one file: what any searcher would find without training.

Needs NumPy alone, so that searchers with environments of their own can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RUNGS = (0.25, 0.5, 1.0)
"""Shares of a training's own schedule after which its curve was measured."""
SPLITS = ("val", "test")
_QUALITY_STEPS = 50_000
"""A mAP of 1 in the file's whole numbers."""
_MISSING = 65_535
_MOST = 65_534


@dataclass(frozen=True, kw_only=True)
class TableKnob:
    """A dimension of the table's space."""

    name: str
    low: float
    high: float
    log: bool = False
    choices: tuple[float, ...] = ()
    """Instead of any value between: these, in order, evenly spaced for searchers."""

    def unit(self, value: float) -> float:
        """A value's place from 0 to 1."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, unit: float) -> float:
        """The value at a place from 0 to 1; of choices each has an equal share."""
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.log:
            return float(self.low * (self.high / self.low) ** unit)
        return self.low + unit * (self.high - self.low)


def rung_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs after which a training's curve was measured, rounded up, the last one last."""
    return tuple(math.ceil(share * epochs) for share in RUNGS)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One training."""

    number: int
    """Also its seed."""
    origin: str
    """`anchor`, `published` or `drawn`."""
    knobs: Mapping[str, float]
    curves: Sequence[Mapping[str, Sequence[tuple[float, float]]]]
    """At each rung: split to (GFLOPs, mAP) of its operating points, the default setting first."""

    @property
    def epochs(self) -> int:
        """Of its whole schedule."""
        return int(self.knobs["epochs"])


@dataclass(frozen=True, kw_only=True)
class CurveTable:
    """Trainings of one method."""

    method: str
    knobs: tuple[TableKnob, ...]
    rows: tuple[TableRow, ...]

    @property
    def places(self) -> NDArray[np.float64]:
        """(N, K) places of the N rows from 0 to 1."""
        return np.array([self.place(row.knobs) for row in self.rows])

    def place(self, knobs: Mapping[str, float]) -> list[float]:
        """K numbers from 0 to 1."""
        return [knob.unit(knobs[knob.name]) for knob in self.knobs]

    def nearest(self, place: Sequence[float], used: Collection[int]) -> int:
        """The index of the row nearest to a place, none of those used. Raises `ValueError` when all are used."""
        away = ((self.places - np.asarray(place)) ** 2).sum(axis=1)
        away[list(used)] = math.inf
        if not math.isfinite(away.min()):
            raise ValueError("every row of the table is used")
        return int(away.argmin())

    def pack(self, path: Path) -> None:
        """Writes the file: mAP in steps of 0.00002, GFLOPs in 65,534 steps up to the most expensive point."""
        points = max(len(curve["val"]) for row in self.rows for curve in row.curves)
        most = max(g for row in self.rows for c in row.curves for s in SPLITS for g, _ in c[s])
        packed = np.full((len(self.rows), len(RUNGS), len(SPLITS), points, 2), _MISSING, dtype=np.uint16)
        for r, row in enumerate(self.rows):
            for k, curve in enumerate(row.curves):
                for s, split in enumerate(SPLITS):
                    values = np.array(curve[split]) * (_MOST / most, _QUALITY_STEPS)
                    packed[r, k, s, : len(values)] = np.rint(values).astype(np.uint16)
        about = {
            "method": self.method,
            "most_gflops": most,
            "knobs": [asdict(knob) for knob in self.knobs],
            "numbers": [row.number for row in self.rows],
            "origins": [row.origin for row in self.rows],
        }
        values = np.array([[row.knobs[knob.name] for knob in self.knobs] for row in self.rows])
        with path.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), knobs=values, curves=packed)

    @classmethod
    def read(cls, path: Path) -> CurveTable:
        """What `pack` wrote."""
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            values, packed = file["knobs"], file["curves"]
        knobs = tuple(TableKnob(**{**each, "choices": tuple(each["choices"])}) for each in about["knobs"])
        scale = np.array([about["most_gflops"] / _MOST, 1 / _QUALITY_STEPS])
        rows = tuple(
            TableRow(
                number=number,
                origin=origin,
                knobs={knob.name: float(value) for knob, value in zip(knobs, own, strict=True)},
                curves=tuple(
                    {split: _points(curve[s], scale) for s, split in enumerate(SPLITS)} for curve in rungs
                ),
            )
            for number, origin, own, rungs in zip(
                about["numbers"], about["origins"], values, packed, strict=True
            )
        )
        return cls(method=about["method"], knobs=knobs, rows=rows)


def _points(packed: NDArray[np.uint16], scale: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    known = packed[packed[:, 0] != _MISSING] * scale
    return tuple((float(gflops), float(quality)) for gflops, quality in known)
