"""Which frames to look at if nobody thinks about it: at even distances, or drawn at random.

A draw hangs on the video's key and the step alone: the same in every run, whatever the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.errors import UsageError

Sampling = Literal["uniform", "random"]


def uniform_steps(num_steps: Tensor, num_frames: int) -> list[Tensor]:
    """The centres of `num_frames` equal parts of each video, as a list of `[B]` step indices.

    A video with fewer steps is looked at once per step; its surplus indices are -1. `num_frames` 0: every step.
    """
    count = num_frames or int(num_steps.max())
    steps = []
    for i in range(count):
        wanted = num_steps.clamp(max=count)
        index = ((2 * i + 1) * num_steps).div(2 * wanted.clamp(min=1), rounding_mode="floor")
        steps.append(torch.where(wanted > i, index, torch.full_like(index, -1)))
    return steps


def random_steps(num_steps: Tensor, video_keys: Tensor, num_frames: int) -> list[Tensor]:
    """`num_frames` different steps of each video, drawn by its key and put in order of time.

    As `uniform_steps`: a list of `[B]` step indices, -1 for those that a short video lacks; 0: every step. What
    is drawn for a video hangs on its key `[B]` and length alone, and more frames are those of fewer and others.
    """
    longest = int(num_steps.max())
    count = num_frames or longest
    hashes = torch.stack([uniform_hash(video_keys, step) for step in range(longest)], dim=1)
    absent = torch.arange(longest, device=num_steps.device) >= num_steps[:, None]
    drawn = hashes.masked_fill(absent, 2.0).argsort(dim=1, stable=True)[:, :count]
    drawn = drawn.masked_fill(drawn >= num_steps[:, None], longest).sort(dim=1).values
    drawn = drawn.masked_fill(drawn == longest, -1)
    return list(nn.functional.pad(drawn, (0, count - drawn.shape[1]), value=-1).T)


def sampled_steps(sampling: Sampling, num_steps: Tensor, video_keys: Tensor, num_frames: int) -> list[Tensor]:
    """`uniform_steps` or `random_steps` of videos with `[B]` steps: `[B]` per frame, -1 where there is none."""
    if sampling == "uniform":
        return uniform_steps(num_steps, num_frames)
    return random_steps(num_steps, video_keys, num_frames)


def check_sampling(sampling: str) -> None:
    """Raises `UsageError` unless `sampling` is known."""
    if sampling not in ("uniform", "random"):
        raise UsageError(f"unknown sampling: {sampling!r}", "Allowed: uniform, random.")


def gathered(features: Tensor, index: Tensor) -> Tensor:
    """Features `[B, T_all, D]` at steps `[B, T]`; -1 gives those of step 0, for the caller to mask."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return features[rows, index.clamp(min=0)]


def without_some(valid: Tensor, share: float) -> Tensor:
    """`valid` `[B, T]` bool with a random `share` of each video's steps left out; never all of them."""
    if share == 0:
        return valid
    kept = valid & (torch.rand(valid.shape, device=valid.device) >= share)
    return torch.where(kept.any(dim=1, keepdim=True), kept, valid)
