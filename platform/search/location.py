"""Where a sweep's study is kept: under home, or in a database that many sweeps share.

Passwords never enter a configuration, and so neither `sweep.json` nor MLflow: PostgreSQL's own variables
(`PGPASSWORD`, `PGPASSFILE`) and MLflow's (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`) supply them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretovid.platform.storage.home import Home
from paretovid.platform.storage.urls import shown_url
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
