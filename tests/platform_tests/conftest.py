"""A home with videos, backbones and features, made once for all test files and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
        command = [str(Path(sys.executable).with_name("paretovid")), "extract", *SMALL_DATA, f"home={home}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
        subprocess.run(command, check=True, env=environment, timeout=400)

    return once("prepared-home", extract)


def copied(made: Path, home: Path, *parts: str) -> Path:
    """A home of its own with what another one has: its videos, backbones and features, or what is named."""
    for part in parts or ("data", "backbones", "features"):
        shutil.copytree(made / part, home / part)
    return home
