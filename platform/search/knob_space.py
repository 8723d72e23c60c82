"""The space that the knobs of a search span: their ranges as Optuna has them, its ends, and what in it is untried."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import TypeAlias, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import Trial, create_trial

from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.documents import JsonValue

KnobValue: TypeAlias = int | float | str
Knobs: TypeAlias = dict[str, KnobValue]

RANDOM_DRAWS = 1000
"""Draws from a space that is too large to be listed, before it is taken for used up."""
_DRAWS_BEFORE_LISTING = 20
_MOST_LISTED = 100_000


@final
class KnobSpace:
    """All configurations of some knobs.

    Arguments:
        knobs: name to range.
    """

    def __init__(self, knobs: Mapping[str, KnobConfig]) -> None:
        self.ranges = dict(knobs)
        """Name to range, as it is configured."""
        self.distributions = {name: distribution(knob) for name, knob in knobs.items()}
        """Name to range, as Optuna has it."""

    @property
    def size(self) -> float:
        """How many configurations there are; infinite if a knob is continuous."""
        sizes = [_size(kind) for kind in self.distributions.values()]
        return math.prod(sizes)

    def end(self, *, most_expensive: bool) -> Knobs:
        """The configuration with every knob at its most expensive or its cheapest end."""
        return {name: _end(knob, most_expensive) for name, knob in self.ranges.items()}

    def within(self, points: Sequence[Mapping[str, KnobValue]]) -> list[Knobs]:
        """The points that lie in the space. Knobs that it lacks are left out; a point with one that is out of its
        range is another point, and left out as a whole."""
        kept = []
        for point in points:
            inside = {name: value for name, value in point.items() if self._allows(name, value)}
            if inside and all(name in inside or name not in self.ranges for name in point):
                kept.append(inside)
        return kept

    def typed(self, values: Mapping[str, object]) -> Knobs:
        """The values of all knobs, each of its knob's type: an enqueued 2 comes back as 2 from this process and as 2.0
        from a storage, which would be two configurations."""
        return {name: _typed(values[name], kind) for name, kind in self.distributions.items()}

    def suggested(self, trial: Trial) -> Knobs:
        """The values of all knobs that the study's sampler gives a trial, kept with it."""
        return self.typed({name: _suggest(trial, name, kind) for name, kind in self.distributions.items()})

    def untried(self, known: Container[str], fixed: Mapping[str, object], seed: int) -> Knobs | None:
        """A configuration that was not tried, at random; None if none is left, or if `RANDOM_DRAWS` find none.

        Arguments:
            known: keys (`key_of`) of those that were tried.
            fixed: values that it must have.
            seed: the same gives the same.
        """
        # Optuna's, whose draws depend neither on a study nor on a trial.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler, study, trial = RandomSampler(seed=seed), optuna.create_study(), create_trial(value=0.0)
        for draw in range(RANDOM_DRAWS):
            if draw == _DRAWS_BEFORE_LISTING and self.size < _MOST_LISTED:
                untried = [knobs for knobs in self._every(fixed) if key_of(knobs) not in known]
                generator = np.random.default_rng(seed)
                return untried[int(generator.integers(len(untried)))] if untried else None
            drawn = {
                name: fixed[name] if name in fixed else sampler.sample_independent(study, trial, name, kind)
                for name, kind in self.distributions.items()
            }
            knobs = self.typed(drawn)
            if key_of(knobs) not in known:
                return knobs
        return None

    def _every(self, fixed: Mapping[str, object]) -> list[Knobs]:
        values = {
            name: [fixed[name]] if name in fixed else _values(kind)
            for name, kind in self.distributions.items()
        }
        return [
            self.typed(dict(zip(values, chosen, strict=True)))
            for chosen in itertools.product(*values.values())
        ]

    def _allows(self, name: str, value: KnobValue) -> bool:
        kind = self.distributions.get(name)
        if isinstance(kind, CategoricalDistribution):
            return value in kind.choices
        assert kind is None or isinstance(kind, FloatDistribution | IntDistribution)
        return kind is not None and not isinstance(value, str) and _contains(kind, float(value))


def key_of(knobs: Mapping[str, object]) -> str:
    """What two equal configurations share and others do not."""
    return json.dumps(dict(sorted(knobs.items())), default=str)


def distribution(knob: KnobConfig) -> BaseDistribution:
    """A knob's range as Optuna has it."""
    if knob.choices:
        return CategoricalDistribution(tuple(knob.choices))
    assert knob.low is not None and knob.high is not None, (
        "platform/config/load.py refuses a knob without a range"
    )
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(float(knob.low), float(knob.high), log=knob.log)


def _contains(kind: FloatDistribution | IntDistribution, value: float) -> bool:
    is_on_grid = isinstance(kind, FloatDistribution) or value == int(value)
    return kind.low <= value <= kind.high and is_on_grid


def _size(kind: BaseDistribution) -> float:
    """How many values a knob can take."""
    if isinstance(kind, CategoricalDistribution):
        return len(kind.choices)
    if isinstance(kind, IntDistribution):
        return len(range(kind.low, kind.high + 1, kind.step))
    return math.inf


def _values(kind: BaseDistribution) -> Sequence[KnobValue]:
    if isinstance(kind, CategoricalDistribution):
        return [choice for choice in kind.choices if choice is not None]
    assert isinstance(kind, IntDistribution)
    return range(kind.low, kind.high + 1, kind.step)


def _end(knob: KnobConfig, most_expensive: bool) -> KnobValue:
    low = (knob.cheapest == "low") != most_expensive
    if knob.choices:
        choice: KnobValue = knob.choices[0 if low else -1]
        return choice
    value = knob.low if low else knob.high
    assert value is not None, "platform/config/load.py refuses a knob without a range"
    return int(value) if knob.whole else float(value)


def _typed(value: object, kind: BaseDistribution) -> KnobValue:
    if isinstance(kind, CategoricalDistribution):
        assert isinstance(value, int | float | str), "no knob has None among its choices"
        return value
    assert isinstance(value, int | float)
    return float(value) if isinstance(kind, FloatDistribution) else int(value)


def _suggest(trial: Trial, name: str, kind: BaseDistribution) -> object:
    if isinstance(kind, FloatDistribution):
        return trial.suggest_float(name, kind.low, kind.high, log=kind.log)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(name, kind.low, kind.high, log=kind.log)
    assert isinstance(kind, CategoricalDistribution)
    return trial.suggest_categorical(name, kind.choices)


def describe(knobs: Mapping[str, KnobConfig], directions: Mapping[str, str]) -> dict[str, JsonValue]:
    """What makes two studies the same search: objectives and ranges, as plain data."""
    ranges: dict[str, JsonValue] = {}
    for name, knob in sorted(knobs.items()):
        ends = {"choices": list(knob.choices)} if knob.choices else {"low": knob.low, "high": knob.high}
        ranges[name] = {**ends, "log": knob.log, "whole": knob.whole}
    return {"objectives": dict(directions), "knobs": ranges}
