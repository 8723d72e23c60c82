"""The contract that every method and baseline fulfils.

A method decides, step by step, what it wants to see; a **provider** supplies it and counts the calls
(`provider.py`). The trainer (`training/loop.py`) calls `loss` on batches in which all features are present; the
evaluation and the promoted model call `run`, with a provider of cached features or of a raw video. Both
are the same code, so what is promoted behaves as it was evaluated. What only some methods do besides they say by a
second base class beside `Method` (`UsesSourceInfo` to `TrainsInStages`), called only for those that have it.

Shapes: B videos, T steps (padded to the longest of the batch), C classes, D_s the width of source s.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.outcome import (
    Batch,
    InferenceKnob,
    Line,
    Loss,
    Outcome,
    Progress,
    Setting,
    SourceInfo,
)
from paretovid.trainables.plugins.catalog import Catalog
from paretovid.trainables.provider import Provider

Task = Literal["classification", "localization"]
"""What is asked of a video: its classes, or when an instance of which class happens."""


class Method(nn.Module, ABC):
    """A recognizer that spends compute video by video. Concrete methods are final."""

    name: ClassVar[str]
    task: ClassVar[Task] = "classification"
    Config: ClassVar[type[Any]]
    """A frozen, keyword-only dataclass with a default for every field. Each number's type declares its range
    (`ranges.py`), which `__post_init__` checks with `check_ranges`, beside what relates two fields."""
    inference_knobs: ClassVar[tuple[InferenceKnob, ...]] = ()
    is_baseline: ClassVar[bool] = False
    deployable: ClassVar[bool] = True
    """False if it needs the ground truth (an oracle): it can be measured but not promoted."""
    no_cap: ClassVar[str] = (
        "it settles what to look at for the whole video at once, so there is no read to stop before"
    )
    """Why a method without `max_gflops` has none (`layers/caps.py`)."""

    @classmethod
    def knobs_of(cls, config: Any) -> tuple[InferenceKnob, ...]:
        """The inference knobs of a method with this configuration: those of its class, where it adds none."""
        return cls.inference_knobs

    @classmethod
    @abstractmethod
    def sources_of(cls, config: Any) -> tuple[str, ...]:
        """The sources that a method with this configuration reads."""

    @abstractmethod
    def __init__(
        self, config: Any, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        """Builds the modules. `widths`: source to D_s."""
        super().__init__()

    @abstractmethod
    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Training loss of a batch, gates relaxed. Not called for a method without parameters.

        Of a part of a batch (`batch.workers`), the mean of its parts' losses, weighted by their videos, must have
        the gradient that the loss of the whole batch has.
        """

    @abstractmethod
    def run(self, provider: Provider, setting: Setting) -> Outcome:
        """Evaluation and production: deterministic, asks the provider for what it needs."""

    @abstractmethod
    def settings(self) -> list[Setting]:
        """The settings to run. The first is the default one."""

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        """Further settings that `outcome`, a run at `setting`, answers without another run."""
        return []

    def reads(self) -> tuple[str, ...]:
        """What each value of `Outcome.decisions` is called, from 0: `none`, then the most expensive source read."""
        return ("none", "coarse", "fine")

    @abstractmethod
    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of the method's own components (cells, projections, gates, heads)."""

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        """The same under `accounting=paper`: as the paper's published figures count them.

        Arguments:
            backbones: source to the cost of its backbone, for papers that charge one more often than it runs.
        """
        return self.component_costs()


class UsesSourceInfo(ABC):
    """A method that must know more of its sources than their features."""

    @classmethod
    def check_source_info(cls, config: Any, info: Mapping[str, SourceInfo]) -> None:
        """Before anything is made: raises `UsageError` if a configuration does not fit its sources."""
        return None

    @abstractmethod
    def use_source_info(self, info: Mapping[str, SourceInfo]) -> None:
        """Called once, before training, with every source that it reads. What `run` needs of it is kept as a buffer."""


class ChecksFeatures(ABC):
    """A method that cannot be trained on any features: it takes up what was trained on certain ones."""

    @abstractmethod
    def check_features(self, features: Mapping[str, str]) -> None:
        """Before training: raises `UsageError` if the method cannot be trained on these features.

        Arguments:
            features: source to the name of its features, which holds their fingerprint.
        """


class Exports(ABC):
    """A method that leaves something that others may use without it."""

    @abstractmethod
    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """After training: writes it beside the trial's result.

        Arguments:
            folder: of the trial; it exists.
            about: trial, features, data and code version, for the record.
        """


class NeedsFiles(ABC):
    """A method whose configuration names files: they may move, and are not there where a promoted model runs."""

    @classmethod
    @abstractmethod
    def located(cls, model: JsonObject) -> JsonObject:
        """The configuration's fields `model` with absolute paths: workers have other current folders."""

    @classmethod
    @abstractmethod
    def by_content(cls, model: JsonObject) -> JsonObject:
        """The fields with what a file holds in place of its path: what tells trials apart (`TrialConfig.digest`)."""

    @abstractmethod
    def portable(self, model: JsonObject) -> JsonObject:
        """The configuration's fields `model`, such that this method is built from them without the files."""


class Warns(ABC):
    """A method whose figures may need a word of warning, such as a gate that collapsed."""

    @abstractmethod
    def warnings(self, at_default: Metrics) -> list[str]:
        """What a reader of the result must know.

        Arguments:
            at_default: the figures of the default setting on validation.
        """


class RunsForOthers(ABC):
    """A method with settings that are run only because others follow from them (`Method.stop_points`)."""

    @abstractmethod
    def is_operating_point(self, setting: Setting) -> bool:
        """Whether a run at one of `settings` is an operating point itself."""


class PlacesSettings(ABC):
    """A method whose inference settings are placed by what they cost on validation (`evaluation/placement.py`), where
    its configuration does not list them. `Method.settings` names the default one first all the same.
    """

    @abstractmethod
    def places(self) -> bool:
        """Whether the configuration leaves the values of an inference knob open."""

    @abstractmethod
    def probes(self) -> list[Setting]:
        """The settings to run for `evidence`."""

    @abstractmethod
    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        """What `lines` must know of a run at one of `probes`.

        Returns tensors `[N]` by name, each of its own length; those of all batches and probes are joined.
        """

    @abstractmethod
    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        """The settings to pick from, a line at a time. `evidence`: `[N]` by name, as `evidence()` gives it."""

    @abstractmethod
    def runs_at(self, setting: Setting) -> Setting:
        """The setting whose run answers this one, by `answer`; itself, if it needs a run of its own."""

    @abstractmethod
    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        """What a run at `setting` would have given, from one at `runs_at(setting)`."""


class TrainsInStages(ABC):
    """A method whose parts are trained one after the other: before the last stage its curve says nothing."""

    @classmethod
    @abstractmethod
    def last_stage(cls, config: Any) -> float:
        """The share of its training after which all that decides or answers is trained; 0: from the start."""


def check_listed(name: str, values: Sequence[float] | None) -> None:
    """As `check_distinct`, for values that are placed if the configuration lists none (`PlacesSettings`)."""
    if values is not None:
        check_distinct(name, values)


def check_distinct(name: str, values: Sequence[float]) -> None:
    """Checks the values of an inference knob that a configuration lists for evaluation; their type declares the range.

    Raises `UsageError` if there are none, or one is there twice: the second would be measured over the same videos
    again.
    """
    if not values or len(set(values)) != len(values):
        raise UsageError(f"{name} cannot be {list(values)}", "Give one or more different numbers.")


def _checked(name: str, found: object, where: str) -> type[Method]:
    """The class, if it keeps what can be checked of the contract without building one (`contracts/` checks the rest).

    Raises `UsageError` that says which rule it breaks.
    """
    broken = _broken_rule(name, found)
    if broken is not None:
        raise UsageError(
            f"{where} breaks the contract of a method: {broken}", "trainables/method.py states the contract."
        )
    assert isinstance(found, type) and issubclass(found, Method)
    return found


def _broken_rule(name: str, found: object) -> str | None:
    if not (isinstance(found, type) and issubclass(found, Method)):
        return f"it is {found!r}, and must be a class derived from Method"
    given = getattr(found, "name", None)
    if given != name:
        return f"its `name` is {given!r}, and must be {name!r}, as it is registered"
    if hasattr(found, "looks"):
        return "its `looks()` is called `reads()` now"
    if found.__abstractmethods__:
        return f"it does not define {', '.join(sorted(found.__abstractmethods__))}"
    if found.task not in get_args(Task):
        return f"its `task` is {found.task!r}, and must be one of {', '.join(get_args(Task))}"
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        return "its `Config` must be a dataclass"
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "its `Config` must be frozen"
    missing = dataclasses.MISSING
    open_fields = [
        field.name
        for field in dataclasses.fields(config)
        if field.default is missing and field.default_factory is missing
    ]
    if open_fields:
        return f"every field of its `Config` must have a default, and {', '.join(open_fields)} has none"
    knobs = [getattr(knob, "name", None) for knob in found.inference_knobs]
    if None in knobs or len(set(knobs)) != len(knobs):
        return "its `inference_knobs` must be InferenceKnob, each name once"
    return None


METHODS: Catalog[type[Method]] = Catalog("method", "paretovid.methods", _checked)


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its name. Raises `UsageError` if another one has it."""
    METHODS.register(cls.name, cls, f"{cls.__module__}:{cls.__qualname__}")
    return cls
