"""Scores of single frames and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.layers.coarse_to_fine import READ_FINE
from paretovid.trainables.layers.functional import probabilities
from paretovid.trainables.outcome import Batch, Loss
from paretovid.trainables.provider import Provider


def mark_read(decisions: Tensor, index: Tensor, value: int = READ_FINE) -> None:
    """Notes in decisions `[B, T]`, in place, that the steps `[B]` were read (-1: none)."""
    rows = torch.nonzero(index >= 0).flatten()
    decisions[rows, index[rows]] = value


def score_loss(scores: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Scalar: minus the log-likelihood of targets `[B, C]` under probabilities `[B, C]`."""
    scores = scores.clamp(1e-6, 1 - 1e-6)
    likelihood = targets * scores.log()
    if multi_label:
        likelihood = likelihood + (1 - targets) * (1 - scores).log()
    return -likelihood.sum(dim=-1).mean()


@final
class FrameScores(nn.Module):
    """A linear classifier per source on single frames, averaged in probability.

    Arguments:
        widths: D of the sources to use.
    """

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

    def mean(self, batch: Batch) -> Tensor:
        """Each video's score over all its frames, `[B, C]`."""
        scores = self(batch.features) * batch.mask[..., None]
        answer: Tensor = scores.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)
        return answer

    def loss(self, batch: Batch) -> Loss:
        """Of the mean score against the video's label."""
        loss = score_loss(self.mean(batch), batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def component_costs(self, prefix: str) -> dict[str, ComponentCost]:
        """Measured cost of each source's head, `<prefix>.<source>_head`."""
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
