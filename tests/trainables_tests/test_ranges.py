"""Every number of every configuration is finite and in a range that its type declares."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest

import paretovid.search_spaces
import paretovid.trainables
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.catalog import method_config, method_names
from paretovid.trainables.config import typed_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.method import METHODS
from paretovid.trainables.ranges import (
    FINITE,
    Declared,
    Range,
    check_ranges,
    declared,
    field_number,
    type_hints,
    without_none,
)
from paretovid.trainables.training.config import TrainingConfig, TrialConfig

NAN, INFINITE = math.nan, math.inf


def config_classes() -> list[type[Any]]:
    """Every dataclass of settings of trainables/ and search_spaces/, found by its name, and those inside of them."""
    found: dict[type[Any], None] = {}
    for package in (paretovid.trainables, paretovid.search_spaces):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for each in vars(importlib.import_module(module.name)).values():
                if (
                    isinstance(each, type)
                    and dataclasses.is_dataclass(each)
                    and each.__name__.endswith("Config")
                ):
                    found[each] = None
    for cls in list(found):
        for kind in type_hints(cls).values():
            found |= {
                each: None
                for each in without_none(kind)
                if isinstance(each, type) and dataclasses.is_dataclass(each)
            }
    return sorted(found, key=lambda cls: cls.__name__)


def numbers(kind: Any) -> Iterator[tuple[Declared, Any]]:
    """Every number in a type, and a function that puts a value there."""
    for each in without_none(kind):
        if (number := declared(each)) is not None:
            yield number, lambda value: value
        elif (sequence := get_origin(each)) in (tuple, list):
            for number, put in numbers(get_args(each)[0]):
                yield number, lambda value, put=put, of=sequence: of([put(value)])
        elif get_origin(each) is dict:
            for number, put in numbers(get_args(each)[1]):
                yield number, lambda value, put=put: {"key": put(value)}


CLASSES = config_classes()
NUMBERS = [
    pytest.param(cls, name, number, put, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, kind in type_hints(cls).items()
    for number, put in numbers(kind)
]


def outside(allowed: Range) -> list[float]:
    """Numbers just outside of a range, and no numbers at all."""
    low = [allowed.low if allowed.above else math.nextafter(allowed.low, -INFINITE), allowed.low - 1]
    high = [allowed.high if allowed.below else math.nextafter(allowed.high, INFINITE), allowed.high + 1]
    return [NAN, INFINITE, -INFINITE, *low, *high]


def whole(cls: type[Any]) -> Any:
    """An instance of a dataclass, with something in the fields that have no default."""
    needed = {
        field.name: {"str": "x", "dict[str, str]": {}}[str(field.type)]
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return cls(**needed)


def test_the_walk_finds_what_there_is() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {METHODS.get(name).Config.__name__ for name in method_names()} <= names
    assert {"HierarchyConfig", "AgentConfig", "MemoryConfig", "HeadConfig", "SelectorShape"} <= names
    assert {"TrainingConfig", "BackboneTrainingConfig", "FineTuningConfig", "MovingDigitsConfig"} <= names
    assert {"TableConfig", "Thumos14Config", "SearchConfig", "ClusterConfig", "KnobConfig"} <= names
    assert len(NUMBERS) > 150


@pytest.mark.parametrize(("cls", "name", "number", "put"), NUMBERS)
def test_every_number_has_a_range_and_nothing_outside_of_it_passes(
    cls: type[Any], name: str, number: Declared, put: Any
) -> None:
    assert number.range is not None, f"{cls.__name__}.{name} declares no range (trainables/ranges.py)"
    made = whole(cls)
    for value in outside(number.range):
        if number.kind is int and math.isfinite(value):
            value = math.floor(value) if value < number.range.low else math.ceil(value)
        bad = put(value)
        with pytest.raises(UsageError, match=rf"{name}\S* must be"):
            if cls.__module__.startswith(
                "paretovid.search_spaces"
            ):  # open to OmegaConf, checked when it is whole
                setattr(made, name, bad)
                check_ranges(made)
            else:
                dataclasses.replace(made, **{name: bad})
        if number.kind is float or math.isfinite(value):
            with pytest.raises(UsageError, match=rf"^here\.{name}\S* must be"):
                typed_config(cls, {name: bad}, "here")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_are_in_their_ranges(cls: type[Any]) -> None:
    check_ranges(whole(cls))


def test_a_range_says_what_is_in_it() -> None:
    half_open = Range(0, 1, below=True)
    assert 0 in half_open and 1 not in half_open and math.nextafter(1, 0) in half_open
    assert 0 not in Range(0, above=True) and 10**400 in Range(0)
    assert 1e308 in FINITE and INFINITE not in FINITE and NAN not in FINITE
    assert [str(each) for each in (half_open, Range(0, 1, above=True), Range(0, above=True), Range(1))] == [
        "in [0, 1)",
        "in (0, 1]",
        "above 0",
        "1 or more",
    ]
    assert str(Range(high=2)) == "2 or less" and str(FINITE) == "a finite number"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Undeclared:
    """As a method of someone else might be configured."""

    rate: float = 0.1
    rates: tuple[float, ...] = ()
    named: Annotated[float, Range(0, 1), "It is a share."] = 0.5


def test_a_number_without_a_range_must_be_finite() -> None:
    for values, where in (({"rate": NAN}, "x.rate"), ({"rates": [0.1, INFINITE]}, r"x.rates\[1\]")):
        with pytest.raises(UsageError, match=rf"^{where} must be a finite number"):
            typed_config(Undeclared, values, "x")
    with pytest.raises(UsageError, match=r"^x.rate must be a finite number, not inf"):
        typed_config(Undeclared, {"rate": 10**400}, "x")
    with pytest.raises(UsageError, match=r"x\.named must be in \[0, 1\], not 2\.0") as caught:
        typed_config(Undeclared, {"named": 2}, "x")
    assert caught.value.hint == "Give a number from 0 to 1. It is a share."


def test_the_range_of_a_nested_field_is_found_by_its_path() -> None:
    config = METHODS.get("lite_eval").Config
    number = field_number(config, "network.step_dropout")
    assert number is not None and number.range == Range(0, 1, below=True)
    assert field_number(config, "network.cell") is None and field_number(config, "nothing.there") is None


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        (
            "lite_eval",
            {"network": {"step_dropout": 1.0}},
            "method lite_eval.network.step_dropout must be in [0, 1), not 1.0",
        ),
        (
            "hcms",
            {"network": {"step_dropout": 1}},
            "method hcms.network.step_dropout must be in [0, 1), not 1.0",
        ),
        (
            "lite_eval",
            {"usage_weight": NAN},
            "method lite_eval.usage_weight must be in [0, 1000000], not nan",
        ),
        ("early_fusion", {"dropout": 2}, "method early_fusion.dropout must be in [0, 1), not 2.0"),
        ("early_fusion", {"hidden": 0}, "method early_fusion.hidden must be in [1, 65536], not 0"),
    ],
)
def test_settings_that_train_nothing_are_reported_by_their_full_name(
    name: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        method_config(name, fields)
    assert caught.value.message == said and caught.value.hint and caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup_fraction": 1}, "training.warmup_fraction must be in [0, 1), not 1.0"),
        ({"learning_rate": NAN}, "training.learning_rate must be above 0, not nan"),
        ({"weight_decay": -1}, "training.weight_decay must be in [0, 1], not -1.0"),
    ],
)
def test_a_training_that_would_crash_or_diverge_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        typed_config(TrainingConfig, settings, "training")
    assert caught.value.message == said


def test_a_sweep_checks_every_section() -> None:
    config = SweepConfig()
    config.search.hours = -1.0
    with pytest.raises(UsageError, match=r"^search\.hours must be above 0, not -1"):
        check_ranges(config)
    with pytest.raises(UsageError, match=r"^trial t1\.seed must be in"):
        TrialConfig(sweep="s", trial="t1", method="lstm", dataset="", features={}, output="", seed=10**9)
