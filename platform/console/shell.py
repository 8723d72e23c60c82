"""Commands that are printed to be typed: every word that is not ours is quoted for the shell."""

from __future__ import annotations

import re
import shlex

_COMMAND = re.compile(r"`(paretovid [^`]*)`")
_HOME = re.compile(r" '?home=")


def typed(*words: object) -> str:
    """A command, or a part of one, as a shell reads it word by word."""
    return shlex.join(str(word) for word in words)


def at_home(home: str | None) -> str:
    """What a printed command needs behind it to find the same home: ` home=FOLDER`, or nothing."""
    return "" if home is None else f" {typed(f'home={home}')}"


def with_home(text: str, home: str | None) -> str:
    """The text, and behind every command of ours that it has between backticks the home that was given."""
    return with_words(text, at_home(home))


def with_words(text: str, words: str) -> str:
    """As `with_home`, of words as `Home.in_commands` gives them. A command that names its home keeps that."""

    def needs(command: str) -> bool:
        return "--help" not in command and _HOME.search(command) is None

    return _COMMAND.sub(
        lambda found: f"`{found[1]}{words}`" if needs(found[1]) else found[0],
        text,
    )
