"""The sampler `curves`: a model of whole curves, asked where a further training would add most to the front.

Each finished trial is a staircase: the best quality on validation for at most so many GFLOPs. At `_COSTS` costs, evenly
spaced by logarithm, a Gaussian process says what quality any knobs will reach: one kernel (Matern 5/2, a length per
knob) for all costs, chosen on a small grid by the evidence of the curves, exact, in NumPy.

What a curve adds to the front is the area that it lies above it: a sum over the intervals between two costs, of width
times what the quality exceeds the front by there, or 0. Its expectation is therefore the sum of each cost's expected
improvement, whatever the correlation between costs, and is known in closed form: nothing is drawn for it. Trials that
run count as finished with what the model expects of them, so that those at a time are spread.

After S. Daulton et al., "Differentiable Expected Hypervolume Improvement" (NeurIPS 2020), with a curve in the place of
a point; expected improvement as D. Jones et al., "Efficient Global Optimization" (1998).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from paretovid.platform.search.curves import History, Observed
from paretovid.platform.search.knob_space import Knobs, KnobSpace, KnobValue

Array: TypeAlias = NDArray[np.float64]

_COSTS = 16
_CHEAPEST_SHARE = 1e-3
"""Of the reference corner's cost, below which costs are not told apart."""
MOST_MODELLED = 256
"""Trials that the model is made of, those first that add most: its time grows with their cube."""
_LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Shares of a knob's range over which the quality changes."""
_NOISES = (1e-3, 1e-2, 1e-1)
"""Variances of a repetition with another seed, in variances over the trials."""
_LOG_NOISE_SPREAD = 1.5
_MOST_LISTED = 2048
"""Configurations of a space that are all looked at, where it has no more."""
_RANDOM, _BEST, _NEAR = 1024, 8, 32
_STEPS = (0.1, 0.03, 0.01, 0.003)
"""Standard deviations, in shares of a range, of the steps away from the best."""
_FLIPPED = 0.2
"""Probability that a step changes a choice."""
_TOO_CLOSE = 1e-3
"""Shares of every knob's range within which a configuration repeats another one."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def suggest_by_curves(history: History, space: KnobSpace, seed: int) -> Knobs:
    """The configuration whose curve is expected to add most to the front of the finished trials.

    The same history and seed give the same.

    Arguments:
        history: at least one finished trial.
    """
    cube, generator = Cube(space), np.random.default_rng(seed)
    finished = _modelled(history)
    tried = cube.units([each.knobs for each in finished])
    values, widths = staircases(
        [each.curve.points for each in finished], history.reference.quality, history.reference.gflops
    )
    front = values.max(axis=0)
    process = fitted(cube.differences(tried, tried), values)
    if history.running:
        running = cube.units(history.running)
        expected, _ = process.predicted(cube.differences(running, tried))
        tried = np.concatenate([tried, running])
        values, front = np.concatenate([values, expected]), np.maximum(front, expected.max(axis=0))
        process = process.given(cube.differences(tried, tried), values)

    def worth(units: Array) -> Array:
        away = cube.differences(units, tried)
        gain = expected_gain(*process.predicted(away), front, widths)
        return np.where((away.max(axis=0) < _TOO_CLOSE**2).any(axis=1), -np.inf, gain)

    return cube.knobs(_best(worth, cube, tried[:_BEST], generator))


def _modelled(history: History) -> list[Observed]:
    """The finished trials that the model is made of, those first that add most."""
    worth = zip(history.finished, history.contributions, strict=True)
    return [each for each, _ in sorted(worth, key=lambda pair: -pair[1])][:MOST_MODELLED]


def staircases(
    curves: Sequence[Sequence[tuple[float, float]]], quality: float, gflops: float
) -> tuple[Array, Array]:
    """The best quality of each curve at most at each of some costs, and the width from each cost to the next.

    Arguments:
        curves: pairs of quality and GFLOPs of N trials.
        quality: where nothing can be had, and the worst that is worth anything.
        gflops: the most expensive cost that is worth anything.

    Returns (N, G) qualities and (G,) GFLOPs. If no point of any trial is cheap enough: what brings one there, the
    negative logarithm of each trial's cheapest cost, (N, 1) and (1,).
    """
    cheapest = [min((cost for _, cost in curve), default=math.inf) for curve in curves]
    low = max(min(cheapest), _CHEAPEST_SHARE * gflops)
    if low >= gflops:
        known = [cost for cost in cheapest if math.isfinite(cost)] or [1.0]
        return -np.log([[min(cost, max(known))] for cost in cheapest]), np.ones(1)
    costs = np.geomspace(low, gflops, _COSTS + 1)
    found = [
        [max((q for q, cost in curve if cost <= most), default=quality) for most in costs[:-1]]
        for curve in curves
    ]
    return np.maximum(np.array(found, dtype=np.float64), quality), np.diff(costs)


def expected_gain(mean: Array, deviation: Array, front: Array, widths: Array) -> Array:
    """The area by which a curve is expected to exceed the front, in GFLOPs times quality.

    Arguments:
        mean: (M, G) what M configurations are expected to reach at G costs.
        deviation: (M, G) its standard deviation.
        front: (G,) the best so far.
        widths: (G,) GFLOPs from each cost to the next.

    Returns (M,). A vanishing share of the deviations is added, which decides where nothing is expected.
    """
    above = mean - front
    scaled = above / np.maximum(deviation, 1e-12)
    density = np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
    gain = above * 0.5 * (1 + _erf(scaled / math.sqrt(2))) + deviation * density
    return np.asarray((np.maximum(gain, 0.0) + 1e-9 * deviation) @ widths)


def _best(
    worth: Callable[[Array], Array], cube: Cube, best_tried: Array, generator: np.random.Generator
) -> Array:
    """The place that is worth most, among random ones, those around the best tried, and then around the best found."""
    listed = cube.every()
    if listed is not None:
        return np.asarray(listed[int(np.argmax(worth(listed)))])
    near = cube.around(np.repeat(best_tried, _NEAR, axis=0), _STEPS[0], generator)
    places = np.concatenate([cube.random(_RANDOM, generator), near])
    values = worth(places)
    for step in _STEPS:
        best = np.argsort(-values, kind="stable")[:_BEST]
        near = cube.around(np.repeat(places[best], _NEAR, axis=0), step, generator)
        places = np.concatenate([places[best], near])
        values = np.concatenate([values[best], worth(near)])
    return np.asarray(places[int(np.argmax(values))])


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A Gaussian process over K knobs with G outputs that share a kernel, given N trials."""

    lengths: Array
    """(K,) in shares of each knob's range."""
    noise: float
    factor: Array
    """(N, N) inverse of the Cholesky factor of the trials' covariance."""
    weights: Array
    """(N, G) of the trials in the mean."""
    mean: Array
    """(G,) over the trials."""
    deviation: Array
    """(G,) over the trials."""

    def given(self, squares: Array, values: Array) -> Process:
        """The same kernel given other trials. Arguments as of `fitted`."""
        return _conditioned(squares, values, self.lengths, self.noise, self.mean, self.deviation)

    def predicted(self, squares: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of M configurations, each (M, G).

        Arguments:
            squares: (K, M, N) squared differences from the trials.
        """
        covariance = _matern(squares, self.lengths)
        explained = ((self.factor @ covariance.T) ** 2).sum(axis=0)
        deviation = np.sqrt(np.maximum(1 - explained, 0.0))
        return self.mean + covariance @ self.weights * self.deviation, np.outer(deviation, self.deviation)


def fitted(squares: Array, values: Array) -> Process:
    """The process whose kernel explains the trials best.

    One parameter after the other is chosen from its grid, in two rounds. The evidence is that of an average output, as
    neighbouring costs say nearly the same, and lengths are expected to grow with the root of the number of knobs.

    Arguments:
        squares: (K, N, N) squared differences between the trials in each knob.
        values: (N, G).
    """
    mean, spread = values.mean(axis=0), values.std(axis=0)
    deviation = np.where(spread > 0, spread, 1e-6)
    scaled = (values - mean) / deviation
    knobs = len(squares)
    grids = [*([np.array(_LENGTHS)] * knobs), np.array(_NOISES)]
    centre = np.array([*[math.log(0.5 * math.sqrt(knobs))] * knobs, math.log(_NOISES[1])])
    width = np.array([*[1.0] * knobs, _LOG_NOISE_SPREAD])

    def evidence(chosen: Array) -> float:
        factor = _factor(squares, chosen[:-1], float(chosen[-1]))
        explained = float(((factor @ scaled) ** 2).sum()) / int(scaled.shape[1])
        expected = float((((np.log(chosen) - centre) / width) ** 2).sum())
        return float(np.log(np.diag(factor)).sum()) - 0.5 * (explained + expected)

    chosen = np.array(
        [grid[int(np.argmin(abs(np.log(grid) - c)))] for grid, c in zip(grids, centre, strict=True)]
    )
    for place in [*range(len(grids)), *range(len(grids))]:
        tried = [np.concatenate([chosen[:place], [value], chosen[place + 1 :]]) for value in grids[place]]
        chosen = max(tried, key=evidence)
    return _conditioned(squares, values, chosen[:-1], float(chosen[-1]), mean, deviation)


def _conditioned(
    squares: Array, values: Array, lengths: Array, noise: float, mean: Array, deviation: Array
) -> Process:
    factor = _factor(squares, lengths, noise)
    weights = factor.T @ (factor @ ((values - mean) / deviation))
    return Process(
        lengths=lengths, noise=noise, factor=factor, weights=weights, mean=mean, deviation=deviation
    )


def _factor(squares: Array, lengths: Array, noise: float) -> Array:
    covariance = _matern(squares, lengths) + noise * np.eye(squares.shape[1])
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)))


def _matern(squares: Array, lengths: Array) -> Array:
    distance = np.sqrt(5 * np.tensordot(lengths**-2.0, squares, axes=1))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


@final
class Cube:
    """Configurations as places from 0 to 1, a column per knob; whole values and choices lie within shares of their own.

    Choices have no order: any two are as far from each other as the ends of a range.
    """

    def __init__(self, space: KnobSpace) -> None:
        self._space = space
        self._kinds = list(space.distributions.values())
        self._is_choice = np.array([isinstance(kind, CategoricalDistribution) for kind in self._kinds])

    def units(self, configurations: Sequence[Knobs]) -> Array:
        """(N, K) places of N configurations."""
        rows = [[_unit(knobs[name], kind) for name, kind in self._named()] for knobs in configurations]
        return np.array(rows, dtype=np.float64).reshape(len(configurations), len(self._kinds))

    def knobs(self, place: Array) -> Knobs:
        """The configuration at a place, (K,)."""
        values = {
            name: _value(float(unit), kind) for (name, kind), unit in zip(self._named(), place, strict=True)
        }
        return self._space.typed(values)

    def differences(self, these: Array, those: Array) -> Array:
        """(K, M, N) squared differences of M and N places in each knob."""
        squares = (these.T[:, :, None] - those.T[:, None, :]) ** 2
        squares[self._is_choice] = squares[self._is_choice] > 0
        return np.asarray(squares)

    def every(self) -> Array | None:
        """The places of all configurations; None if there are too many to look at."""
        if self._space.size > _MOST_LISTED:
            return None
        values = [
            kind.choices if isinstance(kind, CategoricalDistribution) else _whole(kind)
            for kind in self._kinds
        ]
        units = [
            [_unit(value, kind) for value in column] for column, kind in zip(values, self._kinds, strict=True)
        ]
        return np.array(list(itertools.product(*units)), dtype=np.float64)

    def random(self, count: int, generator: np.random.Generator) -> Array:
        """(count, K) places, uniform."""
        return self._snapped(generator.random((count, len(self._kinds))))

    def around(self, places: Array, step: float, generator: np.random.Generator) -> Array:
        """A place near each of M, (M, K)."""
        moved = np.clip(places + generator.normal(0.0, step, places.shape), 0.0, 1.0)
        other = generator.random(places.shape)
        flipped = generator.random(places.shape) < _FLIPPED
        return self._snapped(np.where(self._is_choice, np.where(flipped, other, places), moved))

    def _named(self) -> list[tuple[str, BaseDistribution]]:
        return list(self._space.distributions.items())

    def _snapped(self, places: Array) -> Array:
        """The same places with whole values and choices in the middle of their shares."""
        snapped = places.copy()
        for column, kind in enumerate(self._kinds):
            if not isinstance(kind, FloatDistribution):
                snapped[:, column] = [_unit(_value(float(unit), kind), kind) for unit in places[:, column]]
        return snapped


def _unit(value: object, kind: BaseDistribution) -> float:
    if isinstance(kind, CategoricalDistribution):
        return (kind.choices.index(value) + 0.5) / len(kind.choices)
    assert isinstance(value, int | float)
    (low, high), scale = _ends(kind)
    return (scale(float(value)) - low) / (high - low)


def _value(unit: float, kind: BaseDistribution) -> KnobValue:
    if isinstance(kind, CategoricalDistribution):
        choice = kind.choices[min(int(unit * len(kind.choices)), len(kind.choices) - 1)]
        assert choice is not None, "no knob has None among its choices"
        return choice
    assert isinstance(kind, FloatDistribution | IntDistribution)
    (low, high), _ = _ends(kind)
    value = low + unit * (high - low)
    value = math.exp(value) if kind.log else value
    value = round(value) if isinstance(kind, IntDistribution) else value
    return min(max(value, kind.low), kind.high)


def _ends(kind: BaseDistribution) -> tuple[tuple[float, float], Callable[[float], float]]:
    """Both ends on the knob's scale, and the scale. Whole values reach half a step beyond: each has its share."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    beyond = 0.5 if isinstance(kind, IntDistribution) else 0.0
    scale = math.log if kind.log else float
    return (scale(kind.low - beyond), scale(kind.high + beyond)), scale


def _whole(kind: BaseDistribution) -> range:
    assert isinstance(kind, IntDistribution)
    return range(kind.low, kind.high + 1)
