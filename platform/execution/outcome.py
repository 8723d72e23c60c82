"""What a start of a trial comes to, and who is notified of it.

What crosses Ray is the JSON of a `TrialOutcome`: made in the trial's process, parsed once, in the searcher.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from paretovid.trainables.documents import Fields, JsonObject, JsonValue, parse_json
from paretovid.trainables.errors import DataError, NonFiniteError
from paretovid.trainables.evaluation.results import TrialResult

OUTCOME = "outcome"
"""Key of a Tune result under which a trial's whole outcome stands as one JSON string (`launcher.py`)."""
AWAY = "away"
"""Key under which a trial whose place is away gives itself back: an `EnvironmentFault`. Its process stays, and keeps
its room, until the place is back."""
VERSION = 1
_HINT = "The trial's process and the driver must run the same version of paretovid."


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The trial has a result."""

    result: TrialResult

    def to_json(self) -> dict[str, JsonValue]:
        return {"kind": "finished", "version": VERSION, "result": self.result.to_json()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """This start has no result."""

    reason: str
    retry: bool
    """Another start may do better."""
    is_infrastructure: bool = False
    """It was not the trial's doing (its node was taken away): the start does not count as a failure of the trial."""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "kind": "failed",
            "version": VERSION,
            "reason": self.reason,
            "retry": self.retry,
            "is_infrastructure": self.is_infrastructure,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """It ended early because it was asked to; it resumes from its checkpoint."""

    def to_json(self) -> dict[str, JsonValue]:
        return {"kind": "stopped", "version": VERSION}


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedOut:
    """It was judged at a rung, and is not trained to its end."""

    epoch: int
    """Epochs that it was trained."""
    epochs: int

    def to_json(self) -> dict[str, JsonValue]:
        return {"kind": "judged_out", "version": VERSION, "epoch": self.epoch, "epochs": self.epochs}


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentFault:
    """The place is at fault (a disk that is full or away), not the trial, which waits for another start."""

    reason: str
    node: str = ""
    """Ray's id of the node that has seen it; empty: every trial would fail, wherever it ran."""
    host: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "kind": "environment_fault",
            "version": VERSION,
            "reason": self.reason,
            "node": self.node,
            "host": self.host,
        }


TrialOutcome: TypeAlias = Finished | Failed | Stopped | JudgedOut | EnvironmentFault

PROCESS_DIED = Failed(reason="the trial's process died, most often for lack of memory", retry=True)


def outcome_text(outcome: TrialOutcome) -> str:
    """The outcome as one line of JSON. Raises `NonFiniteError` for a number in a result that is not finite."""
    try:
        return json.dumps(outcome.to_json(), allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(f"the trial's result is not finite: {error}", "Is a metric NaN?") from error


def parse_outcome(text: str) -> TrialOutcome:
    """What `outcome_text` wrote.

    Raises `DataError` for anything else, a later version too, `NonFiniteError` for a number that is not finite.
    """
    try:
        data = parse_json(text)
    except (ValueError, TypeError) as error:
        raise DataError(f"a trial's outcome cannot be read: {error}", _HINT) from error
    fields = Fields(data, "a trial's outcome", _HINT)
    fields.check_version(VERSION)
    match fields.text("kind"):
        case "finished":
            return Finished(result=TrialResult.from_json(fields.raw("result"), "a trial's result"))
        case "failed":
            return Failed(
                reason=fields.text("reason"),
                retry=fields.flag("retry"),
                is_infrastructure=fields.flag("is_infrastructure"),
            )
        case "stopped":
            return Stopped()
        case "judged_out":
            return JudgedOut(epoch=fields.count("epoch"), epochs=fields.count("epochs"))
        case "environment_fault":
            return EnvironmentFault(
                reason=fields.text("reason"), node=fields.text("node", ""), host=fields.text("host", "")
            )
        case kind:
            raise DataError(f"a trial's outcome cannot be {kind!r}", _HINT)


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedTrial:
    """A trial with a configuration of its own that runs beside the search."""

    trial_id: str
    config: JsonObject
    is_resumed: bool = False
    """It is one of the study's that had failed for no fault of its own: its result is reported. That of no other is."""


class TrialCallback:
    """What happens to trials, as methods that do nothing until a driver overrides them.

    All are called in the driver's main thread. What they raise ends the run.
    """

    def on_start(self, trial_id: str, config: JsonObject, attempt: int) -> None:
        """A trial is started; `attempt` is 1 for its first start."""

    def on_progress(self, trial_id: str, progress: Mapping[str, float]) -> None:
        """A trial has reported progress, by name."""

    def on_result(self, trial_id: str, result: TrialResult) -> None:
        """A trial has finished. At most once per trial, and not after its last failure."""

    def on_stopped(self, trial_id: str, epoch: int, epochs: int) -> None:
        """A trial was judged at a rung and has ended at an epoch of so many. It does not come back."""

    def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
        """A start has failed. Without `will_retry` the trial has failed for good."""

    def on_requeue(self, trial_id: str) -> None:
        """A start ended early because the sweep ends; the trial resumes when the sweep does."""

    def on_node(self, node: str, host: str, reason: str | None) -> None:
        """A node takes no more trials, and why; None: it is back."""

    def on_breaker(self, trial_ids: Sequence[str]) -> None:
        """These have failed for good one after the other for one reason, which ends the run. They were notified."""

    def on_poll(self) -> None:
        """About once a second, while trials run."""
