"""Where studies are kept: a journal file or a database, opened, checked and repaired."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import TrialState
from sqlalchemy import make_url

from paretovid.infra.object_store import ObjectStore
from paretovid.platform.search.bucket_journal import ObjectJournal
from paretovid.platform.search.file_journal import FileJournal
from paretovid.platform.search.retrying_storage import StudyStorageError, open_patiently
from paretovid.trainables.data.s3 import SCHEME
from paretovid.trainables.errors import UsageError
from paretovid.trainables.redaction.urls import recorded_url, without_secrets_of

Directions = dict[str, Literal["maximize", "minimize"]]
JOURNAL = "journal://"
"""Scheme of a storage that is one file, appended to: a tenth of SQLite's time per trial."""
_DESCRIPTION = "paretovid"
_NOT_REACHED = re.compile(
    r"Connection refused|timeout expired|could not translate host name|No route to host|unreachable|No such file"
)
"""How libpq tells of a server that it has not talked to, in a connection's first error. The last is of a socket."""


def objectives(quality: str = "map") -> Directions:
    """What a study searches for, in the order in which values are reported: a quality, by name, and cost."""
    return {quality: "maximize", "gflops": "minimize"}


def open_study(
    storage: str, name: str, description: Mapping[str, Any], first: Sequence[tuple[str, dict[str, Any]]]
) -> optuna.Study:
    """The study of this name: made, with `first` to be asked first, or opened if it is the same search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    store, names = connect_storage(storage)
    if name in names:
        study = optuna.load_study(study_name=name, storage=store)
        stored = study.user_attrs.get(_DESCRIPTION)
        if stored is not None:
            _check_same(name, json.loads(stored), description)
            return study
        if any("starts" in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
            # Only this module's studies have such trials: the line with the description is damaged.
            study.set_user_attr(_DESCRIPTION, json.dumps(description))
            return study
        if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            raise UsageError(
                f"the storage holds a study named {name!r} that paretovid did not make",
                "Choose another name=, or another storage.",
            )
        optuna.delete_study(study_name=name, storage=store)  # interrupted while it was made
    directions = description["objectives"]
    study = optuna.create_study(study_name=name, storage=store, directions=list(directions.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(directions))
    asked: list[dict[str, Any]] = []
    for origin, knobs in first:
        if knobs not in asked:
            study.enqueue_trial(knobs, user_attrs={"origin": origin})
            asked.append(knobs)
    # Last: a study without its description was not finished being made.
    study.set_user_attr(_DESCRIPTION, json.dumps(description))
    return study


def connect_storage(storage: str) -> tuple[BaseStorage, list[str]]:
    """The storage at a URL, made if it is missing, and the names of the studies in it.

    Raises `UsageError` for one that cannot be opened, `StudyStorageError` for a database that has answered and then
    stayed away.
    """
    try:
        store: BaseStorage
        if storage.startswith(SCHEME):
            store = JournalStorage(ObjectJournal(ObjectStore(storage)))
        elif not storage.startswith(JOURNAL):
            store = _connect_database(storage)
        else:
            path = Path(storage.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            store = JournalStorage(FileJournal(path))
        return store, optuna.get_all_study_names(store)
    except StudyStorageError:
        raise
    except Exception as error:  # each database driver raises its own
        reason = without_secrets_of(f"{type(error).__name__}: {error}", storage)
        if isinstance(error, PermissionError):
            raise UsageError(
                f"no permission to use the studies at {recorded_url(storage)}: {reason.strip()}",
                "Ask whoever owns that file and its folder for the right to read and write them.",
            ) from error
        raise UsageError(
            f"the storage of studies at {recorded_url(storage)} cannot be opened: {reason.strip()}",
            _may_be_down(storage, reason)
            + f"Is the URL right ({JOURNAL}/FILE, sqlite:///FILE, postgresql+psycopg2://USER@HOST/DATABASE), are the "
            "credentials right (PGPASSWORD)?",
        ) from error


def _may_be_down(storage: str, reason: str) -> str:
    """What to say before the URL is doubted, of a database server that was not reached; "" of any other fault."""
    if not storage.startswith("postgresql") or _NOT_REACHED.search(reason) is None:
        return ""
    address = make_url(storage)
    port = "" if address.port is None else f" -p {address.port}"
    look = f"pg_isready -h {shlex.quote(address.host or 'localhost')}{port}"
    return (
        f"The server may be down: `{look}` asks whether it takes connections, and the same command resumes once it "
        "does. If it is up: "
    )


def _connect_database(storage: str) -> BaseStorage:
    if not storage.startswith("postgresql"):
        return optuna.storages.get_storage(storage)
    return open_patiently(storage, recorded_url(storage))


def _check_same(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = []
    for part in ("objectives", "knobs"):
        old, new = stored.get(part, {}), wanted[part]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                differences.append(f"{key} was {_short(old.get(key))}, now {_short(new.get(key))}")
    if differences:
        raise UsageError(
            f"a study named {name!r} exists with another search: {'; '.join(differences)}",
            "Choose another name=, or the same knobs and ranges to resume it.",
        )


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "absent" if value is None else str(value)
    ends = value["choices"] if "choices" in value else f"{value['low']:g} to {value['high']:g}"
    return f"{ends}{' (log)' if value.get('log') else ''}{' (whole)' if value.get('whole') else ''}"
