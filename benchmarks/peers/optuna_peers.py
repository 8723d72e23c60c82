"""Optuna's own searches, with their defaults: two objectives, quality and GFLOPs of the default setting."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import final

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import Curve, Question

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "optuna tpe": lambda seed: TPESampler(seed=seed),
    "optuna gp": lambda seed: GPSampler(seed=seed),
    "optuna nsga-ii": lambda seed: NSGAIISampler(seed=seed),
}


@final
class OptunaPeer:
    """A study in memory; every knob is a number from 0 to 1."""

    def __init__(self, table: CurveTable, name: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = SAMPLERS[name](seed)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self._names = [knob.name for knob in table.knobs]
        self._trial: Trial | None = None

    def ask(self) -> Question:
        """The next trial's place."""
        self._trial = self._study.ask()
        place = [self._trial.suggest_float(name, 0, 1) for name in self._names]
        return Question(place=place, key=self._trial.number)

    def report(self, curve: Curve, rung: int) -> None:
        """The default setting."""
        assert self._trial is not None, "it was asked first"
        gflops, quality = curve[0]
        self._study.tell(self._trial, [quality, gflops])


def make(table: CurveTable, name: str, seed: int) -> OptunaPeer:
    """The searcher of this name."""
    return OptunaPeer(table, name, seed)
