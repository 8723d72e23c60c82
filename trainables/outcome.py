"""What goes into a method and what comes out: batches, settings, losses, outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from paretovid.trainables.ranges import Range

Setting = Mapping[str, float | str]
"""Values of a method's inference knobs, by name. `{}` is the default setting: every knob at its default."""


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
    workers: int = 1
    """Above 1: this is a part of a batch that so many workers share, connected by `torch.distributed`. A loss that is
    no mean over videos needs `layers/whole_batch.py` then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
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
    """`[B, T]` int64: per step, how far along its sources the method read: 0 = not read, 1 = the first
    only (as a rule the cheapest), 2 = the next as well, and so on. `Method.reads` has a word for each."""
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

    @property
    def range(self) -> Range:
        """From `low` to `high`."""
        return Range(self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Settings along which a network spends more and more: operating points are picked from it by their cost."""

    name: str
    """Of the knob that moves along it, for messages."""
    settings: tuple[Setting, ...]
    """From the cheapest to the most expensive, as far as that is known before they are run. Each once."""
    cuts_short: bool = False
    """A run ends early along it, whatever the network would decide. False: the network's own decisions, at another
    threshold."""
    is_listed: bool = False
    """The configuration lists these settings: all of them are measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One instance that was found: `label` is the class number, the interval half open, in seconds."""

    label: int
    start_seconds: float
    end_seconds: float
    score: float
    """The higher the surer; compared over all videos."""
