"""A home with videos, backbones and features, made once for all test files and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.evaluation.results import TrialResult

SMALL_DATA = [
    "data.videos_train=16",
    "data.videos_val=8",
    "data.videos_test=8",
    "data.appearance_classes=2",
    "data.motion_classes=1",
    "data.sound_classes=0",
    "data.easy_classes=1",
    "data.max_seconds=7",
    "backbones.training.effort=0.02",
]


@pytest.fixture(scope="session")
def prepared_home(once: Callable[..., Path]) -> Path:
    """What `paretovid extract` makes of `SMALL_DATA`. To be copied: `data`, `backbones` and `features`."""

    def extract(home: Path) -> None:
        command = [str(Path(sys.executable).with_name("paretovid")), "extract", *SMALL_DATA, "cluster.cpus=1"]
        command.append(f"home={home}")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
        subprocess.run(command, check=True, env=environment, timeout=400)

    return once("prepared-home", extract)


def copied(made: Path, home: Path, *parts: str) -> Path:
    """A home of its own with what another one has: its videos, backbones and features, or what is named."""
    for part in parts or ("data", "backbones", "features"):
        shutil.copytree(made / part, home / part)
    return home


def make_reader(folder: Path) -> Callable[[dict[str, Any], Any], TrialResult | None]:
    """A trial that reads its features at every step, with a checkpoint between them: `steps` times, and on until there
    is a file `until`. They are away while the test has renamed their folder, or, injected, on the node whose cache
    holds a file `lost`."""

    def trainable(config: dict[str, Any], context: Any) -> TrialResult | None:
        import errno
        import itertools
        import os
        import tempfile
        import time
        from pathlib import Path

        from paretovid.trainables.testing import synthetic_result

        found = context.get_checkpoint()
        first = int((found / "epoch").read_text()) if found else 0
        node = os.environ.get("PARETOVID_NODE_CACHE", "here")
        steps, until = config.get("steps", 3), config.get("until")
        for epoch in itertools.count(first):
            if epoch >= steps and (until is None or Path(until).exists()):
                break
            with (folder / "reads").open("a") as file:
                file.write(f"{config['trial']} {epoch} {node}\n")
            (Path(config["features"]["coarse"]) / "index").read_text()
            if (Path(node) / "lost").exists():
                raise OSError(errno.ESTALE, "Stale file handle (injected)", config["features"]["coarse"])
            time.sleep(0.3)
            with tempfile.TemporaryDirectory() as kept:
                (Path(kept) / "epoch").write_text(str(epoch + 1))
                context.report({"epoch": float(epoch + 1)}, Path(kept))
        return synthetic_result(config["trial"], [(0.5, 1.0)], model={"first": first, "pid": os.getpid()})

    return trainable


def make_probe() -> Callable[[Any], None]:
    """What a sweep's own probe does, of `make_reader`'s features."""

    def probe(config: Any) -> None:
        import errno
        import os
        from pathlib import Path

        (Path(config["features"]["coarse"]) / "index").read_text()
        if (Path(os.environ.get("PARETOVID_NODE_CACHE", "here")) / "lost").exists():
            raise OSError(errno.ESTALE, "Stale file handle (injected)", config["features"]["coarse"])

    return probe
