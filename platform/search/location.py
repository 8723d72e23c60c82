"""Where a sweep's study is kept: under home, or in a database that many sweeps share.

Passwords never enter a configuration, and so neither `sweep.json` nor MLflow: PostgreSQL's own variables
(`PGPASSWORD`, `PGPASSFILE`) and MLflow's (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`) supply them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from paretovid.platform.storage.home import Home
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
    secrets = _passwords(url)
    for secret in secrets:
        for before, after in ((f":{secret}@", "@"), (f"password={secret}", "password=***")):
            url = url.replace(before, after)
    return url if not any(secret in url for secret in secrets) else url.partition("://")[0] + "://***"


def without_password(text: str, url: str) -> str:
    """`text` with the URL's password blotted out, however it is written."""
    for secret in _passwords(url):
        text = text.replace(secret, "***")
    return text


def check_no_password(url: str | None, setting: str) -> None:
    """Raises `UsageError` for a URL with a password in it: settings are recorded."""
    if url is not None and _passwords(url):
        raise UsageError(
            f"{setting} holds a password, and settings are recorded: {shown_url(url)}",
            "Leave it out. PostgreSQL takes it from PGPASSWORD or ~/.pgpass, MLflow from "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        )


def _passwords(url: str) -> list[str]:
    """The passwords in a URL, as they stand there and as they are meant, the longest first.

    By SQLAlchemy's rules and by those of URLs: what one of them takes for a password must not be recorded. In the
    first, `u:a/b@host` holds one; in the second, a slash ends the part that can.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    found: set[str] = set()
    before, at, _ = urlsplit(url).netloc.rpartition("@")
    if at and before.partition(":")[2]:
        found.add(before.partition(":")[2])
    if matched := re.match(r"[\w+]+://[^:/@]*:(.+)@", url):  # up to the last @, whatever is between
        found.add(matched[1])
    found |= set(re.findall(r"[?&]password=([^&]+)", url))
    with contextlib.suppress(ArgumentError, ValueError):
        parsed = make_url(url)
        found |= {str(each) for each in (parsed.password, parsed.query.get("password")) if each}
    return sorted({each for secret in found for each in (secret, unquote(secret))}, key=len, reverse=True)
