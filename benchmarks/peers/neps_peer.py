"""NePS's multi-objective multi-fidelity searches: asynchronous successive halving, and Hyperband."""

from __future__ import annotations

import logging
import random
from typing import Any, final

import neps
import numpy as np
import torch
from neps.optimizers import algorithms

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import Curve, Question

_QUARTERS = {1: 0, 2: 1, 4: 2}
"""Quarters of a training to the rung."""
_MAKE = {"neps moasha": algorithms.moasha, "neps mo-hyperband": algorithms.mo_hyperband}


@final
class NepsPeer:
    """NePS asked and told; every knob is a number from 0 to 1, the fidelity is the quarters of a training."""

    def __init__(self, table: CurveTable, name: str, seed: int) -> None:
        logging.getLogger("neps").setLevel(logging.ERROR)
        random.seed(seed)  # its draws are those of the global generators
        np.random.seed(seed)
        torch.manual_seed(seed)
        self._names = [f"knob{place}" for place in range(len(table.knobs))]
        fields: dict[str, Any] = {each: neps.Float(lower=0.0, upper=1.0) for each in self._names}
        fields["quarters"] = neps.IntegerFidelity(lower=1, upper=4)
        space = type("Space", (neps.PipelineSpace,), fields)()
        self._search = neps.AskAndTell(_MAKE[name](space, eta=2))
        self._trial: Any = None

    def ask(self) -> Question:
        """A new configuration, or one that is trained on."""
        self._trial = self._search.ask()
        config = self._trial.config
        return Question(
            place=[float(config[each]) for each in self._names],
            key=int(self._trial.metadata.id.partition("_")[0]),
            rung=_QUARTERS[int(config["quarters"])],
        )

    def report(self, curve: Curve, rung: int) -> None:
        """The default setting at the rung that was asked for."""
        gflops, quality = curve[0]
        self._search.tell(self._trial, {"objective_to_minimize": [1 - quality, gflops]})


def make(table: CurveTable, name: str, seed: int) -> NepsPeer:
    """The searcher of this name."""
    return NepsPeer(table, name, seed)
