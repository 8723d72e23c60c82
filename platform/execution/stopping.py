"""Ending a sweep in order: a switch by which signals, a full disk or another driver request it.

The first ctrl-C or SIGTERM (what a spot machine gets before it is taken away) asks: trials write a checkpoint,
states are recorded. The second ends at once. Either way the sweep is resumed later, `paretovid resume`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import final


class SweepStopped(KeyboardInterrupt):
    """The sweep was ended before it was done.

    Arguments:
        reason: who or what ended it.
        hint: how to resume.
        exit_status: 128 and the signal's number, as shells count.
    """

    def __init__(self, reason: str, hint: str = "", exit_status: int = 130) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.exit_status = exit_status


@final
class StopSwitch:
    """Says whether, why and how quickly to end. Set from any thread."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.exit_status = 130
        self.is_lease_lost = False
        """True if another driver has the sweep: nothing of it may be touched any more, only left."""
        self.is_polling = False
        """True while somebody polls the switch; a signal at another time interrupts what is being done."""
        self.arm: Callable[[], None] = lambda: None
        """Takes the signals again, from whoever has taken them since: connecting to Ray puts its own handler of
        SIGTERM in the place of Python's, and that one aborts the process."""

    def request(self, reason: str, exit_status: int = 130) -> None:
        """Requests the end. The first reason holds."""
        if self.reason is None:
            self.reason, self.exit_status = reason, exit_status

    def lease_lost(self, reason: str) -> None:
        """The sweep is another driver's now."""
        self.is_lease_lost = True
        self.reason, self.exit_status = reason, 1

    def stopped(self, hint: str = "") -> SweepStopped:
        """What to raise once it has ended."""
        return SweepStopped(self.reason or "interrupted", hint, self.exit_status)

    @contextlib.contextmanager
    def polling(self) -> Iterator[None]:
        """For the block, a request is enough: it polls the switch often."""
        self.is_polling = True
        try:
            yield
        finally:
            self.is_polling = False


_ARMED: list[Callable[[], None]] = []
"""What takes the signals again, of every block of `on_signals` that is under way."""


def take_signals_again() -> None:
    """To be called after connecting to Ray, which takes SIGTERM for itself; in the main thread."""
    if _ARMED and threading.current_thread() is threading.main_thread():
        _ARMED[-1]()


@contextlib.contextmanager
def ended_in_order(switch: StopSwitch, hint: str, say: Callable[[str], None]) -> Iterator[None]:
    """Whatever ends the block after a signal is a `SweepStopped` that says how to resume.

    The signal's own exception does not always arrive: `ray.get` raises a plain `KeyboardInterrupt` in its place, and
    a library that was interrupted may raise anything, `SystemExit` included.
    """
    with on_signals(switch, say):
        try:
            yield
        except SweepStopped as stopped:
            stopped.hint = hint
            raise
        except KeyboardInterrupt as error:
            raise switch.stopped(hint) from error
        except (Exception, SystemExit) as error:
            if switch.reason is None or switch.is_lease_lost:
                raise
            raise switch.stopped(hint) from error


@contextlib.contextmanager
def on_signals(switch: StopSwitch, say: Callable[[str], None]) -> Iterator[None]:
    """SIGINT and SIGTERM request the end for the block, and interrupt when they come a second time.

    Outside of the main thread, where Python takes no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        is_first = switch.reason is None
        name = "ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        switch.request(f"interrupted by {name}", 128 + number)
        if not switch.is_polling or not is_first:
            raise switch.stopped()
        say("  stopping: running trials write a checkpoint; once more ends at once")

    def arm() -> None:
        for number in before:
            signal.signal(number, handle)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    arm()
    switch.arm = arm
    _ARMED.append(arm)
    try:
        yield
    finally:
        _ARMED.remove(arm)
        switch.arm = lambda: None
        for number, handler in before.items():
            signal.signal(number, handler)
