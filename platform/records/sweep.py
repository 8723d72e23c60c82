"""`sweep.json`: what a sweep is and how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretovid.platform.home_paths import from_home, to_home
from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.trainables.data.dataset import write_json
from paretovid.trainables.errors import DataError, UnknownNameError, unknown_name


def read_info(sweep: SweepPaths) -> dict[str, Any] | None:
    """The content of `sweep.json`; None if there is none that can be read."""
    found = sweep.store.read_document(sweep.record, must_answer=True)
    return None if found is None else dict(from_home(found, sweep.home_root))


def write_info(sweep: SweepPaths, info: Mapping[str, Any]) -> None:
    """Replaces `sweep.json`. Paths in the home are written relative to it."""
    write_json(sweep.record, to_home(dict(info), sweep.home_root))
    sweep.store.upload_file(sweep.record)


def known_info(home: Home, name: str) -> dict[str, Any]:
    """The record of a sweep. Raises `UnknownNameError` if there is none, naming the others."""
    info = read_info(home.sweep(name))
    if info is not None:
        return info
    names = home.sweep_names()
    if home.sweep(name).record.is_file():
        raise DataError(
            f"{home.sweep(name).record} is damaged",
            "Write it anew with the command that the sweep was started with, and name=" + name + ".",
        )
    error = unknown_name("sweep", name, names)
    raise UnknownNameError(error.message, f"{error.hint} `paretovid sweeps` lists them.")
