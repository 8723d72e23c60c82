"""Where a sweep's study is kept: under home, or in a database that many sweeps share.

Passwords never enter a configuration, and so neither `sweep.json` nor MLflow: PostgreSQL's own variables
(`PGPASSWORD`, `PGPASSFILE`) and MLflow's (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`) supply them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from paretovid.platform.home import Home
from paretovid.trainables.errors import UsageError

STORAGE_VARIABLE = "PARETOVID_STUDY_STORAGE"
UNDER_HOME = "home"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlace:
    """A study's storage and its name there."""

    url: str
    """May hold a password, if the variable does."""
    name: str
    described: str
    """For `sweep.json`: `home`, or the URL without a password."""


def study_place(home: Home, info: Mapping[str, Any], stated: str | None) -> StudyPlace:
    """Where the study of the sweep with this record is, or is to be made.

    Arguments:
        info: the content of `sweep.json`.
        stated: `search.storage`; None: the variable `PARETOVID_STUDY_STORAGE`, else under home.

    Raises `UsageError` if the sweep was started with its study elsewhere: an empty one would start it again.
    """
    sweep = str(info["name"])
    url = stated or os.environ.get(STORAGE_VARIABLE)
    if not url:
        own = f"{home.optuna_url}/{sweep}" if home.url else home.optuna_url
        place = StudyPlace(url=own, name=sweep, described=UNDER_HOME)
    else:
        # Homes do not know of each other: two of them may have a sweep of this name.
        place = StudyPlace(url=url, name=f"{sweep}-{info['uid']}", described=shown_url(url))
    before = info.get("study")
    if before not in (None, place.described):
        where = "unset" if before == UNDER_HOME else f"set to {before}"
        raise UsageError(
            f"the study of sweep {sweep} is kept in {before}, not in {place.described}",
            f"Go on with the variable {STORAGE_VARIABLE} {where} (or search.storage=).",
        )
    return place


def shown_url(url: str) -> str:
    """The URL without its password."""
    _, password = _password(url)
    return url if password is None else url.replace(f":{password}@", "@", 1)


def without_password(text: str, url: str) -> str:
    """`text` with the URL's password blotted out, however it is written."""
    _, password = _password(url)
    for secret in {password, unquote(password or "")} - {None, ""}:
        text = text.replace(str(secret), "***")
    return text


def check_no_password(url: str | None, setting: str) -> None:
    """Raises `UsageError` for a URL with a password in it: settings are recorded."""
    if url is not None and _password(url)[1] is not None:
        raise UsageError(
            f"{setting} holds a password, and settings are recorded: {shown_url(url)}",
            "Leave it out. PostgreSQL takes it from PGPASSWORD or ~/.pgpass, MLflow from "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        )


def _password(url: str) -> tuple[str | None, str | None]:
    """User and password as they stand in a URL, quoted as they are."""
    before, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = before.partition(":")
    return user, password if colon else None
