"""The recursion of gated levels as it is written down: a step after another, everything masked, autograd throughout.

What the product computes in few operators is compared with this. B videos, T steps, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paretovid.trainables.layers.conditioned.gates import Conditioned, Given, Sampled, TrainingGate
from paretovid.trainables.layers.gated_stack import GatedLevels
from paretovid.trainables.layers.recurrent import state_as_features, synchronize


def gumbel_use(logits: Tensor, temperature: float, gumbel: Tensor) -> Tensor:
    """`F.gumbel_softmax(logits, temperature, hard=True)[:, 1]` of `[B, 2]` logits, with this noise `[B, 2]`."""
    soft = F.softmax((logits + gumbel) / temperature, dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
    return (hard - soft.detach() + soft)[:, 1]


def logits_of(gate: Sampled | Conditioned, inputs: Tensor) -> Tensor:
    """`[B, 2]`: each video's weights written out."""
    if isinstance(gate, Sampled):
        answer: Tensor = gate.gate(inputs)
        return answer
    weight = sum(f[:, None, None] * t.weight for f, t in zip(gate.factors.unbind(1), gate.terms, strict=True))
    bias = sum(f[:, None] * t.bias for f, t in zip(gate.factors.unbind(1), gate.terms, strict=True))
    return torch.einsum("bog,bg->bo", weight, inputs) + bias


def mix(use: Tensor, used: Tensor, skipped: Tensor) -> Tensor:
    """`use [B]` picks between two states `[S, B, H]`, differentiably."""
    weight = use[None, :, None]
    return weight * used + (1 - weight) * skipped


def train_through(
    network: GatedLevels, features: Mapping[str, Tensor], mask: Tensor, gates: Sequence[TrainingGate]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits `[B, C]`, usage `[B, L - 1]`, and each level's last states `[S, B, H]`; draws as the product does."""
    kept = mask
    if network.training and network.step_dropout:
        kept = mask & (torch.rand(mask.shape) >= network.step_dropout)
    gumbel = -torch.empty(mask.shape[1], len(gates), len(mask), 2).exponential_().log()
    projected = [level.project(features[level.source]) for level in network.levels]
    states = [level.cell.initial(len(mask), projected[0]) for level in network.levels]
    uses = []
    for t in range(mask.shape[1]):
        there = kept[:, t].to(projected[0].dtype)
        seen = projected[0][:, t]
        new, ran = [network.levels[0].cell(seen, states[0])], [torch.ones_like(there)]
        for number, (level, gate, state) in enumerate(
            zip(network.levels[1:], gates, states[1:], strict=True)
        ):
            if isinstance(gate, Given):
                use = gate.use[:, t].to(there.dtype)
            else:
                inputs = torch.cat([seen, state_as_features(state)], dim=-1)
                logits = logits_of(gate, inputs)
                use = gumbel_use(logits, gate.temperature, gumbel[t, number].to(logits.dtype))
            ran.append(use * ran[-1])
            seen = torch.cat([seen, projected[number + 1][:, t]], dim=-1)
            skipped = synchronize(state, new[-1]) if network.synchronize else state
            new.append(mix(ran[-1], level.cell(seen, state), skipped))
        states = [mix(there, after, before) for after, before in zip(new, states, strict=True)]
        uses.append(torch.stack(ran[1:], dim=-1) * there[:, None])
    usage = torch.stack(uses, dim=1).sum(dim=1) / kept.sum(dim=1, keepdim=True).clamp(min=1)
    return network.head(states[-1][0]), usage, states
