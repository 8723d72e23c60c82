"""Where a sweep's study is kept: under home, or in a database that many sweeps share.

Passwords never enter a configuration, and so neither `sweep.json` nor MLflow: PostgreSQL's own variables
(`PGPASSWORD`, `PGPASSFILE`) and MLflow's (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`) supply them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from paretovid.platform.storage.home import Home
from paretovid.trainables.errors import UsageError
from paretovid.trainables.redaction.urls import recorded_url

STORAGE_VARIABLE = "PARETOVID_STUDY_STORAGE"
UNDER_HOME = "home"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLocation:
    """A study's storage and its name there."""

    url: str
    """May hold a password, if the variable does."""
    name: str
    described: str
    """For `sweep.json`: `home`, or the URL without a password."""


def study_location(
    home: Home, sweep: str, uid: str, given: str | None, before: str | None = None
) -> StudyLocation:
    """Where the study of a sweep is, or is to be made.

    Arguments:
        uid: the sweep's, which distinguishes it from sweeps of this name in other homes.
        given: `search.storage`; None: the variable `PARETOVID_STUDY_STORAGE`, else under home.
        before: `described` of where it was started; None: it is new.

    Raises `UsageError` if the sweep was started with its study elsewhere: an empty one would start it again.
    """
    url = given or os.environ.get(STORAGE_VARIABLE)
    if not url:
        own = f"{home.optuna_url}/{sweep}" if home.url else home.optuna_url
        location = StudyLocation(url=own, name=sweep, described=UNDER_HOME)
    else:
        # Homes do not know of each other: two of them may have a sweep of this name.
        location = StudyLocation(url=url, name=f"{sweep}-{uid}", described=recorded_url(url))
    before = None if before is None else recorded_url(before)  # an earlier version recorded more of it
    if before not in (None, location.described):
        where = "unset" if before == UNDER_HOME else f"set to {before}"
        raise UsageError(
            f"the study of sweep {sweep} is kept in {before}, not in {location.described}",
            f"Resume with the variable {STORAGE_VARIABLE} {where} (or search.storage=).",
        )
    return location
