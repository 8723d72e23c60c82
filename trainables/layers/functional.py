"""Functions of tensors that methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """`[..., C]` scores from logits: softmax over classes, or a sigmoid per class if multi-label."""
    return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=-1)


def classification_loss(logits: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Scalar loss of `[B, C]` logits: cross-entropy, or its binary form summed over classes."""
    if multi_label:
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(dim=-1).mean()
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def stack_steps(values: Sequence[Tensor]) -> Tensor:
    """A list of T tensors `[B, ...]` as `[B, T, ...]`."""
    return torch.stack(list(values), dim=1)
