"""`failure.json`: why a trial failed for good."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from paretovid.platform.storage.faults import was_infrastructure
from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.trainables.documents import Fields, JsonValue
from paretovid.trainables.errors import DataError
from paretovid.trainables.redaction.texts import redacted

VERSION = 1
"""Files without a version are of version 1."""
_HINT = "Remove the file, and `paretovid resume` says anew whether the trial has failed."
Cause: TypeAlias = Literal["trial", "breaker", "infrastructure"]
"""Whose fault it was: `trial`, its own; `breaker`, not known, as all failed in one way and the search was stopped;
`infrastructure`, the place's, as only failures of earlier versions are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFailure:
    """The content of `failure.json`."""

    reason: str
    cause: Cause = "trial"

    @property
    def is_resumed(self) -> bool:
        """Whether `resume` starts the trial again."""
        return self.cause != "trial"

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {"version": VERSION, "reason": self.reason, "cause": self.cause}

    @classmethod
    def from_json(cls, data: object, where: str) -> TrialFailure:
        """What `to_json` wrote. Raises `DataError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        reason = fields.text("reason", "unknown")
        match fields.text("cause", ""):
            case "trial" | "breaker" | "infrastructure" as cause:
                return cls(reason=reason, cause=cause)
            case _:  # of an earlier version: only its text says whose fault it was
                return cls(reason=reason, cause="infrastructure" if was_infrastructure(reason) else "trial")


def record_failure(trial: TrialPaths, reason: str, cause: Cause = "trial") -> None:
    """Keeps why a trial failed for good, beside its traceback."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    trial.store.write_text(
        trial.failure, json.dumps(TrialFailure(reason=redacted(reason), cause=cause).to_json())
    )


def read_failure(trial: TrialPaths) -> TrialFailure | None:
    """Why a trial failed for good; None if it did not.

    Raises `DataError` for a file that cannot be understood, such as one of a later version.
    """
    found = trial.store.read_document(trial.failure)
    return None if found is None else TrialFailure.from_json(found, str(trial.failure))


def failure_of(trial: TrialPaths) -> str | None:
    """The reason alone; None if it did not fail. Raises as `read_failure`."""
    failure = read_failure(trial)
    return None if failure is None else failure.reason


def to_resume(sweep: SweepPaths) -> dict[str, str]:
    """The trials that failed, not for their own sake, and have no result: by name, with their reasons."""
    finished = {trial.name for trial in sweep.with_result()}
    found = {}
    for trial in sweep.with_failure():
        try:
            failure = read_failure(trial)
        except DataError:  # another version's, which knows what to do with it
            continue
        if failure is not None and failure.is_resumed and trial.name not in finished:
            found[trial.name] = failure.reason
    return found
