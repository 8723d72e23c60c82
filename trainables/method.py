"""The contract that every method and baseline fulfils.

A method decides, step by step, what it wants to see; a **provider** supplies it and counts the calls
(`provider.py`). The trainer (`trial.py`) calls `loss` on batches in which all features are present; the
evaluation and the promoted model call `run`, with a provider of cached features or of a raw video. Both
are the same code, so what is promoted behaves as it was evaluated.

Shapes: B videos, T steps (padded to the longest of the batch), C classes, D_s the width of source s.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.detection import Detection
from paretovid.trainables.errors import UsageError
from paretovid.trainables.provider import Provider

Setting = Mapping[str, float | str]
"""Values of a method's inference knobs, by name. `{}` is the natural setting: every knob at its default."""
Task = Literal["classification", "localization"]
"""What is asked of a video: its classes, or when an instance of which class happens."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch. All features are present."""

    features: dict[str, Tensor]
    """Source to `[B, T, D_s]`, zero at padded steps."""
    mask: Tensor
    """`[B, T]` bool: true at the steps that a video has."""
    targets: Tensor
    """`[B, C]` float, one-hot or multi-hot."""
    video_keys: Tensor
    """`[B]` int64: a hash of each video's id, for decisions that must not depend on the batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts:
    """What a method may need to know of a source besides its features."""

    gmacs: float
    """Cost of one read, giga multiply-accumulates."""
    video_share: float
    """Share of the training split's videos that its backbone was trained on (`is_for_backbones` says which)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training has come, for schedules."""

    step: int
    total_steps: int

    @property
    def fraction(self) -> float:
        """Between 0 (first step) and 1 (last)."""
        return self.step / max(1, self.total_steps - 1)


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss with its named parts; `total` is what is minimised."""

    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run over B videos gave, at one setting."""

    scores: Tensor
    """`[B, C]`: class probabilities, on one scale for all videos."""
    calls: dict[str, Tensor]
    """Component to the number of calls per video, `[B]` int64."""
    decisions: Tensor
    """`[B, T]` int64: per step, how far along its sources the method looked: 0 = not looked at, 1 = the first
    only (as a rule the cheapest), 2 = the next as well, and so on. `Method.looks` has a word for each."""
    trace: dict[str, Tensor] = field(default_factory=dict)
    """Values, most of them per step, from which `stop_points` answers other settings; the method's own affair."""
    detections: tuple[tuple[Detection, ...], ...] | None = None
    """Of a method of localization: each video's instances, the surest first. `scores` are of the whole video."""
    stopped_by: Tensor | None = None
    """`[B]` int64: why reading ended, a place in `caps.STOPPED_BY`; None of a method that does not read by the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceKnob:
    """A knob that needs no new training."""

    name: str
    default: float | str
    low: float = 0.0
    high: float = 0.0
    """Of numbers: the range."""
    description: str
    whole: bool = False
    """True if only whole numbers mean anything."""
    words: tuple[str, ...] = ()
    """The values of a knob that is no number."""

    @property
    def allowed(self) -> str:
        """The values in words, for people."""
        if self.words:
            return f"{' or '.join(self.words)}: {self.description}."
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}: {self.description}."


class Method(nn.Module, ABC):
    """A recognizer that spends compute video by video. Concrete methods are final."""

    name: ClassVar[str]
    task: ClassVar[Task] = "classification"
    Config: ClassVar[type[Any]]
    """A frozen, keyword-only dataclass with a default for every field; validates in `__post_init__`."""
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
        """Training loss of a batch, gates relaxed. Not called for a method without parameters."""

    @abstractmethod
    def run(self, provider: Provider, setting: Setting) -> Outcome:
        """Evaluation and production: deterministic, asks the provider for what it needs."""

    @abstractmethod
    def settings(self) -> list[Setting]:
        """The settings to run. The first is the natural one."""

    def is_operating_point(self, setting: Setting) -> bool:
        """Whether a run at one of `settings` is an operating point itself, and not only there for `stop_points`."""
        return True

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        """Further settings that `outcome`, a run at `setting`, answers without another run."""
        return []

    def looks(self) -> tuple[str, ...]:
        """What each value of `Outcome.decisions` is called, from 0: `none`, then the dearest source looked at."""
        return ("none", "coarse", "fine")

    def remarks(self, natural: Mapping[str, Any]) -> list[str]:
        """What a reader of the result must know, from the figures of the natural setting on validation.

        Arguments:
            natural: as `Measured.metrics` gives them; `calls` holds each component's mean per video.
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


def check_distinct(name: str, values: Sequence[float], low: float, high: float) -> None:
    """Checks the values of an inference knob that a configuration lists for evaluation.

    Raises `UsageError` if there are none, one is out of range or not finite, or one is there twice: the second
    would be measured over the same videos again.
    """
    inside = all(math.isfinite(value) and low <= value <= high for value in values)
    if not values or not inside or len(set(values)) != len(values):
        raise UsageError(
            f"{name} cannot be {list(values)}",
            f"Give one or more different numbers from {low:g} to {high:g}.",
        )


METHODS: dict[str, type[Method]] = {}


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its name. A duplicate name is an error."""
    if cls.name in METHODS:
        raise ValueError(f"method {cls.name!r} is registered twice: {METHODS[cls.name]} and {cls}")
    METHODS[cls.name] = cls
    return cls


def probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """`[..., C]` scores from logits: softmax over classes, or a sigmoid per class if multi-label."""
    return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=-1)


def classification_loss(logits: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Scalar loss of `[B, C]` logits: cross-entropy, or its binary form summed over classes."""
    if multi_label:
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(dim=-1).mean()
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def last_valid(values: Tensor, num_steps: Tensor) -> Tensor:
    """`values [B, T, ...]` at each video's last step, `[B, ...]`."""
    index = (num_steps - 1).clamp(min=0)
    return values[torch.arange(len(values), device=values.device), index]


def stack_steps(values: Sequence[Tensor]) -> Tensor:
    """A list of T tensors `[B, ...]` as `[B, T, ...]`."""
    return torch.stack(list(values), dim=1)
