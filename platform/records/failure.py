"""`failure.json`: why a trial failed."""

from __future__ import annotations

import json

from paretovid.platform.storage.home import TrialPaths


def record_failure(trial: TrialPaths, reason: str) -> None:
    """Keeps why a trial failed for good, beside its traceback."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    trial.store.write_text(trial.failure, json.dumps({"reason": reason}))


def failure_of(trial: TrialPaths) -> str | None:
    """Why a trial failed for good; None if it did not."""
    found = trial.store.read_document(trial.failure)
    return None if found is None else str(found.get("reason", "unknown"))
