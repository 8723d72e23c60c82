"""Ends a search whose trials all fail at once for one reason, as of a package that a node lacks."""

from __future__ import annotations

import re
from typing import final

BREAKER_SECONDS = 30.0
"""A trial that fails later than so long after its start has done something first."""
_VARYING = re.compile(r"(/[^\s:'\"]+|\b0x[0-9a-f]+|[-+]?\d[\d.e+-]*|\bt\d{4,}\b)")
"""What differs between one failure and the next for the same reason: paths, numbers, names of trials."""


@final
class Breaker:
    """Counts trials that fail for good, one after the other, early and for one reason.

    Arguments:
        most: so many trip it; 0: nothing does.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kind = ""
        self._last = ""
        self.trials: list[str] = []
        """The trials of the present row."""

    def add(self, trial: str, reason: str, seconds: float) -> bool:
        """A trial has failed for good, so long after its last start. True if that trips it."""
        kind = normalised(reason)
        if kind != self._kind or seconds > BREAKER_SECONDS:
            self.reset()
        if seconds <= BREAKER_SECONDS:
            self._kind, self._last = kind, reason
            self.trials.append(trial)
        return 0 < self._most <= len(self.trials)

    def reset(self) -> None:
        """A trial has succeeded: the row begins anew."""
        self._kind = ""
        self.trials = []

    @property
    def reason(self) -> str:
        """What to tell of a breaker that has tripped."""
        return (
            f"{len(self.trials)} trials in a row failed within {BREAKER_SECONDS:.0f} s of their start, for one reason: "
            f"{self._last} (search.max_failures_in_a_row={self._most} stops the sweep then, 0 never does)"
        )


def normalised(reason: str) -> str:
    """A reason without what differs from trial to trial: paths, numbers, names of trials."""
    return _VARYING.sub("#", reason)
