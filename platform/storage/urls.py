"""URLs of stores: of SQLite files, and of others without their passwords."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paretovid.trainables.errors import UsageError


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
