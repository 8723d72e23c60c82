"""How a driver follows a training: the trial's end of `learning.json` and `judgement.json`.

Nothing here may cost a trial more than a moment: a disk that does not take a document loses that document, and a
driver that is gone or slow judges nothing, so that the training goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import final

from paretovid.platform.execution.heartbeat import BEAT_SECONDS, SLOWER_IN_A_BUCKET
from paretovid.platform.records.judgement import is_judged_out, read_judgements
from paretovid.platform.records.learning import read_learning, write_learning
from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.context import Learning
from paretovid.trainables.errors import DataError

JUDGEMENT_SECONDS = 5.0
"""For a judgement, before the training goes on; one that comes later is heeded at the end of an epoch."""
_POLL_SECONDS = 0.1


@final
class Following:
    """One trial's end of it, in the process that has the trial.

    Arguments:
        is_mine: whether this process has the trial still.
        should_end: a heartbeat; true once the trial should end with a checkpoint.
    """

    def __init__(
        self, trial: TrialPaths, *, is_mine: Callable[[], bool], should_end: Callable[[], bool]
    ) -> None:
        self._trial = trial
        self._is_mine = is_mine
        self._should_end = should_end
        slower = SLOWER_IN_A_BUCKET if trial.store.is_remote else 1.0
        self._write_seconds = slower * BEAT_SECONDS
        self._poll_seconds = slower * _POLL_SECONDS
        self._patience_seconds = slower * JUDGEMENT_SECONDS
        self._written = self._looked = -1e9
        self._rungs = 0
        self._is_out = False

    def follow(self, learning: Learning) -> None:
        """Writes it if that is due: every few seconds, at every rung and at the end."""
        now = time.monotonic()
        is_due = now - self._written >= self._write_seconds
        is_due = is_due or len(learning.rungs) > self._rungs or len(learning.history) == learning.epochs
        if not is_due or not self._is_mine():
            return
        self._written, self._rungs = now, len(learning.rungs)
        with contextlib.suppress(OSError):
            write_learning(self._trial, learning)

    def followed(self) -> Learning | None:
        """What was written last, if it can be read."""
        with contextlib.suppress(OSError, DataError):
            return read_learning(self._trial)
        return None

    def is_judged_out(self, *, is_waiting: bool = False) -> bool:
        """Whether the driver has judged that this trial ends at a rung. A bucket is asked no more often than the
        document is written."""
        now = time.monotonic()
        if not is_waiting:
            if now - self._looked >= self._write_seconds or not self._trial.store.is_remote:
                self._look()
            return self._is_out
        until = now + self._patience_seconds
        while not self._look() and time.monotonic() < until and not self._should_end():
            time.sleep(self._poll_seconds)
        return self._is_out

    def _look(self) -> bool:
        """Whether all rungs that were written are judged."""
        self._looked = time.monotonic()
        with contextlib.suppress(OSError, DataError):
            judged = read_judgements(self._trial)
            self._is_out = is_judged_out(judged)
            return self._is_out or len(judged) >= self._rungs
        return False
