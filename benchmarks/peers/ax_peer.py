"""Ax with its defaults: Sobol points, then Bayesian optimisation by expected hypervolume, of quality and GFLOPs of the
default setting."""

from __future__ import annotations

import logging
from typing import final

from ax.api.client import Client
from ax.api.configs import RangeParameterConfig

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import Curve, Question


@final
class AxPeer:
    """Ax's client; every knob is a number from 0 to 1."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        for name in ("ax", "ax.api.client"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._names = [knob.name for knob in table.knobs]
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(
            [
                RangeParameterConfig(name=name, parameter_type="float", bounds=(0.0, 1.0))
                for name in self._names
            ]
        )
        self._client.configure_optimization(objective="quality, -gflops")
        self._index = -1

    def ask(self) -> Question:
        """The next trial's place."""
        ((self._index, parameters),) = self._client.get_next_trials(max_trials=1).items()
        return Question(place=[float(parameters[name]) for name in self._names], key=self._index)

    def report(self, curve: Curve, rung: int) -> None:
        """The default setting."""
        gflops, quality = curve[0]
        self._client.complete_trial(self._index, raw_data={"quality": quality, "gflops": gflops})


def make(table: CurveTable, name: str, seed: int) -> AxPeer:
    """The searcher."""
    return AxPeer(table, seed)
