"""`model.json`: what a promoted model is. Written with its weights, read by whoever runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import DataError

T = TypeVar("T")
MODEL_FILE = "model.json"
VERSION = 2
"""Of the document. 1 had no `version` but `format: 1`; its fields are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOrigin:
    """Where a model comes from, for the record: nothing of it is needed to run the model."""

    sweep: str
    trial: str
    point: str
    seed: int
    accounting: str
    training_knobs: Mapping[str, object]
    data_name: str
    data_fingerprint: str
    code_version: str
    backbones: Mapping[str, object]
    """Source to what the JSON of its weights says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """Everything but the weights that a model needs to run as it was measured."""

    method: str
    config: Mapping[str, object]
    """Fields of the method's Config."""
    sources: Mapping[str, str]
    """Source to component."""
    widths: Mapping[str, int]
    """Source to the width of its features."""
    costs: Mapping[str, ComponentCost]
    """Component to the cost of a call."""
    classes: tuple[str, ...]
    multi_label: bool
    step_seconds: float
    setting: Mapping[str, float | str]
    """Inference knobs at the promoted operating point."""
    feature_dtype: str = "float32"
    """How the features were stored that the method was measured on."""
    origin: ModelOrigin | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` reads it."""
        written: dict[str, object] = {
            "version": VERSION,
            "method": self.method,
            "config": dict(self.config),
            "sources": dict(self.sources),
            "widths": dict(self.widths),
            "feature_dtype": self.feature_dtype,
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "classes": list(self.classes),
            "multi_label": self.multi_label,
            "step_seconds": self.step_seconds,
            "setting": dict(self.setting),
        }
        return written if self.origin is None else {**written, **_origin_to_json(self.origin)}

    @classmethod
    def from_json(cls, data: object, where: str = MODEL_FILE) -> ModelDescription:
        """What `to_json` wrote, or a version of before.

        Arguments:
            where: it was read, for messages.

        Raises `DataError` that names the field: of a later version, missing, of a wrong type, or not finite.
        """
        read = _Reader(data, where)
        read.check_version()
        read.check_finite()
        costs = read.mapping("costs", dict)
        return cls(
            method=read.text("method"),
            config=read.mapping("config", object),
            sources=read.mapping("sources", str),
            widths=read.mapping("widths", int),
            costs={name: read.cost(name, cost) for name, cost in costs.items()},
            classes=read.texts("classes"),
            multi_label=read.flag("multi_label"),
            step_seconds=read.positive("step_seconds"),
            setting=read.mapping("setting", float, str),
            feature_dtype=read.text("feature_dtype") if "feature_dtype" in read.data else "float32",
            origin=_origin_from_json(read) if "point" in read.data else None,
        )

    @classmethod
    def read(cls, folder: Path) -> ModelDescription:
        """The description in a model folder. Raises `DataError` if there is none that can be read."""
        path = folder / MODEL_FILE
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is not a model folder: {error}", f"It needs {MODEL_FILE} and the model's weights."
            ) from error
        return cls.from_json(data, str(path))

    def write(self, folder: Path) -> None:
        """Writes it into a model folder."""
        (folder / MODEL_FILE).write_text(json.dumps(self.to_json(), indent=1, allow_nan=False))


def _origin_to_json(origin: ModelOrigin) -> dict[str, object]:
    return {
        "accounting": origin.accounting,
        "point": {"sweep": origin.sweep, "trial": origin.trial, "id": origin.point, "seed": origin.seed},
        "training_knobs": dict(origin.training_knobs),
        "data": {"name": origin.data_name, "fingerprint": origin.data_fingerprint},
        "code_version": origin.code_version,
        "backbones": dict(origin.backbones),
    }


def _origin_from_json(read: _Reader) -> ModelOrigin:
    point, data = read.section("point"), read.section("data")
    return ModelOrigin(
        sweep=point.text("sweep"),
        trial=point.text("trial"),
        point=point.text("id"),
        seed=point.whole("seed"),
        accounting=read.text("accounting"),
        training_knobs=read.mapping("training_knobs", object),
        data_name=data.text("name"),
        data_fingerprint=data.text("fingerprint"),
        code_version=read.text("code_version"),
        backbones=read.mapping("backbones", object),
    )


class _Reader:
    """Fields of a document, each checked when it is read."""

    def __init__(self, data: object, where: str, path: str = "") -> None:
        self.where = where
        self._path = path
        if not isinstance(data, Mapping):
            raise self._refused(path.rstrip(".") or "the document", "an object", data)
        self.data: Mapping[str, object] = data

    def check_version(self) -> None:
        version = self.data.get("version", self.data.get("format", 1))
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise self._refused("version", f"a whole number from 1 to {VERSION}", version)
        if version > VERSION:
            raise DataError(
                f"{self.where}: version {version} is of a later paretovid; this one reads up to {VERSION}",
                "Load the model by its registered version, which carries its own code, or install that paretovid.",
            )

    def check_finite(self) -> None:
        for path, value in _numbers(self.data):
            if not math.isfinite(value):
                raise self._refused(path, "a finite number", value)

    def section(self, name: str) -> _Reader:
        return _Reader(self._get(name), self.where, f"{self._path}{name}.")

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self._refused(f"{self._path}{name}", "a text", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._get(name)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self._refused(f"{self._path}{name}", "a list of texts", value)
        return tuple(value)

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._refused(f"{self._path}{name}", "true or false", value)
        return value

    def whole(self, name: str) -> int:
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._refused(f"{self._path}{name}", "a whole number", value)
        return value

    def positive(self, name: str) -> float:
        value = self._get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise self._refused(f"{self._path}{name}", "a number above 0", value)
        return float(value)

    def mapping(self, name: str, *kinds: type[T]) -> dict[str, T]:
        """A mapping whose values are of one of the types; a whole number is a number, a flag is neither."""
        found = self.section(name)
        allowed = (*kinds, int) if float in kinds else kinds
        for key, value in found.data.items():
            is_flag = isinstance(value, bool) and object not in kinds
            if is_flag or not isinstance(value, allowed):
                words = " or ".join(_KINDS[kind] for kind in kinds)
                raise self._refused(f"{self._path}{name}.{key}", words, value)
        return dict(found.data)  # type: ignore[arg-type]  # checked above

    def cost(self, name: str, data: Mapping[str, object]) -> ComponentCost:
        known = {field.name for field in fields(ComponentCost)}
        if not {"macs", "input"} <= set(data) or set(data) - known or not isinstance(data["macs"], int):
            raise self._refused(f"costs.{name}", "a cost with macs and input", data)
        return ComponentCost(**data)  # type: ignore[arg-type]

    def _get(self, name: str) -> object:
        if name not in self.data:
            raise DataError(
                f"{self.where}: {self._path}{name} is missing",
                "The file is damaged: promote the point again.",
            )
        return self.data[name]

    def _refused(self, name: str, wanted: str, value: object) -> DataError:
        return DataError(
            f"{self.where}: {name} must be {wanted}, not {value!r}",
            "The file is damaged, or not of paretovid: promote the point again.",
        )


_KINDS: Mapping[type, str] = {str: "a text", int: "a whole number", float: "a number", dict: "an object"}


def _numbers(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number that is no integer, with the path to it."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _numbers(each, f"{path}[{place}]")
