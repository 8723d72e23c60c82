"""Baselines that look at frames chosen without thought, and average what each one says.

* `uniform`: N frames at even distances or drawn at random, class scores averaged (UNIFORM-N in LiteEval's
  Table 1; with `with_coarse`, UNIFORM+CF: the coarse network's scores of the same frames join the average;
  with a memory, AvgPooling-G of AdaFrame's Table 1: the scores of its entries count for one half).
* `oracle`: the same scores, but of the N frames that favour the true class most. It needs the ground truth, so it
  can be measured and never deployed: an upper bound on what choosing frames can give this classifier.

Both train one linear classifier per source on all frames, against the video's label on the mean score:
a frame without evidence may say nothing as long as others do.

B videos, T steps, C classes, D_s the width of source s, M entries of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import (
    DEFAULT_CAPS,
    KNOBS,
    Cap,
    CapUnits,
    affordable_frames,
    check_caps,
    frames_under_caps,
)
from paretovid.trainables.layers.coarse_to_fine import COARSE, FINE, READ_COARSE
from paretovid.trainables.layers.frame_classifier import FrameScores, mark_read, score_loss
from paretovid.trainables.layers.frame_sampling import Sampling, check_sampling, sampled_steps
from paretovid.trainables.layers.functional import probabilities
from paretovid.trainables.layers.global_memory import GlobalMemory, Memory, MemoryConfig
from paretovid.trainables.method import Method, check_distinct, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Range, check_ranges

NUM_FRAMES = InferenceKnob(
    name="num_frames",
    default=0,
    low=0,
    high=10_000,
    whole=True,
    description="frames to look at, spread as `sampling` says; 0: every step",
)
FRAME_COUNTS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25)


FrameCount = Annotated[int, NUM_FRAMES.range]
TrainingFrames = Annotated[
    int, Range(-1, NUM_FRAMES.high), "-1 varies it from batch to batch, 0 takes every step."
]


def check_frame_counts(counts: tuple[int, ...]) -> None:
    """Raises `UsageError` for a number of frames that is there twice, or none at all."""
    check_distinct("frame_counts", counts)


def with_memory_source(sources: tuple[str, ...], memory: MemoryConfig) -> tuple[str, ...]:
    """The sources, and the one that the memory reads if it is not among them."""
    return sources if memory.source in (None, *sources) else (*sources, str(memory.source))


@final
class _MemoryScores(nn.Module):
    """A linear classifier on the entries of a global memory, averaged in probability."""

    def __init__(
        self,
        config: MemoryConfig,
        *,
        widths: Mapping[str, int],
        num_classes: int,
        multi_label: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        self.memory = GlobalMemory(config, widths=widths, hidden=0, prefix=prefix)
        self.head = nn.Sequential(nn.LayerNorm(self.memory.width), nn.Linear(self.memory.width, num_classes))
        self.multi_label = multi_label
        self.component = f"{prefix}.memory_head"

    def forward(self, memory: Memory) -> Tensor:
        """The mean over each video's entries, `[B, C]`."""
        scores = probabilities(self.head(memory.plain), self.multi_label) * memory.mask[..., None]
        return scores.sum(dim=1) / memory.mask.sum(dim=1, keepdim=True)

    def of_batch(self, batch: Batch) -> Tensor:
        """The same in training."""
        answer: Tensor = self(self.memory.remember(batch.features[self.memory.source], batch.mask.sum(dim=1)))
        return answer

    def read(self, provider: Provider, decisions: Tensor) -> tuple[Memory, Tensor]:
        """The memory and the same from a provider, each entry paid once and noted in the decisions `[B, T]`."""
        memory = self.memory.read(provider)
        provider.charge(self.component, memory.mask.sum(dim=1))
        for index in memory.steps.T:
            mark_read(decisions, index, READ_COARSE)
        return memory, self(memory)

    def most_macs(self, provider: Provider) -> int:
        """What the entries cost a video that is long enough for all of them."""
        each = provider.costs[self.component].macs
        return self.memory.most_macs(provider) + self.memory.config.frames * each

    def component_costs(self) -> dict[str, ComponentCost]:
        example = torch.zeros(1, self.memory.width, device=next(self.parameters()).device)
        head = ComponentCost(macs=measure_macs(self.head, example), input=f"{self.memory.width} features")
        return {**self.memory.component_costs(), self.component: head}


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformConfig:
    """Settings of the uniform baseline."""

    with_coarse: bool = False
    sampling: Sampling = "uniform"
    """Where in the video the frames lie. Training takes all of them either way."""
    memory: MemoryConfig = field(default_factory=lambda: MemoryConfig(kind="none"))
    frame_counts: tuple[FrameCount, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the default one."""
    caps: tuple[CapUnits, ...] = DEFAULT_CAPS
    """Caps to evaluate at the default setting, in units of what one frame costs. Frames are read in order of time."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_sampling(self.sampling)
        check_frame_counts(self.frame_counts)
        check_caps(self.caps)


def _mean_of_first(trace: Mapping[str, Tensor], count: Tensor) -> Tensor:
    """`[B, C]`: mean scores of the first `count` `[B]` frames, and of the memory if there is one, from a trace."""
    rows = torch.arange(len(count), device=count.device)
    scores = trace["totals"][rows, (count - 1).clamp(min=0)] / count.clamp(min=1)[:, None]
    return (scores + trace["remembered"]) / 2 if "remembered" in trace else scores


@register
@final
class Uniform(Method):
    """UNIFORM-N: see the module's text. Under a cap the frames that come first in time are averaged."""

    name: ClassVar[str] = "uniform"
    Config: ClassVar[type[Any]] = UniformConfig
    inference_knobs = (NUM_FRAMES, *KNOBS)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: UniformConfig) -> tuple[str, ...]:
        return with_memory_source(cls._frame_sources(config), config.memory)

    @staticmethod
    def _frame_sources(config: UniformConfig) -> tuple[str, ...]:
        return (FINE, COARSE) if config.with_coarse else (FINE,)

    def __init__(
        self, config: UniformConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        used = {source: widths[source] for source in self._frame_sources(config)}
        self.frame_scores = FrameScores(used, num_classes, multi_label)
        self.memory_scores = (
            _MemoryScores(
                config.memory,
                widths=widths,
                num_classes=num_classes,
                multi_label=multi_label,
                prefix=self.name,
            )
            if config.memory.source
            else None
        )

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        if self.memory_scores is None:
            return self.frame_scores.loss(batch)
        fused = (self.frame_scores.mean(batch) + self.memory_scores.of_batch(batch)) / 2
        loss = score_loss(fused, batch.targets, self.frame_scores.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        num_frames = int(setting.get("num_frames", 0))
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        memory, remembered = None, None
        if self.memory_scores is not None:
            memory, remembered = self.memory_scores.read(provider, decisions)
        frames = affordable_frames(
            provider,
            Cap.of(setting, self),
            sampled_steps(self.config.sampling, provider.num_steps, provider.video_keys, num_frames),
            sources=tuple(self.frame_scores.heads),
            own=[f"{self.name}.{source}_head" for source in self.frame_scores.heads],
            remembered={} if memory is None else {self.config.memory.source or "": memory.steps},
            before=self.memory_scores.most_macs(provider) if self.memory_scores else 0,
        )
        before = decisions.clone()
        totals: list[Tensor] = []
        for index in frames.steps.T:
            scores, _ = self.frame_scores.read(provider, self.name, index)
            totals.append(totals[-1] + scores if totals else scores)
            mark_read(decisions, index)
        trace = {"totals": torch.stack(totals, dim=1), "before": before, **frames.trace}
        if remembered is not None:
            trace["remembered"] = remembered
        return Outcome(
            scores=_mean_of_first(trace, frames.count),
            calls=dict(provider.calls),
            decisions=decisions,
            trace=trace,
            stopped_by=frames.stopped_by,
        )

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting != self.settings()[0]:
            return []
        return frames_under_caps(
            outcome,
            setting,
            self.config.caps,
            before=outcome.trace["before"],
            answer=lambda count: _mean_of_first(outcome.trace, count),
        )

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def reads(self) -> tuple[str, ...]:
        return ("none", self.config.memory.source or COARSE, FINE)

    def component_costs(self) -> dict[str, ComponentCost]:
        own = self.frame_scores.component_costs(self.name)
        return {**own, **self.memory_scores.component_costs()} if self.memory_scores else own


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleConfig:
    """Settings of the oracle."""

    frame_counts: tuple[FrameCount, ...] = (0, 1, 2, 3, 4, 6, 8, 12)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_frame_counts(self.frame_counts)


@register
@final
class Oracle(Method):
    """Chooses frames by the ground truth: see the module's text."""

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
        self.frame_scores = FrameScores({FINE: widths[FINE]}, num_classes, multi_label)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        return self.frame_scores.loss(batch)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        if provider.targets is None:
            raise UsageError("the oracle needs the ground truth", "It is an upper bound for evaluation only.")
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
            mark_read(decisions, chosen)
        return Outcome(scores=total / count[:, None], calls=dict(provider.calls), decisions=decisions)

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.frame_scores.component_costs(self.name)
