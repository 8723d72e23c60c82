"""What a user is told beside a command's answer: one line on standard error each."""

from __future__ import annotations

import sys

from paretovid.platform.console.printable import printable_message
from paretovid.trainables.redaction.texts import redacted


def say_on_stderr(text: str) -> None:
    """One message for the user, without secrets, and with what controls a terminal escaped."""
    print(f"  {printable_message(redacted(text))}", file=sys.stderr, flush=True)
