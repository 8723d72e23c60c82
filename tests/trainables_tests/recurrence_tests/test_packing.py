"""Rows of the steps that take part."""

from __future__ import annotations

import torch

from paretovid.trainables.recurrence.packing import Packed


def test_rows_are_sorted_by_step_and_falling_length() -> None:
    kept = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    packed = Packed.of(kept)
    # Video 2 has three steps, 0 two, 3 one, 1 none.
    assert packed.rows.tolist() == [8, 0, 13, 9, 3, 10]
    assert packed.sizes == (3, 2, 1) and packed.counts.tolist() == [2, 0, 3, 1]
    # Four rows before the first step, then 4 to 6 after it, 7 and 8 after the second, 9 after the third.
    assert packed.before.tolist() == [0, 1, 2, 4, 5, 7]
    assert packed.last.tolist() == [8, 3, 9, 6]


def test_values_are_selected_and_added_up_by_video() -> None:
    kept = torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = Packed.of(kept)
    values = torch.arange(77.0).view(7, 11)
    assert sorted(packed.select(values).tolist()) == values[kept].tolist()
    sums = packed.sum_by_video(packed.select(values), 11)
    assert torch.equal(sums, (values * kept).sum(dim=1))
    assert packed.select(values[..., None].expand(7, 11, 3)).shape == (int(kept.sum()), 3)


def test_a_batch_without_any_step() -> None:
    packed = Packed.of(torch.zeros(3, 4, dtype=torch.bool))
    assert packed.sizes == () and packed.last.tolist() == [0, 1, 2] and len(packed.rows) == 0
    assert packed.sum_by_video(torch.zeros(0), 4).tolist() == [0, 0, 0]
