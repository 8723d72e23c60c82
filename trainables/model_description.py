"""`model.json`: what a promoted model is. Written with its weights, read by whoever runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import Fields, JsonObject, parse_json, unreadable
from paretovid.trainables.errors import DataError, NonFiniteError

MODEL_FILE = "model.json"
VERSION = 2
"""Of the document. 1 had no `version` but `format: 1`; its fields are the same."""
_HINT = "The file is damaged, or not of paretovid: promote the point again."


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOrigin:
    """Where a model comes from, for the record: nothing of it is needed to run the model."""

    sweep: str
    trial: str
    point: str
    seed: int
    accounting: str
    training_knobs: JsonObject
    data_name: str
    data_fingerprint: str
    code_version: str
    backbones: JsonObject
    """Source to what the JSON of its weights says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DialPoint:
    """A setting of a model that was trained for a range of budgets, as it was measured."""

    params: Mapping[str, float | str]
    """Inference knobs."""
    objective: str
    """What quality is called."""
    val_quality: float
    val_gflops: float
    """Mean over the videos."""
    test_quality: float
    test_gflops: float

    def to_json(self) -> dict[str, object]:
        """Plain data; `from_json` reads it."""
        return {
            "params": dict(self.params),
            "objective": self.objective,
            "val": {"quality": self.val_quality, "gflops": self.val_gflops},
            "test": {"quality": self.test_quality, "gflops": self.test_gflops},
        }

    @classmethod
    def from_json(cls, read: Fields) -> DialPoint:
        """What `to_json` wrote. Raises `DataError` for a field that is missing or wrong."""
        val, test = read.fields("val"), read.fields("test")
        return cls(
            params=read.values_by_name("params"),
            objective=read.text("objective"),
            val_quality=val.fraction("quality"),
            val_gflops=val.amount("gflops"),
            test_quality=test.fraction("quality"),
            test_gflops=test.amount("gflops"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """Everything but the weights that a model needs to run as it was measured."""

    method: str
    config: JsonObject
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
    dial: tuple[DialPoint, ...] = ()
    """What settings cost, of a model that was trained for a range of budgets; the cheapest first."""
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
        if self.dial:
            written["dial"] = [each.to_json() for each in self.dial]
        return written if self.origin is None else {**written, **_origin_to_json(self.origin)}

    @classmethod
    def from_json(cls, data: object, where: str = MODEL_FILE) -> ModelDescription:
        """What `to_json` wrote, or a version of before.

        Arguments:
            where: it was read, for messages.

        Raises `DataError` that names the field: of a later version, missing, or of a wrong type; `NonFiniteError` for a
        number that is NaN or infinite.
        """
        read = Fields(data, where, _HINT)
        read.check_version(VERSION)
        widths = read.fields("widths")
        return cls(
            method=read.text("method"),
            config=_finite(read, "config"),
            sources=read.text_by_name("sources"),
            widths={source: widths.whole(source) for source in widths.names()},
            costs={name: ComponentCost.read(each) for name, each in read.fields_by_name("costs").items()},
            classes=read.texts("classes"),
            multi_label=read.flag("multi_label"),
            step_seconds=read.number("step_seconds"),
            setting=read.values_by_name("setting"),
            feature_dtype=read.text("feature_dtype", "float32"),
            dial=tuple(DialPoint.from_json(each) for each in read.list_of_fields("dial", ())),
            origin=_origin_from_json(read) if "point" in read else None,
        )

    @classmethod
    def read(cls, folder: Path) -> ModelDescription:
        """The description in a model folder. Raises `DataError` if there is none that can be read."""
        path = folder / MODEL_FILE
        try:
            data = parse_json(path.read_text())
        except PermissionError as error:
            raise unreadable(path, error) from error
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


def _origin_from_json(read: Fields) -> ModelOrigin:
    point, data = read.fields("point"), read.fields("data")
    return ModelOrigin(
        sweep=point.text("sweep"),
        trial=point.text("trial"),
        point=point.text("id"),
        seed=point.whole("seed"),
        accounting=read.text("accounting"),
        training_knobs=_finite(read, "training_knobs"),
        data_name=data.text("name"),
        data_fingerprint=data.text("fingerprint"),
        code_version=read.text("code_version"),
        backbones=_finite(read, "backbones"),
    )


def _finite(read: Fields, name: str) -> JsonObject:
    """An object whose fields nobody here knows. Raises `NonFiniteError` for a number in it that is none."""
    found = read.json(name)
    for path, value in _numbers(found, name):
        if not math.isfinite(value):
            raise NonFiniteError(f"{read.where}: {path} is {value}", _HINT)
    return found


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """Every number that is not whole, with the path to it."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(each, f"{path}.{key}")
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _numbers(each, f"{path}[{place}]")
