"""What is asked of those who are at work on a sweep: `stop.json` of its trials, `take-over.json` of its driver.

That a file is there is the request, which is heeded however little of it can be read; what it says is for people.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.documents import Fields, JsonValue

VERSION = 1
"""Of both files; those without a version are of version 1."""
_HINT = "Another version of paretovid may be at work on this sweep: let it end first. If none is, remove the file."


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequest:
    """The content of `stop.json`: the driver asks all trials to end with a checkpoint."""

    reason: str
    at: float
    """Seconds since 1970, by the driver's clock."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {"version": VERSION, "reason": self.reason, "at": self.at}

    @classmethod
    def from_json(cls, data: object, where: str) -> StopRequest:
        """What `to_json` wrote. Raises `DataError` or `NonFiniteError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        return cls(reason=fields.text("reason"), at=fields.number("at"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeOverRequest:
    """The content of `take-over.json`: another driver asks the one that has the sweep to give way."""

    by: str
    """Who asks, for people."""
    at: float
    """Seconds since 1970, by the clock of who asks."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {"version": VERSION, "by": self.by, "at": self.at}

    @classmethod
    def from_json(cls, data: object, where: str) -> TakeOverRequest:
        """What `to_json` wrote. Raises `DataError` or `NonFiniteError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        return cls(by=fields.text("by"), at=fields.number("at"))


def ask_to_stop(sweep: SweepPaths, reason: str) -> None:
    """Asks the sweep's trials, wherever they run, to end with a checkpoint."""
    request = StopRequest(reason=reason, at=time.time())
    sweep.store.write_text(sweep.stop, json.dumps(request.to_json()))


def take_back_stop(sweep: SweepPaths) -> None:
    """Trials that start from now on are not asked to end."""
    sweep.store.remove(sweep.stop)


def stop_request(sweep: SweepPaths) -> StopRequest | None:
    """What the sweep's trials are asked; None: nothing. Raises as `StopRequest.from_json`."""
    found = sweep.store.read_document(sweep.stop)
    return None if found is None else StopRequest.from_json(found, str(sweep.stop))


def ask_to_give_way(sweep: SweepPaths, by: str) -> None:
    """Asks the sweep's driver, wherever it runs, to stop in order. `by`: who asks."""
    request = TakeOverRequest(by=by, at=time.time())
    sweep.store.write_text(sweep.take_over, json.dumps(request.to_json()))


def take_over_request(sweep: SweepPaths) -> TakeOverRequest | None:
    """What the sweep's driver is asked; None: nothing. Raises as `TakeOverRequest.from_json`."""
    found = sweep.store.read_document(sweep.take_over)
    return None if found is None else TakeOverRequest.from_json(found, str(sweep.take_over))
