"""An operating point as an MLflow model folder: weights, description, code, requirements. No pickle."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretovid.platform.console.shell import typed
from paretovid.platform.fronts.front import FrontPoint
from paretovid.platform.registry.dial import dial_json, dial_of
from paretovid.platform.registry.runtime_code import (
    rewritten,
    third_party_requirements,
    write_runtime_package,
)
from paretovid.platform.storage.home import MODEL_FILE, Home
from paretovid.trainables.backbones import catalog as components
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.catalog import method_class
from paretovid.trainables.config import typed_config
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.errors import DataError, StaleFeaturesError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.features.index import INDEX_FILE, FeaturesHeader, FeaturesIndex
from paretovid.trainables.layers.caps import has_cap
from paretovid.trainables.method import METHODS
from paretovid.trainables.model_description import ModelDescription, ModelOrigin
from paretovid.trainables.plugins.catalog import Catalog, check_travels
from paretovid.trainables.recognizer import knobs_of, write_model_folder

REQUIRED = ("mlflow-skinny", "pandas", "torch", "torchvision", "av", "numpy", "safetensors")


def backbone_folders(home: Home, trial: TrialResult) -> dict[str, Path]:
    """Source to backbone folder. Raises `StaleFeaturesError` if it is not the one behind the features."""
    folders = {}
    for source, component in trial.sources.items():
        folder = home.backbone(trial.data.name, component)
        home.store.download(folder)
        made_with = _features_header(home, trial, source).weights_sha256
        if made_with != BackboneDescription.read(folder).weights_sha256:
            raise StaleFeaturesError(
                f"the {source} backbone {component} was trained anew since this sweep's features were made",
                "Run the sweep again on new features: `paretovid sweep`.",
            )
        folders[source] = folder
    return folders


def _features_header(home: Home, trial: TrialResult, source: str) -> FeaturesHeader:
    folder = home.features(trial.data.name) / trial.data.features[source]
    home.store.download(folder, lambda names: [INDEX_FILE])
    repair = f"Run `{typed('paretovid', 'extract', f'data={trial.data.name}')}`."
    return FeaturesIndex.read(folder, repair).header


def plugged_in(trial: TrialResult) -> dict[str, dict[str, str]]:
    """What a trial takes of plug-ins: group of entry points to name to where it is.

    Raises `UsageError` if a file of theirs may not travel with a model, `UnknownNameError` for what is not there.
    """
    found: dict[str, dict[str, str]] = {}
    wanted: list[tuple[Catalog[Any], str, str]] = [(METHODS, trial.method, f"method {trial.method}")]
    for name in trial.sources.values():
        if (brought_by := components.component_family(name)) is not None:
            wanted.append((components.BACKBONES, brought_by, f"component {name}"))
    for catalog, name, what in wanted:
        entry = catalog.entry(name)
        if not entry.is_own:
            check_travels(entry, what)
            found.setdefault(catalog.group, {})[name] = entry.where
    return found


def requirements(trial: TrialResult) -> list[str]:
    """What a consumer must install, pinned to the versions that are installed here."""
    backbones = trial.sources.values()
    names = [*REQUIRED]
    if any(name.startswith(("x3d", "slowfast")) for name in backbones):
        names.append("pytorchvideo")
    if any(name.startswith("dpn") for name in backbones):
        names.append("timm")
    if any(components.component(name).input.kind == "flow" for name in backbones):
        names.append("opencv-python-headless")
    given = {_normal(name) for name in names}
    names += [name for name in third_party_requirements(plugged_in(trial)) if _normal(name) not in given]
    # A local build tag (`+cpu`) is in no package index.
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def describe(home: Home, point: FrontPoint) -> ModelDescription:
    """What is written as `model.json`."""
    trial = point.trial
    types = {_features_header(home, trial, source).dtype for source in trial.sources}
    if len(types) != 1:
        raise DataError(f"features of different types: {sorted(types)}", "Extract them with one dtype.")
    return ModelDescription(
        method=trial.method,
        config=trial.model,
        sources=trial.sources,
        widths=trial.widths,
        feature_dtype=types.pop(),
        costs=trial.costs,
        classes=tuple(trial.data.classes),
        multi_label=trial.data.multi_label,
        step_seconds=trial.data.step_seconds,
        setting=point.record.inference_knobs,
        dial=dial_of(trial),
        origin=ModelOrigin(
            sweep=trial.sweep,
            trial=trial.trial,
            point=point.id,
            seed=trial.seed,
            accounting=trial.accounting,
            training_knobs=trial.training_knobs,
            data_name=trial.data.name,
            data_fingerprint=trial.data.fingerprint,
            code_version=trial.code_version,
            backbones={
                source: BackboneDescription.read(home.backbone(trial.data.name, component)).to_json()
                for source, component in trial.sources.items()
            },
        ),
    )


def _limits(home: Home, point: FrontPoint) -> VideoLimitsConfig:
    """What videos might ask for when the features were made that the point was measured on."""
    differing: dict[str, float | str] = {}
    for source in point.trial.sources:
        differing |= _features_header(home, point.trial, source).limits
    return typed_config(VideoLimitsConfig, differing, "data")


def write_package(scratch: Path, home: Home, point: FrontPoint, backbones: Mapping[str, Path]) -> Path:
    """The whole MLflow model as a folder below `scratch`; returns it. Pickles nothing."""
    import mlflow

    write_model_folder(scratch / "model", describe(home, point), point.folder / MODEL_FILE, backbones)
    runtime = write_runtime_package(scratch / "code", plugged=plugged_in(point.trial))
    code = scratch / "pyfunc_model.py"
    code.write_text(rewritten(Path(__file__).with_name("pyfunc_model.py").read_text(), runtime))
    package = scratch / "package"
    with _importable(scratch / "code"), warnings.catch_warnings():
        # It asks for an input example; videos are no example to carry along.
        warnings.filterwarnings("ignore", message=".*[iI]nput example", category=UserWarning)
        mlflow.pyfunc.save_model(
            path=str(package),
            python_model=str(code),
            artifacts={"model": str(scratch / "model")},
            code_paths=[str(scratch / "code" / runtime)],
            signature=signature(point),
            # What callers may say when they load it.
            model_config={"on_demand": False, **asdict(_limits(home, point))},
            pip_requirements=requirements(point.trial),
            metadata={"paretovid": _about(point, runtime)},
        )
    return package


def _about(point: FrontPoint, runtime: str) -> dict[str, str]:
    method = method_class(point.trial.method)
    about = {"point": point.id, "sweep": point.trial.sweep, "runtime": runtime}
    if dial := dial_of(point.trial):
        about["dial"] = dial_json(dial)
    return about if has_cap(method) else {**about, "no_cap": method.no_cap}


def signature(point: FrontPoint) -> Any:
    """An MLflow signature whose parameters are the method's inference knobs, at the point's values."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    values = point.record.inference_knobs
    specs = [
        ParamSpec(knob.name, "string", str(values.get(knob.name, knob.default)))
        if knob.words
        else ParamSpec(knob.name, "double", float(values.get(knob.name, knob.default)))
        for knob in knobs_of(point.trial.method, point.trial.model)
    ]
    return ModelSignature(params=ParamSchema(specs))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """MLflow runs the model's code once when it saves it, before it has copied what the code imports."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith("paretovid_runtime_")]:
            del sys.modules[name]
