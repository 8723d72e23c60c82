"""`sweep.json`: what a sweep is (its configuration, its name) and how far it says it is.

state       running, interrupted, failed, out_of_time, finished
config      everything that it was started with; `home:` begins a path in the home
asked       how its number of trials came about, if `paretovid extend` has raised it: [16, 8]
uid         tells it from sweeps of this name in other homes, where a store is shared with them
study       where its study is kept; `home`, or the URL of a database
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paretovid.platform.config.load import load_sweep_config, searched_knobs, to_record
from paretovid.platform.records.sweep import known_info, read_info
from paretovid.platform.storage.home import Home
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.provenance import code_version

_WHERE_ONLY = ("home", "name", "cluster", "tracking")
"""Sections that say where a sweep runs and is kept, not what it is."""
_HOW_ONLY = ("concurrent", "hours", "max_failures", "storage")
"""Settings of `search` that may differ when a sweep goes on."""


def new_info(config: SweepConfig, name: str, state: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record of a sweep in this state; what only the sweep's first start knows is kept from `before`."""
    kept = {key: (before or {})[key] for key in ("asked", "failures", "study") if key in (before or {})}
    return {
        "name": name,
        "uid": (before or {}).get("uid") or uuid.uuid4().hex[:8],
        "method": config.method.name,
        "data": config.data["name"],
        "created": (before or {}).get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "state": state,
        "config": to_record(config),
        "code_version": code_version(),
        "knobs": list(searched_knobs(config)),
        **kept,
    }


def name_of(home: Home, config: SweepConfig) -> str:
    """The stated name, or that of a sweep with this configuration, or a new one.

    Raises `UsageError` if the stated name is taken by a sweep with other settings.
    """
    wanted = _identity(to_record(config))
    if config.name is not None:
        info = read_info(home.sweep(config.name))
        if info and _identity(_first(info)) != wanted:
            raise _taken(config.name, _differences(_first(info), to_record(config)))
        return config.name
    stem = f"{config.method.name}-{config.data['name']}"
    taken = {name: read_info(home.sweep(name)) for name in home.sweep_names()}
    for name, info in sorted(taken.items()):
        if info and name.startswith(stem) and _identity(_first(info)) == wanted:
            return name
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def _taken(name: str, differing: Sequence[str]) -> UsageError:
    hint = "Give it another name=, or the settings that it was started with."
    if all(each.startswith("search.trials ") for each in differing):
        hint = f"More trials of the same: paretovid extend {name} +N."
    return UsageError(f"sweep {name} exists with other settings: {'; '.join(differing[:3])}", hint)


def with_extensions(config: SweepConfig, info: Mapping[str, Any] | None) -> SweepConfig:
    """The configuration with the number of trials that `paretovid extend` has raised it to."""
    if info is not None and info.get("asked"):
        config.search.trials = sum(info["asked"])
    return config


def stored_config(home: Home, name: str, stated_home: str | None, overrides: Sequence[str]) -> SweepConfig:
    """The configuration that a sweep was started with.

    Arguments:
        stated_home: `home=` of this command; a relative one that is stored means another place from here.
        overrides: changes to where and how it runs (`cluster…`, `tracking…`, `search.concurrent`, `hours`,
            `max_failures`); no others.

    Raises `UsageError` for another override, `DataError` for a record that another version has written.
    """
    info = known_info(home, name)
    record = {**info["config"], "name": name, "home": stated_home}
    words = [word for word in overrides if not word.startswith(("home=", "seed="))]
    allowed = [*(f"search.{key}" for key in _HOW_ONLY), "cluster", "tracking"]
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in allowed and not key.startswith(("cluster.", "tracking.")):
            raise UsageError(
                f"a sweep goes on with its own settings; {key} cannot be changed",
                f"What may differ: {', '.join(allowed)}. Other settings make another sweep: paretovid sweep.",
            )
    # The words are checked as for a new sweep, and of that one only what they name is taken over.
    checked = to_record(load_sweep_config(words))
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        section, _, rest = key.partition(".")
        if not rest:
            record[section] = checked[section]
    for word in words:
        *parents, last = word.lstrip("+~").partition("=")[0].split(".")
        if parents:
            target, source = record, checked
            for parent in parents:
                target, source = target.setdefault(parent, {}), source[parent]
            target[last] = source[last]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SweepConfig), record)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise DataError(
            f"the settings of sweep {name} are not those of this version: {str(error).splitlines()[0]}",
            "Go on with the version of paretovid that started it, or start another sweep.",
        ) from error
    assert isinstance(config, SweepConfig)
    return config


def _first(info: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that the sweep was started with, before it was extended."""
    config = dict(info["config"])
    if info.get("asked"):
        config["search"] = {**config["search"], "trials": info["asked"][0]}
    return config


def _identity(config: Mapping[str, Any]) -> str:
    """What makes two sweeps the same, as text."""
    kept = {key: value for key, value in config.items() if key not in _WHERE_ONLY}
    kept["search"] = {k: v for k, v in config["search"].items() if k not in _HOW_ONLY}
    return json.dumps(kept, sort_keys=True)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        where = f"{path}{key}"
        ignored = _WHERE_ONLY if not path else _HOW_ONLY if path == "search." else ()
        if key in ignored or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{where}.")
        else:
            found.append(f"{where} was {old!r}, now {new!r}")
    return found
