"""Classifiers over the timesteps that a selector opened, besides VideoEpitoma's own (`temporal_attention.py`).

For selectors that were trained by themselves: what they select can go to any classifier ("VideoEpitoma: Efficient
Recognition of Long-range Actions", section 4.2). All have the interface of `VideoClassifier`: `project` a timestep,
answer from projected timesteps and gates, and say what an answer costs.

B videos, T timesteps, D width of the heavy source, P projected, C classes.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.gated_recurrence import Cell, Projection
from paretovid.trainables.method import probabilities
from paretovid.trainables.provider import Provider
from paretovid.trainables.temporal_attention import VideoClassifier

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
        state = self.cell.initial(len(projected), projected)
        for step in range(projected.shape[1]):
            moved = self.cell(projected[:, step] * gates[:, step, None], state)
            state = torch.where((gates[:, step] > 0)[None, :, None], moved, state)
        return self.head(state[0])

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
