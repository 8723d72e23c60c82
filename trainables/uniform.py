"""Baselines that look at frames chosen without thought, and average what each one says.

* `uniform`: N frames at even distances, class scores averaged (UNIFORM-N in LiteEval's Table 1; with
  `with_coarse`, UNIFORM+CF: the coarse network's scores of the same frames join the average).
* `oracle`: the same scores, but of the N frames that favour the true class most. It needs the truth, so it
  can be measured and never deployed: an upper bound on what choosing frames can give this classifier.

Both train one linear classifier per source on all frames, against the video's label on the mean score:
a frame without evidence may say nothing as long as others do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.coarse_to_fine import COARSE, FINE, LOOKED_FINE
from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.method import (
    Batch,
    InferenceKnob,
    Loss,
    Method,
    Outcome,
    Progress,
    Setting,
    check_distinct,
    probabilities,
    register,
)
from paretovid.trainables.provider import Provider

NUM_FRAMES = InferenceKnob(
    name="num_frames",
    default=0,
    low=0,
    high=10_000,
    whole=True,
    description="frames to look at, at even distances; 0: every step",
)
FRAME_COUNTS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25)


def uniform_steps(num_steps: Tensor, num_frames: int) -> list[Tensor]:
    """The centres of `num_frames` equal parts of each video, as a list of `[B]` step indices.

    A video with fewer steps is looked at once per step; its surplus indices are -1. `num_frames` 0: every step.
    """
    count = num_frames or int(num_steps.max())
    steps = []
    for i in range(count):
        wanted = num_steps.clamp(max=count)
        index = ((2 * i + 1) * num_steps).div(2 * wanted, rounding_mode="floor")
        steps.append(torch.where(wanted > i, index, torch.full_like(index, -1)))
    return steps


def check_frame_counts(counts: tuple[int, ...]) -> None:
    """Raises `UsageError` for a negative number of frames, one that is there twice, or none at all."""
    check_distinct("frame_counts", counts, NUM_FRAMES.low, NUM_FRAMES.high)


class _FrameScores(nn.Module):
    """A linear classifier per source on single frames, averaged in probability."""

    def __init__(self, widths: Mapping[str, int], num_classes: int, multi_label: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {s: nn.Sequential(nn.LayerNorm(w), nn.Linear(w, num_classes)) for s, w in widths.items()}
        )
        self.widths = dict(widths)
        self.multi_label = multi_label

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Features `[..., D]` by source to probabilities `[..., C]`."""
        each = [probabilities(head(features[s]), self.multi_label) for s, head in self.heads.items()]
        return torch.stack(each).mean(dim=0)

    def loss(self, batch: Batch) -> Loss:
        scores = self(batch.features) * batch.mask[..., None]
        mean = (scores.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)).clamp(1e-6, 1 - 1e-6)
        likelihood = batch.targets * mean.log()
        if self.multi_label:
            likelihood = likelihood + (1 - batch.targets) * (1 - mean).log()
        loss = -likelihood.sum(dim=-1).mean()
        return Loss(loss, {"classification": float(loss.detach())})

    def component_costs(self, prefix: str) -> dict[str, ComponentCost]:
        example = next(self.parameters())
        return {
            f"{prefix}.{s}_head": ComponentCost(
                macs=measure_macs(head, example.new_zeros(1, self.widths[s])),
                input=f"{self.widths[s]} features",
            )
            for s, head in self.heads.items()
        }

    def read(self, provider: Provider, prefix: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[B, C]` of one step per video (-1: none) and which videos have one, `[B]`."""
        wanted = index >= 0
        features = {}
        for source in self.heads:
            features[source] = provider.read(source, index, wanted)
            provider.charge(f"{prefix}.{source}_head", wanted)
        return self(features) * wanted[:, None], wanted


def _mark(decisions: Tensor, index: Tensor) -> None:
    rows = torch.nonzero(index >= 0).flatten()
    decisions[rows, index[rows]] = LOOKED_FINE


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformConfig:
    """Settings of the uniform baseline."""

    with_coarse: bool = False
    frame_counts: tuple[int, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the natural one."""

    def __post_init__(self) -> None:
        check_frame_counts(self.frame_counts)


@register
@final
class Uniform(Method):
    """UNIFORM-N: see the module's text."""

    name: ClassVar[str] = "uniform"
    Config: ClassVar[type[Any]] = UniformConfig
    inference_knobs = (NUM_FRAMES,)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: UniformConfig) -> tuple[str, ...]:
        return (FINE, COARSE) if config.with_coarse else (FINE,)

    def __init__(
        self, config: UniformConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        used = {source: widths[source] for source in self.sources_of(config)}
        self.frame_scores = _FrameScores(used, num_classes, multi_label)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        return self.frame_scores.loss(batch)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        steps = uniform_steps(provider.num_steps, int(setting.get("num_frames", 0)))
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        total, count = None, torch.zeros_like(provider.num_steps)
        for index in steps:
            scores, wanted = self.frame_scores.read(provider, self.name, index)
            total = scores if total is None else total + scores
            count = count + wanted
            _mark(decisions, index)
        assert total is not None
        return Outcome(scores=total / count[:, None], calls=dict(provider.calls), decisions=decisions)

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.frame_scores.component_costs(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleConfig:
    """Settings of the oracle."""

    frame_counts: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12)

    def __post_init__(self) -> None:
        check_frame_counts(self.frame_counts)


@register
@final
class Oracle(Method):
    """Chooses frames by the truth: see the module's text."""

    name: ClassVar[str] = "oracle"
    Config: ClassVar[type[Any]] = OracleConfig
    inference_knobs = (NUM_FRAMES,)
    is_baseline: ClassVar[bool] = True
    deployable: ClassVar[bool] = False

    @classmethod
    def sources_of(cls, config: OracleConfig) -> tuple[str, ...]:
        return (FINE,)

    def __init__(
        self, config: OracleConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.frame_scores = _FrameScores({FINE: widths[FINE]}, num_classes, multi_label)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        return self.frame_scores.loss(batch)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        if provider.targets is None:
            raise UsageError("the oracle needs the truth", "It is an upper bound for evaluation only.")
        peek = provider.peek(FINE)[:, : provider.max_steps]
        charged = int(setting.get("num_frames", 0)) or provider.max_steps
        scores = self.frame_scores({FINE: peek})
        favour = (scores * provider.targets[:, None]).sum(dim=-1)
        steps = torch.arange(provider.max_steps, device=favour.device)
        favour = favour.masked_fill(steps >= provider.num_steps[:, None], -1.0)
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        total, count = torch.zeros_like(scores[:, 0]), torch.zeros_like(provider.num_steps)
        for index in favour.argsort(dim=1, descending=True, stable=True)[:, :charged].T:
            chosen = torch.where(index < provider.num_steps, index, torch.full_like(index, -1))
            read, wanted = self.frame_scores.read(provider, self.name, chosen)
            total, count = total + read, count + wanted
            _mark(decisions, chosen)
        return Outcome(scores=total / count[:, None], calls=dict(provider.calls), decisions=decisions)

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.frame_scores.component_costs(self.name)
