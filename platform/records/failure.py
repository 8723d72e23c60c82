"""`failure.json`: why a trial failed for good."""

from __future__ import annotations

import json
from dataclasses import dataclass

from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.documents import Fields, JsonValue
from paretovid.trainables.redaction.texts import redacted

VERSION = 1
"""Files without a version are of version 1."""
_HINT = "Remove the file, and `paretovid resume` says anew whether the trial has failed."


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFailure:
    """The content of `failure.json`."""

    reason: str

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {"version": VERSION, "reason": self.reason}

    @classmethod
    def from_json(cls, data: object, where: str) -> TrialFailure:
        """What `to_json` wrote. Raises `DataError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        return cls(reason=fields.text("reason", "unknown"))


def record_failure(trial: TrialPaths, reason: str) -> None:
    """Keeps why a trial failed for good, beside its traceback."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    trial.store.write_text(trial.failure, json.dumps(TrialFailure(reason=redacted(reason)).to_json()))


def failure_of(trial: TrialPaths) -> str | None:
    """Why a trial failed for good; None if it did not.

    Raises `DataError` for a file that cannot be understood, such as one of a later version.
    """
    found = trial.store.read_document(trial.failure)
    return None if found is None else TrialFailure.from_json(found, str(trial.failure)).reason
