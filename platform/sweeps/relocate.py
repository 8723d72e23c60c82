"""`paretovid relocate`: writes into MLflow's store where a home that was moved or copied lies now.

paretovid itself does not need it (`artifact_places.py`); MLflow alone does: its page, its server, and consumers who
load `models:/NAME@ALIAS` from the home's store. Also written anew is what sweeps of an older paretovid, which kept
absolute paths, have in their records.

Documents are rewritten first, each whole or not at all, and MLflow's tables last, in one transaction. They hold the
root that the home had before: killed anywhere, the same command does the rest.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretovid.infra.locks import exclusive_lock
from paretovid.platform.records.delivered import Delivered
from paretovid.platform.storage.documents import read_json_object, replace_text
from paretovid.platform.storage.home import SWEEP_FILE, TRACKED_FILE, Home
from paretovid.platform.storage.home_paths import replaced_paths, to_home
from paretovid.platform.sweeps.lock import driver_of
from paretovid.platform.tracking.artifact_places import (
    ArtifactPlaces,
    artifact_places,
    count_locations,
    rewrite_locations,
)
from paretovid.platform.tracking.exporter import EMBEDDED
from paretovid.platform.tracking.store import StoreError
from paretovid.trainables.data.dataset import MANIFEST
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import UsageError

_LOCK_SECONDS = 10.0
"""How long another command may still hold the store before it counts as in use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relocation:
    """What was changed in a home, or is to be."""

    before: Path
    """The root that the home remembered."""
    now: Path
    locations: dict[str, int]
    """Table of MLflow's store to how many locations in it change."""
    documents: tuple[str, ...]
    """Files that change, relative to the home."""
    is_dry_run: bool

    def __str__(self) -> str:
        if not self.locations and not self.documents:
            return f"{self.now} is where it says it is; nothing to do"
        words = ("would change", "would be") if self.is_dry_run else ("changed", "was")
        counts = ", ".join(f"{count} in {table}" for table, count in self.locations.items())
        lines = [f"{self.before} {words[1]} replaced by {self.now}"]
        lines += [f"  {words[0]}  mlflow.db: {counts}"] if counts else []
        lines += [f"  {words[0]}  {name}" for name in self.documents]
        return "\n".join(lines)

    def to_document(self) -> dict[str, JsonValue]:
        """The same as plain data, for `--json`."""
        return {
            "before": str(self.before),
            "now": str(self.now),
            "locations": self.locations,
            "documents": list(self.documents),
            "dry_run": self.is_dry_run,
        }


def relocate(home: Home, *, dry_run: bool = False) -> Relocation:
    """Rewrites what a home remembers of the place it was made in. Again at any time.

    Arguments:
        dry_run: only say what would change.

    Raises `UsageError` for a home in a bucket, or one in use: a sweep runs, or another command holds the store;
    `StoreError` for a store that cannot be read. Nothing is changed then.
    """
    if home.url is not None:
        raise UsageError(
            f"a home in a bucket ({home.url}) remembers no folder",
            "Copy it and name the copy: home=s3://BUCKET/PREFIX. There is nothing to relocate.",
        )
    with _store_errors(home):
        places = artifact_places(home)
        if not places.is_moved:
            return _relocation(home, places, {}, {}, dry_run=dry_run)
        if dry_run:
            _check_idle(home)
            return _relocation(home, places, _counted(home, places), _rewritten(home, places), dry_run=True)
        with _sole_use(home):
            _check_idle(home)
            documents, counts = _rewritten(home, places), _counted(home, places)
            for path, content in documents.items():
                replace_text(path, json.dumps(content, indent=1))
            rewrite_locations(home.mlflow_database, places.recorded, places.root)
    return _relocation(home, places, counts, documents, dry_run=False)


def _relocation(
    home: Home,
    places: ArtifactPlaces,
    counts: dict[str, int],
    documents: dict[Path, Any],
    *,
    dry_run: bool,
) -> Relocation:
    names = tuple(str(path.relative_to(home.root)) for path in documents)
    return Relocation(
        before=places.recorded, now=places.root, locations=counts, documents=names, is_dry_run=dry_run
    )


def _counted(home: Home, places: ArtifactPlaces) -> dict[str, int]:
    return count_locations(home.mlflow_database, places.recorded)


def _rewritten(home: Home, places: ArtifactPlaces) -> dict[Path, Any]:
    """The documents that name the root of before, with their new content."""
    found: dict[Path, Any] = {}
    paths = [*home.sweeps.glob(f"*/{SWEEP_FILE}"), *home.sweeps.glob(f"*/{TRACKED_FILE}")]
    for path in sorted([*paths, *home.root.glob(f"data/*/{MANIFEST}")]):
        before = read_json_object(path)
        now: Any = replaced_paths(before, places.recorded, str(places.root))
        if path.name == SWEEP_FILE:
            now = to_home(now, places.root)
        elif path.name == TRACKED_FILE:
            own = f"sqlite:///{places.recorded / home.mlflow_database.name}"
            now = before and _with_address(before, str(path), own, EMBEDDED)
        if before is not None and now != before:
            found[path] = now
    return found


def _with_address(document: object, where: str, before: str, now: str) -> object:
    """The content of a `tracked.json` with another address for a store; as it was if the store is not in it."""
    events = Delivered.from_json(document, where).last_events
    if before not in events:
        return document
    moved = {now if address == before else address: number for address, number in events.items()}
    return Delivered(last_events=moved).to_json()


def _check_idle(home: Home) -> None:
    for name in home.sweep_names():
        driver = driver_of(home.sweep(name))
        if driver is not None:
            raise UsageError(
                f"sweep {name} is being run by process {driver.pid} on {driver.host}",
                "Wait until it has ended, or stop it; then give the same command again.",
            )


@contextlib.contextmanager
def _sole_use(home: Home) -> Iterator[None]:
    """Keeps paretovid's other commands from the store. One that holds it for long is not waited for."""
    with exclusive_lock(home.mlflow_lock, wait_seconds=_LOCK_SECONDS, refusal=_in_use(home)):
        yield


def _in_use(home: Home) -> UsageError:
    return UsageError(
        f"the MLflow store of {home.root} is in use by another process",
        "Wait for the other command, or end the server; then give the same command again.",
    )


@contextlib.contextmanager
def _store_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise _in_use(home) from error
        raise _unreadable(home, error) from error
    except sqlite3.Error as error:
        raise _unreadable(home, error) from error


def _unreadable(home: Home, error: Exception) -> StoreError:
    return StoreError(
        f"{home.mlflow_database} cannot be used: {error}", "`paretovid doctor` checks the store."
    )
