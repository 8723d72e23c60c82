"""Where the MLflow store under home believes its artifacts to be, and where they are.

MLflow keeps an absolute location with every experiment, run, model and version. It has no relative one that plain
MLflow understands: `file:mlflow-artifacts` means the current folder of whoever reads it, `mlflow-artifacts:` needs a
server, and a scheme of our own would need paretovid at every consumer, who has to do with
`mlflow.pyfunc.load_model("models:/digits@champion")` and the version's requirements. So the tables keep absolute
locations, and paretovid reads them relative to the home: what lies below the folder that the store was made in, the
recorded root, is looked for, and written, below the home as it lies now. All commands therefore work in a home that
was moved or copied, whenever it was made, also where two machines see it under two paths. `paretovid relocate`
(`sweeps/relocate.py`) writes the present root into the tables, for those who read them with MLflow alone.

Only SQLite is used here, so that asking costs no import of MLflow.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paretovid.platform.storage.home import Home

EXPERIMENT = "paretovid"
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
    ("trace_tags", "value"),
    ("workspaces", "default_artifact_root"),
    ("workspaces", "trace_archival_location"),
)
"""Tables and columns of MLflow's store that hold locations of artifacts. A version of MLflow may lack some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactPlaces:
    """Translates the locations of one home's store."""

    recorded: Path
    """The root that the store's tables name."""
    root: Path
    """The home's root now."""

    @property
    def is_moved(self) -> bool:
        """Whether MLflow alone would look elsewhere. A second path to the same store is no move."""
        return self.recorded != self.root and not _is_same(self.recorded, self.root)

    def path_of(self, location: str) -> Path | None:
        """Where the artifacts of a location are now; None for a location outside of the home."""
        path = _path(location)
        if path is None or not path.is_relative_to(self.recorded):
            return None
        return self.root / path.relative_to(self.recorded)


def artifact_places(home: Home) -> ArtifactPlaces:
    """Of the store under `home`; one that is not there, or has no sweep yet, is where the home is.

    Raises `sqlite3.Error` for a file that is no store.
    """
    return ArtifactPlaces(recorded=_recorded_root(home.mlflow_database) or home.root, root=home.root)


def count_locations(database: Path, before: Path) -> dict[str, int]:
    """Table to how many of its locations lie below `before`. Raises `sqlite3.Error`."""
    counts: dict[str, int] = {}
    with _opened(database, mode="ro") as connection:
        for table, column in _columns(connection):
            for prefix in _spellings(before):
                (found,) = connection.execute(
                    f"SELECT count(*) FROM {table} WHERE {_is_below(column)}", {"before": prefix}
                ).fetchone()
                counts[table] = counts.get(table, 0) + int(found)
    return {table: count for table, count in counts.items() if count}


def rewrite_locations(database: Path, before: Path, now: Path) -> None:
    """Replaces the root `before` by `now` in all locations, in one transaction: killed, it has changed nothing.

    Raises `sqlite3.Error`; `OperationalError` if another process is writing.
    """
    with _opened(database, mode="rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for table, column in _columns(connection):
                for old, new in zip(_spellings(before), _spellings(now), strict=True):
                    connection.execute(
                        f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                        f"WHERE {_is_below(column)}",
                        {"before": old, "now": new},
                    )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _recorded_root(database: Path) -> Path | None:
    if not database.exists():
        return None
    with _opened(database, mode="ro") as connection:
        if ("experiments", "artifact_location") not in _columns(connection):
            return None
        found = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
        ).fetchone()
    path = None if found is None else _path(str(found[0]))
    # One that somebody has put elsewhere on purpose says nothing about the home.
    return path.parent if path is not None and path.name == "mlflow-artifacts" else None


def _path(location: str) -> Path | None:
    """The path that a location names, with or without `file:`; None for another scheme or a relative one."""
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    is_local = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/")
    return Path(unquote(parts.path)) if is_local else None


def _spellings(root: Path) -> tuple[str, str]:
    """The ways in which MLflow writes a folder."""
    return root.as_uri(), str(root)


def _is_below(column: str) -> str:
    # A home /a/b must not catch what lies in /a/bc.
    return f"({column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/')"


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of `_LOCATIONS` that this store has."""
    return [
        (table, column)
        for table, column in _LOCATIONS
        if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    ]


def _is_same(recorded: Path, root: Path) -> bool:
    with contextlib.suppress(OSError):
        return Home(recorded).mlflow_database.samefile(Home(root).mlflow_database)
    return False


@contextlib.contextmanager
def _opened(database: Path, *, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()
