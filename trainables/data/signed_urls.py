"""Signatures of URLs, which are recorded nowhere: where a setting has none, they come from a file that is named in the
environment.

`PARETOVID_SIGNED_URLS` names a text file with a whole URL on each line, its query included. A setting that is the same
URL without the query is fetched by it. So a command, its history, a resumed sweep and Ray's list of commands hold no
signature, and a new one is put into the file while everything else stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from paretovid.trainables.errors import UsageError
from paretovid.trainables.redaction.urls import parts_of, recorded_url

VARIABLE = "PARETOVID_SIGNED_URLS"


def with_signature(location: str) -> str:
    """The location to fetch from: of a URL without a query the whole one of the file, if it is there; else itself.

    Never to be recorded or shown. Raises `UsageError` for a file that cannot be read.
    """
    named = os.environ.get(VARIABLE)
    parts = parts_of(location)
    if not named or parts is None or parts.query:
        return location
    try:
        lines = Path(named).expanduser().read_text().splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(
            f"the file of signed URLs {named} cannot be read: {reason}",
            f"Correct the variable {VARIABLE}, or unset it; the file has a URL on each line.",
        ) from error
    wanted = recorded_url(location)
    return next((line for line in map(str.strip, lines) if recorded_url(line) == wanted), location)
