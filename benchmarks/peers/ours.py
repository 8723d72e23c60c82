"""This platform's search, and random draws, on a table."""

from __future__ import annotations

from typing import final

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import LAST, Curve, Question
from paretovid.platform.search.curves import History, Observed, TrialCurve
from paretovid.platform.search.knob_space import Knobs, KnobSpace, key_of
from paretovid.platform.search.samplers import Asked, Given, GuidedBy, propose
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.evaluation.pareto import reference_of

OURS: dict[str, tuple[str, GuidedBy]] = {
    "tpe, point": ("tpe", "point"),
    "tpe, curve": ("tpe", "curve"),
    "gp, point": ("gp", "point"),
    "gp, curve": ("gp", "curve"),
    "curves": ("curves", "curve"),
}
"""Name to sampler and what guides it."""
RANDOM = "random"


@final
class RandomPlaces:
    """Uniform draws.

    Arguments:
        knobs: K.
    """

    def __init__(self, knobs: int, seed: int) -> None:
        self._knobs, self._generator, self._asked = knobs, np.random.default_rng(seed), 0

    def ask(self) -> Question:
        """A place."""
        self._asked += 1
        return Question(place=[float(each) for each in self._generator.random(self._knobs)], key=self._asked)

    def report(self, curve: Curve, rung: int) -> None:
        """Nothing is learned."""


@final
class OurSearch:
    """This platform's samplers, with anchors and published settings first, as in any sweep.

    Every knob is searched as its place from 0 to 1, a choice as whole numbers; what a row came to is told of the place
    that was suggested.
    """

    def __init__(self, table: CurveTable, name: str, seed: int) -> None:
        self._sampler, self._guided_by = OURS[name]
        self._seed = seed
        self._tops = {
            knob.name: float(len(knob.choices) - 1) if knob.choices else 1.0 for knob in table.knobs
        }
        self._space = KnobSpace(
            {
                knob.name: KnobConfig(low=0, high=self._tops[knob.name], whole=bool(knob.choices))
                for knob in table.knobs
            }
        )
        self._first = [
            self._space.typed(
                {
                    name: round(place * top, 12)
                    for place, (name, top) in zip(table.place(row.knobs), self._tops.items(), strict=True)
                }
            )
            for row in table.rows
            if row.origin != "drawn"
        ]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=Given({}, {}))
        self._finished: list[Observed] = []
        self._known: set[str] = set()
        self._open: tuple[Trial, Knobs] | None = None

    def ask(self) -> Question:
        """The place that the sampler suggests."""
        trial = self._study.ask()
        knobs = self._first.pop(0) if self._first else self._proposed(trial.number)
        self._study.sampler = Given(knobs, self._space.distributions)
        self._space.suggested(trial)
        self._known.add(key_of(knobs))
        self._open = trial, knobs
        place = [float(knobs[name]) / top for name, top in self._tops.items()]
        return Question(place=place, key=trial.number)

    def _proposed(self, number: int) -> Knobs:
        proposal = propose(
            self._sampler,
            Asked(
                study=self._study,
                trial=self._study.get_trials(deepcopy=False)[number],
                space=self._space,
                guided_by=self._guided_by,
                history=self._history,
            ),
            known=self._known,
            fixed={},
            seed=self._seed,
        )
        assert proposal is not None, "a continuous space is never used up"
        return proposal.knobs

    def _history(self) -> History:
        most = max(each.curve.most_gflops for each in self._finished)
        return History(finished=tuple(self._finished), running=(), reference=reference_of((), most))

    def report(self, curve: Curve, rung: int) -> None:
        """The default setting is the value, the rest the curve. A training that was stopped has none, as in a sweep."""
        assert self._open is not None, "it was asked first"
        trial, knobs = self._open
        if rung < LAST:
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        pairs = [(quality, gflops) for gflops, quality in curve]
        self._study.tell(trial, pairs[0])
        self._finished.append(
            Observed(knobs=knobs, curve=TrialCurve.through(pairs, max(cost for _, cost in pairs)))
        )
