"""Configuration: `key=value` words and the YAML of `search_spaces/` in, one typed `SweepConfig` out.

All commands share one root. The grammar is Hydra's; Hydra's sweeper, working folders, logging and `_target_` are
not used. Whatever is wrong is a `UsageError` that says what is allowed, closest match first.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paretovid.platform.storage.urls import check_name_is_no_secret, check_no_secret
from paretovid.search_spaces.plans import PLANS, trainings_of
from paretovid.search_spaces.samplers import SAMPLERS
from paretovid.search_spaces.schema import (
    FREE_SECTIONS,
    RENAMED,
    KnobConfig,
    MethodConfig,
    SweepConfig,
)
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError, unknown_name
from paretovid.trainables.plugins.catalog import search_space_folders, use_plugins
from paretovid.trainables.ranges import check_ranges
from paretovid.trainables.redaction.urls import recorded_settings, without_urls

_PACKAGE = "paretovid.search_spaces"
_GROUPS = ("data", "backbones", "method", "search", "cluster", "tracking")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_RULE = "a letter or digit, then up to 99 letters, digits, '.', '_' and '-'"
OF_TRAINING = "training."
"""Where fields of hyperparameters begin that are fields of `TrainingConfig`."""
SIGNED_SETTINGS = ("backbones.weights.", "data.")
"""Where dotted names of settings begin whose URLs may have a signature."""


def load_sweep_config(overrides: Sequence[str] = ()) -> SweepConfig:
    """The configuration with `overrides` (Hydra's grammar: `search.trials=8`, `method=lite_eval`) applied.

    Settings under `data`, `training`, `backbones.training` and `method.model` need no `+` to be added; the
    dataclasses that they belong to check them (`resolve.py`).

    Raises `UsageError` for an unknown key, a value of another type, a bad range, or a value out of bounds.
    """
    parsed = [_parse(_with_todays_name(word)) for word in overrides]
    for each in parsed:
        if each.key_or_group == "plugins":
            use_plugins(_modules(each))
    _check_plugin_files()
    groups = [each for each in parsed if each.key_or_group in _GROUPS]
    for each in groups:
        _check_group(each)
    base = _compose([str(each.input_line) for each in groups])
    words = [_word(each, base) for each in parsed]
    config = OmegaConf.to_object(_compose(words, is_resolved=True))
    assert isinstance(config, SweepConfig)
    config.method.model = _located(config.method.name, config.method.model)
    for baseline in config.baselines:
        baseline.model = _located(baseline.method, baseline.model)
    chosen = config.backbones
    chosen.family = chosen.by_method.get(config.method.name, chosen.family)
    _check(config, known_knobs=set(base.method.training_knobs) | set(base.method.inference_knobs))
    return config


def _located(name: str, model: JsonObject) -> dict[str, object]:
    """The settings of a method with the files that they name by absolute paths, if it is a method that needs files."""
    # Here, as reading a configuration need not wait for PyTorch.
    from paretovid.trainables.catalog import method_class, method_names
    from paretovid.trainables.method import NeedsFiles

    if name not in method_names() or not issubclass(method := method_class(name), NeedsFiles):
        return dict(model)  # of an unknown one, `resolve` says what there is
    return dict(method.located(model))


def to_record(config: SweepConfig) -> JsonObject:
    """The resolved configuration as plain data, for `sweep.json`: without what is secret in its URLs."""
    record: JsonObject = recorded_settings(plain_settings(config))
    return record


def plain_settings(config: SweepConfig) -> JsonObject:
    """The resolved configuration as plain data, signatures of URLs included: never to be recorded or sent."""
    settings = asdict(config)
    if not settings["plugins"]:  # what was started before there were any is the same sweep
        del settings["plugins"]
    if config.search.plan != "wide":  # nor does what is not searched make another one
        del settings["search"]["hyperparameters"], settings["method"]["hyperparameters"]
    return settings


def group_options(group: str) -> tuple[str, ...]:
    """The names that `group=NAME` takes, those of plug-ins among them, sorted."""
    folder = importlib.resources.files(_PACKAGE) / group
    own = {entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    added = {path.stem for above in search_space_folders() for path in (above / group).glob("*.yaml")}
    return tuple(sorted(own | added))


def _modules(override: Override) -> list[str]:
    value = override.value()
    if not isinstance(value, list):
        raise UsageError(
            f"plugins is a list of modules, not {value!r}", "Write plugins=[my_package.my_module]."
        )
    return [str(each) for each in value]


def _check_plugin_files() -> None:
    """Raises `UsageError` if two YAML files answer to one choice: only the first would ever be read."""
    own = Path(str(importlib.resources.files(_PACKAGE)))
    seen: dict[tuple[str, str], Path] = {}
    for folder in (own, *search_space_folders()):
        for group in _GROUPS:
            for path in sorted((folder / group).glob("*.yaml")):
                there = seen.setdefault((group, path.stem), path)
                if not there.samefile(path):
                    raise UsageError(
                        f"{group}={path.stem} is there twice: {there}, and {path}", "Rename one of the files."
                    )


def data_settings(config: SweepConfig) -> dict[str, Any]:
    """What is set of the data set besides its name: `generator` or `reader`, and the fields of its class."""
    return {key: value for key, value in config.data.items() if key != "name"}


def training_settings(config: SweepConfig) -> dict[str, Any]:
    """Fields of `TrainingConfig`: what the method's file asks for, and what `training` says otherwise."""
    return {**config.method.training, **config.training}


def searched_knobs(config: SweepConfig) -> dict[str, KnobConfig]:
    """The knobs that the study searches, by name. Hyperparameters have the ranges that they are configured with."""
    knobs = {**config.method.training_knobs, **hyperparameters(config)}
    return {**knobs, **config.method.inference_knobs} if config.search.inference_knobs == "study" else knobs


def hyperparameters(config: SweepConfig) -> dict[str, KnobConfig]:
    """Those that are searched, by name: none unless `search.plan=wide`, and none that `method.model` sets."""
    if config.search.plan != "wide":
        return {}
    found = {**config.search.hyperparameters, **config.method.hyperparameters}
    return {name: each for name, each in found.items() if not _has(config.method.model, each.field)}


def model_with_knobs(method: MethodConfig, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the method's Config: `method.model` with the values of training knobs and hyperparameters set."""
    model: dict[str, Any] = _copy(method.model)
    of_model = {n: k for n, k in method.hyperparameters.items() if not k.field.startswith(OF_TRAINING)}
    for name, knob in {**method.training_knobs, **of_model}.items():
        if name in knobs:
            *parents, last = knob.field.split(".")
            section = model
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = knobs[name]
    return model


def ends(knob: KnobConfig) -> tuple[Any, Any]:
    """The first and the last value that a knob can take, its low end first."""
    if knob.choices:
        return knob.choices[0], knob.choices[-1]
    values = (knob.low, knob.high)
    return tuple(int(v) for v in values) if knob.whole else values  # type: ignore


def _copy(value: Any) -> Any:
    return {key: _copy(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def _with_todays_name(word: str) -> str:
    """The override with its setting called as today, so that a command of an earlier version still means the same."""
    key, equals, value = word.partition("=")
    return f"{RENAMED.get(key, key)}{equals}{value}"


def _parse(word: str) -> Override:
    try:
        (override,) = OverridesParser.create().parse_overrides([_quoted_home(word)])
    except HydraException as error:
        hint = "Write key=value; quote values with special characters: 'key=\"a=b\"'."
        raise UsageError(f"not an override: {without_urls(word)!r}", hint) from error
    if override.is_sweep_override():
        key = override.key_or_group
        raise UsageError(
            f"{without_urls(word)!r} gives several values",
            f"A list is written {key}=[…]; a range is set by the knob's low and high.",
        )
    return override


def _quoted_home(word: str) -> str:
    """`home=FOLDER` with the folder quoted for Hydra, whose grammar knows few characters: folders have any."""
    key, _, folder = word.partition("=")
    if key != "home" or folder in ("", "null") or folder[0] in "'\"" or "${" in folder:
        return word
    # Backslashes count only before a quote, and there twice.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", folder)
    ends = len(escaped) - len(escaped.rstrip("\\"))
    return f"home='{escaped}{escaped[len(escaped) - ends :]}'"


def _check_group(override: Override) -> None:
    group = override.key_or_group
    options = group_options(group)
    if override.is_delete() or override.package is not None:
        raise UsageError(
            f"{group} cannot be left out or moved", f"Choose {group}= one of: {', '.join(options)}."
        )
    if override.value() not in options:
        raise unknown_name(f"choice for {group}", override.value(), options)


def _compose(words: Sequence[str], *, is_resolved: bool = False) -> DictConfig:
    ConfigStore.instance().store(name="sweep_schema", node=SweepConfig)
    try:
        with initialize_config_module(_PACKAGE, version_base="1.3"):
            config = compose("sweep", overrides=[*_search_path(), *words])
        if is_resolved:
            _check_complete(config)
            OmegaConf.resolve(config)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error) from error


def _search_path() -> list[str]:
    """Where Hydra looks for YAML beside our own folder, as an override."""
    quoted = [
        "'file://{}'".format(str(folder).replace("\\", "\\\\").replace("'", "\\'"))
        for folder in search_space_folders()
    ]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []


def _check_complete(config: DictConfig) -> None:
    """The YAML of a method or a data set writes ??? for what only its user can know."""
    for group, section, where in (
        ("method", config.method.model, "method.model"),
        ("data", config.data, "data"),
    ):
        missing = [f"{where}.{name}" for name in section if OmegaConf.is_missing(section, name)]
        if missing:
            raise UsageError(
                f"{missing[0]} has no value",
                f"Give {' '.join(f'{name}=VALUE' for name in missing)}; the head of the YAML of {group}= in "
                f"search_spaces/{group}/ says what it is.",
            )


def _explained(error: Exception) -> UsageError:
    """Hydra and OmegaConf say what failed in the first line, and why in the first line of the cause."""
    cause = error.__cause__ or error
    reason = str(cause).splitlines()[0]
    override = re.search(r"override '?\+{0,2}(\S+?)'?[.\n]?$", str(error).splitlines()[0])
    where = f"{override.group(1)}: " if override else ""
    return UsageError(
        f"{where}{reason}", "schema.py and the YAML in search_spaces/ list every setting with its type."
    )


def _word(override: Override, base: DictConfig) -> str:
    """The override as Hydra needs it. Raises for a key that the schema does not have."""
    key = override.key_or_group
    line = str(override.input_line)
    if key in _GROUPS:
        return line
    if any(key.startswith(f"{section}.") for section in FREE_SECTIONS):
        return line if override.is_delete() else "++" + line.lstrip("+")
    _check_key(key, base)
    # Without the plus, so that nothing can be added beside the schema.
    return line.lstrip("+")


def _check_key(key: str, base: DictConfig) -> None:
    node: Any = base
    path = ""
    for part in key.split("."):
        if OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif OmegaConf.is_dict(node) and part in node:
            node = node[part]
        else:
            here = [f"{path}{name}" for name in node] if OmegaConf.is_dict(node) else []
            raise _unknown_key(key, here, list(_leaves(base)))
        path += f"{part}."


def _unknown_key(key: str, here: Sequence[str], everywhere: Sequence[str]) -> UsageError:
    """Someone who types `trials` means `search.trials`; someone who types `search.trails` does, too."""
    last = key.rpartition(".")[2]
    same = [known for known in everywhere if known.rpartition(".")[2] == last]
    close = same[:1] or difflib.get_close_matches(key, everywhere, n=1)
    return UsageError(
        f"unknown setting: {key!r}",
        (f"Did you mean {close[0]!r}? " if close else "")
        + f"Known here: {', '.join(sorted(here)) or '(none)'}.",
    )


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    if OmegaConf.is_dict(node) and len(node):
        for name in node:
            yield from _leaves(node[name], f"{path}.{name}" if path else str(name))
    else:
        yield path


def check_name(name: object, setting: str) -> None:
    """Raises `UsageError` for a name that may not become the name of a folder or of a run, or that is a secret."""
    check_name_is_no_secret(str(name), setting)
    _require(name is not None and bool(_NAME.fullmatch(str(name))), setting, name, _NAME_RULE)


def _require(condition: bool, setting: str, value: object, allowed: str) -> None:
    if not condition:
        raise UsageError(f"{setting}={value!r} is not allowed", f"Allowed: {allowed}.")


def _one_of(value: str, allowed: Sequence[str], setting: str) -> None:
    if value not in allowed:
        raise unknown_name(f"value of {setting}", value, allowed)


def _check(config: SweepConfig, known_knobs: set[str]) -> None:
    check_ranges(config)
    if config.name is not None:
        check_name(config.name, "name")
    # Folders of the home are called after it.
    check_name(config.data.get("name"), "data.name")
    _one_of(config.accounting, ("honest", "paper"), "accounting")
    search = config.search
    _one_of(search.sampler, SAMPLERS.names(), "search.sampler")
    _one_of(search.guided_by, ("point", "curve"), "search.guided_by")
    _one_of(search.inference_knobs, ("sweep", "study"), "search.inference_knobs")
    _one_of(search.plan, PLANS, "search.plan")
    trainings_of(search.plan, search.trials)
    _one_of(search.stopping, ("none", "curve"), "search.stopping")
    _require(bool(search.rungs), "search.rungs", search.rungs, "one share of the epochs or more")
    _require(len(set(search.rungs)) == len(search.rungs), "search.rungs", search.rungs, "each share once")
    _check_no_secrets(asdict(config))
    _check_knobs(config, known_knobs)
    _check_baselines(config)


def _check_no_secrets(settings: Any, where: str = "") -> None:
    """Settings are recorded and sent to workers; only those of files that are read once may have a signature."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            _check_no_secrets(value, f"{where}.{name}" if where else str(name))
    elif isinstance(settings, list):
        for number, value in enumerate(settings):
            _check_no_secrets(value, f"{where}[{number}]")
    elif isinstance(settings, str):
        check_no_secret(settings, where, may_be_signed=where.startswith(SIGNED_SETTINGS))


def _check_knobs(config: SweepConfig, known_knobs: set[str]) -> None:
    method = config.method
    if not searched_knobs(config):
        raise UsageError("no knob is left to search", "Give method.training_knobs at least one.")
    for name, knob in method.training_knobs.items():
        where = f"method.training_knobs.{name}"
        _check_knob(knob, where)
        _require(bool(knob.field), f"{where}.field", knob.field, "a field of the method's Config")
        if _has(method.model, knob.field):
            raise UsageError(
                f"method.model.{knob.field} is set and searched (as {name})",
                f"Fix it: add ~method.training_knobs.{name}. Search it: leave method.model.{knob.field} out.",
            )
    for name, knob in method.inference_knobs.items():
        _check_knob(knob, f"method.inference_knobs.{name}")
    for name, knob in hyperparameters(config).items():
        where = f"{'method' if name in method.hyperparameters else 'search'}.hyperparameters.{name}"
        _check_knob(knob, where)
        _require(
            bool(knob.field),
            f"{where}.field",
            knob.field,
            "training.FIELD, or a field of the method's Config",
        )
        if name not in method.hyperparameters:
            good = knob.field.startswith(OF_TRAINING)
            _require(good, f"{where}.field", knob.field, f"{OF_TRAINING} and a field of TrainingConfig")
        _require(name not in known_knobs, where, name, "another name than those of the method's knobs")
    for point in method.published:
        for name in point:
            if name not in known_knobs:
                raise unknown_name("knob in method.published", name, known_knobs)


def _check_knob(knob: KnobConfig, where: str) -> None:
    _one_of(knob.cheapest, ("low", "high"), f"{where}.cheapest")
    if knob.choices:
        _require(len(knob.choices) > 1, f"{where}.choices", knob.choices, "two values or more")
        return
    if knob.low is None or knob.high is None:
        raise UsageError(f"{where} has no range", f"Give {where}.low and {where}.high, or choices.")
    if knob.whole:
        for end, value in (("low", knob.low), ("high", knob.high)):
            _require(value == int(value), f"{where}.{end}", value, "a whole number")
    if knob.low > knob.high:
        raise UsageError(f"{where}: low ({knob.low:g}) is above high ({knob.high:g})", "Exchange them.")
    if knob.low == knob.high:
        fixed = f"~{where} method.model.{knob.field}={knob.low:g}" if knob.field else f"~{where}"
        raise UsageError(
            f"{where}: the range is empty, both ends are {knob.low:g}", f"To fix its value: {fixed}"
        )
    if knob.log and knob.low <= 0:
        raise UsageError(
            f"{where}: a logarithmic range cannot begin at {knob.low:g}", f"Set {where}.low above 0."
        )


def _has(model: Mapping[str, Any], field: str) -> bool:
    section: Any = model
    for part in field.split("."):
        if not isinstance(section, Mapping) or part not in section:
            return False
        section = section[part]
    return True


def _check_baselines(config: SweepConfig) -> None:
    seen: set[str] = set()
    for baseline in config.baselines:
        allowed = "letters, digits, '.', '_' and '-'; not t and a number, which are the search's own"
        good = _NAME.fullmatch(baseline.name) and not re.fullmatch(r"t\d+", baseline.name)
        _require(bool(good), "baselines: name", baseline.name, allowed)
        _require(baseline.name not in seen, "baselines: name", baseline.name, "each name once")
        seen.add(baseline.name)
