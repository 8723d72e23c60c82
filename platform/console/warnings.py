"""What a user is told beside a command's answer: on standard error, and for programs under `warnings`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from paretovid.platform.console.printable import printable_message
from paretovid.trainables.redaction.texts import redacted

_said: list[str] = []
"""Since the command that is running began."""


def say_on_stderr(text: str) -> None:
    """One message for the user, without secrets, and with what controls a terminal escaped."""
    text = redacted(text)
    _said.append(text)
    print(f"  {printable_message(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_meanwhile() -> Iterator[list[str]]:
    """What `say_on_stderr` is told in the block, each text once; complete when the block ends."""
    _said.clear()
    said: list[str] = []
    try:
        yield said
    finally:
        said += dict.fromkeys(_said)
