"""Which training videos backbones learn from, where others are kept for what selects among them.

Both sides work it out from the videos' ids alone: the training of backbones, and a method that must not learn from
videos that its pool has seen.
"""

from __future__ import annotations

from torch import Tensor

from paretovid.trainables.frame_order import uniform_hash

_SALT = 1_000_003  # as a step: no step's own draw


def is_for_backbones(video_keys: Tensor, share: float) -> Tensor:
    """Which training videos, by the hash of their ids `[B]` int64, are among the `share` for backbones, `[B]` bool."""
    return uniform_hash(video_keys, _SALT) < share
