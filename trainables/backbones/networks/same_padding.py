"""TensorFlow's "SAME" padding, which networks that were trained there expect.

With stride s, an axis of n values becomes ceil(n / s); what has to be added for that is split between both ends,
the odd value at the far one. PyTorch's own padding puts as much at either end, which shifts every strided layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """`[B, C, n_1, ..., n_d]` with zeros around it, for a convolution or pooling of `kernel` and `stride` `[d]`."""
    padding: list[int] = []
    for size, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad begins with the last axis
    return F.pad(x, padding) if any(padding) else x
