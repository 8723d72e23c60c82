"""`failure.json`: why a trial failed."""

from __future__ import annotations

import json
from pathlib import Path

from paretovid.platform.storage.documents import read_document, write_atomically

FAILURE_FILE = "failure.json"
"""In the folder of a trial that failed for good: `{"reason": …}`."""


def record_failure(trial_folder: Path, reason: str) -> None:
    """Keeps why a trial failed for good, beside its traceback."""
    trial_folder.mkdir(parents=True, exist_ok=True)
    write_atomically(trial_folder / FAILURE_FILE, json.dumps({"reason": reason}))


def failure_of(trial_folder: Path) -> str | None:
    """Why a trial failed for good; None if it did not."""
    found = read_document(trial_folder / FAILURE_FILE)
    return None if found is None else str(found.get("reason", "unknown"))
