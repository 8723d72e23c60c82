"""Which steps of which videos take part in a training step, in an order that needs no masks.

Videos are sorted by how many of their steps take part; the k-th of these steps of all videos follow each other, and so
a step of a recurrent network is a run of rows, at most as many as before it. Steps that do not take part are nowhere.

B videos, T steps, K the most steps of a video that take part, N rows: all steps that take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Packed:
    """The rows of a batch. States lie in blocks: B rows before the first step, then the rows after each step."""

    rows: Tensor
    """`[N]` int64: place of each row in `[B * T]`."""
    sizes: tuple[int, ...]
    """Rows of each of the K steps, never rising."""
    counts: Tensor
    """`[B]` int64: steps of each video that take part."""
    by_length: Tensor
    """`[B]` int64: the videos in the order in which each step has them."""
    last: Tensor
    """`[B]` int64: row of each video's last state among `[B + N]`."""
    before: Tensor
    """`[N]` int64: row of the state before each row's step, among `[B + N]`."""

    @classmethod
    def of(cls, kept: Tensor) -> Self:
        """Of the steps `kept` `[B, T]` bool."""
        videos, steps = kept.shape
        counts = kept.sum(dim=1)
        # The place of a video among those sorted by length, and of a step among those of its video that take part.
        by_length = counts.argsort(descending=True, stable=True)
        place = by_length.argsort()
        rank = kept.cumsum(dim=1) - 1
        key = (rank * videos + place[:, None]).masked_fill(~kept, steps * videos)
        numbers = torch.arange(steps, device=kept.device)
        each = (counts > numbers[:, None]).sum(dim=1)
        sizes = tuple(size for size in each.tolist() if size)
        count = sum(sizes)
        order = key.flatten().argsort()[:count]
        # Where the block of states after k steps begins: B rows are before the first.
        begin = torch.nn.functional.pad(each.cumsum(0) + videos, (2, 0))
        begin[1] = videos
        key = key.flatten()[order]
        before = begin[key.div(videos, rounding_mode="floor")] + key % videos
        return cls(order, sizes, counts, by_length, begin[counts] + place, before)

    @property
    def num_videos(self) -> int:
        """B."""
        return len(self.counts)

    @property
    def videos(self) -> Tensor:
        """`[N]` int64: the video of each row."""
        return torch.cat([self.by_length[:size] for size in self.sizes] or [self.by_length[:0]])

    def select(self, values: Tensor) -> Tensor:
        """`[B, T, ...]` to the rows `[N, ...]`."""
        return values.flatten(0, 1).index_select(0, self.rows)

    def select_at(self, values: Tensor, steps: Tensor) -> Tensor:
        """The rows `[N, ...]` of values `[B, T, ...]` of which `steps` `[B, K]` says where in T each step lies."""
        first = torch.arange(len(steps), device=steps.device)[:, None] * values.shape[1]
        return values.flatten(0, 1).index_select(0, self.select(first + steps))

    def sum_by_video(self, values: Tensor, num_steps: int) -> Tensor:
        """`[N]` added up over each video's rows, `[B]`; `num_steps`: T."""
        whole = values.new_zeros(self.num_videos * num_steps).index_copy(0, self.rows, values)
        return whole.view(self.num_videos, num_steps).sum(dim=1)
