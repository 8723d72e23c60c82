"""The adapter between a study and Ray Tune: what is started next, and what becomes of what comes back.

Here, and nowhere else, the JSON of an outcome becomes a `TrialOutcome` again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from ray.tune.search import Searcher

from paretovid.platform.execution.breaker import Breaker
from paretovid.platform.execution.outcome import (
    AWAY,
    OUTCOME,
    PROCESS_DIED,
    EnvironmentFault,
    Failed,
    Finished,
    FixedTrial,
    JudgedOut,
    Stopped,
    TrialCallback,
    TrialOutcome,
    parse_outcome,
)
from paretovid.platform.search.study import MOST_LOSSES, ParetoStudy, Suggestion
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import ParetovidError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.redaction.texts import redacted

Configure = Callable[[Suggestion], JsonObject]
"""A suggestion to the configuration of its trial."""


def knobs_alone(suggestion: Suggestion) -> JsonObject:
    """A configuration that is nothing but the knobs."""
    return {"knobs": suggestion.knobs}


@dataclass(slots=True)
class _Started:
    trial_id: str
    config: JsonObject
    fixed: FixedTrial | None
    attempt: int
    at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it was dispatched."""
        return time.monotonic() - self.at


@dataclass(frozen=True, kw_only=True, slots=True)
class Away:
    """A start that its process has given back, and stays to keep its room: the place is away on its node."""

    fault: EnvironmentFault
    config: JsonObject
    """The trial's, with its id."""


@dataclass(slots=True)
class _Fixed:
    waiting: list[FixedTrial]
    starts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)


@final
class ParetoSearcher(Searcher):
    """Hands a study's suggestions to Ray Tune, fixed trials first.

    Arguments:
        study: the search; None if there are only fixed trials.
        configure: a suggestion to the configuration of its trial.
        callback: is notified of starts, progress, results and failures.
        all_points: the study sees all operating points of a trial, not only its first.
        concurrent: trials at a time; may be changed while the search runs.
        deadline: `time.time()` after which no trial is started.
        max_failures: of a fixed trial (the study has its own).
        breaker: so many trials one after the other that fail for good within `BREAKER_SECONDS` each, for one reason,
            end the run; 0: never.

    Its state is a map of ids, plain JSON. Ray never restores it: a sweep resumes from the study.
    """

    def __init__(
        self,
        study: ParetoStudy | None,
        *,
        fixed: Sequence[FixedTrial] = (),
        configure: Configure = knobs_alone,
        callback: TrialCallback | None = None,
        all_points: bool = False,
        concurrent: int = 1,
        deadline: float | None = None,
        max_failures: int = 1,
        breaker: int = 0,
    ) -> None:
        super().__init__()
        self._study = study
        self._fixed = _Fixed(waiting=list(fixed))
        self._configure = configure
        self._callback = callback or TrialCallback()
        self._all_points = all_points
        self.concurrent = concurrent
        self._deadline = deadline
        self._max_failures = max_failures
        self._breaker = Breaker(breaker)
        self._started: dict[str, _Started] = {}
        self.away: dict[str, Away] = {}
        """Tune's id to a start that its process has given back."""
        self._causes: dict[str, Failed] = {}
        self._is_stopping = False
        self.environment_fault: str | None = None
        """Why no trial is started any more, if one has found out that none can work here."""
        self.is_exhausted = False
        """True once there is nothing to start and nothing running."""
        self.is_out_of_time = False
        """True once the deadline has kept a trial from being started."""

    @property
    def running(self) -> tuple[str, ...]:
        """Trials that were dispatched and have not come back."""
        return tuple(started.trial_id for started in self._started.values())

    def trial_of(self, tune_id: str) -> str | None:
        """The id of the running trial that Tune knows as `tune_id`."""
        started = self._started.get(tune_id)
        return None if started is None else started.trial_id

    def stop(self) -> None:
        """Starts no trial any more."""
        self._is_stopping = True

    @property
    def needs_no_room(self) -> bool:
        """True once no trial will be started any more."""
        return self._is_stopping or self.is_exhausted

    def end(self, reason: str) -> None:
        """No trial can work, as somebody has found out. The first reason holds."""
        self.environment_fault = self.environment_fault or reason
        self.stop()

    def explain(self, tune_id: str, cause: Failed) -> None:
        """Says why a trial's process is about to be reported dead. The first explanation holds."""
        self._causes.setdefault(tune_id, cause)

    def suggest(self, trial_id: str) -> Any:
        """A configuration for Tune's `trial_id`; None: ask later; `FINISHED`: there is none any more."""
        if self._is_stopping:
            return Searcher.FINISHED
        if len(self._started) >= self.concurrent:
            return None
        started = self._next()
        if started is None:
            # One that is running may fail and want another start.
            self.is_exhausted = not self._started
            return None if self._started else Searcher.FINISHED
        self._started[trial_id] = started
        self._callback.on_start(started.trial_id, started.config, started.attempt)
        return {"trial": started.trial_id, **started.config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passes progress on. Tune has flattened `{"progress": {"loss": …}}` to `progress/loss`."""
        if AWAY in result and trial_id in self._started:  # Tune repeats a trial's last result when it ends
            self._give_back(trial_id, str(result[AWAY]))
            return
        started = self._started.get(trial_id)
        progress = {name[9:]: value for name, value in result.items() if name.startswith("progress/")}
        if started is not None and progress:
            self._callback.on_progress(started.trial_id, progress)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Reports what the trial has come to, to the study and the callback."""
        started = self._started.pop(trial_id, None)
        cause = self._causes.pop(trial_id, PROCESS_DIED)
        if started is None:
            self._is_back(trial_id, was_ended=error)
            return
        outcome: TrialOutcome = cause if error or result is None else _outcome_in(result)
        match outcome:
            case Finished():
                self._finished(started, outcome.result)
            case Failed():
                self._failed(started, outcome)
            case Stopped():
                self._requeue(started)
            case JudgedOut():
                self._judged_out(started, outcome)
            case EnvironmentFault():
                self.end(outcome.reason)
                self._requeue(started)

    def _give_back(self, tune_id: str, fault: str) -> None:
        started = self._started.pop(tune_id)
        config = {"trial": started.trial_id, **started.config}
        away = Away(fault=_fault_in(fault), config=config)
        is_known = any(each.fault.node == away.fault.node for each in self.away.values())
        self.away[tune_id] = away
        self._requeue(started)
        if not is_known:
            self._callback.on_node(away.fault.node, away.fault.host, away.fault.reason)

    def _is_back(self, tune_id: str, *, was_ended: bool) -> None:
        away = self.away.pop(tune_id, None)
        if away is None or was_ended:
            return
        if all(each.fault.node != away.fault.node for each in self.away.values()):
            self._callback.on_node(away.fault.node, away.fault.host, None)

    def crashed(self, reason: str, is_counted: Callable[[str], bool] = lambda trial_id: True) -> None:
        """Tune itself has ended: for those of the running trials that are counted it is a failure of their own, the
        others are dispatched again without one."""
        for tune_id in list(self._started):
            started = self._started.pop(tune_id)
            is_infrastructure = not is_counted(started.trial_id)
            self._failed(started, Failed(reason=reason, retry=True, is_infrastructure=is_infrastructure))

    def requeue_all(self) -> None:
        """The trials that are running will not come back: whoever opens the study again dispatches them."""
        for tune_id in list(self._started):
            self._requeue(self._started.pop(tune_id))

    def save(self, checkpoint_path: str) -> None:
        """Writes the map of ids."""
        Path(checkpoint_path).write_text(json.dumps(self.__getstate__()))

    def restore(self, checkpoint_path: str) -> None:
        """Refused: open the study again instead."""
        raise NotImplementedError("a sweep resumes from its study: open it again")

    def __getstate__(self) -> dict[str, dict[str, str]]:
        return {"ids": {tune_id: started.trial_id for tune_id, started in self._started.items()}}

    def __setstate__(self, state: object) -> None:
        # Ray unpickles copies of its settings, never to search with them.
        self.__init__(None)

    def _next(self) -> _Started | None:
        if self._deadline is not None and time.time() >= self._deadline:
            self.is_out_of_time = True
            return None
        if self._fixed.waiting:
            fixed = self._fixed.waiting.pop(0)
            self._fixed.starts[fixed.trial_id] += 1
            return _Started(fixed.trial_id, fixed.config, fixed, self._fixed.starts[fixed.trial_id])
        suggestion = self._study.ask() if self._study is not None else None
        if suggestion is None:
            return None
        return _Started(suggestion.trial_id, self._configure(suggestion), None, suggestion.attempt)

    def _requeue(self, started: _Started) -> None:
        if started.fixed is not None:
            self._fixed.waiting.append(started.fixed)
        else:
            assert self._study is not None
            self._study.requeue(started.trial_id)
        self._callback.on_requeue(started.trial_id)

    def _failed(self, started: _Started, failed: Failed) -> None:
        # Recorded from here on: in the study, the journal, failure.json and MLflow.
        failed = replace(failed, reason=redacted(failed.reason))
        if started.fixed is not None:
            counts = self._fixed.losses if failed.is_infrastructure else self._fixed.failures
            counts[started.trial_id] += 1
            most = MOST_LOSSES if failed.is_infrastructure else self._max_failures
            will_retry = failed.retry and counts[started.trial_id] <= most
            if will_retry:
                self._fixed.waiting.append(started.fixed)
        else:
            assert self._study is not None
            became = self._study.report_failure(
                started.trial_id,
                failed.reason,
                retry=failed.retry,
                is_infrastructure=failed.is_infrastructure,
            )
            will_retry = became == "again"
        self._callback.on_failure(started.trial_id, failed.reason, will_retry)
        if not will_retry and self._breaker.add(started.trial_id, failed.reason, started.seconds):
            self._callback.on_breaker(self._breaker.trials)
            self.end(self._breaker.reason)

    def _judged_out(self, started: _Started, outcome: JudgedOut) -> None:
        if started.fixed is not None or self._study is None:
            # They are given no rungs.
            reason = "it was judged at a rung, and is none of the search's"
            return self._failed(started, Failed(reason=reason, retry=False))
        self._study.report_stopped(started.trial_id, outcome.epoch, outcome.epochs)
        self._breaker.reset()
        self._callback.on_stopped(started.trial_id, outcome.epoch, outcome.epochs)
        return None

    def _finished(self, started: _Started, result: TrialResult) -> None:
        reported = result.points[0].val
        unusable = None if self._study is None else self._study.why_unusable(reported)
        if unusable is not None:
            return self._failed(started, Failed(reason=unusable, retry=False))
        if self._study is not None and (started.fixed is None or started.fixed.is_resumed):
            if started.fixed is None:
                self._study.report(started.trial_id, reported, result.points)
            else:
                self._study.report_resumed(started.trial_id, reported, result.points)
            if self._all_points:
                self._study.report_all_points(started.trial_id, result.points)
        self._breaker.reset()
        self._callback.on_result(started.trial_id, result)
        return None


def _fault_in(text: str) -> EnvironmentFault:
    fault = parse_outcome(text)
    assert isinstance(fault, EnvironmentFault), "nothing else is given back"
    return fault


def _outcome_in(result: Mapping[str, object]) -> TrialOutcome:
    """What a Tune result holds. One that cannot be read is a failure: another start would say the same."""
    if OUTCOME not in result:
        return Failed(reason="the trial has ended without an outcome", retry=False)
    try:
        return parse_outcome(str(result[OUTCOME]))
    except ParetovidError as error:
        return Failed(reason=error.message, retry=False)
