"""The contract that every method and baseline fulfils.

A method decides, step by step, what it wants to see; a **provider** supplies it and counts the calls
(`provider.py`). The trainer (`training/loop.py`) calls `loss` on batches in which all features are present; the
evaluation and the promoted model call `run`, with a provider of cached features or of a raw video. Both
are the same code, so what is promoted behaves as it was evaluated.

Shapes: B videos, T steps (padded to the longest of the batch), C classes, D_s the width of source s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.measurement import Metrics
from paretovid.trainables.outcome import (
    Batch,
    InferenceKnob,
    Loss,
    Outcome,
    Progress,
    Setting,
    SourceFacts,
)
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
    """False if it needs the truth (an oracle): it can be measured but not promoted."""
    no_cap: ClassVar[str] = (
        "it settles what to look at for the whole video at once, so there is no read to stop before"
    )
    """Why a method without `max_gflops` has none (`caps.py`)."""

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

    @classmethod
    def check_facts(cls, config: Any, facts: Mapping[str, SourceFacts]) -> None:
        """Raises `UsageError` if a configuration does not fit what is known of its sources before anything is made."""
        return None

    def use_facts(self, facts: Mapping[str, SourceFacts]) -> None:
        """Told once, before training, about every source that it reads. What `run` needs of it is kept as a buffer."""
        return None

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

    def is_operating_point(self, setting: Setting) -> bool:
        """Whether a run at one of `settings` is an operating point itself, and not only there for `stop_points`."""
        return True

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        """Further settings that `outcome`, a run at `setting`, answers without another run."""
        return []

    def looks(self) -> tuple[str, ...]:
        """What each value of `Outcome.decisions` is called, from 0: `none`, then the dearest source looked at."""
        return ("none", "coarse", "fine")

    def warnings(self, at_default: Metrics) -> list[str]:
        """What a reader of the result must know, such as a gate that collapsed.

        Arguments:
            at_default: the figures of the default setting on validation.
        """
        return []

    def check_features(self, features: Mapping[str, str]) -> None:
        """Before training: raises `UsageError` if the method cannot be trained on these features.

        Arguments:
            features: source to the name of its features, which holds their fingerprint.
        """
        return None

    def export(self, folder: Path, about: Mapping[str, Any]) -> None:
        """After training: writes what others may use without this method, beside the trial's result.

        Arguments:
            folder: of the trial; it exists.
            about: trial, features, data and code version, for the record.
        """
        return None

    def portable(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration's fields `model`, such that this method is built from them where its files are not."""
        return dict(model)

    @abstractmethod
    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of the method's own components (cells, projections, gates, heads)."""

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        """The same under `accounting=paper`: as the paper's published figures count them.

        Arguments:
            backbones: source to the cost of its backbone, for papers that charge one more often than it runs.
        """
        return self.component_costs()


def check_distinct(name: str, values: Sequence[float]) -> None:
    """Checks the values of an inference knob that a configuration lists for evaluation; their type declares the range.

    Raises `UsageError` if there are none, or one is there twice: the second would be measured over the same videos
    again.
    """
    if not values or len(set(values)) != len(values):
        raise UsageError(f"{name} cannot be {list(values)}", "Give one or more different numbers.")


METHODS: dict[str, type[Method]] = {}


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its name. A duplicate name is an error."""
    if cls.name in METHODS:
        raise ValueError(f"method {cls.name!r} is registered twice: {METHODS[cls.name]} and {cls}")
    METHODS[cls.name] = cls
    return cls
