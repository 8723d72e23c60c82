"""Progress of a command's stages on stderr: what is being done, how far it is, and what is left.

On a terminal one line is rewritten in place; elsewhere (a log, CI) a plain line is written every ten
seconds. Each finished stage leaves one line:

    [1/6] making videos: made 700 videos in 31 s
    [2/6] training backbones: reused 4 backbones
    [3/6] extracting features  240/700 videos (34 %), 12 s so far, about 23 s left
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO, final

from paretovid.platform.console.printable import printable, printable_message
from paretovid.trainables.redaction.texts import redacted

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 10.0
_CLEAR_LINE = "\r\x1b[K"


def format_seconds(seconds: float) -> str:
    """For people: `0.4 s`, `31 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@final
class Progress:
    """Numbers the stages of one command and owns the line that shows them.

    Arguments:
        total_stages: how many stages the command expects; more than that are numbered on.
        stream: where to write; default stderr, so that stdout stays free for results.
        terminal: whether lines can be rewritten; default: ask the stream.
        interval_seconds: time between two updates; default 0.5 on a terminal and 10 elsewhere.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_stages: int,
        *,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        interval_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        is_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self.terminal = is_terminal if terminal is None else terminal
        default_interval = _TERMINAL_SECONDS if self.terminal else _LOG_SECONDS
        self.interval_seconds = default_interval if interval_seconds is None else interval_seconds
        self.clock = clock
        self._total_stages = total_stages
        self._started_stages = 0
        self._lock = threading.RLock()
        self._line_is_open = False

    @classmethod
    def silent(cls) -> Progress:
        """Shows nothing."""
        return cls(0, stream=io.StringIO(), terminal=False)

    def stage(self, name: str, *, total: int | None = None, unit: str = "steps") -> Stage:
        """The next stage, as a context manager.

        Arguments:
            name: what is being done, for example `training backbones`.
            total: how many units there are; None if not known (yet: `Stage.total` may be set later).
            unit: what is counted, in the plural.
        """
        self._started_stages += 1
        number = f"[{self._started_stages}/{max(self._started_stages, self._total_stages)}]"
        return Stage(self, f"{number} {name}", total=total, unit=unit)

    def say(self, text: str) -> None:
        """A line that stays, for example a warning; the line in progress is written anew below it."""
        text = redacted(text)  # what libraries say is passed on here
        with self._lock:
            self._write(f"{_CLEAR_LINE if self._line_is_open else ''}{printable_message(text)}\n")
            self._line_is_open = False

    def show(self, text: str) -> None:
        """Replaces the line in progress (terminal) or adds a line (elsewhere)."""
        with self._lock:
            if not self.terminal:
                self.say(text)
                return
            width = shutil.get_terminal_size().columns
            # The last column stays free: writing into it makes some terminals wrap.
            self._write(_CLEAR_LINE + printable(text)[: max(width - 1, 20)])
            self._line_is_open = True

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@final
class Stage:
    """One stage. Made by `Progress.stage`; use it as a context manager, from any thread."""

    def __init__(self, progress: Progress, name: str, *, total: int | None, unit: str) -> None:
        self.total = total
        self.count = self._before = 0
        self._progress = progress
        self._name = name
        self._unit = unit
        self._note = ""
        self._outcome: str | None = None
        self._is_reused = False
        self._started = self._shown = progress.clock()
        self._finished = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """`count` more units are done. `note` is shown behind the estimate, for example `loss 0.31`."""
        self.count += count
        self._note = note
        if self._progress.clock() - self._shown >= self._progress.interval_seconds:
            self._show()

    def begin_at(self, count: int) -> None:
        """`count` units were done before; they do not count for the estimate."""
        self.count = self._before = count

    def note(self, text: str) -> None:
        """Replaces what is shown behind the estimate; the line is shown when it is due."""
        self._note = text

    def done(self, outcome: str) -> None:
        """Says what the stage made, for its closing line: `made 700 videos`; the time is added."""
        self._outcome = outcome

    def reused(self, what: str = "") -> None:
        """Says that nothing had to be done, for its closing line: `reused 700 videos`."""
        self._outcome, self._is_reused = f"reused {what}".rstrip(), True

    def describe(self) -> str:
        """The line in progress."""
        elapsed = self._progress.clock() - self._started
        times = f"{format_seconds(elapsed)} so far"
        counted = f"{self.count} {self._unit}" if self.count else ""
        if self.total:
            counted = f"{self.count}/{self.total} {self._unit} ({100 * self.count // self.total} %)"
            if self._before < self.count < self.total:
                left = elapsed / (self.count - self._before) * (self.total - self.count)
                times += f", about {format_seconds(left)} left"
        parts = [part for part in (counted, times, self._note) if part]
        return f"{self._name}  {', '.join(parts)}"

    def __enter__(self) -> Self:
        self._started = self._shown = self._progress.clock()
        if self._progress.terminal:
            self._show()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        self._ticker.join()
        took = format_seconds(self._progress.clock() - self._started)
        if error is not None:
            outcome = f"stopped after {took}"
        elif self._is_reused:
            outcome = self._outcome or "reused"
        else:
            made = self._outcome or (f"{self.count} {self._unit}" if self.count else "done")
            outcome = f"{made} in {took}"
        self._progress.say(f"{self._name}: {outcome}")

    def _show(self) -> None:
        self._shown = self._progress.clock()
        self._progress.show(self.describe())

    def _tick(self) -> None:
        # A stage that waits (a cluster that starts) must still show that time passes.
        while not self._finished.wait(self._progress.interval_seconds):
            if self._progress.clock() - self._shown >= self._progress.interval_seconds:
                self._show()
