"""Self-attention over the timesteps of a video that are open, and VideoEpitoma's classifier on top of it.

"VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under review), section 3; the attention is
the non-local block (embedded Gaussian) of X. Wang, R. Girshick, A. Gupta, K. He: "Non-local Neural Networks", CVPR
2018, on pooled features.

Cost depends on how many timesteps n are open: a part grows with n, a part with n^2. Both are components of their
own, so that calls times cost is exact.

B videos, T timesteps, D width, H inner width, C classes.

Classifiers over the timesteps that a selector opened, besides VideoEpitoma's own (`layers/temporal_attention.py`).

For selectors that were trained by themselves: what they select can go to any classifier ("VideoEpitoma: Efficient
Recognition of Long-range Actions", section 4.2). All have the interface of `VideoClassifier`: `project` a timestep,
answer from projected timesteps and gates, and say what an answer costs.

B videos, T timesteps, D width of the heavy source, P projected, C classes.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.layers.functional import probabilities
from paretovid.trainables.layers.recurrent import Cell, Projection
from paretovid.trainables.provider import Provider
from paretovid.trainables.recurrence.levels import last_hidden
from paretovid.trainables.recurrence.packing import Packed

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
        answer: Tensor = features + self.out(torch.bmm(weights, self.value(features)))
        return answer


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
        answer: Tensor = self.head(attended.sum(dim=1) / is_open.sum(dim=1, keepdim=True).clamp(min=1))
        return answer

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


ClassifierKind = Literal["attention", "mean", "lstm"]
CLASSIFIERS = ("attention", "mean", "lstm")


@final
class MeanClassifier(nn.Module):
    """The mean of what each open timestep says by itself, weighted by the gates."""

    def __init__(
        self, *, width: int, projection: int, dropout: float, num_classes: int, multi_label: bool, prefix: str
    ) -> None:
        super().__init__()
        self.feature_width, self.width = width, projection
        self.multi_label = multi_label
        self.step_component = f"{prefix}.classifier_step"
        self.project = Projection(width, projection, dropout)
        self.head = nn.Linear(projection, num_classes)

    def forward(self, projected: Tensor, gates: Tensor) -> Tensor:
        """Logits `[B, C]` of the mean probability, from projected timesteps `[B, T, P]` and gates `[B, T]`."""
        each = probabilities(self.head(projected), self.multi_label) * gates[..., None]
        mean = each.sum(dim=1) / gates.sum(dim=1, keepdim=True).clamp(min=1e-6)
        mean = mean.clamp(1e-6, 1 - 1e-6)
        return torch.logit(mean) if self.multi_label else mean.log()

    def calls(self, is_open: Tensor) -> dict[str, Tensor]:
        """Component to calls `[B]` of one answer."""
        return {self.step_component: is_open.sum(dim=1)}

    def charge(self, provider: Provider, is_open: Tensor) -> None:
        """Counts one answer over the open timesteps `[B, T]`."""
        for name, count in self.calls(is_open).items():
            provider.charge(name, count)

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost per open timestep."""
        example = next(self.parameters())
        step = measure_macs(self.project, example.new_zeros(1, self.feature_width))
        step += measure_macs(self.head, example.new_zeros(1, self.width))
        return {self.step_component: ComponentCost(macs=step, input=f"{self.feature_width} features")}


@final
class LstmClassifier(nn.Module):
    """An LSTM through the open timesteps in their order, the answer read at the last."""

    def __init__(
        self, *, width: int, projection: int, hidden: int, dropout: float, num_classes: int, prefix: str
    ) -> None:
        super().__init__()
        self.feature_width, self.width = width, projection
        self.step_component, self.head_component = f"{prefix}.classifier_step", f"{prefix}.classifier_head"
        self.project = Projection(width, projection, dropout)
        self.cell = Cell("lstm", projection, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, projected: Tensor, gates: Tensor) -> Tensor:
        """Logits `[B, C]` from projected timesteps `[B, T, P]` and gates `[B, T]`."""
        if not torch.is_grad_enabled():
            return self._by_steps(projected, gates)
        packed = Packed.of(gates > 0)
        opened = packed.select(projected) * packed.select(gates)[:, None]
        answer: Tensor = self.head(last_hidden(packed, self.cell.cell, opened))
        return answer

    def _by_steps(self, projected: Tensor, gates: Tensor) -> Tensor:
        """The same, step by step: what an answer costs is counted of these operators."""
        state = self.cell.initial(len(projected), projected)
        for step in range(projected.shape[1]):
            moved = self.cell(projected[:, step] * gates[:, step, None], state)
            state = torch.where((gates[:, step] > 0)[None, :, None], moved, state)
        answer: Tensor = self.head(state[0])
        return answer

    def calls(self, is_open: Tensor) -> dict[str, Tensor]:
        """Component to calls `[B]` of one answer."""
        count = is_open.sum(dim=1)
        return {self.step_component: count, self.head_component: torch.ones_like(count)}

    def charge(self, provider: Provider, is_open: Tensor) -> None:
        """Counts one answer over the open timesteps `[B, T]`."""
        for name, count in self.calls(is_open).items():
            provider.charge(name, count)

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost per open timestep and per answer."""
        example = next(self.parameters())
        step = measure_macs(self.project, example.new_zeros(1, self.feature_width))
        state = self.cell.initial(1, example)
        step += measure_macs(self.cell, example.new_zeros(1, self.width), state)
        head = measure_macs(self.head, state[0])
        return {
            self.step_component: ComponentCost(macs=step, input=f"{self.feature_width} features"),
            self.head_component: ComponentCost(macs=head, input=f"{state.shape[-1]} units"),
        }


def build_classifier(
    kind: ClassifierKind,
    *,
    width: int,
    projection: int,
    hidden: int,
    dropout: float,
    num_classes: int,
    multi_label: bool,
    prefix: str,
) -> VideoClassifier | MeanClassifier | LstmClassifier:
    """The classifier of that kind on a source of D = `width`; `hidden`: of its MLP, or of its LSTM."""
    if kind == "mean":
        return MeanClassifier(
            width=width,
            projection=projection,
            dropout=dropout,
            num_classes=num_classes,
            multi_label=multi_label,
            prefix=prefix,
        )
    if kind == "lstm":
        return LstmClassifier(
            width=width,
            projection=projection,
            hidden=hidden,
            dropout=dropout,
            num_classes=num_classes,
            prefix=prefix,
        )
    return VideoClassifier(
        width=width,
        projection=projection,
        hidden=hidden,
        dropout=dropout,
        num_classes=num_classes,
        prefix=prefix,
    )
