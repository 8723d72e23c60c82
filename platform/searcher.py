"""The search: an ask/tell study over the budget knobs, and its adapter to Ray Tune.

Why not Ray's own `OptunaSearch`: there a result that is NaN or missing leaves its trial running for ever, sweeps
share one study by default, results cannot carry constraints, starting points must be complete, and its state is
a pickle of the whole study.

All that a `ParetoStudy` knows lies in its storage. Opened again after any interruption it goes on: a trial that
was running is handed out again under its own name, so that it can continue from its checkpoint, and what is
suggested depends only on the seed, the trial's number and the results so far, not on when the process started.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import ParetovidError, UsageError, unknown_name

Directions = dict[str, Literal["maximize", "minimize"]]


def objectives(quality: str = "map") -> Directions:
    """What a study searches for, in the order in which values are told: a quality, by name, and cost."""
    return {quality: "maximize", "gflops": "minimize"}


JOURNAL = "journal://"
"""Scheme of a storage that is one file, appended to: a tenth of SQLite's time per trial."""
_DESCRIPTION = "paretovid"
_SWEPT = "swept"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Knob values to try."""

    trial_id: str
    knobs: dict[str, Any]
    origin: str
    """Where the values come from: an anchor, a published setting, or the sampler's name."""
    attempt: int
    """1 for the first start of the trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCounts:
    """How far a study has come. Swept points are not counted."""

    complete: int
    failed: int
    running: int
    reasons: tuple[str, ...]
    """Why the failed ones failed, the commonest first."""


@final
class ParetoStudy:
    """One sweep's search for the front of a quality (maximised) and GFLOPs (minimised).

    The first trials are two anchors, all knobs at their dearest and all at their cheapest end (without them
    Optuna's Gaussian process never leaves the neighbourhood of its dearest random start), then `published`.

    Arguments:
        storage: URL of the studies' storage (`journal:///FILE`, `sqlite:///FILE`, `postgresql://…`); made if missing.
        name: the study's. One study per sweep.
        knobs: what is searched.
        trials: how many trials to start in all, those of earlier processes included.
        sampler: `tpe`, `gp` or `random`.
        published: settings to try early; knobs that are left out are sampled, values out of range left out.
        max_gflops: GFLOPs per video that a trial worth finding may spend.
        max_failures: how often a failed trial is handed out again.
        objective: the name of the quality: `map`, `map_iou_0.1_0.7`.

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
        published: Sequence[Mapping[str, Any]] = (),
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
        self.objectives = objectives(objective)
        about = describe(knobs, self.objectives)
        self._study = _open(storage, name, about, [*self._anchors(), *self._within(published)])
        self._open: dict[str, Trial] = {}
        self._again = [trial.number for trial in self._all(TrialState.RUNNING)]

    def ask(self) -> Suggestion | None:
        """The next trial to start; None if all have been started."""
        if self._again:
            number = self._again.pop(0)
            self._reseed(number)
            trial = self._trial(number)
        elif len(self._all()) - len(self._all(TrialState.WAITING)) >= self.trials:
            return None
        else:
            self._reseed(len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask()
        knobs = {knob: _suggest(trial, knob, kind) for knob, kind in self._distributions.items()}
        trial_id = f"t{trial.number:04d}"
        self._open[trial_id] = trial
        attributes = trial.user_attrs
        attempt = int(attributes.get("starts", 0)) + 1
        trial.set_user_attr("starts", attempt)
        if attempt == 1:
            trial.set_user_attr("trial", trial_id)
        origin = str(attributes.get("origin", self._sampler))
        return Suggestion(trial_id=trial_id, knobs=knobs, origin=origin, attempt=attempt)

    def tell(self, trial_id: str, objectives: Mapping[str, Any], **attributes: Any) -> str:
        """Records a result: the quality and `gflops`, anything else in `objectives` is ignored.

        A value that is missing or not finite makes the trial a failed one. Telling a finished trial again
        changes nothing. Returns what became of it: `complete`, `failed` or `known`.
        """
        trial = self._take(trial_id)
        if trial is None:
            return "known"
        bad = _not_finite(objectives, self.objectives)
        if bad is not None:
            return self._fail(trial, bad)
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        if self._max_gflops is not None:
            trial.set_constraint("max_gflops", float(objectives["gflops"]) - self._max_gflops)
        self._study.tell(trial, [float(objectives[name]) for name in self.objectives])
        return "complete"

    def tell_failure(self, trial_id: str, reason: str, *, retry: bool = True) -> str:
        """Records that a start of the trial failed. Returns `again` if it will be handed out again,
        `failed` if it will not, `known` if it was finished already.
        """
        trial = self._take(trial_id)
        if trial is None:
            return "known"
        failures = int(trial.user_attrs.get("failures", 0)) + 1
        trial.set_user_attr("failures", failures)
        if retry and failures <= self.max_failures:
            self._again.append(trial.number)
            return "again"
        return self._fail(trial, reason)

    def tell_swept(self, trial_id: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Adds the other operating points of a complete trial, so that the sampler sees them.

        Each has the quality, `gflops`, and `knobs` for those searched knobs in which it differs from its trial.
        """
        source = self._study.get_trials(deepcopy=False)[int(trial_id[1:])]
        for point in points:
            values = [float(point[name]) for name in self.objectives]
            limit = self._max_gflops
            self._study.add_trial(
                optuna.trial.create_trial(
                    values=values,
                    params={**source.params, **point.get("knobs", {})},
                    distributions=dict(self._distributions),
                    constraints=None if limit is None else {"max_gflops": values[1] - limit},
                    user_attrs={_SWEPT: trial_id},
                )
            )

    def fail_open(self, reason: str) -> None:
        """Fails every trial that is still open or waits to be handed out again: nobody will."""
        for number in self._again:
            self._fail(self._trial(number), reason)
        self._again.clear()
        for trial_id in list(self._open):
            trial = self._take(trial_id)
            assert trial is not None
            self._fail(trial, reason)

    def counts(self) -> StudyCounts:
        """How far the study has come."""
        failed = self._all(TrialState.FAIL)
        reasons = Counter(str(trial.user_attrs.get("reason", "unknown")) for trial in failed)
        return StudyCounts(
            complete=len(self._all(TrialState.COMPLETE)),
            failed=len(failed),
            running=len(self._all(TrialState.RUNNING)),
            reasons=tuple(reason for reason, _ in reasons.most_common()),
        )

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if _SWEPT not in trial.user_attrs]

    def _trial(self, number: int) -> Trial:
        return Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _take(self, trial_id: str) -> Trial | None:
        """The open trial, open no longer. None if it is finished; an assertion if it was never handed out."""
        trial = self._open.pop(trial_id, None)
        if trial is None:
            number = int(trial_id[1:])
            trials = self._study.get_trials(deepcopy=False)
            assert number < len(trials), f"{trial_id} was never handed out"
        return trial

    def _fail(self, trial: Trial, reason: str) -> str:
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        return "failed"

    def _reseed(self, number: int) -> None:
        # A sampler that lives on would repeat its start-up after a restart, and suggest otherwise than without.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = _SAMPLERS[self._sampler](seed)

    def _anchors(self) -> list[tuple[str, dict[str, Any]]]:
        def at(dearest: bool) -> dict[str, Any]:
            return {name: _end(knob, dearest) for name, knob in self._knobs.items()}

        return [("anchor: dearest", at(True)), ("anchor: cheapest", at(False))]

    def _within(self, published: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        points = []
        for point in published:
            inside = {name: value for name, value in point.items() if self._allows(name, value)}
            # A knob that the user has fixed is no longer there; one out of the user's range makes another point.
            if inside and all(name in inside or name not in self._knobs for name in point):
                points.append(("published", inside))
        return points

    def _allows(self, name: str, value: Any) -> bool:
        kind = self._distributions.get(name)
        if isinstance(kind, CategoricalDistribution):
            return value in kind.choices
        return kind is not None and kind._contains(float(value))


_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: RandomSampler(seed=seed),
}


def distribution(knob: KnobConfig) -> BaseDistribution:
    """A knob's range as Optuna has it."""
    if knob.choices:
        return CategoricalDistribution(tuple(knob.choices))
    assert knob.low is not None and knob.high is not None, "config.py refuses a knob without a range"
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(float(knob.low), float(knob.high), log=knob.log)


def describe(knobs: Mapping[str, KnobConfig], directions: Directions) -> dict[str, Any]:
    """What makes two studies the same search: objectives and ranges, as plain data."""
    ranges: dict[str, Any] = {}
    for name, knob in sorted(knobs.items()):
        ends = {"choices": list(knob.choices)} if knob.choices else {"low": knob.low, "high": knob.high}
        ranges[name] = {**ends, "log": knob.log, "whole": knob.whole}
    return {"objectives": dict(directions), "knobs": ranges}


def _end(knob: KnobConfig, dearest: bool) -> Any:
    low = (knob.cheapest == "low") != dearest
    if knob.choices:
        return knob.choices[0 if low else -1]
    value = knob.low if low else knob.high
    assert value is not None, "config.py refuses a knob without a range"
    return int(value) if knob.whole else float(value)


def _suggest(trial: Trial, name: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, FloatDistribution):
        return trial.suggest_float(name, kind.low, kind.high, log=kind.log)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(name, kind.low, kind.high, log=kind.log)
    assert isinstance(kind, CategoricalDistribution)
    return trial.suggest_categorical(name, kind.choices)


def _open(
    storage: str, name: str, description: Mapping[str, Any], first: Sequence[tuple[str, dict[str, Any]]]
) -> optuna.Study:
    """The study of this name: made, with `first` to be asked first, or opened if it is the same search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    store, names = _connect(storage)
    if name in names:
        study = optuna.load_study(study_name=name, storage=store)
        stored = study.user_attrs.get(_DESCRIPTION)
        if stored is not None:
            _check_same(name, json.loads(stored), description)
            return study
        if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            raise UsageError(
                f"the storage holds a study named {name!r} that paretovid did not make",
                "Choose another name=, or another storage.",
            )
        optuna.delete_study(study_name=name, storage=store)  # interrupted while it was made
    directions = description["objectives"]
    study = optuna.create_study(study_name=name, storage=store, directions=list(directions.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(directions))
    asked: list[dict[str, Any]] = []
    for origin, knobs in first:
        if knobs not in asked:
            study.enqueue_trial(knobs, user_attrs={"origin": origin})
            asked.append(knobs)
    # Last: a study without its description was not finished being made.
    study.set_user_attr(_DESCRIPTION, json.dumps(description))
    return study


def _connect(storage: str) -> tuple[BaseStorage, list[str]]:
    """The storage at a URL, made if it is missing, and the names of the studies in it."""
    try:
        if not storage.startswith(JOURNAL):
            store = optuna.storages.get_storage(storage)
        else:
            path = Path(storage.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            _mend(path)
            store = JournalStorage(JournalFileBackend(str(path)))
        return store, optuna.get_all_study_names(store)
    except Exception as error:  # each database driver raises its own
        raise UsageError(
            f"the storage of studies cannot be opened: {type(error).__name__}: {error}",
            f"Is the URL right ({JOURNAL}/FILE, sqlite:///FILE, postgresql://…), is the server there?",
        ) from error


def _mend(journal: Path) -> None:
    """Cuts off a last line that a crash of the machine left unfinished; the next one would be glued to it."""
    if not journal.exists():
        return
    with get_lock_file(JournalFileSymlinkLock(str(journal))), journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1_000_000))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _check_same(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = []
    for part in ("objectives", "knobs"):
        old, new = stored.get(part, {}), wanted[part]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                differences.append(f"{key} was {_short(old.get(key))}, now {_short(new.get(key))}")
    if differences:
        raise UsageError(
            f"a study named {name!r} exists with another search: {'; '.join(differences)}",
            "Choose another name=, or the same knobs and ranges to go on with it.",
        )


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "absent" if value is None else str(value)
    ends = value["choices"] if "choices" in value else f"{value['low']:g} to {value['high']:g}"
    return f"{ends}{' (log)' if value.get('log') else ''}{' (whole)' if value.get('whole') else ''}"


OUTCOME = "outcome"
"""Key of a Tune result under which a trial's whole outcome stands as one JSON string (`launch.py`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedTrial:
    """A trial with a configuration of its own that runs beside the search and is never told to the study."""

    trial_id: str
    config: Mapping[str, Any]


@dataclass(slots=True)
class Hooks:
    """What the driver does when something happens to a trial. Called in the driver's main thread."""

    configure: Callable[[Suggestion], Mapping[str, Any]] = lambda suggestion: {"knobs": suggestion.knobs}
    """A suggestion to the trial's configuration."""
    objectives_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda result: result
    """A trial's result to its quality and `gflops`."""
    swept_of: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None
    """A trial's result to the points for `ParetoStudy.tell_swept`; None: they are not told."""
    on_start: Callable[[str, Mapping[str, Any]], None] = lambda trial_id, config: None
    on_progress: Callable[[str, Mapping[str, float]], None] = lambda trial_id, progress: None
    on_result: Callable[[str, Mapping[str, Any], Mapping[str, Any] | None, str | None], None] = (
        lambda trial_id, config, result, error: None
    )
    """`(trial_id, config, result, None)` or `(trial_id, config, None, reason)`, once per trial."""


@dataclass(slots=True)
class _Started:
    trial_id: str
    config: Mapping[str, Any]
    fixed: FixedTrial | None


@dataclass(slots=True)
class _Fixed:
    waiting: list[FixedTrial]
    failures: Counter[str] = field(default_factory=Counter)


@final
class ParetoSearcher(Searcher):
    """Hands a study's suggestions to Ray Tune, fixed trials first.

    Arguments:
        study: the search; None if there are only fixed trials.
        concurrent: trials at a time.
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
        self._concurrent = concurrent
        self._deadline = deadline
        self._max_failures = max_failures
        self._started: dict[str, _Started] = {}
        self.is_exhausted = False
        """True once there is nothing to start and nothing running."""
        self.is_out_of_time = False
        """True once the deadline has kept a trial from being started."""

    @property
    def running(self) -> tuple[str, ...]:
        """Trials that were handed out and have not come back."""
        return tuple(started.trial_id for started in self._started.values())

    def suggest(self, trial_id: str) -> Any:
        """A configuration for Tune's `trial_id`; None: ask later; `FINISHED`: there is none any more."""
        if len(self._started) >= self._concurrent:
            return None
        started = self._next()
        if started is None:
            # One that is running may fail and want another start.
            self.is_exhausted = not self._started
            return None if self._started else Searcher.FINISHED
        self._started[trial_id] = started
        self._hooks.on_start(started.trial_id, started.config)
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
        """Tells the study. Understands bare results and the outcomes of `launch.py`."""
        started = self._started.pop(trial_id, None)
        if started is None:
            return
        if error or result is None:
            return self._failed(
                started, "the trial's process died, most often for lack of memory", retry=True
            )
        if OUTCOME not in result:
            return self._succeeded(started, result)
        outcome = json.loads(result[OUTCOME])
        if outcome.get("error"):
            return self._failed(started, outcome["error"], retry=bool(outcome["retry"]))
        return self._succeeded(started, outcome["result"])

    def crashed(self, reason: str) -> None:
        """All trials that are running have failed: Tune itself has ended."""
        for trial_id in list(self._started):
            self._failed(self._started.pop(trial_id), reason, retry=True)

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
            return _Started(fixed.trial_id, fixed.config, fixed)
        suggestion = self._study.ask() if self._study is not None else None
        if suggestion is None:
            return None
        return _Started(suggestion.trial_id, self._hooks.configure(suggestion), None)

    def _failed(self, started: _Started, reason: str, *, retry: bool) -> None:
        if started.fixed is not None:
            self._fixed.failures[started.trial_id] += 1
            again = retry and self._fixed.failures[started.trial_id] <= self._max_failures
            if again:
                self._fixed.waiting.append(started.fixed)
        else:
            assert self._study is not None
            again = self._study.tell_failure(started.trial_id, reason, retry=retry) == "again"
        if not again:
            self._hooks.on_result(started.trial_id, started.config, None, reason)

    def _succeeded(self, started: _Started, result: Mapping[str, Any]) -> None:
        try:
            found = self._hooks.objectives_of(result)
        except (KeyError, IndexError, TypeError, ParetovidError) as error:
            reason = f"its result has no objectives: {type(error).__name__}: {error}"
            return self._failed(started, reason, retry=False)
        bad = _not_finite(found, objectives() if self._study is None else self._study.objectives)
        if bad is not None:
            return self._failed(started, bad, retry=False)
        if started.fixed is None:
            assert self._study is not None
            self._study.tell(started.trial_id, found)
            if self._hooks.swept_of is not None:
                self._study.tell_swept(started.trial_id, self._hooks.swept_of(result))
        self._hooks.on_result(started.trial_id, started.config, result, None)
        return None


def _not_finite(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why what was `found` are not the objectives that are `wanted`; None if they are."""
    for name in wanted:
        value = found.get(name)
        if value is None:
            return f"{name} is missing"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name} is {value}"
    return None
