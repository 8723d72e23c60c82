"""AdaFrame's global memory: a few frames of a cheap source, spread over the whole video, that a network can query.

Z. Wu, H. Li, C. Xiong, Y.-G. Jiang, L. S. Davis: "A Dynamic Frame Selection Framework for Fast Video Recognition",
TPAMI 2020, section 3.1. `trainables/methods/ada_frame.py` and the baselines with "-G" behind their names read it.

B videos, M frames of memory, D width of an entry, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.coarse_to_fine import COARSE
from paretovid.trainables.layers.frame_sampling import uniform_steps
from paretovid.trainables.layers.recurrent import Projection
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Count, Dropout, Range, check_ranges
from paretovid.trainables.recurrence.walk import Asked

AUDIO = "audio"
MemoryKind = Literal["visual", "audio", "none"]
_SOURCES: Mapping[str, str] = {"visual": COARSE, "audio": AUDIO}
_MASKED = -1e9  # finite, so that a video without any frame attends to zeros instead of making NaN


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """What is remembered. The paper: V16 by default, V12, V32, A16 (audio) and none in Table 4."""

    kind: MemoryKind = "visual"
    frames: Annotated[Count, "The paper: 16."] = 16
    """M."""
    projection: Annotated[int, Range(0, 65_536), "0: none."] = 32
    """D, through a learned layer; 0 takes the features as they are, normalised (the paper)."""
    dropout: Dropout = 0.0
    """Of projected entries, in training. Not in the paper."""
    values: Literal["encoded", "raw"] = "encoded"
    """What attention averages: entries with their positions, or without. The paper's formula says raw; the
    position then reaches the network only through the weights, which it does not see."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.kind not in ("visual", "audio", "none"):
            raise UsageError(f"unknown memory kind: {self.kind!r}", "Allowed: visual, audio, none.")
        if self.values not in ("encoded", "raw"):
            raise UsageError(f"unknown memory values: {self.values!r}", "Allowed: encoded, raw.")

    @property
    def source(self) -> str | None:
        """The source that is remembered; None without a memory."""
        return _SOURCES.get(self.kind)


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of B videos."""

    keys: Tensor
    """`[B, M, D]`, with positions."""
    values: Tensor
    """`[B, M, D]`, what attention averages."""
    plain: Tensor
    """`[B, M, D]`, without positions."""
    mask: Tensor
    """`[B, M]` bool: false at entries that a short video does not have."""
    steps: Tensor
    """`[B, M]` int64: the step that each entry was made from, -1 where there is none."""

    def repeated(self, times: int) -> Memory:
        """Every video's memory `times` times, those of one video following each other."""
        keys, plain, mask, steps = (
            part.repeat_interleave(times, 0) for part in (self.keys, self.plain, self.mask, self.steps)
        )
        values = keys if self.values is self.keys else self.values.repeat_interleave(times, 0)
        return Memory(keys, values, plain, mask, steps)


def positional_encoding(positions: Tensor, width: int) -> Tensor:
    """Sinusoids of "Attention Is All You Need", section 3.5: `[...]` positions to `[..., width]`."""
    half = torch.arange((width + 1) // 2, device=positions.device, dtype=torch.float32)
    angle = positions[..., None].float() * torch.exp(-math.log(10_000.0) * 2 * half / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]


@final
class GlobalMemory(nn.Module):
    """Reads, encodes and queries the memory.

    Arguments:
        config: what is remembered; not `none`.
        widths: source to feature width.
        hidden: H of the network that queries; 0 if nobody does.
        prefix: the method's name, in front of its components' names.
    """

    def __init__(self, config: MemoryConfig, *, widths: Mapping[str, int], hidden: int, prefix: str) -> None:
        super().__init__()
        assert config.source is not None
        self.config = config
        self.source = config.source
        self.feature_width = widths[config.source]
        self.component = f"{prefix}.memory"
        self.width = config.projection or self.feature_width
        self.project: nn.Module = (
            Projection(self.feature_width, config.projection, config.dropout)
            if config.projection
            else nn.LayerNorm(self.feature_width, elementwise_affine=False)
        )
        self.query = nn.Linear(hidden, self.width, bias=False) if hidden else None

    def remember(self, features: Tensor, num_steps: Tensor) -> Memory:
        """From features of all steps, `[B, T, D_s]`: training."""
        steps = self._steps(num_steps)
        rows = torch.arange(len(steps), device=steps.device)[:, None]
        return self._encode(features[rows, steps.clamp(min=0)], steps, num_steps)

    def read(self, provider: Provider) -> Memory:
        """From a provider, each entry paid once: evaluation and production."""
        steps = self._steps(provider.num_steps)
        read = []
        for index in steps.T:
            read.append(provider.read(self.source, index, index >= 0))
            provider.charge(self.component, index >= 0)
        return self._encode(torch.stack(read, dim=1), steps, provider.num_steps)

    def most_macs(self, provider: Provider) -> int:
        """Multiply-accumulates of reading a memory whose every entry is there."""
        names = (provider.components[self.source], self.component)
        return self.config.frames * sum(provider.costs[name].macs for name in names)

    def context(self, memory: Memory, hidden: Tensor) -> Tensor:
        """Eq. 2 and u_t: what the state `[B, H]` asks for, `[B, D]`."""
        assert self.query is not None
        logits = torch.bmm(memory.keys, self.query(hidden)[:, :, None])[:, :, 0]
        weights = torch.softmax(logits.masked_fill(~memory.mask, _MASKED), dim=-1)
        return torch.bmm(weights[:, None], memory.values)[:, 0]

    def asked(self, memory: Memory) -> Asked:
        """A memory as `run_walk` asks it, as `context` does."""
        assert self.query is not None
        absent = memory.keys.new_zeros(memory.mask.shape).masked_fill(~memory.mask, _MASKED)
        return Asked(self.query.weight, memory.keys, memory.values, absent[:, None])

    def _steps(self, num_steps: Tensor) -> Tensor:
        return torch.stack(uniform_steps(num_steps, self.config.frames), dim=1)

    def _encode(self, features: Tensor, steps: Tensor, num_steps: Tensor) -> Memory:
        mask = steps >= 0
        plain = self.project(features) * mask[..., None]
        # In units of entries, so that a place in the video is encoded alike whatever the video's length.
        positions = (steps + 0.5) / num_steps.clamp(min=1)[:, None] * self.config.frames - 0.5
        keys = (plain + positional_encoding(positions, self.width)) * mask[..., None]
        return Memory(keys, keys if self.config.values == "encoded" else plain, plain, mask, steps)

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of making one entry, its backbone apart."""
        example = torch.zeros(1, self.feature_width, device=next(self.parameters(), torch.zeros(())).device)
        return {
            self.component: ComponentCost(
                macs=measure_macs(self.project, example), input=f"{self.feature_width} features"
            )
        }

    def example(self) -> Memory:
        """A memory of one video, zero: for measuring what a query costs."""
        zero = torch.zeros(1, self.config.frames, self.width, device=next(self.parameters()).device)
        steps = torch.arange(self.config.frames, device=zero.device)[None]
        return Memory(zero, zero, zero, torch.ones_like(steps, dtype=torch.bool), steps)
