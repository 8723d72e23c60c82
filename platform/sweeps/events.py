"""What the driver does while trials run: writes the journal, shows progress, passes events on to MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import final

from paretovid.platform.console.progress import Progress, Stage
from paretovid.platform.execution.outcome import TrialCallback
from paretovid.platform.records.failure import failure_of, record_failure
from paretovid.platform.records.journal import Event, FailedStart, FinishedTrial, StoppedStart, SweepJournal
from paretovid.platform.records.trial import objective_text
from paretovid.platform.storage.faults import while_away
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.judge import RungJudge
from paretovid.platform.sweeps.reached import LiveStatus
from paretovid.platform.tracking.exporter import Followed, TrackingSender
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.documents import Fields, JsonObject, JsonValue
from paretovid.trainables.evaluation.results import TrialResult

_HOME_WAIT_SECONDS = 30.0


@final
class SweepDriver(TrialCallback):
    """Journal, progress and MLflow, kept up with what happens to trials.

    Arguments:
        live: keeps count for the line of progress.
    """

    def __init__(
        self,
        home: Home,
        sweep: str,
        journal: SweepJournal,
        sender: TrackingSender,
        progress: Progress,
        live: LiveStatus,
    ) -> None:
        self._home = home
        self._sweep = sweep
        self._journal = journal
        self._sender = sender
        self._progress = progress
        self._live = live
        self._stage: Stage | None = None
        self._configs: dict[str, JsonObject] = {}
        self._running: dict[str, None] = {}
        self.judge: RungJudge | None = None
        """Looks after the running trials' rungs, once there is a search."""

    def show_on(self, stage: Stage, done: int) -> None:
        """Progress goes there from now on. `done`: trials that earlier drivers have brought to an end."""
        self._stage = stage
        stage.begin_at(done)

    def record(self, event: Event, **info: JsonValue) -> None:
        """Writes an event, and notifies MLflow when it can."""
        # A mount that is gone for a second costs that second; the driver has nothing to do without its home.
        entry = while_away(
            lambda: self._journal.write(event, **info), places=(self._home.root,), seconds=_HOME_WAIT_SECONDS
        )
        self._live.add(entry)
        self._sender.put(entry)

    def on_start(self, trial_id: str, config: JsonObject, attempt: int) -> None:
        self._configs[trial_id] = config
        self._running[trial_id] = None
        fields = Fields(config, f"the configuration of {trial_id}", "")
        knobs = fields.values_by_name("training_knobs", {})
        self._sender.follow(Followed(trial=trial_id, method=fields.text("method", ""), knobs=knobs))
        self.record("start", trial=trial_id, attempt=attempt)

    def on_progress(self, trial_id: str, progress: Mapping[str, float]) -> None:
        epochs = f"{progress.get('epoch', 0):.0f}/{progress.get('epochs', 0):.0f}"
        self._advance(0, f"{trial_id} at epoch {epochs}")

    def on_result(self, trial_id: str, result: TrialResult) -> None:
        self._configs.pop(trial_id, None)
        self._ended(trial_id)
        paths = self._home.trial(self._sweep, trial_id)
        paths.store.remove(paths.failure)
        with contextlib.suppress(ObjectStoreError):  # whoever reads the sweep's front downloads it as well
            paths.download()
        self.record("finish", trial=trial_id, **FinishedTrial.of(result).to_json())
        first = result.points[0].val
        quality = f"{objective_text(result.objective)} {100 * first.quality:.1f}"
        self._advance(1, f"{trial_id}: {quality} at {first.gflops:.4f} GFLOPs")

    def on_stopped(self, trial_id: str, epoch: int, epochs: int) -> None:
        self._ended(trial_id)
        config = Fields(self._configs.pop(trial_id, {}), f"the configuration of {trial_id}", "")
        if self.judge is not None:
            self.judge.ended(trial_id, epoch)
        stopped = StoppedStart(
            epoch=epoch,
            epochs=epochs,
            method=config.text("method", ""),
            knobs=config.values_by_name("training_knobs", {}),
        )
        self.record("stopped", trial=trial_id, **stopped.to_json())
        self._advance(1, f"{trial_id} stopped at epoch {epoch} of {epochs}")

    def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
        self._ended(trial_id)
        config = Fields(self._configs.get(trial_id, {}), f"the configuration of {trial_id}", "")
        knobs = config.values_by_name("training_knobs", {})
        failed = FailedStart(
            reason=reason,
            will_retry=will_retry,
            method=config.text("method", ""),
            is_baseline=not knobs,
            knobs=knobs,
        )
        self.record("fault", trial=trial_id, **failed.to_json())
        if will_retry:
            self._progress.say(f"  {trial_id} is started again: {reason}")
            return
        self._configs.pop(trial_id, None)
        record_failure(self._home.trial(self._sweep, trial_id), reason)
        self._advance(1, f"{trial_id} failed: {reason}")

    def on_requeue(self, trial_id: str) -> None:
        self._ended(trial_id)
        self.record("aside", trial=trial_id)

    def on_node(self, node: str, host: str, reason: str | None) -> None:
        self.record("node", node=node, host=host, away=reason)
        name = f"{host} ({node[:6]})"
        back, away = f"  {name} is back and takes trials again", f"  {name} takes no more trials: {reason}"
        self._progress.say(back if reason is None else away)

    def on_breaker(self, trial_ids: Sequence[str]) -> None:
        for trial_id in trial_ids:
            paths = self._home.trial(self._sweep, trial_id)
            record_failure(paths, failure_of(paths) or "unknown", "breaker")

    def on_poll(self) -> None:
        if self.judge is not None:
            self.judge.poll(self._running)
        if self._stage is not None:
            self._stage.note(self._live.line(self._sender))

    def _ended(self, trial_id: str) -> None:
        self._running.pop(trial_id, None)
        self._sender.unfollow(trial_id)

    def _advance(self, count: int, note: str) -> None:
        if self._stage is not None:
            self._stage.advance(count, note=f"{self._live.line(self._sender)}; {note}")
