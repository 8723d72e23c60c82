"""The errors that a user can cause, each with a hint that says what to do next.

`paretovid` prints them as one message without a traceback (exit status in `exit_status`).
Programmer errors stay plain assertions and built-in exceptions.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

from paretovid.trainables.redaction.texts import redacted


class ParetovidError(Exception):
    """Base of all errors that are shown to users.

    Arguments:
        message: what was wrong, with the value received.
        hint: what is allowed and what to do next; one or a few sentences.

    Neither keeps a secret that was in what it was made of: messages are shown, recorded and sent.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = redacted(message)
        self.hint = redacted(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[ParetovidError], tuple[str, str]]:
        # Ray and multiprocessing send exceptions between processes; the default would lose the hint.
        return type(self), (self.message, self.hint)


class UsageError(ParetovidError, ValueError):
    """Wrong use or configuration: nothing was started."""

    exit_status = 2


class UnknownNameError(UsageError):
    """A name that is not registered."""


class DataError(ParetovidError):
    """A data set, video or feature file that cannot be used."""


class VersionError(DataError):
    """A document of a version that this code does not read. It is never taken for a damaged one, and never replaced."""


class VideoError(DataError):
    """One video that cannot be read; the others continue."""


class InfrastructureError(ParetovidError):
    """The place is at fault, not what ran in it: a home, a data set, features or weights that are missing,
    unreadable, stale or without room. Nothing counts as failed for it, and what was under way resumes."""


class UnavailableDataError(InfrastructureError, DataError):
    """A data set or its videos that were there, and cannot be seen from here."""


class UnreadableError(InfrastructureError, DataError):
    """A file that is there, perhaps, and that the disk does not let be read: nothing is made in its place."""


class StaleFeaturesError(InfrastructureError, DataError):
    """Features that are missing, damaged, or made by something else than what is asked for."""


class UnknownCostError(ParetovidError, KeyError):
    """A component was called whose cost nobody measured. Never counted as zero."""

    def __str__(self) -> str:  # KeyError would show the repr
        return ParetovidError.__str__(self)


class NonFiniteError(ParetovidError, ArithmeticError):
    """A loss or metric that is NaN or infinite."""


@contextlib.contextmanager
def errors_redacted() -> Iterator[None]:
    """Around what another process is sent the errors of, and records them: none that leaves the block holds a secret.

    One in which there is none stays as it is. Else our own errors keep their type, `OSError` its `errno`, and another
    one becomes a `RuntimeError` that names its type; what it came from is left out.
    """
    try:
        yield
    except Exception as error:
        if all(redacted(text) == text for text in map(str, _chain(error))):
            raise
        raise _without_secrets(error) from None


def _without_secrets(error: Exception) -> Exception:
    cleaned: Exception
    if isinstance(error, ParetovidError):
        cleaned = type(error)(error.message, error.hint)
    elif isinstance(error, OSError) and error.errno is not None:
        cleaned = OSError(error.errno, redacted(error.strerror or str(error)))
    else:
        cleaned = RuntimeError(f"{type(error).__name__}: {redacted(str(error))}")
    return cleaned.with_traceback(error.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in seen:
            seen.append(each)
            yield each
            waiting += [each.__cause__, each.__context__]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not in a registry: lists what is, and the closest match."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return UnknownNameError(
        f"unknown {kind}: {str(name)!r}", f"{meant}Known: {', '.join(names) or '(none)'}."
    )
