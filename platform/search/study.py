"""The search as an ask/tell study over the budget knobs.

Why not Ray's own `OptunaSearch`: there a result that is NaN or missing leaves its trial running for ever, sweeps
share one study by default, results cannot carry constraints, starting points must be complete, and its state is
a pickle of the whole study.

All that a `ParetoStudy` knows lies in its storage. Opened again after any interruption it resumes: a trial that
was running is dispatched again under its own name, so that it can continue from its checkpoint, and what is
suggested depends only on the seed, the trial's number and the results so far, not on when the process started.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, final

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from paretovid.platform.search.curves import CURVE, TrialCurve, history_of
from paretovid.platform.search.knob_space import RANDOM_DRAWS, Knobs, KnobSpace, KnobValue, describe, key_of
from paretovid.platform.search.samplers import (
    LEAST_RESULTS,
    Asked,
    Given,
    GuidedBy,
    Proposal,
    propose,
)
from paretovid.platform.search.storage import objectives, open_study
from paretovid.search_spaces.samplers import SAMPLERS
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.evaluation.results import Metrics, OperatingPoint

MOST_LOSSES = 20
"""Starts of a trial that may be lost without its doing (nodes taken away) before it counts as failed."""
_ALL_POINTS = "swept"
"""Attribute of a point that was added beside its trial, as studies have it on disk."""
_REPEATED = "repeats"
_ANCHOR = "anchor:"
_FIXED = "fixed_params"
"""Optuna's attribute of a trial that was enqueued: the values that it was enqueued with."""
_RESUMED = "resumed"
"""Attribute of a point that a failed trial has reached after all, beside it: Optuna lets no failed trial be changed."""
_STOPPED = "stopped"
"""Attribute of a trial that was stopped at a rung: its epoch, and those of its whole training."""
Reported: TypeAlias = Literal["complete", "again", "failed", "stopped", "known"]
"""What became of a trial that was reported; `known`: it was finished already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Knob values to try."""

    trial_id: str
    knobs: Knobs
    origin: str
    """Where the values come from: an anchor, a published setting, or the sampler's name, and what was done in its place
    (`gp (repeated itself; random)`)."""
    attempt: int
    """1 for the first start of the trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What the trials of a study may cost together, where each costs the value of one of its knobs."""

    knob: str
    total: int
    least: int
    """The lowest value of the knob."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCounts:
    """How far a study has come. Points beside their trials are not counted."""

    complete: int
    failed: int
    running: int
    reasons: tuple[str, ...]
    """Why the failed ones failed, the commonest first."""
    stopped: int = 0
    """At a rung."""


@final
class ParetoStudy:
    """One sweep's search for the front of a quality (maximised) and GFLOPs (minimised).

    The first trials are two anchors, all knobs at their most expensive and all at their cheapest end (without
    them Optuna's Gaussian process never leaves the neighbourhood of its most expensive random start), then `published`.
    From then on a model chooses, as soon as `LEAST_RESULTS` of them have come to an end.

    Arguments:
        storage: URL of the studies' storage (`journal:///FILE`, `sqlite:///FILE`, `postgresql://…`); made if missing.
        name: the study's. One study per sweep.
        knobs: what is searched.
        trials: how many trials to start in all, those of earlier processes included.
        sampler: one of the names in `search_spaces/samplers.py`: `tpe`, `gp`, `curves`, `random`, or a plug-in's.
        published_first: they come before the anchors.
        published: settings to try early; knobs that are left out are sampled, values out of range left out.
        max_gflops: GFLOPs per video that a trial worth finding may spend.
        max_failures: how often a failed trial is dispatched again.
        objective: the name of the quality: `map`, `map_iou_0.1_0.7`.
        anchored: values of knobs that set no budget (hyperparameters), which both anchors have.
        budget: no trial is started that would cost more than is left of it, and the last one has what is left.
        guided_by: what the sampler sees of a trial. What is stored is the same, quality and GFLOPs of its default
            setting as values and its curve as an attribute, so that a study can be opened again with another one.

    No configuration is dispatched twice: where the sampler repeats one, an untried one is drawn at random.

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
        guided_by: GuidedBy = "point",
        anchored: Mapping[str, KnobValue] | None = None,
        budget: Budget | None = None,
        published_first: bool = False,
    ) -> None:
        SAMPLERS.entry(sampler)  # raises for one that is not there
        self.name = name
        self.trials = trials
        self.max_failures = max_failures
        self._sampler = sampler
        self._seed = seed
        self._guided_by: GuidedBy = guided_by
        self._max_gflops = max_gflops
        self._budget = budget
        self._space = KnobSpace(knobs)
        self.objective = objective
        about = describe(knobs, objectives(objective))
        anchors = [
            (f"{_ANCHOR} most expensive", {**self._space.end(most_expensive=True), **(anchored or {})}),
            (f"{_ANCHOR} cheapest", {**self._space.end(most_expensive=False), **(anchored or {})}),
        ]
        settings = [("published", point) for point in self._space.within(published)]
        first = [*settings, *anchors] if published_first else [*anchors, *settings]
        self._least_results = min(len(first), LEAST_RESULTS)
        self._study = open_study(storage, name, about, first)
        self._open: dict[str, Trial] = {}
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if _REPEATED in trial.user_attrs:  # its driver was killed while it discarded it
                self._study.tell(trial.number, state=TrialState.FAIL)
        self._again = [trial.number for trial in self._all(TrialState.RUNNING)]
        # Kept, not looked up for every draw: a large study would be read through once per trial.
        self._known = {
            key_of(trial.params): trial.number for trial in self._all() if trial.params.keys() == knobs.keys()
        }
        self.why_ended: str | None = None
        """Why no trial is started any more, although more were asked for; None while that is not so."""

    def ask(self) -> Suggestion | None:
        """The next trial to start; None if all have been started, or if `why_ended` says that there are no more."""
        while self._again:
            trial = self._trial(self._again.pop(0))
            knobs = self._settled(trial)
            if knobs is not None:
                return self._dispatched(trial, knobs)
        while self.started < self.trials and not self._is_spent:
            if self._is_used_up and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.why_ended = f"the knobs have no more than {len(self._known)} settings; all were tried"
                return None
            trial = self._study.ask()
            knobs = self._settled(trial)
            if knobs is not None:
                return self._dispatched(trial, knobs)
            if _FIXED not in self._frozen(trial).system_attrs:
                self.why_ended = f"{RANDOM_DRAWS} random settings of the knobs were all tried before"
                return None
        return None

    def _dispatched(self, trial: Trial, knobs: Knobs) -> Suggestion:
        trial_id = f"t{trial.number:04d}"
        self._open[trial_id] = trial
        attributes = trial.user_attrs
        attempt = int(attributes.get("starts", 0)) + 1
        trial.set_user_attr("starts", attempt)
        if attempt == 1:
            trial.set_user_attr("trial", trial_id)
        origin = str(attributes.get("origin", self._sampler))
        return Suggestion(trial_id=trial_id, knobs=knobs, origin=origin, attempt=attempt)

    def _settled(self, trial: Trial) -> Knobs | None:
        """The trial's knobs, drawn if it has none yet. None if an earlier trial has them, or if none are untried: then
        it is discarded, uncounted."""
        proposed = self._proposed(trial)
        if proposed is None:
            trial.set_user_attr(_REPEATED, "")
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        proposed = self._within_budget(trial, proposed)
        if proposed.replaces:
            trial.set_user_attr("origin", f"{self._sampler} ({proposed.replaces}; random)")
        self._study.sampler = Given(proposed.knobs, self._space.distributions)
        knobs = self._space.suggested(trial)
        repeats = self._known.setdefault(key_of(knobs), trial.number)
        if repeats == trial.number or "starts" in trial.user_attrs:
            return knobs
        trial.set_user_attr(_REPEATED, f"t{repeats:04d}")
        self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _proposed(self, trial: Trial) -> Proposal | None:
        """What the trial is to have, of which what it has already counts more. None if no configuration is untried."""
        frozen = self._frozen(trial)
        own = {**frozen.system_attrs.get(_FIXED, {}), **frozen.params}
        if own.keys() >= self._space.distributions.keys():
            return Proposal(knobs=self._space.typed(own))
        return propose(
            self._sampler if _FIXED not in frozen.system_attrs else "random",
            Asked(
                study=self._study,
                trial=frozen,
                space=self._space,
                guided_by=self._guided_by,
                history=lambda: history_of(
                    self._study.get_trials(deepcopy=False), self._space, _ALL_POINTS, self._max_gflops
                ),
            ),
            known=self._known,
            fixed=own,
            seed=self._seed,
            has_few=self._num_complete < self._least_results,
        )

    def _within_budget(self, trial: Trial, proposed: Proposal) -> Proposal:
        """The proposal, no more expensive than what is left."""
        if self._budget is None:
            return proposed
        knob, left = self._budget.knob, self._left(besides=trial.number)
        value = min(proposed.knobs[knob], left) if left >= self._budget.least else proposed.knobs[knob]
        return replace(proposed, knobs={**proposed.knobs, knob: value})

    def _left(self, besides: int = -1) -> int:
        """What is left of the budget for a trial of this number."""
        assert self._budget is not None
        knob = self._budget.knob
        trials = [trial for trial in self._all() if trial.number != besides]
        return self._budget.total - sum(int(trial.params.get(knob, 0)) for trial in trials)

    @property
    def _is_spent(self) -> bool:
        """Whether too little is left for any trial. One that was dispatched before, and waits, is paid for."""
        if self._budget is None:
            return False
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return self._left() < self._budget.least and not any(trial.params for trial in waiting)

    @property
    def _num_complete(self) -> int:
        return len(self._all(TrialState.COMPLETE)) + len(self._resumed())

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]

    @property
    def started(self) -> int:
        """Trials that were dispatched so far."""
        return len(self._all()) - len(self._all(TrialState.WAITING))

    @property
    def _is_used_up(self) -> bool:
        return self._space.size <= len(self._known)

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

    def report(self, trial_id: str, metrics: Metrics, points: Sequence[OperatingPoint] = ()) -> Reported:
        """Records a result: quality and GFLOPs on validation.

        Arguments:
            points: all of the trial's, whose curve is kept.

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
        for name, value in _curve_in(points).items():
            trial.set_user_attr(name, value)
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

    def report_stopped(self, trial_id: str, epoch: int, epochs: int) -> Reported:
        """Records that the trial was stopped at a rung: pruned, in Optuna's word, without a value. It is never tried
        again.

        Optuna's TPE counts it as worse than all that finished; a Gaussian process and whatever is guided by curves
        pass it over.
        """
        trial = self._take(trial_id)
        if trial is None:
            return "known"
        trial.set_user_attr(_STOPPED, [epoch, epochs])
        self._study.tell(trial, state=TrialState.PRUNED)
        return "stopped"

    def stopped_ones(self) -> tuple[str, ...]:
        """The trials that were stopped at a rung, by number."""
        return tuple(f"t{trial.number:04d}" for trial in self._all(TrialState.PRUNED))

    def is_anchor(self, trial_id: str) -> bool:
        """Whether a trial is one of the two that hold the ends of the search."""
        trial = self._study.get_trials(deepcopy=False)[number_of(trial_id)]
        return str(trial.user_attrs.get("origin", "")).startswith(_ANCHOR)

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
                    distributions=self._space.distributions,
                    constraints=None if limit is None else {"max_gflops": point.val.gflops - limit},
                    user_attrs={_ALL_POINTS: trial_id},
                )
            )

    def report_resumed(self, trial_id: str, metrics: Metrics, points: Sequence[OperatingPoint] = ()) -> None:
        """A failed trial was started again, and has a result: the sampler sees it, and it counts as complete. Arguments
        as of `report`."""
        if trial_id in self._resumed() or self.why_unusable(metrics) is not None:
            return
        failed = self._study.get_trials(deepcopy=False)[number_of(trial_id)]
        limit = self._max_gflops
        self._study.add_trial(
            optuna.trial.create_trial(
                values=[metrics.quality, metrics.gflops],
                params=failed.params,
                distributions=self._space.distributions,
                constraints=None if limit is None else {"max_gflops": metrics.gflops - limit},
                user_attrs={_ALL_POINTS: trial_id, _RESUMED: trial_id, **_curve_in(points)},
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
            complete=self._num_complete,
            failed=len(failed),
            running=len(self._all(TrialState.RUNNING)),
            reasons=tuple(reason for reason, _ in reasons.most_common()),
            stopped=len(self._all(TrialState.PRUNED)),
        )

    def complete_ones(self) -> list[Suggestion]:
        """The suggestions whose results the study has."""
        return [self._suggestion_of(trial) for trial in self._all(TrialState.COMPLETE)]

    def dispatched_ones(self) -> list[Suggestion]:
        """All suggestions that were ever dispatched, whatever has become of them."""
        return [self._suggestion_of(trial) for trial in self._all() if "starts" in trial.user_attrs]

    def interrupted_ones(self) -> list[Suggestion]:
        """The suggestions that were dispatched before this process began, and have no result here."""
        trials = self._all(TrialState.RUNNING, TrialState.WAITING)
        return [self._suggestion_of(trial) for trial in trials if "starts" in trial.user_attrs]

    def adopt(self, trial_id: str, metrics: Metrics, points: Sequence[OperatingPoint] = ()) -> Reported:
        """As `report`, for an interrupted trial: it had finished, and its driver died before it heard of it."""
        self._reopen(trial_id)
        return self.report(trial_id, metrics, points)

    def adopt_stopped(self, trial_id: str, epoch: int, epochs: int) -> Reported:
        """As `report_stopped`, for an interrupted trial that was judged, and its driver died before it had ended."""
        self._reopen(trial_id)
        return self.report_stopped(trial_id, epoch, epochs)

    def _reopen(self, trial_id: str) -> None:
        trial = self._trial(number_of(trial_id))
        self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
        self._again = [number for number in self._again if number != trial.number]
        self._open[trial_id] = self._trial(trial.number)

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


def _curve_in(points: Sequence[OperatingPoint]) -> dict[str, JsonValue]:
    return {CURVE: TrialCurve.of(points).to_json()} if points else {}


def number_of(trial_id: str) -> int:
    """The number of a trial in its study: `t0012` is 12."""
    return int(trial_id[1:])
