"""A sweep's name, and the configuration that it resumes with: what makes two sweeps the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paretovid.platform.config.load import load_sweep_config, plain_settings, searched_knobs, to_record
from paretovid.platform.config.resolve import SweepPlan, plugins_in_use
from paretovid.platform.console.shell import typed
from paretovid.platform.records.sweep import SweepRecord, SweepState, known_record, read_record
from paretovid.platform.storage.home import Home
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.documents import JsonObject, JsonValue
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.plugins.catalog import use_plugins
from paretovid.trainables.provenance import code_version
from paretovid.trainables.redaction.urls import recorded_url

_WHERE_ONLY = ("home", "name", "cluster", "tracking")
"""Sections that say where a sweep runs and is kept, not what it is."""
SIGNED_WEIGHTS = "backbones.weights."
"""Where names of settings begin that may be given again when a sweep is resumed, with another signature."""
_HOW_ONLY = ("concurrent", "hours", "max_failures", "max_failures_in_a_row", "seeds", "storage")
"""Settings of `search` that may differ when a sweep is resumed."""
_LIMITS_ONLY = ("max_weights_gigabytes",)
"""The same of `backbones`: what they make is what the weights say."""


def started_record(
    config: SweepConfig, name: str, before: SweepRecord | None, state: SweepState = "running"
) -> SweepRecord:
    """The record of a sweep that a driver starts; what only its first start knows is kept from `before`."""
    return SweepRecord(
        name=name,
        uid=(before.uid if before else "") or uuid.uuid4().hex[:8],
        method=config.method.name,
        data=str(config.data["name"]),
        created=(before.created if before else "") or datetime.now(UTC).isoformat(timespec="seconds"),
        seed=config.seed,
        state=state,
        config=to_record(config),
        code_version=code_version(plugins_in_use(config)),
        knobs=tuple(searched_knobs(config)),
        asked=before.asked if before else (),
        confirmations=before.confirmations if before else {},
        study=before.study if before else None,
        failures=before.failures if before else {},
    )


def name_of(home: Home, config: SweepConfig) -> str:
    """The given name, or that of a sweep with this configuration, or a new one.

    Raises `UsageError` if the given name is taken by a sweep with other settings, `DataError` if it is taken by one
    whose record cannot be read.
    """
    wanted = _identity(to_record(config))
    if config.name is not None:
        record = read_record(home.sweep(config.name))
        if record and _identity(_first(record)) != wanted:
            raise _taken(config.name, _differences(_first(record), to_record(config)))
        return config.name
    stem = f"{config.method.name}-{config.data['name']}"
    taken = home.sweep_names()
    for name in taken:
        if name.startswith(stem) and _is_same(home, name, wanted):
            return name
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def _is_same(home: Home, name: str, wanted: str) -> bool:
    """Whether the sweep of this name has this identity; one whose record cannot be read is another one."""
    try:
        record = read_record(home.sweep(name))
    except DataError:
        return False
    return record is not None and _identity(_first(record)) == wanted


def _taken(name: str, differing: Sequence[str]) -> UsageError:
    hint = "Give it another name=, or the settings that it was started with."
    if all(each.startswith("search.trials ") for each in differing):
        hint = f"More trials of the same: `{typed('paretovid', 'extend', name)} +N`."
    return UsageError(f"sweep {name} exists with other settings: {'; '.join(differing[:3])}", hint)


def with_extensions(plan: SweepPlan, record: SweepRecord | None) -> SweepPlan:
    """The plan with the number of trials that `paretovid extend` has raised it to."""
    return plan if record is None or not record.asked else plan.with_trials(sum(record.asked))


def stored_config(home: Home, name: str, given_home: str | None, overrides: Sequence[str]) -> SweepConfig:
    """The configuration that a sweep was started with.

    Arguments:
        given_home: `home=` of this command; a relative one that is stored means another place from here.
        overrides: changes to where and how it runs (`cluster…`, `tracking…`, `search.concurrent`, `hours`,
            `max_failures`), and `backbones.weights…` with another signature; no others.

    Raises `UsageError` for another override, `DataError` for a record that another version has written.
    """
    words = [word for word in overrides if not word.startswith(("home=", "seed="))]
    allowed = [*(f"search.{key}" for key in _HOW_ONLY), *(f"backbones.{key}" for key in _LIMITS_ONLY)]
    allowed += ["cluster", "tracking"]
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key not in allowed and not key.startswith(("cluster.", "tracking.", SIGNED_WEIGHTS)):
            raise UsageError(
                f"a sweep resumes with its own settings; {key} cannot be changed",
                f"What may differ: {', '.join(allowed)}. Other settings make another sweep: paretovid sweep.",
            )
    # The words are checked as for a new sweep, and of that one only what they name is taken over.
    checked = OmegaConf.create(dict(plain_settings(load_sweep_config(words))))
    record = known_record(home.sweep(name))
    stored = OmegaConf.create({**record.config, "name": name, "home": given_home})
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    # Sections first: `cluster.cpus=2 cluster=local` means what it means for a new sweep.
    for key in sorted(keys, key=lambda key: "." in key):
        if key.startswith(SIGNED_WEIGHTS):
            _check_same_weights(key, OmegaConf.select(stored, key), OmegaConf.select(checked, key))
        OmegaConf.update(stored, key, OmegaConf.select(checked, key), merge=False, force_add=True)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SweepConfig), stored)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise DataError(
            f"the settings of sweep {name} are not those of this version: {str(error).splitlines()[0]}",
            "Resume with the version of paretovid that started it, or start another sweep.",
        ) from error
    assert isinstance(config, SweepConfig)
    use_plugins(config.plugins)
    return config


def _check_same_weights(key: str, stored: object, given: object) -> None:
    if stored != recorded_url(str(given)):
        raise UsageError(
            f"a sweep resumes with its own settings; {key} was {stored}, and is now {recorded_url(str(given))}",
            "Only the signature of a URL may differ. Other weights make another sweep: paretovid sweep.",
        )


def _first(record: SweepRecord) -> JsonObject:
    """The configuration that the sweep was started with, before it was extended."""
    if not record.asked:
        return record.config
    return {**record.config, "search": {**_object(record.config.get("search")), "trials": record.asked[0]}}


def _identity(config: JsonObject) -> str:
    """What makes two sweeps the same, as text."""
    kept = {key: value for key, value in config.items() if key not in _WHERE_ONLY}
    kept["search"] = {k: v for k, v in _object(config.get("search")).items() if k not in _HOW_ONLY}
    if "backbones" in kept:
        kept["backbones"] = {k: v for k, v in _object(kept["backbones"]).items() if k not in _LIMITS_ONLY}
    return json.dumps(kept, sort_keys=True)


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _differences(before: JsonObject, now: JsonObject, path: str = "") -> list[str]:
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        where = f"{path}{key}"
        ignored = {"": _WHERE_ONLY, "search.": _HOW_ONLY, "backbones.": _LIMITS_ONLY}.get(path, ())
        if key in ignored or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{where}.")
        else:
            found.append(f"{where} was {old!r}, now {new!r}")
    return found
