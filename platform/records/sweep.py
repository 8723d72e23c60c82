"""`sweep.json`: what a sweep is and how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretovid.platform.home_paths import from_home, to_home
from paretovid.platform.storage.documents import read_document
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.mirror import refresh_sweeps, share_file
from paretovid.trainables.data.dataset import write_json
from paretovid.trainables.errors import DataError, UnknownNameError, unknown_name

SWEEP_FILE = "sweep.json"


def read_info(folder: Path) -> dict[str, Any] | None:
    """The content of `sweep.json`; None if there is none that can be read."""
    found = read_document(folder / SWEEP_FILE, must_answer=True)
    return None if found is None else dict(from_home(found, _home_of(folder)))


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Replaces `sweep.json`. Paths in the home are written relative to it."""
    write_json(folder / SWEEP_FILE, to_home(dict(info), _home_of(folder)))
    share_file(folder / SWEEP_FILE)


def _home_of(folder: Path) -> Path:
    """The home that a sweep's folder lies in: `home/sweeps/<name>`."""
    return folder.absolute().parents[1]


def known_info(home: Home, name: str) -> dict[str, Any]:
    """The record of a sweep. Raises `UnknownNameError` if there is none, naming the others."""
    info = read_info(home.sweep(name))
    if info is not None:
        return info
    refresh_sweeps(home.sweeps)
    if (home.sweep(name) / SWEEP_FILE).is_file():
        raise DataError(
            f"{home.sweep(name) / SWEEP_FILE} is damaged",
            "Write it anew with the command that the sweep was started with, and name=" + name + ".",
        )
    error = unknown_name("sweep", name, [path.parent.name for path in home.sweeps.glob(f"*/{SWEEP_FILE}")])
    raise UnknownNameError(error.message, f"{error.hint} `paretovid sweeps` lists them.")
