"""Sweeps whose trials run one after the other in the driver's own process, without Ray Tune. For tests: a process of
Tune's takes longer to start than a small trial takes to train.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import final

import torch

from paretovid.platform.execution.launcher import Counter, LaunchSummary, handing_back, launch_lock
from paretovid.platform.execution.outcome import (
    OUTCOME,
    Failed,
    Finished,
    FixedTrial,
    JudgedOut,
    Stopped,
    TrialCallback,
    TrialOutcome,
    outcome_text,
)
from paretovid.platform.execution.searcher import Configure, ParetoSearcher, knobs_alone
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.execution.trial_process import Trainable, failure
from paretovid.platform.records.judgement import is_judged_out, read_judgements
from paretovid.platform.records.learning import read_learning, write_learning
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.platform.sweeps.sweep import Backend
from paretovid.trainables.context import Learning, StoppedAtRung, TrialStopped
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.training.config import TrialConfig

Run = Callable[[Trainable, JsonObject, Callable[[], None]], TrialResult]
"""`(trainable, config, poll) -> result`: what a launcher does with a trial. What it raises, the trial has failed of.
`poll` lets the driver look after what runs, as it does elsewhere about once a second."""


class ProcessDied(Exception):
    """Raised for a trial whose process is to die, as for lack of memory."""


def trained_here() -> Backend:
    """A backend for `run_sweep`, `resume_sweep` and `extend_sweep`: as the real one, but that trials train in this
    process. A cluster is started or used only for what has to be prepared."""
    return Backend(
        cluster=lambda config: contextlib.nullcontext(), launcher=SequentialLauncher(_trained).launch
    )


@final
class _Followed:
    """A context whose driver is in the same process: it judges while the trial asks. Keeps no checkpoint."""

    rank = 0
    world_size = 1

    def __init__(self, trial: TrialPaths, poll: Callable[[], None]) -> None:
        self.device = torch.device("cpu")
        self._trial = trial
        self._poll = poll

    def report(self, progress: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Does nothing."""

    def get_checkpoint(self) -> Path | None:
        """None: always from the start."""
        return None

    def heartbeat(self) -> bool:
        """False: nobody asks it to end."""
        return False

    def follow(self, learning: Learning) -> None:
        """Written at every epoch."""
        self._trial.folder.mkdir(parents=True, exist_ok=True)
        write_learning(self._trial, learning)

    def followed(self) -> Learning | None:
        """What an earlier start has written."""
        return read_learning(self._trial)

    def is_judged_out(self, *, is_waiting: bool = False) -> bool:
        """After the driver has looked."""
        if is_waiting:
            self._poll()
        return is_judged_out(read_judgements(self._trial))


def _trained(trainable: Trainable, config: JsonObject, poll: Callable[[], None]) -> TrialResult:
    # As a process of its own would get it.
    trial = TrialConfig.from_json(json.loads(json.dumps(config)))
    result = trainable(dict(trial.to_json()), _Followed(TrialPaths(Path(trial.output)), poll))
    assert result is not None, "the only process of a trial is its rank 0"
    return result


@final
class SequentialLauncher:
    """Drives the searcher as Ray Tune does, one trial after the other, in this process.

    Arguments:
        run: gives the result of a trial.
        at_once: trials that are under way at a time, unless `search.concurrent` says less.
    """

    def __init__(self, run: Run, at_once: int = 2) -> None:
        self._run_trial = run
        self._at_once = at_once
        self._ids = count()

    def launch(
        self,
        trainable: Trainable,
        *,
        sweep: SweepPaths,
        study: ParetoStudy | None = None,
        fixed: Sequence[FixedTrial] = (),
        configure: Configure = knobs_alone,
        callback: TrialCallback | None = None,
        all_points: bool = False,
        concurrent: int | None = None,
        max_failures: int = 1,
        breaker: int = 0,
        hours: float | None = None,
        switch: StopSwitch | None = None,
        **_: object,
    ) -> LaunchSummary:
        """As `launch_trials`, of which the cluster's part is left out: resources, hangs, node caches."""
        switch = switch or StopSwitch()
        counter = Counter(callback or TrialCallback())
        searcher = ParetoSearcher(
            study,
            fixed=fixed,
            configure=configure,
            callback=counter,
            all_points=all_points,
            concurrent=min(self._at_once, concurrent or self._at_once),
            deadline=None if hours is None else time.time() + 3600 * hours,
            max_failures=max_failures,
            breaker=breaker,
        )
        with launch_lock(sweep), handing_back(searcher, study, sweep, switch):
            self._run(trainable, searcher, switch, counter.on_poll)
        return counter.summary(searcher, study, switch)

    def _run(
        self, trainable: Trainable, searcher: ParetoSearcher, switch: StopSwitch, on_poll: Callable[[], None]
    ) -> None:
        waiting: list[tuple[str, JsonObject]] = []
        while True:
            if switch.is_lease_lost:
                raise switch.stopped()
            if switch.reason is not None or searcher.environment_fault is not None:
                searcher.stop()
            while isinstance(suggested := searcher.suggest(name := f"here-{next(self._ids)}"), dict):
                waiting.append((name, suggested))
            if not waiting:
                return
            name, config = waiting.pop(0)
            if switch.reason is not None:
                searcher.on_trial_complete(name, {OUTCOME: outcome_text(Stopped())})
                continue
            searcher.on_trial_result(name, {"progress/epoch": 1.0, "progress/epochs": 1.0})
            try:
                outcome = self._outcome(trainable, config, on_poll)
                searcher.on_trial_complete(name, {OUTCOME: outcome_text(outcome)})
            except ProcessDied as error:
                searcher.explain(name, Failed(reason=f"the trial's process died: {error}", retry=True))
                searcher.on_trial_complete(name, error=True)
            on_poll()

    def _outcome(self, trainable: Trainable, config: JsonObject, on_poll: Callable[[], None]) -> TrialOutcome:
        """What the trial comes to."""
        try:
            return Finished(result=self._run_trial(trainable, config, on_poll))
        except ProcessDied:
            raise
        except StoppedAtRung as stopped:
            return JudgedOut(epoch=stopped.epoch, epochs=stopped.epochs)
        except TrialStopped:
            return Stopped()
        except Exception as error:
            return failure(error)
