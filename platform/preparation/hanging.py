"""Reads of a video that do not come back: whoever waits for one is ended, and whoever begins it next is told why.

Neither a call of a decoder nor a read from a mount whose server is gone can be interrupted from inside their process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

from paretovid.trainables.data import containers

Hang = Literal["file", "decoder"]
"""What has not come back."""
GRACE_SECONDS = 30.0
"""Beyond what a video may take, which is looked at between packets."""


def longest_wait_seconds(seconds: float) -> float:
    """For what may take so many seconds: with the grace."""
    return seconds + GRACE_SECONDS


@contextlib.contextmanager
def ended_if_it_hangs(seconds: float, notify: Callable[[Hang], object]) -> Iterator[None]:
    """Ends this process by SIGKILL if the block takes so many seconds and the grace, in whatever it waits.

    That needs a call that gives other threads a turn, as those of PyAV and reads of files do.

    Arguments:
        notify: called before that, in another thread, with what this one waits for.
    """
    waiting = threading.get_ident()

    def end() -> None:
        try:
            notify("file" if _is_in_file(sys._current_frames().get(waiting)) else "decoder")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    timer = threading.Timer(longest_wait_seconds(seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_in_file(frame: FrameType | None) -> bool:
    """Whether a thread waits for a read of the file that FFmpeg has asked for."""
    while frame is not None:
        if frame.f_code.co_filename == containers.__file__ and frame.f_code.co_name == "read":
            return True
        frame = frame.f_back
    return False
