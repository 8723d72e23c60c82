"""Syne Tune's MOASHA: random configurations, stopped at rungs by non-dominated sorting."""

from __future__ import annotations

import datetime
from typing import final

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import uniform
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import LAST, Curve, Question

_RESOURCES = (1, 2, 4)
"""Quarters of a training that a rung stands for."""


@final
class Moasha:
    """The scheduler with one worker: a training goes on from rung to rung until it is stopped."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        np.random.seed(seed)  # its draws are those of NumPy's global generator
        self._names = [knob.name for knob in table.knobs]
        self._scheduler = MOASHA(
            config_space={name: uniform(0.0, 1.0) for name in self._names},
            metrics=["error", "gflops"],
            time_attr="quarters",
            max_t=_RESOURCES[-1],
            grace_period=_RESOURCES[0],
            reduction_factor=2,
            random_seed=seed,
        )
        self._trial: Trial | None = None
        self._key, self._rung = -1, 0

    def ask(self) -> Question:
        """The training that goes on, or a new one."""
        if self._trial is None:
            suggestion = self._scheduler.suggest()
            self._key, self._rung = self._key + 1, 0
            self._trial = Trial(
                trial_id=self._key, config=suggestion.config, creation_time=datetime.datetime.now()
            )
            self._scheduler.on_trial_add(self._trial)
        place = [float(self._trial.config[name]) for name in self._names]
        return Question(place=place, key=self._key, rung=self._rung)

    def report(self, curve: Curve, rung: int) -> None:
        """The default setting at a rung, after which the training is stopped or goes on."""
        gflops, quality = curve[0]
        result = {"error": 1 - quality, "gflops": gflops, "quarters": _RESOURCES[rung]}
        decision = self._scheduler.on_trial_result(self._trial, result)
        self._rung = rung + 1
        if rung == LAST or decision == SchedulerDecision.STOP:
            self._trial = None


def make(table: CurveTable, name: str, seed: int) -> Moasha:
    """The searcher."""
    return Moasha(table, seed)
