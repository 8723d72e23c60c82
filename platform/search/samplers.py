"""What a study asks for its next configuration: Optuna's samplers by name, and random draws where one repeats itself.

Optuna's Gaussian process repeats a configuration exactly, with whatever seed, once its acquisition is flat or highest
in a corner of the space. A search that waited for another answer would end there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from paretovid.platform.search.curve_sampler import suggest_by_curves
from paretovid.platform.search.curves import History
from paretovid.platform.search.knob_space import Knobs, KnobSpace, KnobValue, key_of
from paretovid.search_spaces.samplers import RANDOM, SAMPLERS
from paretovid.trainables.errors import UsageError

GuidedBy: TypeAlias = Literal["point", "curve"]
"""What a trial's value to a sampler is: quality and GFLOPs of its default setting, two objectives; or the hypervolume
that its whole curve adds to all others, one objective."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a sampler is asked with. All that it needs for an answer of its own is `space` and `history`."""

    space: KnobSpace
    """The knobs; `space.ranges` has them as they are configured."""
    history: Callable[[], History]
    """What was tried, what it came to, and what runs."""
    guided_by: GuidedBy
    study: optuna.Study
    """The one that is kept, of two objectives; never to be changed. For Optuna's samplers, as is `trial`."""
    trial: FrozenTrial
    """One that was created for the answer."""


def propose(
    sampler: str,
    asked: Asked,
    *,
    known: Container[str],
    fixed: Mapping[str, object],
    seed: int,
    has_few: bool = False,
) -> Proposal | None:
    """A configuration that was not tried; None if there is none left.

    The same seed, number and results give the same, whatever process asks.

    Arguments:
        sampler: one of the names in `search_spaces/samplers.py`.
        known: keys (`key_of`) of what was tried.
        fixed: values that the trial has already.
        seed: the study's.
        has_few: there are too few results for a model.

    Raises `UsageError` if the sampler gives something else than a configuration.
    """
    number = asked.trial.number
    if sampler != RANDOM and not has_few:
        suggest = SAMPLERS.get(sampler)
        for draw in range(_DRAWS):
            knobs = _complete(sampler, suggest(asked, _seed(seed, number, draw)), asked.space)
            if key_of({**knobs, **fixed}) not in known:
                return Proposal(knobs=knobs)
    untried = asked.space.untried(known, fixed, _seed(seed, number))
    if untried is None:
        return None
    if sampler == RANDOM:
        return Proposal(knobs=untried)
    return Proposal(knobs=untried, replaces=TOO_FEW if has_few else REPEATED)


def _complete(sampler: str, suggested: Mapping[str, KnobValue], space: KnobSpace) -> Knobs:
    """The values of all knobs. Raises `UsageError` for one that is missing or out of its range."""
    if space.within([suggested]) != [dict(suggested)] or suggested.keys() != space.distributions.keys():
        raise UsageError(
            f"the sampler {sampler!r} has suggested {dict(suggested)}, which is no configuration of the knobs",
            f"It must give a value within its range for each of: {', '.join(space.distributions)}.",
        )
    return space.typed(suggested)


def _seed(seed: int, number: int, draw: int = 0) -> int:
    # A sampler that lives on would repeat its start-up after a restart, and suggest otherwise than without.
    sequence = np.random.SeedSequence([seed, number, draw] if draw else [seed, number])
    return int(sequence.generate_state(1)[0])


@final
class OptunaSampler:
    """One of Optuna's samplers, on the study itself or on a view of it that has the curves' worth as its one objective.

    Optuna keeps the value of a trial as it was reported, and what a curve adds changes with every other curve: so the
    view is made anew for every question, about 0.1 ms per trial, and forgotten.

    Arguments:
        make: the sampler, with a seed and without a start-up of its own.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make

    def __call__(self, asked: Asked, seed: int) -> Knobs:
        """The sampler's next configuration."""
        study, trial = asked.study, asked.trial
        if asked.guided_by == "curve":
            study, trial = curve_view(asked.history(), asked.space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._make(seed)
        together = sampler.infer_relative_search_space(study, trial)
        values = sampler.sample_relative(study, trial, together)
        for name, kind in asked.space.distributions.items():
            if name not in values:
                values[name] = sampler.sample_independent(study, trial, name, kind)
        return asked.space.typed(values)


def curve_view(history: History, space: KnobSpace) -> tuple[optuna.Study, FrozenTrial]:
    """A study in memory that maximises what the curves add, and its trial that waits for an answer."""
    study = optuna.create_study(direction="maximize", sampler=Given({}, {}))
    study.add_trials(
        create_trial(params=dict(each.knobs), distributions=space.distributions, value=value)
        for each, value in zip(history.finished, history.contributions, strict=True)
    )
    study.add_trials(
        create_trial(state=TrialState.RUNNING, params=dict(knobs), distributions=space.distributions)
        for knobs in history.running
    )
    number = study.ask().number
    return study, study.get_trials(deepcopy=False)[number]


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


def random_configuration(asked: Asked, seed: int) -> Knobs:
    """`random`: any configuration, whatever was tried."""
    drawn = asked.space.untried((), {}, seed)
    assert drawn is not None, "nothing counts as tried"
    return drawn


def _by_curves(asked: Asked, seed: int) -> Knobs:
    return suggest_by_curves(asked.history(), asked.space, seed)


TPE = OptunaSampler(lambda seed: TPESampler(seed=seed, n_startup_trials=1))
GP = OptunaSampler(lambda seed: GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False))
CURVES = _by_curves
