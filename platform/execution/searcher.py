"""The adapter between a study and Ray Tune: what is started next, and what becomes of what comes back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from ray.tune.search import Searcher

from paretovid.platform.execution.outcome import OUTCOME, PROCESS_DIED, Cause, FixedTrial, Hooks
from paretovid.platform.search.storage import objectives
from paretovid.platform.search.study import MOST_LOSSES, ParetoStudy, not_finite
from paretovid.trainables.errors import ParetovidError


@dataclass(slots=True)
class _Started:
    trial_id: str
    config: Mapping[str, Any]
    fixed: FixedTrial | None
    attempt: int


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
        concurrent: trials at a time; may be changed while the search runs.
        deadline: `time.time()` after which no trial is started.
        max_failures: of a fixed trial (the study has its own).

    Its state is a map of ids, plain JSON. Ray never restores it: a sweep goes on from the study.
    """

    def __init__(
        self,
        study: ParetoStudy | None,
        *,
        fixed: Sequence[FixedTrial] = (),
        hooks: Hooks | None = None,
        concurrent: int = 1,
        deadline: float | None = None,
        max_failures: int = 1,
    ) -> None:
        super().__init__()
        self._study = study
        self._fixed = _Fixed(waiting=list(fixed))
        self._hooks = hooks or Hooks()
        self.concurrent = concurrent
        self._deadline = deadline
        self._max_failures = max_failures
        self._started: dict[str, _Started] = {}
        self._causes: dict[str, Cause] = {}
        self._is_stopping = False
        self.environment_fault: str | None = None
        """Why no trial can work here, if one has found out."""
        self.is_exhausted = False
        """True once there is nothing to start and nothing running."""
        self.is_out_of_time = False
        """True once the deadline has kept a trial from being started."""

    @property
    def running(self) -> tuple[str, ...]:
        """Trials that were handed out and have not come back."""
        return tuple(started.trial_id for started in self._started.values())

    def trial_of(self, tune_id: str) -> str | None:
        """The id of the running trial that Tune knows as `tune_id`."""
        started = self._started.get(tune_id)
        return None if started is None else started.trial_id

    def stop(self) -> None:
        """Starts no trial any more."""
        self._is_stopping = True

    def explain(self, tune_id: str, cause: Cause) -> None:
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
        self._hooks.on_start(started.trial_id, started.config, started.attempt)
        return {"trial": started.trial_id, **started.config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passes progress on. Tune has flattened `{"progress": {"loss": …}}` to `progress/loss`."""
        started = self._started.get(trial_id)
        progress = {name[9:]: value for name, value in result.items() if name.startswith("progress/")}
        if started is not None and progress:
            self._hooks.on_progress(started.trial_id, progress)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study. Understands bare results and the outcomes of `launcher.py`."""
        started = self._started.pop(trial_id, None)
        cause = self._causes.pop(trial_id, PROCESS_DIED)
        if started is None:
            return None
        if error or result is None:
            return self._failed(started, cause.reason, retry=True, is_innocent=cause.is_innocent)
        if OUTCOME not in result:
            return self._succeeded(started, result)
        outcome = json.loads(result[OUTCOME])
        if outcome.get("stopped"):
            return self._set_aside(started)
        if outcome.get("environment"):
            self.environment_fault = outcome["error"]
            self.stop()
            return self._set_aside(started)
        if outcome.get("error"):
            is_innocent = bool(outcome.get("innocent"))
            return self._failed(
                started, outcome["error"], retry=bool(outcome["retry"]), is_innocent=is_innocent
            )
        return self._succeeded(started, outcome["result"])

    def crashed(self, reason: str, is_guilty: Callable[[str], bool] = lambda trial_id: True) -> None:
        """Tune itself has ended: the guilty ones of the trials that were running have failed, the others will
        be handed out again without blame."""
        for tune_id in list(self._started):
            started = self._started.pop(tune_id)
            self._failed(started, reason, retry=True, is_innocent=not is_guilty(started.trial_id))

    def set_all_aside(self) -> None:
        """The trials that are running will not come back: whoever opens the study again hands them out."""
        for tune_id in list(self._started):
            self._set_aside(self._started.pop(tune_id))

    def save(self, checkpoint_path: str) -> None:
        """Writes the map of ids."""
        Path(checkpoint_path).write_text(json.dumps(self.__getstate__()))

    def restore(self, checkpoint_path: str) -> None:
        """Refused: open the study again instead."""
        raise NotImplementedError("a sweep goes on from its study: open it again")

    def __getstate__(self) -> dict[str, Any]:
        return {"ids": {tune_id: started.trial_id for tune_id, started in self._started.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Ray unpickles copies of its settings, never to search with them.
        self.__init__(None)  # type: ignore[misc]

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
        return _Started(suggestion.trial_id, self._hooks.configure(suggestion), None, suggestion.attempt)

    def _set_aside(self, started: _Started) -> None:
        if started.fixed is None:
            assert self._study is not None
            self._study.set_aside(started.trial_id)
        self._hooks.on_aside(started.trial_id)

    def _failed(self, started: _Started, reason: str, *, retry: bool, is_innocent: bool = False) -> None:
        if started.fixed is not None:
            counts = self._fixed.losses if is_innocent else self._fixed.failures
            counts[started.trial_id] += 1
            most = MOST_LOSSES if is_innocent else self._max_failures
            again = retry and counts[started.trial_id] <= most
            if again:
                self._fixed.waiting.append(started.fixed)
        else:
            assert self._study is not None
            told = self._study.tell_failure(started.trial_id, reason, retry=retry, is_innocent=is_innocent)
            again = told == "again"
        self._hooks.on_fault(started.trial_id, reason, again)
        if not again:
            self._hooks.on_result(started.trial_id, started.config, None, reason)

    def _succeeded(self, started: _Started, result: Mapping[str, Any]) -> None:
        try:
            found = self._hooks.objectives_of(result)
        except (KeyError, IndexError, TypeError, ParetovidError) as error:
            reason = f"its result has no objectives: {type(error).__name__}: {error}"
            return self._failed(started, reason, retry=False)
        bad = not_finite(found, objectives() if self._study is None else self._study.objectives)
        if bad is not None:
            return self._failed(started, bad, retry=False)
        if started.fixed is None:
            assert self._study is not None
            self._study.tell(started.trial_id, found)
            if self._hooks.swept_of is not None:
                self._study.tell_swept(started.trial_id, self._hooks.swept_of(result))
        self._hooks.on_result(started.trial_id, started.config, result, None)
        return None
