"""Who has a sweep, and who has a trial: `driver.json` and `alive.json`, which their holders write again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paretovid.trainables.documents import Fields, JsonValue

VERSION = 1
"""Of both files; those without a version are of version 1."""
_HINT = "Another version of paretovid may be at work on this sweep: let it end first. If none is, remove the file."


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverLease:
    """The content of `driver.json`: the driver that has a sweep, or had it last.

    Times are seconds since 1970, by its clock. They are shown, and never compared with another clock: that a driver
    is alive is seen from the content, which changes with every heartbeat.
    """

    name: str
    """Of this run of a driver, unique."""
    host: str
    pid: int
    started: float
    heartbeat: float
    """When it was last written."""
    beats: int = 0
    """How often it was written: grows also while the clock stands or is set back."""
    ended: bool = False
    """Given back in order."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {
            "version": VERSION,
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "heartbeat": self.heartbeat,
            "beats": self.beats,
            "ended": self.ended,
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> DriverLease:
        """What `to_json` wrote. Raises `DataError` or `NonFiniteError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        return cls(
            name=fields.text("name"),
            host=fields.text("host"),
            pid=fields.whole("pid"),
            started=fields.number("started"),
            heartbeat=fields.number("heartbeat"),
            beats=fields.whole("beats", 0),
            ended=fields.flag("ended", False),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialHeartbeat:
    """The content of `alive.json`: the process that has a trial."""

    lease: str
    """Of this process on this trial, unique. Written as `claim`."""
    host: str
    pid: int
    at: float
    """When it was written, seconds since 1970, by the clock of its node."""
    beats: int
    """Grows while the trial gets on, whatever the clock says."""
    progress: Mapping[str, float] = field(default_factory=dict)
    """What the trial has reported last, such as `epoch` and `epochs`. Written beside the other fields."""

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        return {
            **self.progress,
            "version": VERSION,
            "claim": self.lease,
            "host": self.host,
            "pid": self.pid,
            "at": self.at,
            "beats": self.beats,
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> TrialHeartbeat:
        """What `to_json` wrote. Raises `DataError` or `NonFiniteError` for what cannot be read; `where`: the file."""
        fields = Fields(data, where, _HINT)
        fields.check_version(VERSION)
        own = ("version", "claim", "host", "pid", "at", "beats")
        return cls(
            lease=fields.text("claim"),
            host=fields.text("host"),
            pid=fields.whole("pid"),
            at=fields.number("at"),
            beats=fields.whole("beats", 0),
            progress={name: fields.number(name) for name in fields.names() if name not in own},
        )
