"""The MLflow store under home or at a URI: opened quietly, and created by one process only."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretovid.infra.locks import exclusive_lock
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.urls import check_no_secret, sqlite_url
from paretovid.platform.tracking.artifact_places import EXPERIMENT, ArtifactPlaces, artifact_places
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.errors import ParetovidError, UsageError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def quiet_mlflow() -> None:
    """Keeps MLflow from telemetry, links and migration chatter. To be called before it is first imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # A server that is asked too often may say "after an hour", and the client would sleep that hour without a word.
    # Whoever sends has pauses of its own, and a command says why it cannot go on.
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in (
        "alembic",
        *(f"mlflow.{part}" for part in ("store", "tracking", "utils", "pyfunc", "models")),
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


class StoreError(ParetovidError):
    """The tracking store cannot be reached or used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """An open tracking and registry store."""

    uri: str
    client: MlflowClient
    experiment_id: str
    lock_path: Path
    places: ArtifactPlaces | None = None
    """Of the store under home; None for another one, whose locations MLflow finds itself."""
    database: Path | None = None
    """As `places`: the file."""

    @property
    def is_moved(self) -> bool:
        """Whether MLflow alone would look for artifacts where the home was before."""
        return self.places is not None and self.places.is_moved

    def put_into_run(self, run_id: str, source: Path, below: str | None = None) -> None:
        """Keeps the files of a folder with a run, in its folder `below`."""
        if self.is_moved:
            self._copy(str(self.client.get_run(run_id).info.artifact_uri), source, below)
        else:
            self.client.log_artifacts(run_id, str(source), below)

    def put_into_model(self, model_id: str, source: Path) -> None:
        """Keeps the files of a folder with a LoggedModel."""
        if self.is_moved:
            self._copy(str(self.client.get_logged_model(model_id).artifact_location), source)
        else:
            self.client.log_model_artifacts(model_id, str(source))

    @contextlib.contextmanager
    def naming_a_full_disk(self) -> Iterator[None]:
        """Around calls of the client: where the database under home has no room, the `OSError` names its file."""
        try:
            yield
        except OSError:
            raise  # of a file, which it names
        except Exception as error:  # MLflow's own, with what SQLAlchemy says
            fault = infrastructure_fault(error)
            if self.database is None or fault is None or not fault.is_full:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.database)) from error

    def remove_files_of_model(self, model_id: str) -> None:
        """Removes what was put into a LoggedModel of the store under home; another store keeps it."""
        location = str(self.client.get_logged_model(model_id).artifact_location)
        path = None if self.places is None else self.places.path_of(location)
        if path is not None:
            shutil.rmtree(path.parent if path.name == "artifacts" else path, ignore_errors=True)

    def _copy(self, location: str, source: Path, below: str | None = None) -> None:
        target = None if self.places is None else self.places.path_of(location)
        if target is None:
            raise StoreError(
                f"artifacts belong to {location}, which is not in this home", "Use the home where they are."
            )
        shutil.copytree(source, target / (below or ""), dirs_exist_ok=True)


def store_uri(home: Home, given: str | None = None) -> str:
    """What was given, else `MLFLOW_TRACKING_URI`, else the store under home.

    Raises `UsageError` for one with a password or a query in it: it is shown and recorded.
    """
    check_no_secret(given, "tracking.uri")
    check_no_secret(os.environ.get("MLFLOW_TRACKING_URI"), "MLFLOW_TRACKING_URI")
    return given or os.environ.get("MLFLOW_TRACKING_URI") or home.mlflow_url


def has_registry(home: Home) -> bool:
    """Whether models can be registered where `open_registry` looks: a home that has no database yet has none, and
    opening it would make one."""
    return home.url is not None or store_uri(home) != home.mlflow_url or home.mlflow_database.is_file()


def open_registry(home: Home, given: str | None = None) -> Store:
    """The store, for registered models. Raises `UsageError` if only this machine would know of them."""
    if home.url is not None and store_uri(home, given) == home.mlflow_url:
        raise UsageError(
            f"a home in a bucket ({home.url}) has no registry of its own",
            "Name an MLflow server: the variable MLFLOW_TRACKING_URI, or tracking.uri= of the sweep.",
        )
    return open_store(home, given)


def open_store(home: Home, given: str | None = None) -> Store:
    """The store of `home` or at a URI. Raises `StoreError` if it cannot be opened."""
    quiet_mlflow()
    import mlflow

    uri = store_uri(home, given)
    lock_path = home.mlflow_lock
    set_by_user = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if set_by_user is None:
        # MLflow exports what it is given; read as the user's wish, it would bind every later home to this one.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        # A fresh SQLite store opened by two processes at once is broken for good.
        with _locked_if_writable(lock_path):
            if uri == home.mlflow_url:
                _make_whole(home.mlflow_database, home.mlflow_artifacts)
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment_id = _experiment(client, home.mlflow_artifacts if uri == home.mlflow_url else None)
            if uri == home.mlflow_url:
                _remove_stray(home)
            places = artifact_places(home) if uri == home.mlflow_url else None
    except StoreError:
        raise
    except Exception as error:  # what a store raises depends on what is behind its URI
        fault = infrastructure_fault(error)
        if fault is not None and fault.is_full:
            raise StoreError(
                f"the MLflow store at {uri} cannot be used: the disk is full ({fault.reason})",
                "Free space, then give the same command again.",
            ) from error
        raise StoreError(
            f"the MLflow store at {uri} cannot be used: {error}",
            "Check tracking.uri or MLFLOW_TRACKING_URI; without them a store under home is made.",
        ) from error
    return Store(
        uri=uri,
        client=client,
        experiment_id=experiment_id,
        lock_path=lock_path,
        places=places,
        database=None if places is None else home.mlflow_database,
    )


@contextlib.contextmanager
def _locked_if_writable(path: Path) -> Iterator[None]:
    """Holds the lock for the block; of a home that may only be read there is none, nor anything that it would keep."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(path))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        yield


def _make_whole(database: Path, artifacts: Path) -> None:
    """Makes the embedded store under another name first: a process killed while MLflow makes its tables, which
    takes seconds, would leave a file that neither it nor `mlflow db upgrade` can use again."""
    if database.exists():
        return
    for left in database.parent.glob(f"{database.name}.*.partial"):
        left.unlink(missing_ok=True)
    with partial_file(database.with_name(f"{database.name}.{uuid.uuid4().hex[:6]}.partial")) as partial:
        _make_tables(partial)
        _own_default_experiment(partial, artifacts)
        partial.rename(database)


def _remove_stray(home: Home) -> None:
    """Removes the empty folders that MLflow makes for a URL with quoted characters in it, which it takes for a path."""
    stray = Path(home.mlflow_url.removeprefix("sqlite:///")).parent
    with contextlib.suppress(OSError):
        while not home.root.is_relative_to(stray):
            stray.rmdir()
            stray = stray.parent


def _make_tables(database: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=sqlite_url(database)).search_experiments(max_results=1)


def _own_default_experiment(database: Path, artifacts: Path) -> None:
    """MLflow's own first experiment keeps its artifacts in the home too, not in the folder that the command was
    typed in."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? || '/' || experiment_id", (artifacts.as_uri(),)
        )


def _experiment(client: MlflowClient, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    note = "Sweeps of paretovid: mAP against GFLOPs per video (giga multiply-accumulates)."
    try:
        return str(
            client.create_experiment(
                EXPERIMENT,
                artifact_location=None if artifacts is None else artifacts.as_uri(),
                tags={"mlflow.note.content": note},
            )
        )
    except MlflowException:  # another driver was faster
        again = client.get_experiment_by_name(EXPERIMENT)
        if again is None:
            raise
        return str(again.experiment_id)
