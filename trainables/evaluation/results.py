"""`result.json`: what a trial has measured, as typed documents that the worker makes and everybody else reads.

    TrialResult -> OperatingPoint (one per setting) -> Metrics (on validation and on test)

The file's keys are those that it has always had: `natural` marks the default setting, `remarks` are the warnings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import Fields, JsonObject, JsonValue
from paretovid.trainables.errors import DataError
from paretovid.trainables.measurement import MAP, Metrics

__all__ = ["MAP", "Metrics"]

RESULT_FILE = "result.json"
"""In a trial's folder. Written last: a folder with a result is complete."""
SCORES_FILE = "scores.safetensors"
"""Beside it: what each point said of every video."""
WEIGHTS_FILE = "model.safetensors"
"""Beside them: the weights of the trained method."""
VERSION = 2
"""Of `result.json`. Files without a version are of version 1, which had the same fields, fewer of them required."""
_HINT = "Remove the trial's folder and run the sweep under another name=."

Split = Literal["val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""What operating points are measured on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """One setting of a trained method, measured on validation and test."""

    id: str
    index: int
    """Its place in the trial's points and scores."""
    is_default: bool
    """Every inference knob is at its default. The first point of a trial is, unless the study chose a setting."""
    inference_knobs: Mapping[str, float | str]
    val: Metrics
    test: Metrics

    def on(self, split: str) -> Metrics:
        """The figures on `val` or `test`."""
        return self.val if split == "val" else self.test

    @property
    def most_gflops(self) -> float:
        """GFLOPs per video on the split where it costs more."""
        return max(self.val.gflops, self.test.gflops)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data; `from_json` reads it."""
        return {
            "id": self.id,
            "natural": self.is_default,
            "inference_knobs": dict(self.inference_knobs),
            "val": self.val.to_json(),
            "test": self.test.to_json(),
        }

    @classmethod
    def from_json(cls, data: Fields, index: int, objective: str, method: str) -> OperatingPoint:
        """What `to_json` wrote. Raises `DataError` or `NonFiniteError` that name the point, split and field."""
        point = data.text("id")
        return cls(
            id=point,
            index=index,
            is_default=data.flag("natural", False),
            inference_knobs=_setting(data, method),
            val=Metrics.from_json(data.fields("val"), objective),
            test=Metrics.from_json(data.fields("test"), objective),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReference:
    """The data set that a trial was trained and measured on, C classes."""

    name: str
    fingerprint: str
    features: Mapping[str, str]
    """Source to the name of its features, which holds their fingerprint."""
    classes: tuple[str, ...]
    """The C classes' names, in the order of scores."""
    multi_label: bool
    step_seconds: float

    def __str__(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data; `from_json` reads it."""
        return {**asdict(self), "features": dict(self.features), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, data: Fields) -> DataReference:
        """What `to_json` wrote."""
        return cls(
            name=data.text("name"),
            fingerprint=data.text("fingerprint"),
            features=data.text_by_name("features", {}),
            classes=data.texts("classes"),
            multi_label=data.flag("multi_label"),
            step_seconds=data.amount("step_seconds"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """One finished trial: what it was asked, what it was made of, and its operating points."""

    trial: str
    sweep: str
    digest: str
    """Over what determines the result (`TrialConfig.digest`)."""
    method: str
    objective: str
    """The name of the quality that decides: `map`, `map_iou_0.1_0.7`."""
    is_baseline: bool
    deployable: bool
    seed: int
    training_knobs: Mapping[str, float | str]
    model: JsonObject
    """Fields of the method's configuration."""
    training_config: Mapping[str, float | str]
    """Fields of `TrainingConfig`; empty in results of version 1 that did not write it."""
    sources: Mapping[str, str]
    """Source to its component."""
    widths: Mapping[str, int]
    """Source to the width of its features."""
    data: DataReference
    code_version: str
    torch_version: str
    costs: Mapping[str, ComponentCost]
    """Component to the cost of one call."""
    accounting: str
    parameters: int | None
    """Trained parameters; None in results of version 1 that did not write it."""
    history: tuple[Mapping[str, float], ...]
    """Parts of the training loss, one entry per epoch."""
    points: tuple[OperatingPoint, ...]
    """At least one; cost and answers of any two differ, unless it confirms another trial."""
    warnings: tuple[str, ...]
    """What a reader of the result must know, such as a gate that collapsed."""
    seconds: float
    """From the trial's start to its end, of the process that finished it."""
    confirms: str = ""
    """The trial whose operating points these are, measured after a training with another seed: one for each point, in
    the same order and at the same settings, also where answers do not differ. Empty: a trial of its own."""

    @property
    def default_point(self) -> OperatingPoint:
        """The point at the default setting; the first if none is."""
        return next((point for point in self.points if point.is_default), self.points[0])

    @property
    def most_gflops(self) -> float:
        """GFLOPs per video of the most expensive point, on either split."""
        return max(point.most_gflops for point in self.points)

    def to_json(self) -> dict[str, JsonValue]:
        """The content of `result.json`; `from_json` reads it."""
        return {
            "version": VERSION,
            "trial": self.trial,
            "digest": self.digest,
            "sweep": self.sweep,
            "method": self.method,
            "objective": self.objective,
            "is_baseline": self.is_baseline,
            "deployable": self.deployable,
            "seed": self.seed,
            "training_knobs": dict(self.training_knobs),
            "model": dict(self.model),
            "training_config": dict(self.training_config),
            "sources": dict(self.sources),
            "widths": dict(self.widths),
            "data": self.data.to_json(),
            "code_version": self.code_version,
            "torch_version": self.torch_version,
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "accounting": self.accounting,
            "parameters": self.parameters,
            "training": {"history": [dict(epoch) for epoch in self.history]},
            "points": [point.to_json() for point in self.points],
            "remarks": list(self.warnings),
            "seconds": self.seconds,
            **({"confirms": self.confirms} if self.confirms else {}),
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> TrialResult:
        """What `to_json` wrote, or a file of an earlier version.

        Arguments:
            where: the file, for messages.

        Raises `DataError` for a later version, a field that is missing or of the wrong type, and a result without
        a point, `NonFiniteError` for a number that is not finite.
        """
        fields = Fields(data, where, _HINT)
        is_first = fields.check_version(VERSION) == 1
        objective = fields.text("objective", MAP if is_first else None)
        method = fields.text("method")
        points = fields.list_of_fields("points")
        if not points:
            raise DataError(f"{where} holds no operating point", _HINT)
        training = fields.fields("training", {} if is_first else None)
        return cls(
            trial=fields.text("trial"),
            sweep=fields.text("sweep"),
            digest=fields.text("digest", "" if is_first else None),
            method=method,
            objective=objective,
            is_baseline=fields.flag("is_baseline"),
            deployable=fields.flag("deployable"),
            seed=fields.whole("seed"),
            training_knobs=fields.values_by_name("training_knobs"),
            model=fields.json("model"),
            training_config=fields.values_by_name("training_config", {} if is_first else None),
            sources=fields.text_by_name("sources"),
            widths={name: int(width) for name, width in fields.amounts_by_name("widths").items()},
            data=DataReference.from_json(fields.fields("data")),
            code_version=fields.text("code_version"),
            torch_version=fields.text("torch_version", "" if is_first else None),
            costs={name: _cost(each) for name, each in fields.fields_by_name("costs").items()},
            accounting=fields.text("accounting"),
            parameters=fields.whole("parameters") if "parameters" in fields else None,
            history=_history(training),
            points=tuple(
                OperatingPoint.from_json(each, i, objective, method) for i, each in enumerate(points)
            ),
            warnings=fields.texts("remarks", ()),
            seconds=fields.amount("seconds"),
            confirms=fields.text("confirms", ""),
        )


def _setting(point: Fields, method: str) -> dict[str, float | str]:
    """A point's inference knobs; a cap of before there was a rule has the one that it was measured with."""
    values = {
        name: value if isinstance(value, str) else float(value)
        for name, value in point.values_by_name("inference_knobs").items()
    }
    if values.get("max_gflops") and "cap_rule" not in values:
        # LiteEval's cap was what is now `cheap`, and HCMS's what is now `stop`.
        values["cap_rule"] = "cheap" if method in ("lite_eval", "random_gate") else "stop"
    return values


def _history(training: Fields) -> tuple[Mapping[str, float], ...]:
    epochs = training.list_of_fields("history", ())
    return tuple({name: epoch.number(name) for name in epoch.names()} for epoch in epochs)


def _cost(data: Fields) -> ComponentCost:
    return ComponentCost(
        macs=data.count("macs"),
        input=data.text("input"),
        provenance=data.text("provenance", "torch.utils.flop_counter"),
        published_gmacs=data.optional_number("published_gmacs"),
        published_source=data.text("published_source") if "published_source" in data else None,
    )
