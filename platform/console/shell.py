"""Commands that are printed to be typed: every word that is not ours is quoted for the shell."""

from __future__ import annotations

import shlex


def typed(*words: object) -> str:
    """A command, or a part of one, as a shell reads it word by word."""
    return shlex.join(str(word) for word in words)


def at_home(home: str | None) -> str:
    """What a printed command needs behind it to find the same home: ` home=FOLDER`, or nothing."""
    return "" if home is None else f" {typed(f'home={home}')}"
