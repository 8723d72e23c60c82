"""The search as an ask/tell study over the budget knobs.

Why not Ray's own `OptunaSearch`: there a result that is NaN or missing leaves its trial running for ever, sweeps
share one study by default, results cannot carry constraints, starting points must be complete, and its state is
a pickle of the whole study.

All that a `ParetoStudy` knows lies in its storage. Opened again after any interruption it resumes: a trial that
was running is dispatched again under its own name, so that it can continue from its checkpoint, and what is
suggested depends only on the seed, the trial's number and the results so far, not on when the process started.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from paretovid.platform.search.storage import Directions, objectives, open_study
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import unknown_name
from paretovid.trainables.evaluation.results import Metrics, OperatingPoint

MOST_LOSSES = 20
"""Starts of a trial that may be lost without its doing (nodes taken away) before it counts as failed."""
_ALL_POINTS = "swept"
"""Attribute of a point that was added beside its trial, as studies have it on disk."""
_REPEATED = "repeats"
_RESUMED = "resumed"
"""Attribute of a point that a failed trial has reached after all, beside it: Optuna lets no failed trial be changed."""
KnobValue: TypeAlias = int | float | str
Reported: TypeAlias = Literal["complete", "again", "failed", "known"]
"""What became of a trial that was reported; `known`: it was finished already."""
_DRAWS = 20
"""Draws that may repeat what was tried before an untried configuration is looked up."""
_MOST_COUNTED = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Knob values to try."""

    trial_id: str
    knobs: dict[str, KnobValue]
    origin: str
    """Where the values come from: an anchor, a published setting, or the sampler's name."""
    attempt: int
    """1 for the first start of the trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCounts:
    """How far a study has come. Points beside their trials are not counted."""

    complete: int
    failed: int
    running: int
    reasons: tuple[str, ...]
    """Why the failed ones failed, the commonest first."""


@final
class ParetoStudy:
    """One sweep's search for the front of a quality (maximised) and GFLOPs (minimised).

    The first trials are two anchors, all knobs at their most expensive and all at their cheapest end (without
    them Optuna's Gaussian process never leaves the neighbourhood of its most expensive random start), then `published`.

    Arguments:
        storage: URL of the studies' storage (`journal:///FILE`, `sqlite:///FILE`, `postgresql://…`); made if missing.
        name: the study's. One study per sweep.
        knobs: what is searched.
        trials: how many trials to start in all, those of earlier processes included.
        sampler: `tpe`, `gp` or `random`.
        published: settings to try early; knobs that are left out are sampled, values out of range left out.
        max_gflops: GFLOPs per video that a trial worth finding may spend.
        max_failures: how often a failed trial is dispatched again.
        objective: the name of the quality: `map`, `map_iou_0.1_0.7`.

    No configuration is dispatched twice: one that the sampler repeats is discarded, uncounted, and another drawn.

    Raises `UsageError` if the storage holds a study of this name with other knobs or objectives.
    """

    def __init__(
        self,
        *,
        storage: str,
        name: str,
        knobs: Mapping[str, KnobConfig],
        trials: int,
        sampler: str = "tpe",
        seed: int = 0,
        published: Sequence[Mapping[str, KnobValue]] = (),
        max_gflops: float | None = None,
        max_failures: int = 1,
        objective: str = "map",
    ) -> None:
        if sampler not in _SAMPLERS:
            raise unknown_name("sampler", sampler, _SAMPLERS)
        self.name = name
        self.trials = trials
        self.max_failures = max_failures
        self._sampler = sampler
        self._seed = seed
        self._max_gflops = max_gflops
        self._knobs = dict(knobs)
        self._distributions = {knob: distribution(config) for knob, config in knobs.items()}
        self.objective = objective
        about = describe(knobs, objectives(objective))
        self._study = open_study(storage, name, about, [*self._anchors(), *self._within(published)])
        self._open: dict[str, Trial] = {}
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if _REPEATED in trial.user_attrs:  # its driver was killed while it discarded it
                self._study.tell(trial.number, state=TrialState.FAIL)
        self._again = [trial.number for trial in self._all(TrialState.RUNNING)]
        # Kept, not looked up for every draw: a large study would be read through once per trial.
        self._known = {
            _key(trial.params): trial.number for trial in self._all() if trial.params.keys() == knobs.keys()
        }

    def ask(self) -> Suggestion | None:
        """The next trial to start; None if all have been started."""
        if self._again:
            number = self._again.pop(0)
            self._reseed(number)
            trial = self._trial(number)
            knobs = self._knobs_of(trial)
        elif self.started >= self.trials:
            return None
        else:
            drawn = self._draw()
            if drawn is None:
                return None
            trial, knobs = drawn
        trial_id = f"t{trial.number:04d}"
        self._open[trial_id] = trial
        attributes = trial.user_attrs
        attempt = int(attributes.get("starts", 0)) + 1
        trial.set_user_attr("starts", attempt)
        if attempt == 1:
            trial.set_user_attr("trial", trial_id)
        origin = str(attributes.get("origin", self._sampler))
        return Suggestion(trial_id=trial_id, knobs=knobs, origin=origin, attempt=attempt)

    def _knobs_of(self, trial: Trial) -> dict[str, KnobValue]:
        return {knob: _suggest(trial, knob, kind) for knob, kind in self._distributions.items()}

    def _draw(self) -> tuple[Trial, dict[str, KnobValue]] | None:
        """A trial with a configuration that no trial has had; None if every one has been tried."""
        known = self._known
        for draw in range(_DRAWS + 1):
            if draw == _DRAWS or (draw and self._size_of_space() <= len(known)):
                untried = self._untried(known)
                if untried is None:
                    return None
                self._study.enqueue_trial(untried)
            self._reseed(len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask()
            knobs = self._knobs_of(trial)
            repeats = known.setdefault(_key(knobs), trial.number)
            if repeats == trial.number or "starts" in trial.user_attrs:
                return trial, knobs
            trial.set_user_attr(_REPEATED, f"t{repeats:04d}")
            self._study.tell(trial, state=TrialState.FAIL)
        raise AssertionError("an untried configuration was enqueued, and another one came")

    def _size_of_space(self) -> float:
        sizes = [_size(kind) for kind in self._distributions.values()]
        return math.prod(sizes)

    def _untried(self, known: Mapping[str, int]) -> dict[str, KnobValue] | None:
        """A configuration that was not tried, of a space that can be counted; None if there is none."""
        if not self._size_of_space() < _MOST_COUNTED:
            return None
        values = {name: _values(kind) for name, kind in self._distributions.items()}
        every = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
        untried = [knobs for knobs in every if _key(knobs) not in known]
        if not untried:
            return None
        generator = np.random.default_rng([self._seed, len(known)])
        return untried[int(generator.integers(len(untried)))]

    @property
    def started(self) -> int:
        """Trials that were dispatched so far."""
        return len(self._all()) - len(self._all(TrialState.WAITING))

    @property
    def is_used_up(self) -> bool:
        """True if the knobs have no configuration left that was not tried."""
        return self._size_of_space() <= len(self._known)

    def requeue(self, trial_id: str) -> None:
        """The trial was ended early with the sweep. It waits, under its own name, to be dispatched again."""
        trial = self._take(trial_id)
        if trial is not None:
            self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)

    def why_unusable(self, metrics: Metrics) -> str | None:
        """Why these figures cannot be reported; None if they can: the objective is the study's, all is finite."""
        if metrics.objective != self.objective or self.objective not in metrics.qualities:
            return f"{self.objective} is missing"
        for name, value in ((self.objective, metrics.quality), ("gflops", metrics.gflops)):
            if not math.isfinite(value):
                return f"{name} is {value}"
        return None

    def report(self, trial_id: str, metrics: Metrics) -> Reported:
        """Records a result: quality and GFLOPs on validation.

        Figures that are unusable make the trial a failed one. Reporting a finished trial again changes nothing.
        """
        trial = self._take(trial_id)
        if trial is None:
            return "known"
        unusable = self.why_unusable(metrics)
        if unusable is not None:
            return self._fail(trial, unusable)
        if self._max_gflops is not None:
            trial.set_constraint("max_gflops", metrics.gflops - self._max_gflops)
        self._study.tell(trial, [metrics.quality, metrics.gflops])
        return "complete"

    def report_failure(
        self, trial_id: str, reason: str, *, retry: bool = True, is_infrastructure: bool = False
    ) -> Reported:
        """Records that a start of the trial failed: `again` if it will be dispatched again, else `failed`.

        One that `is_infrastructure` (its node was taken away) is dispatched again up to `MOST_LOSSES` times.
        """
        trial = self._take(trial_id)
        if trial is None:
            return "known"
        kind, most = ("losses", MOST_LOSSES) if is_infrastructure else ("failures", self.max_failures)
        count = int(trial.user_attrs.get(kind, 0)) + 1
        trial.set_user_attr(kind, count)
        if retry and count <= most:
            self._again.append(trial.number)
            return "again"
        return self._fail(trial, reason)

    def report_all_points(self, trial_id: str, points: Sequence[OperatingPoint]) -> None:
        """Adds the other operating points of a complete trial, so that the sampler sees them.

        Arguments:
            points: all of the trial's; the first is the one that was reported.
        """
        source = self._study.get_trials(deepcopy=False)[number_of(trial_id)]
        limit = self._max_gflops
        for point in points[1:]:
            self._study.add_trial(
                optuna.trial.create_trial(
                    values=[point.val.quality, point.val.gflops],
                    params=source.params,
                    distributions=dict(self._distributions),
                    constraints=None if limit is None else {"max_gflops": point.val.gflops - limit},
                    user_attrs={_ALL_POINTS: trial_id},
                )
            )

    def report_resumed(self, trial_id: str, metrics: Metrics) -> None:
        """A failed trial was started again, and has a result: the sampler sees it, and it counts as complete."""
        if trial_id in self._resumed() or self.why_unusable(metrics) is not None:
            return
        failed = self._study.get_trials(deepcopy=False)[number_of(trial_id)]
        limit = self._max_gflops
        self._study.add_trial(
            optuna.trial.create_trial(
                values=[metrics.quality, metrics.gflops],
                params=failed.params,
                distributions=dict(self._distributions),
                constraints=None if limit is None else {"max_gflops": metrics.gflops - limit},
                user_attrs={_ALL_POINTS: trial_id, _RESUMED: trial_id},
            )
        )

    def failed_ones(self) -> list[Suggestion]:
        """The suggestions that failed for good, and have not been resumed since."""
        return [self._suggestion_of(trial) for trial in self._failed()]

    def _failed(self) -> list[FrozenTrial]:
        resumed = self._resumed()
        return [trial for trial in self._all(TrialState.FAIL) if f"t{trial.number:04d}" not in resumed]

    def _resumed(self) -> set[str]:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {str(trial.user_attrs[_RESUMED]) for trial in trials if _RESUMED in trial.user_attrs}

    def requeue_open(self) -> None:
        """Every trial that is open, or waits to be dispatched again, waits for whoever opens the study next."""
        for number in self._again:
            self._open[f"t{number:04d}"] = self._trial(number)
        self._again.clear()
        for trial_id in list(self._open):
            self.requeue(trial_id)

    def counts(self) -> StudyCounts:
        """How far the study has come."""
        failed = self._failed()
        reasons = Counter(str(trial.user_attrs.get("reason", "unknown")) for trial in failed)
        return StudyCounts(
            complete=len(self._all(TrialState.COMPLETE)) + len(self._resumed()),
            failed=len(failed),
            running=len(self._all(TrialState.RUNNING)),
            reasons=tuple(reason for reason, _ in reasons.most_common()),
        )

    def complete_ones(self) -> list[Suggestion]:
        """The suggestions whose results the study has."""
        return [self._suggestion_of(trial) for trial in self._all(TrialState.COMPLETE)]

    def interrupted_ones(self) -> list[Suggestion]:
        """The suggestions that were dispatched before this process began, and have no result here."""
        trials = self._all(TrialState.RUNNING, TrialState.WAITING)
        return [self._suggestion_of(trial) for trial in trials if "starts" in trial.user_attrs]

    def adopt(self, trial_id: str, metrics: Metrics) -> Reported:
        """As `report`, for an interrupted trial: it had finished, and its driver died before it heard of it."""
        trial = self._trial(number_of(trial_id))
        self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
        self._again = [number for number in self._again if number != trial.number]
        self._open[trial_id] = self._trial(trial.number)
        return self.report(trial_id, metrics)

    def _suggestion_of(self, trial: FrozenTrial) -> Suggestion:
        return Suggestion(
            trial_id=f"t{trial.number:04d}",
            knobs=dict(trial.params),
            origin=str(trial.user_attrs.get("origin", self._sampler)),
            attempt=int(trial.user_attrs.get("starts", 1)),
        )

    def failures(self) -> dict[str, str]:
        """The trials that failed for good, and why."""
        failed = self._failed()
        return {f"t{trial.number:04d}": str(trial.user_attrs.get("reason", "unknown")) for trial in failed}

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states or None)
        beside = (_ALL_POINTS, _REPEATED)
        return [trial for trial in trials if not any(name in trial.user_attrs for name in beside)]

    def _trial(self, number: int) -> Trial:
        return Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _take(self, trial_id: str) -> Trial | None:
        """The open trial, open no longer. None if it is finished; an assertion if it was never dispatched."""
        trial = self._open.pop(trial_id, None)
        if trial is None:
            number = number_of(trial_id)
            trials = self._study.get_trials(deepcopy=False)
            assert number < len(trials), f"{trial_id} was never dispatched"
        return trial

    def _fail(self, trial: Trial, reason: str) -> Reported:
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        return "failed"

    def _reseed(self, number: int) -> None:
        # A sampler that lives on would repeat its start-up after a restart, and suggest otherwise than without.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = _SAMPLERS[self._sampler](seed)

    def _anchors(self) -> list[tuple[str, dict[str, KnobValue]]]:
        def at(most_expensive: bool) -> dict[str, KnobValue]:
            return {name: _end(knob, most_expensive) for name, knob in self._knobs.items()}

        return [("anchor: most expensive", at(True)), ("anchor: cheapest", at(False))]

    def _within(self, published: Sequence[Mapping[str, KnobValue]]) -> list[tuple[str, dict[str, KnobValue]]]:
        points = []
        for point in published:
            inside = {name: value for name, value in point.items() if self._allows(name, value)}
            # A knob that the user has fixed is no longer there; one out of the user's range makes another point.
            if inside and all(name in inside or name not in self._knobs for name in point):
                points.append(("published", inside))
        return points

    def _allows(self, name: str, value: KnobValue) -> bool:
        kind = self._distributions.get(name)
        if isinstance(kind, CategoricalDistribution):
            return value in kind.choices
        return kind is not None and kind._contains(float(value))


_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: RandomSampler(seed=seed),
}


def number_of(trial_id: str) -> int:
    """The number of a trial in its study: `t0012` is 12."""
    return int(trial_id[1:])


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


def describe(knobs: Mapping[str, KnobConfig], directions: Directions) -> dict[str, JsonValue]:
    """What makes two studies the same search: objectives and ranges, as plain data."""
    ranges: dict[str, JsonValue] = {}
    for name, knob in sorted(knobs.items()):
        ends = {"choices": list(knob.choices)} if knob.choices else {"low": knob.low, "high": knob.high}
        ranges[name] = {**ends, "log": knob.log, "whole": knob.whole}
    return {"objectives": dict(directions), "knobs": ranges}


def _key(params: Mapping[str, object]) -> str:
    return json.dumps(dict(sorted(params.items())), default=str)


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


def _suggest(trial: Trial, name: str, kind: BaseDistribution) -> KnobValue:
    if isinstance(kind, FloatDistribution):
        # An enqueued 2 comes back as 2 from this process and as 2.0 from the storage: two configurations.
        return float(trial.suggest_float(name, kind.low, kind.high, log=kind.log))
    if isinstance(kind, IntDistribution):
        return int(trial.suggest_int(name, kind.low, kind.high, log=kind.log))
    assert isinstance(kind, CategoricalDistribution)
    chosen = trial.suggest_categorical(name, kind.choices)
    assert chosen is not None, "no knob has None among its choices"
    return chosen
