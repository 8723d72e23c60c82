"""What a study asks for its next configuration: Optuna's samplers by name, and random draws where one repeats itself.

Optuna's Gaussian process repeats a configuration exactly, with whatever seed, once its acquisition is flat or highest
in a corner of the space. A search that waited for another answer would end there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial

from paretovid.platform.search.knob_space import Knobs, KnobSpace, key_of

REPEATED = "repeated itself"
TOO_FEW = "too few results"
LEAST_RESULTS = 3
"""Results that a model is made of at least, or as many as a study begins with if these are fewer. Optuna's own start-up
of ten would count the anchors and published settings, and leave most of a small search to chance."""
_DRAWS = 3
"""Configurations that a sampler is asked for, each with another seed, before it counts as repeating itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A configuration to try."""

    knobs: Knobs
    replaces: str | None = None
    """Why it is a random one in the place of the sampler's: `REPEATED`, `TOO_FEW`. None: it is the sampler's."""


def propose(
    sampler: str,
    study: optuna.Study,
    trial: FrozenTrial,
    space: KnobSpace,
    *,
    known: Container[str],
    fixed: Mapping[str, object],
    seed: int,
    has_few: bool = False,
) -> Proposal | None:
    """A configuration that was not tried; None if there is none left.

    The same seed, number and results give the same, whatever process asks.

    Arguments:
        sampler: one of `SAMPLERS`.
        trial: one that was created for it.
        known: keys (`key_of`) of what was tried.
        fixed: values that the trial has already.
        seed: the study's.
        has_few: there are too few results for a model.
    """
    make = SAMPLERS[sampler]
    if make is not None and not has_few:
        for draw in range(_DRAWS):
            knobs = _asked(make(_seed(seed, trial.number, draw)), study, trial, space)
            if key_of({**knobs, **fixed}) not in known:
                return Proposal(knobs=knobs)
    untried = space.untried(known, fixed, _seed(seed, trial.number))
    if untried is None:
        return None
    if make is None:
        return Proposal(knobs=untried)
    return Proposal(knobs=untried, replaces=TOO_FEW if has_few else REPEATED)


def _seed(seed: int, number: int, draw: int = 0) -> int:
    # A sampler that lives on would repeat its start-up after a restart, and suggest otherwise than without.
    sequence = np.random.SeedSequence([seed, number, draw] if draw else [seed, number])
    return int(sequence.generate_state(1)[0])


def _asked(sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial, space: KnobSpace) -> Knobs:
    together = sampler.infer_relative_search_space(study, trial)
    values = sampler.sample_relative(study, trial, together)
    for name, kind in space.distributions.items():
        if name not in values:
            values[name] = sampler.sample_independent(study, trial, name, kind)
    return space.typed(values)


@final
class Given(BaseSampler):
    """A sampler for Optuna that says what was chosen before.

    Arguments:
        knobs: the values.
        distributions: of all knobs.
    """

    def __init__(self, knobs: Mapping[str, object], distributions: Mapping[str, BaseDistribution]) -> None:
        self._knobs = dict(knobs)
        self._distributions = dict(distributions)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All knobs."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """What was chosen."""
        return self._knobs

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The same, for one knob."""
        return self._knobs[param_name]


def _gp(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler] | None] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=1),
    "gp": _gp,
    "random": None,
}
"""Name to what makes the sampler with a seed, without a start-up of its own; None: random draws alone."""
