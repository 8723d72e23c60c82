"""`tracked.json`: how much of a sweep's journal each tracking store has been sent.

A file of version 1 has no version and is the numbers alone, by address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.documents import Fields, JsonValue

VERSION = 2
_HINT = "Remove the file and run `paretovid replay SWEEP`: everything is sent to MLflow again, which holds it once."


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The content of `tracked.json`."""

    last_events: Mapping[str, int] = field(default_factory=dict)
    """Address of a store to the number of the last event that it has been sent."""

    @property
    def latest(self) -> int:
        """The highest number that any store has been sent; 0: none."""
        return max(self.last_events.values(), default=0)

    def with_event(self, address: str, number: int) -> Delivered:
        """The same after the store at an address has been sent everything up to an event."""
        return replace(self, last_events={**self.last_events, address: number})

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {"version": VERSION, "last_events": dict(self.last_events)}

    @classmethod
    def from_json(cls, data: object, where: str) -> Delivered:
        """What `to_json` wrote, or a file of version 1. Raises `DataError` for what cannot be read; `where`: the
        file."""
        fields = Fields(data, where, _HINT)
        numbers = fields if fields.check_version(VERSION) == 1 else fields.fields("last_events")
        return cls(last_events={each: numbers.whole(each) for each in numbers.names() if each != "version"})


def read_delivered(sweep: SweepPaths) -> Delivered:
    """What has been sent of a sweep; nothing where there is no file, or half of one: sending twice does no harm.

    Raises `DataError` for a whole file that cannot be understood, such as one of a later version.
    """
    found = sweep.store.read_document(sweep.tracked)
    return Delivered() if found is None else Delivered.from_json(found, str(sweep.tracked))


def write_delivered(sweep: SweepPaths, delivered: Delivered) -> None:
    """Replaces `tracked.json`."""
    sweep.store.write_text(sweep.tracked, json.dumps(delivered.to_json()))
