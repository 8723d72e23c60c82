"""YAMNet: MobileNetV1 on log-mel spectrograms, trained on AudioSet.

Network: A. G. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861, Table 1, on one channel. Training and input: M. Plakal, D. Ellis, "YAMNet"
(github.com/tensorflow/models, research/audioset/yamnet), which is what AdaFrame and HCMS call MobileNetV1
pretrained on AudioSet.

Parameters are named as in the PyTorch port of its weights (github.com/w-hc/torch_audioset, `yamnet.pth`), so that
its file fits; its classifier of 521 sounds is left out. Padding and the epsilon of the normalisation are
TensorFlow's, where the weights were trained.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from paretovid.trainables.backbones.networks.same_padding import pad_same

FEATURE_WIDTH = 1024
# Stride and width of the depthwise separable layers, after a full convolution to 32.
_LAYERS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512) for _ in range(5)),
    (2, 1024),
    (1, 1024),
)


@final
class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, width: int, outputs: int, *, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, outputs, kernel, stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(pad_same(x, self.conv.kernel_size, self.conv.stride))))


def _separable(width: int, outputs: int, stride: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        depthwise_conv=_Unit(width, width, kernel=3, stride=stride, groups=width),
        pointwise_conv=_Unit(width, outputs, kernel=1, stride=1),
    )
    return nn.Sequential(layers)


@final
class YamNet(nn.Module):
    """Log-mel patches `[B, 1, mels, bins]`, usually 64 x 96, to features `[B, 1024]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(OrderedDict(fused=_Unit(1, 32, kernel=3, stride=2)))
        width = 32
        for number, (stride, outputs) in enumerate(_LAYERS, start=2):
            self.add_module(f"layer{number}", _separable(width, outputs, stride))
            width = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Log-mel spectrograms `[B, 1, M, T]`, M bands of T times, to features `[B, D]`."""
        x = x.transpose(2, 3)  # its weights were trained on time by mel
        for layer in self.children():
            x = layer(x)
        return x.mean(dim=(2, 3))
