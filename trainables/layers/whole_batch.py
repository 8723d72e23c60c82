"""Sums over a batch of which several workers hold a part each.

A loss that is a mean over videos needs nothing of this: the trainer weighs each worker's loss by its share of the
videos and averages the gradients. What is computed from the whole batch first (a mean that is squared, a ratio of two
sums, pairs of videos) is computed with these, and is then the same number on every worker.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Sum(torch.autograd.Function):
    """All workers' values, added up. A worker's value is in every worker's result, so gradients add up, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


def sum_over_workers(values: Tensor, workers: int) -> Tensor:
    """`values` `[...]` of all workers added up, in the same shape; differentiable. All workers must call it, in turn.

    Arguments:
        workers: as `Batch.workers`; 1: `values` themselves.
    """
    if workers == 1:
        return values
    return _Sum.apply(values)  # type: ignore[no-any-return]


def rows_of_all_workers(values: Tensor, workers: int) -> Tensor:
    """`[B, ...]` of each worker, B differing, as one `[sum of B, ...]`, in the order of the ranks; differentiable."""
    if workers == 1:
        return values
    counts = torch.zeros(workers, dtype=torch.long, device=values.device)
    rank = torch.distributed.get_rank()
    counts[rank] = len(values)
    counts = sum_over_workers(counts, workers)
    before, after = int(counts[:rank].sum()), int(counts[rank + 1 :].sum())
    padded = torch.cat(
        [values.new_zeros(before, *values.shape[1:]), values, values.new_zeros(after, *values.shape[1:])]
    )
    return sum_over_workers(padded, workers)


def same_for_workers(values: Tensor, workers: int) -> Tensor:
    """What the first worker has drawn, `[...]`, without gradient; `values` themselves of one worker."""
    if workers == 1:
        return values
    values = values.clone()
    torch.distributed.broadcast(values, src=0)
    return values


def shares_of_places(like: Tensor, workers: int) -> Tensor:
    """Where in the batch each video of this worker's part `like` `[B, ...]` is, from 0 (the first) to below 1, `[B]`.

    As the trainer deals videos out: a worker has every `workers`-th.
    """
    places = torch.arange(len(like), device=like.device, dtype=torch.float64)
    if workers == 1:
        return places / len(like)
    total = sum_over_workers(torch.tensor(float(len(like)), device=like.device), workers)
    return (places * workers + torch.distributed.get_rank()) / float(total)
