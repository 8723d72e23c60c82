"""What decides in training whether a level of a stack runs (`layers/gated_stack.py`).

B videos, T steps, N rows of all steps that take part; G inputs of a gate, P of them projected features; Z terms of a
gate that knows a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretovid.trainables.recurrence.levels import DrawnGate, SampledGate
from paretovid.trainables.recurrence.packing import Packed


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A gate in training whose decisions are sampled straight through (Gumbel): forward 0 or 1, backward the gradient
    of a softmax at this temperature."""

    gate: nn.Linear
    """`[B, G]` to logits `[B, 2]` (skip, use)."""
    temperature: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioned:
    """As `Sampled`, of a gate whose weights differ from video to video: a video's are the sum of the terms' weights,
    each times the video's factor."""

    terms: Sequence[nn.Linear]
    """Z of them, each `[B, G]` to `[B, 2]`."""
    factors: Tensor
    """`[B, Z]`, without gradient."""
    temperature: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A gate in training whose decisions are there already."""

    use: Tensor
    """`[B, T]` bool."""


TrainingGate = Sampled | Conditioned | Given


def gate_at(
    gate: TrainingGate, seen: Tensor, noise: Tensor | None, packed: Packed
) -> SampledGate | DrawnGate:
    """A gate at the rows of a batch.

    Arguments:
        seen: `[N, P]`, projected features of the levels below.
        noise: `[B, T]`, of a sampled gate.
    """
    if isinstance(gate, Given):
        return DrawnGate(packed.select(gate.use))
    assert noise is not None
    width = seen.shape[1]
    if isinstance(gate, Sampled):
        weight = gate.gate.weight[1] - gate.gate.weight[0]
        bias = packed.select(noise) + (gate.gate.bias[1] - gate.gate.bias[0])
        return SampledGate(torch.addmv(bias, seen, weight[:width]), weight[width:], gate.temperature)
    weights = torch.stack([term.weight[1] - term.weight[0] for term in gate.terms])
    biases = torch.stack([term.bias[1] - term.bias[0] for term in gate.terms])
    each = torch.addmm(biases, seen, weights[:, :width].t())
    factors = packed.select(gate.factors[:, None].expand(-1, noise.shape[1], -1))
    score = packed.select(noise) + (each * factors).sum(dim=1)
    return SampledGate(score, gate.factors @ weights[:, width:], gate.temperature)
