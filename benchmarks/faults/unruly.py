"""LiteEval of which some trials misbehave in the middle of their training, each once: they fork, fill their standard
output, or take memory until the kernel kills them.

What is to happen is a file per trial in the folder that `PARETOVID_UNRULY` names: `fork-0`, `output-0`, `memory-0`.
Whoever takes one away does it. Without the variable it is LiteEval under another name.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import ClassVar

from paretovid.trainables.method import register
from paretovid.trainables.methods.lite_eval import LiteEval
from paretovid.trainables.outcome import Batch, Loss, Progress

FOLDER = "PARETOVID_UNRULY"
CGROUP = "PARETOVID_UNRULY_CGROUP"  # both as benchmarks/durability_servers.py sets them
"""A memory cgroup with a limit, that a process enters before it takes memory."""
OUTPUT_BYTES = 100_000_000
CHILD_SECONDS = 3600
_AT = 0.5
"""Of the training."""


@register
class Unruly(LiteEval):  # type: ignore[misc]  # a method of its own would be compared with nothing
    """See the module's text."""

    name: ClassVar[str] = "unruly"

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """LiteEval's. In the middle of a training, what the next file says happens first."""
        folder = os.environ.get(FOLDER)
        if folder and progress.fraction >= _AT and not getattr(self, "_has_acted", False):
            self._has_acted = True
            self._act(Path(folder))
        return super().loss(batch, progress)

    def _act(self, folder: Path) -> None:
        for wish in sorted(folder.iterdir()):
            try:
                wish.rename(folder.with_name(f"{folder.name}-done") / wish.name)
            except FileNotFoundError:  # another trial was faster
                continue
            {"fork": _fork, "output": _fill_output, "memory": _take_memory}[wish.name.partition("-")[0]]()
            return


def _fork() -> None:
    """A child that outlives the trial, with everything open that its parent has open."""
    if os.fork() == 0:
        time.sleep(CHILD_SECONDS)
        os._exit(0)


def _fill_output() -> None:
    line = "x" * 999 + "\n"
    for _ in range(OUTPUT_BYTES // len(line)):
        sys.stdout.write(line)
    sys.stdout.flush()


def _take_memory() -> None:
    """Until the kernel kills this process: in the cgroup only what is taken from now on counts."""
    (Path(os.environ[CGROUP]) / "cgroup.procs").write_text(str(os.getpid()))
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)) * 16)
