"""Texts without secrets: messages of libraries, tracebacks, log records. All that leaves a process goes through here.

It leaves out, wherever they stand: what `urls.py` leaves out of URLs; queries of paths, as HTTP libraries name them;
values behind names such as `password=`, `token:` and `Authorization:`; and the values of the environment's secret
variables, however a library words them.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from typing import Any

from paretovid.trainables.redaction.urls import secrets_of, without_urls_secrets

BLOT = "***"
_SECRET_NAME = (
    r"(?:(?:[\w-]*[_-])?(?:signature|sig|credential|security-token|token|pwd|api_?key|(?:secret_?)?access_?key)"
    r"|[\w-]*(?:password|passwd|secret))"
)
_NAMED = re.compile(
    rf"(?<![\w-])((?P<quote>['\"]?){_SECRET_NAME}(?P=quote)\s*(?:=|(?<=['\"]):)\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s&,;'\"]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?)(?:(basic|bearer|token|digest)\s+)?[^\s'\",]+", re.IGNORECASE
)
_BEARER = re.compile(r"(\bbearer\s+)(?=\S*[0-9])[\w.~+/=-]{8,}", re.IGNORECASE)
_OPTION = re.compile(
    r"(--(?:[\w-]*-)?(?:token|password|passwd|secret|api-?key)\s+)(?!-)[^\s'\"]+", re.IGNORECASE
)
_QUERY = re.compile(r"(\b(?:url:?|GET|HEAD|PUT|POST|DELETE|PATCH)\s+['\"]?/[^\s?'\"]*)\?[^\s'\"<>)]*")
"""Of a path, where an HTTP library names one. File names may have question marks too."""
_NO_SCHEME = re.compile(r"(?<![\w:/])(//[^\s/:@'\"]*):[^\s@'\"]+@")
"""The password of a URL whose scheme was left out: `//USER:PASSWORD@HOST`."""
_SECRET_VARIABLE = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8
_SHORTEST_WORD = 16
"""Values of variables that are shorter are common words: blotting them out would spoil messages."""


def redacted(text: str) -> str:
    """The text without secrets. Texts without any stay as they are."""
    text = without_urls_secrets(text)
    text = _NO_SCHEME.sub(lambda found: f"{found[1]}@", text)
    text = _HEADER.sub(lambda found: f"{found[1]}{BLOT}", text)
    for pattern in (_BEARER, _OPTION):
        text = pattern.sub(lambda found: f"{found[1]}{BLOT}", text)
    text = _NAMED.sub(lambda found: f"{found[1]}{BLOT}", text)
    text = _QUERY.sub(lambda found: f"{found[1]}?{BLOT}", text)
    for secret in _secrets_of_environment():
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", BLOT, text)
    return text


def _secrets_of_environment() -> list[str]:
    """Values of variables whose names say that they are secret, and the secrets of URLs in any variable."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and not value.startswith(("/", "~", ".")):
            found |= {value}
        if "://" in value:
            found |= set(secrets_of(value))
    return sorted((value for value in found if _is_no_word(value)), key=len, reverse=True)


def _is_no_word(value: str) -> bool:
    return len(value) >= (_SHORTEST_WORD if value.isalpha() else _SHORTEST)


def redacted_traceback() -> str:
    """The traceback of the exception that is being handled, without secrets."""
    return redacted(traceback.format_exc())


def redact_logs() -> None:
    """From now on, no record of this process's `logging` holds a secret, whoever makes it. Repeating it is harmless."""
    make = logging.getLogRecordFactory()
    if not getattr(make, "redacts", False):
        logging.setLogRecordFactory(_Redacting(make))


class _Redacting:
    """A factory of log records that takes secrets out of what another one makes."""

    redacts = True

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **given: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **given)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a wrong call, which logging reports itself
            return record
        if (without := redacted(message)) != message:
            record.msg, record.args = without, None
        if record.exc_info and record.exc_info[0] is not None:
            raised = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (without := redacted(raised)) != raised:
                # The exception itself must not be formatted again by a handler that keeps no text.
                record.exc_text, record.exc_info = without, None
        return record
