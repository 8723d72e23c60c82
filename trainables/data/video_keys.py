"""What is drawn for a video by its id alone: the same on every machine, in every process and whatever the batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def video_key(video_id: str) -> int:
    """63-bit hash of a video's id, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big") >> 1


def uniform_hash(keys: Tensor, step: int) -> Tensor:
    """`[B]` int64 keys and a step to `[B]` floats in [0, 1), evenly spread (splitmix64's finaliser)."""
    # Tensors of int64 wrap around, which is what the mixing wants; Python's integers would overflow.
    mixed = keys + torch.full_like(keys, step + 1) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return ((mixed >> 11) & ((1 << 52) - 1)).to(torch.float64) / (1 << 52)
