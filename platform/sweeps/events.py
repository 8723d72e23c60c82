"""What the driver does while trials run: writes the journal, shows progress, passes events on to MLflow."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, final

from paretovid.platform.console.progress import Progress, Stage
from paretovid.platform.execution.outcome import Hooks
from paretovid.platform.records.failure import record_failure
from paretovid.platform.records.journal import Event, SweepJournal
from paretovid.platform.records.trial import objective_text
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.status import LiveStatus
from paretovid.platform.tracking.exporter import TrackingSender
from paretovid.trainables.data.s3 import ObjectStoreError


@final
class SweepDriver:
    """Hears of everything that happens to trials, in the driver's main thread.

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
        self._configs: dict[str, Mapping[str, Any]] = {}

    def show_on(self, stage: Stage, done: int) -> None:
        """Progress goes there from now on. `done`: trials that earlier drivers have brought to an end."""
        self._stage = stage
        stage.begin_at(done)

    def record(self, event: Event, **facts: Any) -> None:
        """Writes an event, and lets MLflow know when it can."""
        entry = self._journal.write(event, **facts)
        self._live.add(entry)
        self._sender.put(entry)

    def hooks(self, configure: Any, *, tell_swept: bool) -> Hooks:
        """For `launch_trials`."""
        return Hooks(
            configure=configure,
            objectives_of=lambda result: result["objectives"],
            swept_of=(lambda result: result["swept"]) if tell_swept else None,
            on_start=self._on_start,
            on_progress=self._on_progress,
            on_result=self._on_result,
            on_fault=self._on_fault,
            on_aside=lambda trial: self.record("aside", trial=trial),
            on_look=self._on_look,
        )

    def _on_start(self, trial: str, config: Mapping[str, Any], attempt: int) -> None:
        self._configs[trial] = config
        self.record("start", trial=trial, attempt=attempt)

    def _on_progress(self, trial: str, progress: Mapping[str, float]) -> None:
        epochs = f"{progress.get('epoch', 0):.0f}/{progress.get('epochs', 0):.0f}"
        self._advance(0, f"{trial} at epoch {epochs}")

    def _on_result(
        self, trial: str, config: Mapping[str, Any], result: Mapping[str, Any] | None, error: str | None
    ) -> None:
        self._configs.pop(trial, None)
        if result is None:
            record_failure(self._home.trial(self._sweep, trial), str(error))
            self._advance(1, f"{trial} failed: {error}")
            return
        paths = self._home.trial(self._sweep, trial)
        paths.store.remove(paths.failure)
        with contextlib.suppress(ObjectStoreError):  # whoever reads the sweep's front downloads it as well
            paths.download()
        objectives = result["objectives"]
        self.record("finish", trial=trial, **result["figures"])
        quality = ", ".join(
            f"{objective_text(name)} {100 * value:.1f}"
            for name, value in objectives.items()
            if name != "gflops"
        )
        note = f"{trial}: {quality} at {objectives['gflops']:.4f} GFLOPs"
        self._advance(1, note)

    def _on_fault(self, trial: str, reason: str, again: bool) -> None:
        config = self._configs.get(trial, {})
        facts = {
            "method": config.get("method", ""),
            "baseline": not config.get("training_knobs"),
            "knobs": json.loads(json.dumps(config.get("training_knobs") or {})),
        }
        self.record("fault", trial=trial, reason=reason, again=again, **facts)
        if again:
            self._progress.say(f"  {trial} is started again: {reason}")

    def _on_look(self) -> None:
        if self._stage is not None:
            self._stage.note(self._live.line(self._sender))

    def _advance(self, count: int, note: str) -> None:
        if self._stage is not None:
            self._stage.advance(count, note=f"{self._live.line(self._sender)}; {note}")
