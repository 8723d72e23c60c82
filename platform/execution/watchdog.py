"""What the driver looks after while Tune runs: trials that hang, processes that died, the wish to stop.

Tune calls a `Watchdog` between its steps, about ten times a second, in the driver's main thread.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.execution.inquiry import Inquiry
from paretovid.platform.execution.outcome import PROCESS_DIED, Failed
from paretovid.platform.execution.ray_errors import NODE_LOST, is_node_loss
from paretovid.platform.execution.searcher import ParetoSearcher
from paretovid.platform.execution.stopping import StopSwitch
from paretovid.platform.records.control_requests import ask_to_stop
from paretovid.platform.storage.home import SweepPaths

STOP_SECONDS = 25.0
"""What trials have to write their checkpoints in; spot machines are taken away 30 s after their signal at best."""
CANNOT_WORK = "trials cannot work here"
_POLL_SECONDS = 1.0
_ROOM_SECONDS = 5.0


def cause_of_death(text: str) -> Failed:
    """Why a trial's process is gone, from what Ray says about it."""
    if is_node_loss(text):
        return Failed(reason=NODE_LOST, retry=True, is_infrastructure=True)
    if "temporarily unavailable" in text or "ActorUnavailable" in text:
        return Failed(reason="the connection to its node was lost", retry=True, is_infrastructure=True)
    if "low on memory" in text or "OutOfMemory" in text:
        return Failed(reason="its process was killed for lack of memory", retry=True)
    if "SIGKILL" in text or "connection error code 2" in text:
        return Failed(reason="its process was killed, most often for lack of memory", retry=True)
    return PROCESS_DIED


@final
class ExplainingScheduler(FIFOScheduler):
    """Trials in their order. Notifies the searcher why a trial's process died: Tune notifies it only that it did."""

    def __init__(self, searcher: ParetoSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune just before it notifies the searcher."""
        try:
            text = Path(trial.error_file).read_text()
        except (OSError, TypeError):
            return
        self._searcher.explain(trial.trial_id, cause_of_death(text))

    def __getstate__(self) -> dict[str, str]:
        # Ray pickles its settings, for a restoring that we never do.
        return {}


@final
class Watchdog(tune.Callback):
    """Ends trials that hang, follows the cluster's size, and ends the run when the switch is turned.

    Arguments:
        sweep: whose trials run.
        hang_seconds: a trial without a heartbeat for so long is killed and started again; None: never.
        room: trials for which the cluster has room now.
        inquiry: finds out whether a place that is away for one trial is so for all.
    """

    def __init__(
        self,
        searcher: ParetoSearcher,
        sweep: SweepPaths,
        switch: StopSwitch,
        *,
        hang_seconds: float | None,
        room: Callable[[], int],
        on_poll: Callable[[], None] = lambda: None,
        inquiry: Inquiry | None = None,
    ) -> None:
        self._searcher = searcher
        self._sweep = sweep
        self._switch = switch
        self._hang_seconds = hang_seconds
        self._room = room
        self._on_poll = on_poll
        self._inquiry = inquiry
        self._trials: dict[str, Any] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        self._polled = self._checked = self._measured = time.monotonic()
        # In a bucket every heartbeat is a request.
        self._hang_poll_seconds = 0.0
        if hang_seconds is not None:
            at_most = min(30.0, hang_seconds / 5)
            self._hang_poll_seconds = at_most if sweep.store.is_remote else hang_seconds / 20
        self._stop_until: float | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keeps the trial's handle, and counts its silence from now on."""
        self._trials[trial.trial_id] = trial
        self._seen.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It is over."""
        self._trials.pop(trial.trial_id, None)
        self._seen.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It is over."""
        self.on_trial_complete(iteration, trials, trial)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Looks after everything. Raises `SweepStopped` if trials take too long to stop."""
        now = time.monotonic()
        if self._switch.is_lease_lost:
            # Not even its trials are asked to stop: those that run are the other driver's.
            raise self._switch.stopped()
        if self._inquiry is not None:
            self._inquiry.poll()
        if self._searcher.environment_fault is not None:
            self._switch.request(f"{CANNOT_WORK}: {self._searcher.environment_fault}", 1)
        if self._searcher.needs_no_room:
            self._end_those_away()
        if self._switch.reason is not None and self._stop_until is None:
            self._stop_until = now + STOP_SECONDS
            self._searcher.stop()
            with contextlib.suppress(OSError):  # the home itself may be what is away
                ask_to_stop(self._sweep, self._switch.reason)
        if self._stop_until is not None and now > self._stop_until:
            raise self._switch.stopped()
        if now - self._measured >= _ROOM_SECONDS:
            self._measured = now
            # Nodes come and go. With none left, trials wait for one, unless what is away holds all the room.
            self._searcher.concurrent = max(0 if self._searcher.away else 1, self._room())
        if now - self._polled >= _POLL_SECONDS:
            self._polled = now
            self._on_poll()
        # Often enough to be right to a twentieth; a thousand trials are a thousand files to read.
        pause = max(_POLL_SECONDS, self._hang_poll_seconds)
        if self._hang_seconds is not None and now - self._checked >= pause:
            self._checked = now
            self._find_hangs(now, self._hang_seconds)

    def __getstate__(self) -> dict[str, str]:
        return {}  # as above

    def _end_those_away(self) -> None:
        """The processes that keep the room of nodes whose place is away: nobody wants it any more."""
        for tune_id in list(self._searcher.away):
            actor = self._trials[tune_id].temporary_state.ray_actor if tune_id in self._trials else None
            if actor is not None:
                ray.kill(actor)

    def _find_hangs(self, now: float, hang_seconds: float) -> None:
        for tune_id, trial in list(self._trials.items()):
            name = self._searcher.trial_of(tune_id)
            if name is None:
                continue
            # Not by comparing times: the clocks of nodes differ. What counts is that the heartbeat changes.
            found = self._sweep.store.read_document(self._sweep.trial(name).heartbeat)
            before = self._seen.get(tune_id)
            if before is None or before[0] != found:
                self._seen[tune_id] = (found, now)
            elif now - before[1] > hang_seconds and trial.temporary_state.ray_actor is not None:
                self._searcher.explain(
                    tune_id,
                    Failed(reason=f"no progress for {hang_seconds:g} s, its process was ended", retry=True),
                )
                self._seen.pop(tune_id)
                ray.kill(trial.temporary_state.ray_actor)


def killed_for_memory(text: str, sweep: SweepPaths) -> Callable[[str], bool]:
    """Whether a trial is one of those whose processes Ray's memory monitor says it has killed.

    Where it does not say which, all are: one whose failures are never counted could end the sweep again and again.
    """
    pids = {int(number) for number in re.findall(r"\bpid[=: ]+(\d+)", text, flags=re.IGNORECASE)}

    def is_counted(trial: str) -> bool:
        alive = heartbeat_of(sweep.trial(trial))
        return not pids or (alive is not None and alive.pid in pids)

    return is_counted
