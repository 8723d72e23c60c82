"""3D-ShuffleNet: ShuffleNet with its filters inflated to three dimensions.

O. Köpüklü, N. Kose, A. Gunduz, G. Rigoll: "Resource Efficient 3D Convolutional Neural Networks", ICCV Workshops
2019, Table 2 (3D-ShuffleNetV1), after X. Zhang, X. Zhou, M. Lin, J. Sun: "ShuffleNet: An Extremely Efficient
Convolutional Neural Network for Mobile Devices", CVPR 2018, Table 1.

Parameters are named as in the authors' code (github.com/okankop/Efficient-3DCNNs, `kinetics_shufflenet_*`), so that
its files fit; its classifier is left out.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Width of the three stages by the number of groups, at width 1.
_STAGES = {
    1: (144, 288, 567),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
_STEM = 24
_REPEATS = (4, 8, 4)


def stage_widths(groups: int, width: float) -> tuple[int, ...]:
    """Channels of the stem and of the three stages; the last is the feature width."""
    return tuple(int(channels * width) for channels in (_STEM, *_STAGES[groups]))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of `[B, C, F, S, S]` dealt out over the groups, so that grouped convolutions mix."""
    batch, channels, *rest = x.shape
    return x.view(batch, groups, channels // groups, *rest).transpose(1, 2).reshape(x.shape)


@final
class _Bottleneck(nn.Module):
    def __init__(self, width: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        middle = outputs // 4
        # At a stride, the pooled input is joined to what the convolutions add.
        added = outputs - width if stride == 2 else outputs
        # The stem has too few channels to be split, at width 1.
        first_groups = 1 if width == _STEM else groups
        self.conv1 = nn.Conv3d(width, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = nn.Conv3d(middle, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm3d(added)

    def forward(self, x: Tensor) -> Tensor:
        inner = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        inner = self.bn3(self.conv3(self.bn2(self.conv2(inner))))
        if self.stride == 1:
            return F.relu(inner + x)
        pooled = F.avg_pool3d(x, (2, 3, 3), stride=2, padding=(0, 1, 1))
        return F.relu(torch.cat([inner, pooled], dim=1))


@final
class ShuffleNet3d(nn.Module):
    """`[B, 3, F, S, S]` to features `[B, D]`, D = `stage_widths(groups, width)[-1]`; F and S multiples of 16."""

    def __init__(self, *, groups: int = 3, width: float = 1.0) -> None:
        super().__init__()
        stem, *stages = stage_widths(groups, width)
        self.conv1 = nn.Sequential(
            nn.Conv3d(3, stem, 3, stride=(1, 2, 2), padding=1, bias=False), nn.BatchNorm3d(stem), nn.ReLU()
        )
        before = stem
        for number, (outputs, repeats) in enumerate(zip(stages, _REPEATS, strict=True), start=1):
            blocks = [_Bottleneck(before, outputs, stride=2, groups=groups)]
            blocks += [_Bottleneck(outputs, outputs, stride=1, groups=groups) for _ in range(repeats - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Clips of F frames `[B, C, F, H, W]` to features `[B, D]`."""
        x = F.max_pool3d(self.conv1(x), 3, stride=2, padding=1)
        for number in range(1, len(_REPEATS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean(dim=(2, 3, 4))
