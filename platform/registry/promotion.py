"""From an operating point to a registered model version: package it, pass the gates, move the alias.

A version holds the model folder of `recognizer.py`, the code it needs under a name of its own content, and a
card with its numbers. Every alias move is written to a journal (tags of the registered model) before it is
done, because MLflow keeps no history of aliases: `rollback` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from paretovid.infra.locks import exclusive_lock
from paretovid.platform.console.shell import typed
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.sweep import known_record
from paretovid.platform.records.trial import objective_text
from paretovid.platform.registry.card import model_card
from paretovid.platform.registry.gates import Gate, check_raw_videos
from paretovid.platform.registry.package import backbone_folders, write_package
from paretovid.platform.storage.home import MODEL_FILE, Home
from paretovid.platform.storage.urls import check_name_is_no_secret
from paretovid.platform.tracking.store import Store, has_registry, open_registry, quiet_mlflow
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.errors import ParetovidError, UsageError, unknown_name
from paretovid.trainables.evaluation.results import MAP, SPLITS
from paretovid.trainables.plugins.catalog import use_plugins

EVENT = "paretovid.event."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ALIAS = re.compile(r"(?!latest$|v[0-9]+$)[A-Za-z0-9_-]+")


class GateError(ParetovidError):
    """An operating point that may not be promoted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """A model version that was registered, or an alias that went back to one."""

    name: str
    version: str
    alias: str | None
    previous: str | None
    """The version that the alias pointed to before."""
    point: str
    gates: tuple[Gate, ...] = ()
    summary: str = ""
    tracking_uri: str = ""
    """Where consumers find it."""
    is_moved: bool = False
    """Whether MLflow alone would look for it where the home was before."""
    in_commands: str = ""
    """As `Home.in_commands`."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    def __str__(self) -> str:
        moved = f"{self.name} version {self.version}: operating point {self.point}"
        if self.alias:
            before = f"version {self.previous}" if self.previous else "nothing"
            moved += f"; @{self.alias} was {before} before"
        lines = [moved, *([self.summary] if self.summary else [])]
        lines += [f"  passed  {gate.name}: {gate.detail}" for gate in self.gates]
        if self.tracking_uri:
            lines.append(
                f'In Python: MLFLOW_TRACKING_URI={typed(self.tracking_uri)}, mlflow.pyfunc.load_model("{self.uri}")'
            )
        if self.is_moved:
            lines.append(
                "This home was moved: before that line can work, type once: paretovid relocate"
                + self.in_commands
            )
        return "\n".join(
            [*lines, f"Next: {typed('paretovid', 'predict', self.uri)} VIDEO.mp4{self.in_commands}"]
        )


def promote(
    home: Home,
    sweep: str,
    *,
    name: str,
    alias: str | None = None,
    point: str | None = None,
    max_gflops: float | None = None,
    min_map: float | None = None,
    knee: bool = False,
) -> Promotion:
    """Registers an operating point of a sweep as a new version of `name`, and moves `alias` to it.

    Raises `UsageError` for a bad name or a point that does not exist (says what there is), `GateError` if a
    gate refuses it; nothing is registered then.
    """
    quiet_mlflow()
    _check_names(name, alias)
    front = read_front([home.sweep(sweep)])
    store = open_registry(home, _tracking_uri(home, sweep))
    use_plugins(_plugins(home, sweep))
    chosen = choose(front, point=point, max_gflops=max_gflops, min_map=min_map, at_knee=knee)
    gates = [*number_gates(chosen, max_gflops)]
    _refuse_unless_passed(chosen, gates)
    home.trial(sweep, chosen.trial.trial).download((MODEL_FILE,))
    backbones = backbone_folders(home, chosen.trial)
    with tempfile.TemporaryDirectory() as scratch:
        package = write_package(Path(scratch), home, chosen, backbones)
        gates.append(check_raw_videos(package, home, chosen))
        _refuse_unless_passed(chosen, gates)
        (package / "README.md").write_text(model_card(front, chosen, name, gates))
        made = _register(store, front, chosen, package, name, alias, gates)
        return replace(made, in_commands=home.in_commands)


def number_gates(point: FrontPoint, max_gflops: float | None) -> list[Gate]:
    """What can be refused without running the model."""
    record = point.record
    splits = ((split, record.on(split).numbers()) for split in SPLITS)
    figures = {f"{split}/{name}": value for split, numbers in splits for name, value in numbers.items()}
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    gates = [
        Gate(name="finite", passed=not bad, detail=f"not finite: {bad}" if bad else "all figures are finite"),
        Gate(
            name="deployable",
            passed=point.trial.deployable,
            detail=f"{point.name} "
            + ("needs no ground truth" if point.trial.deployable else "reads the ground truth"),
        ),
    ]
    if max_gflops is not None:
        cost = record.most_gflops
        detail = f"{cost:.4g} GFLOPs per video of {max_gflops:g} allowed"
        gates.append(Gate(name="max_gflops", passed=cost <= max_gflops, detail=detail))
    return gates


def _refuse_unless_passed(point: FrontPoint, gates: list[Gate]) -> None:
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise GateError(
            f"{point.id} may not be promoted: " + "; ".join(f"{gate.name}: {gate.detail}" for gate in failed),
            "Nothing was registered. Choose another point (`paretovid front`), or repair what the gate names.",
        )


def _check_names(name: str, alias: str | None) -> None:
    check_name_is_no_secret(name, "the name of the model")
    check_name_is_no_secret(alias or "", "the alias")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a model cannot be called {name!r}", "Use letters, digits, dots, dashes, underscores."
        )
    if alias is not None and not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"an alias cannot be called {alias!r}",
            "Use letters, digits, dash and underscore; `latest` and `v1` are reserved.",
        )


def _digest(folder: Path) -> str:
    """Over all files of a folder: names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _register(
    store: Store,
    front: Front,
    point: FrontPoint,
    package: Path,
    name: str,
    alias: str | None,
    gates: list[Gate],
) -> Promotion:
    """The version, with its alias; if anything of that fails, as on a full disk, nothing of it stays."""
    from mlflow.entities import LoggedModelStatus

    client = store.client
    with exclusive_lock(store.lock_path), store.naming_a_full_disk():
        # A LoggedModel of its own: deleting the sweep's runs must not take the promoted bytes along.
        model = client.create_logged_model(
            store.experiment_id,
            name=name,
            model_type="promoted",
            tags={
                "paretovid.kind": "promoted",
                "paretovid.point": point.id,
                "paretovid.sweep": point.trial.sweep,
            },
        )
        undo: list[Callable[[], object]] = [partial(client.delete_logged_model, model.model_id)]
        try:
            store.put_into_model(model.model_id, package)
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            if _make_name(store, name):
                undo.append(partial(client.delete_registered_model, name))
            version = client.create_model_version(
                name,
                f"models:/{model.model_id}",
                tags=_version_tags(point, gates, _digest(package)),
                description=(package / "README.md").read_text(),
                model_id=model.model_id,
            )
            undo.append(partial(client.delete_model_version, name, str(version.version)))
            previous = _move_alias(store, name, alias, str(version.version), "promote") if alias else None
        except BaseException:
            # Files first: on a full disk, the database has no room to forget a row before they are gone.
            undo.append(partial(store.remove_files_of_model, model.model_id))
            for take_back in reversed(undo):
                with contextlib.suppress(Exception):  # what is told is what went wrong first
                    take_back()
            raise
    return Promotion(
        name=name,
        version=str(version.version),
        alias=alias,
        previous=previous,
        point=f"{point.trial.sweep}/{point.id}",
        gates=tuple(gates),
        summary=_summary(front, point),
        tracking_uri=store.uri,
        is_moved=store.is_moved,
    )


def _make_name(store: Store, name: str) -> bool:
    """Makes a registered model without versions. False if it is there already."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name, description="Made by paretovid; see the versions' cards.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def _summary(front: Front, point: FrontPoint) -> str:
    interval = (
        ""
        if point.quality_ci is None
        else f" [{100 * point.quality_ci[0]:.1f}, {100 * point.quality_ci[1]:.1f}]"
    )
    return (
        f"{objective_text(front.objective)} {100 * point.shown.quality:.1f} %{interval} on {front.split}, "
        f"{point.shown.gflops:.4g} GFLOPs per video (giga multiply-accumulates)"
    )


def _tracking_uri(home: Home, sweep: str) -> str | None:
    return known_record(home.sweep(sweep)).tracking_uri


def _plugins(home: Home, sweep: str) -> list[str]:
    """The modules that the sweep was started with."""
    named = known_record(home.sweep(sweep)).config.get("plugins")
    return [str(each) for each in named] if isinstance(named, list) else []


def _version_tags(point: FrontPoint, gates: list[Gate], digest: str) -> dict[str, str]:
    trial, test = point.trial, point.record.test
    return {
        "paretovid.sweep": trial.sweep,
        "paretovid.trial": trial.trial,
        "paretovid.point": point.id,
        "paretovid.method": trial.method,
        "paretovid.objective": trial.objective,
        f"paretovid.{trial.objective}": repr(test.quality),
        "paretovid.gflops": repr(test.gflops),
        "paretovid.training_knobs": json.dumps(trial.training_knobs),
        "paretovid.inference_knobs": json.dumps(point.record.inference_knobs),
        "paretovid.data": str(trial.data),
        "paretovid.code_version": trial.code_version,
        "paretovid.accounting": trial.accounting,
        "paretovid.gates": json.dumps({gate.name: gate.detail for gate in gates}),
        "paretovid.manifest_sha256": digest,
    }


def _events(store: Store, name: str) -> list[dict[str, Any]]:
    """The journal of a registered model, oldest first."""
    tags = store.client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(EVENT)]


def _move_alias(store: Store, name: str, alias: str, version: str, action: str) -> str | None:
    """Journal first, then the alias. Returns the version that it pointed to before."""
    before = _aliases(store, name).get(alias)
    event = {"action": action, "alias": alias, "from": before, "to": version, "at": time.time()}
    number = len(_events(store, name)) + 1
    store.client.set_registered_model_tag(name, f"{EVENT}{number:05d}", json.dumps(event))
    store.client.set_registered_model_alias(name, alias, version)
    return before


def _aliases(store: Store, name: str) -> dict[str, str]:
    found = store.client.get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items()}


def _known_models(store: Store) -> list[str]:
    return [model.name for model in store.client.search_registered_models(max_results=1000)]


def rollback(home: Home, name: str, alias: str) -> Promotion:
    """Moves `alias` back to the version that it pointed to before its last promotion.

    Raises `UnknownNameError` for a model or alias that is not there, `UsageError` if it was no other before.
    """
    if not has_registry(home):
        raise unknown_name("model", name, ())
    store = open_registry(home)
    if name not in _known_models(store):
        raise unknown_name("model", name, _known_models(store))
    with exclusive_lock(store.lock_path):
        aliases = _aliases(store, name)
        if alias not in aliases:
            raise unknown_name(f"alias of {name}", alias, aliases)
        current = aliases[alias]
        moves = [e for e in _events(store, name) if e["alias"] == alias and e["action"] == "promote"]
        before = next((e["from"] for e in reversed(moves) if e["to"] == current), None)
        if before is None:
            raise UsageError(
                f"{name}@{alias} is version {current}, and it was no other before",
                f"`{typed('paretovid', 'models', name)}` lists the versions; promote another point instead.",
            )
        version = store.client.get_model_version(name, before)
        _move_alias(store, name, alias, before, "rollback")
    return Promotion(
        name=name,
        version=before,
        alias=alias,
        previous=current,
        point=f"{version.tags.get('paretovid.sweep')}/{version.tags.get('paretovid.point')}",
        in_commands=home.in_commands,
    )


def list_models(home: Home, name: str | None = None) -> list[dict[str, JsonValue]]:
    """Versions of one or all models, newest first, with aliases, figures and gates."""
    if not has_registry(home):
        if name is not None:
            raise unknown_name("model", name, ())
        return []
    store = open_registry(home)
    known = _known_models(store)
    if name is not None and name not in known:
        raise unknown_name("model", name, known)
    listed = []
    for model in [name] if name is not None else sorted(known):
        aliases = _aliases(store, model)
        versions = store.client.search_model_versions(f"name = '{model}'")
        for version in sorted(versions, key=lambda v: -int(v.version)):
            mine = [alias for alias, target in aliases.items() if target == str(version.version)]
            listed.append(_listed(model, version, sorted(mine)))
    return listed


def _listed(model: str, version: Any, aliases: list[str]) -> dict[str, JsonValue]:
    tags = version.tags
    objective = tags.get("paretovid.objective", MAP)
    quality = tags.get(f"paretovid.{objective}")
    gates = json.loads(tags.get("paretovid.gates", "{}"))
    return {
        "name": model,
        "version": int(version.version),
        "aliases": aliases,
        "method": tags.get("paretovid.method"),
        objective: None if quality is None else float(quality),
        "gflops": float(tags["paretovid.gflops"]) if "paretovid.gflops" in tags else None,
        "gates": sorted(gates),
        "point": f"{tags.get('paretovid.sweep')}/{tags.get('paretovid.point')}",
    }
