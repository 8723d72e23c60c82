"""Self-attention over the timesteps of a video that are open, and VideoEpitoma's classifier on top of it.

"VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under review), section 3; the attention is
the non-local block (embedded Gaussian) of X. Wang, R. Girshick, A. Gupta, K. He: "Non-local Neural Networks", CVPR
2018, on pooled features.

Cost depends on how many timesteps n are open: a part grows with n, a part with n^2. Both are components of their
own, so that calls times cost is exact.

B videos, T timesteps, D width, H inner width, C classes.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.gated_recurrence import Projection
from paretovid.trainables.provider import Provider

_MASKED = -1e9  # finite, so that a video without any open timestep attends to zeros instead of making NaN


@final
class SelfAttention(nn.Module):
    """A residual layer of scaled dot-product self-attention, one head, without positions.

    Closed timesteps are no keys: they get exactly no weight.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(inner)
        # A bias of the keys would add the same to all of a query's logits, which softmax forgets.
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, features: Tensor, is_open: Tensor) -> Tensor:
        """`[B, T, D]` and `[B, T]` bool to `[B, T, D]`; what comes out at closed timesteps means nothing."""
        logits = torch.bmm(self.query(features), self.key(features).transpose(1, 2)) * self.scale
        weights = torch.softmax(logits.masked_fill(~is_open[:, None], _MASKED), dim=-1)
        return features + self.out(torch.bmm(weights, self.value(features)))


def step_and_pair_macs(module: nn.Module, *example: Tensor) -> tuple[int, int]:
    """(a, b) of a module that costs a n + b n^2 multiply-accumulates over n timesteps, measured.

    Arguments:
        example: inputs `[1, 1, ...]`, stretched over time.
    """
    one, two = (
        measure_macs(module, *(e.expand(1, n, *e.shape[2:]).contiguous() for e in example)) for n in (1, 2)
    )
    pair = (two - 2 * one) // 2
    return one - pair, pair


@final
class VideoClassifier(nn.Module):
    """Projection, self-attention over open timesteps, mean over them, and an MLP of two layers (section 3).

    Arguments:
        width: D of the source.
        projection: width that timesteps are projected to.
        hidden: units between the two layers of the MLP.
        prefix: the method's name, in front of its components' names.
    """

    def __init__(
        self, *, width: int, projection: int, hidden: int, dropout: float, num_classes: int, prefix: str
    ) -> None:
        super().__init__()
        self.feature_width, self.width = width, projection
        self.step_component = f"{prefix}.classifier_step"
        self.pair_component = f"{prefix}.classifier_pair"
        self.head_component = f"{prefix}.classifier_head"
        self.project = Projection(width, projection, dropout)
        self.attention = SelfAttention(projection, max(1, projection // 2))
        self.head = nn.Sequential(
            nn.Linear(projection, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )

    def forward(self, projected: Tensor, gates: Tensor) -> Tensor:
        """Logits `[B, C]` from projected timesteps `[B, T, P]` and gates `[B, T]`: 0 is closed, more is importance."""
        is_open = gates > 0
        attended = self.attention(projected * gates[..., None], is_open) * is_open[..., None]
        return self.head(attended.sum(dim=1) / is_open.sum(dim=1, keepdim=True).clamp(min=1))

    def charge(self, provider: Provider, is_open: Tensor) -> None:
        """Counts one answer over the open timesteps `[B, T]`."""
        for name, count in self.calls(is_open).items():
            provider.charge(name, count)

    def calls(self, is_open: Tensor) -> dict[str, Tensor]:
        """Component to calls `[B]` of one answer."""
        count = is_open.sum(dim=1)
        return {
            self.step_component: count,
            self.pair_component: count * count,
            self.head_component: torch.ones_like(count),
        }

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost per open timestep, per pair of them, and per answer."""
        example = next(self.parameters())
        features = example.new_zeros(1, 1, self.width)
        step, pair = step_and_pair_macs(
            self.attention, features, torch.ones(1, 1, dtype=torch.bool, device=example.device)
        )
        step += measure_macs(self.project, example.new_zeros(1, self.feature_width))
        return {
            self.step_component: ComponentCost(macs=step, input=f"{self.feature_width} features"),
            self.pair_component: ComponentCost(macs=pair, input=f"2 x {self.width} values"),
            self.head_component: ComponentCost(
                macs=measure_macs(self.head, features[:, 0]), input=f"{self.width} values"
            ),
        }
