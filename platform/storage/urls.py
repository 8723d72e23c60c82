"""URLs of stores: of SQLite files, and settings and variables refused that hold a secret which would be recorded."""

from __future__ import annotations

import re
from pathlib import Path

from paretovid.trainables.errors import UsageError
from paretovid.trainables.redaction.texts import redacted
from paretovid.trainables.redaction.urls import parts_of, recorded_settings, recorded_url, urls_in

_HINT = (
    "Leave it out. PostgreSQL takes a password from PGPASSWORD or ~/.pgpass, MLflow from MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, buckets take keys from AWS's own variables (docs/secrets.md)."
)

_ADDRESS = re.compile(r"[^\s/:@]+:[^\s/@]+@[^\s/:@]+(:\d+)?(/|$)")
"""`USER:PASSWORD@HOST`, the beginning of the URL forgotten."""

_TOKEN = re.compile(
    r"(gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|dapi|sk-|pypi-|npm_)(?=[\w-]*[0-9])[\w-]{16,}"
)
"""Tokens of known kinds. Long names of letters and digits are allowed."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file as SQLAlchemy reads it, and so MLflow.

    Raises `UsageError` for a path that this version of SQLAlchemy has no URL for.
    """
    text = str(path)
    if not {"%", "?"} & set(text):
        return f"sqlite:///{text}"
    from sqlalchemy import __version__
    from sqlalchemy.engine import make_url

    # Since 2.1 a path in a URL is quoted; before, it is taken as it stands, and ends at the first "?".
    for written in (text.replace("%", "%25").replace("?", "%3F"), text):
        if make_url(f"sqlite:///{written}").database == text:
            return f"sqlite:///{written}"
    raise UsageError(
        f"SQLAlchemy {__version__} cannot open a database in {path.parent}",
        "Install 2.1 or newer, or give the folder a name without '?'.",
    )


def sqlite_path(url: str) -> Path:
    """The file behind such a URL."""
    from sqlalchemy.engine import make_url

    return Path(make_url(url).database or "")


def check_no_secret(text: str | None, setting: str, *, may_be_signed: bool = False) -> None:
    """Raises `UsageError` for a text that holds a password or a token, in a URL or not: settings are recorded.

    Arguments:
        setting: its name, for the message, which does not repeat the secret.
        may_be_signed: whether the URL may have a query, which is then not recorded.
    """
    for url in urls_in(text or ""):
        parts = parts_of(url)
        if parts is None:
            continue
        if parts.has_secret_user:
            kind = "a password" if parts.password else "a token"
            raise UsageError(f"{setting} holds {kind}, and settings are recorded: {recorded_url(url)}", _HINT)
        if parts.unrecorded and not may_be_signed:
            kind = "a password" if "password" in parts.unrecorded else "a query, which may be secret"
            raise UsageError(f"{setting} holds {kind}, and settings are recorded: {recorded_url(url)}", _HINT)
    recorded = recorded_settings(text or "")
    if _ADDRESS.match(recorded) or redacted(recorded) != recorded:
        raise UsageError(f"{setting} holds a password or a token, and settings are recorded", _HINT)


def check_name_is_no_secret(name: str, setting: str) -> None:
    """Raises `UsageError`, which does not repeat it, for a name that is a token or the value of a secret variable."""
    if redacted(name) != name or _TOKEN.match(name):
        raise UsageError(
            f"{setting} is a token, or the value of a secret variable, and names are recorded",
            "Choose another name.",
        )
