"""The small family of backbones, which is trained here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.backbones.spec import ComponentSpec, Recipe
from paretovid.trainables.data.videos import InputSpec

# torchvision is imported where a network is built: it brings torch's compiler with it, two seconds in each of the many
# processes that only read features.


def _mobilenet_v2(
    width_mult: float, setting: Sequence[Sequence[int]] | None, *, channels: int = 3
) -> Callable[[InputSpec, int], nn.Module]:
    """torchvision's MobileNetV2; its last 1x1 convolution gives the feature width instead of 1280."""

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from torchvision.models import MobileNetV2
        from torchvision.ops.misc import Conv2dNormActivation

        stages = None if setting is None else [list(row) for row in setting]
        features = MobileNetV2(1, width_mult=width_mult, inverted_residual_setting=stages).features
        if channels != 3:
            width = features[0][0].out_channels
            features[0] = Conv2dNormActivation(channels, width, stride=2, activation_layer=nn.ReLU6)
        features[-1] = Conv2dNormActivation(
            features[-1][0].in_channels, feature_width, kernel_size=1, activation_layer=nn.ReLU6
        )
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    return build


def _resnet(widths: Sequence[int]) -> Callable[[InputSpec, int], nn.Module]:
    """One of torchvision's basic blocks per width, each after the first halving the picture.

    Maxima over places, not means: what decides is small and somewhere, and is learnt in half the samples. Of a flow
    all frames are channels, as in the temporal stream of two-stream networks (Simonyan and Zisserman, 2014).
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from torchvision.models.resnet import BasicBlock
        from torchvision.ops.misc import Conv2dNormActivation

        assert feature_width == widths[-1], "a ResNet's features are as wide as its last stage"
        blocks = [BasicBlock(widths[0], widths[0])]
        for before, width in itertools.pairwise(widths):
            shortcut = Conv2dNormActivation(before, width, kernel_size=1, stride=2, activation_layer=None)
            blocks.append(BasicBlock(before, width, 2, shortcut))
        pooled = (nn.AdaptiveMaxPool2d(1), nn.Flatten())
        if spec.kind == "flow":
            stem = Conv2dNormActivation(2 * (spec.num_frames - 1), widths[0], stride=2)
            return nn.Sequential(nn.Flatten(1, 2), stem, *blocks, *pooled)
        stem = Conv2dNormActivation(3, widths[0], stride=2)
        return nn.Sequential(stem, *blocks, *pooled)

    return build


@final
class _FrameDifferences(nn.Module):
    """`[B, 3, F, S, S]` to the F - 1 changes between neighbouring frames: motion without what stands still."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:] - x[:, :, :-1]


@final
class _FramesAndDifferences(nn.Module):
    """`[B, 3, F, S, S]` to `[B, 6, F - 1, S, S]`: each frame but the last, and its change to the next."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :-1], x[:, :, 1:] - x[:, :, :-1]], dim=1)


def _x3d(
    *, stem_width: int, width_factor: float, strides: Sequence[int], on_differences: bool = True
) -> Callable[[InputSpec, int], nn.Module]:
    """PyTorchVideo's X3D up to the penultimate layer, on frame differences or on the frames.

    One block or two per stage, blocks without expansion and squeeze-excitation: depthwise 3-D convolutions
    are slow on CPUs. Differences (as in Temporal Segment Networks) as it starts from nothing: from 5,000
    samples it names the direction in 100 % of the validation steps that show one, from frames in 73 %.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        # Only who asks for motion needs PyTorchVideo (the extra `motion`).
        from pytorchvideo.models.x3d import create_x3d

        x3d = create_x3d(
            input_clip_length=spec.num_frames - int(on_differences),
            input_crop_size=spec.size,
            stem_dim_in=stem_width,
            width_factor=width_factor,
            depth_factor=0.3,
            bottleneck_factor=1.0,
            se_ratio=0.0,
            stage_spatial_stride=tuple(strides),
            head_dim_out=feature_width,
            head_activation=None,
        )
        head = x3d.blocks[-1]
        head.pool.pool = nn.AdaptiveMaxPool3d(1)
        head.proj, head.dropout = nn.Identity(), None
        return nn.Sequential(_FrameDifferences(), x3d) if on_differences else x3d

    return build


def _efficientnet(stages: Sequence[tuple[int, int, int, int, int]]) -> Callable[[InputSpec, int], nn.Module]:
    """torchvision's EfficientNet; its last 1x1 convolution gives the feature width.

    Arguments:
        stages: expansion, kernel size, stride, width and number of blocks, each. The first width is the stem's too.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from torchvision.models import EfficientNet
        from torchvision.models.efficientnet import MBConvConfig

        widths = [stages[0][3], *(stage[3] for stage in stages)]
        settings = [
            MBConvConfig(expand, kernel, stride, before, width, depth)
            for before, (expand, kernel, stride, width, depth) in zip(widths, stages, strict=False)
        ]
        network = EfficientNet(settings, dropout=0.0, num_classes=1, last_channel=feature_width)
        # Maxima over places, as in the other networks here: what decides may be small.
        return nn.Sequential(network.features, nn.AdaptiveMaxPool2d(1), nn.Flatten())

    return build


def _resnet_3d(widths: Sequence[int]) -> Callable[[InputSpec, int], nn.Module]:
    """One of torchvision's 3-D basic blocks per width on frames and their changes; the first leaves time alone.

    Each after the first halves picture and time. Maxima over places and time, as in `_resnet`.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from torchvision.models.video.resnet import BasicBlock, Conv3DNoTemporal, Conv3DSimple
        from torchvision.ops.misc import Conv3dNormActivation

        assert feature_width == widths[-1], "a ResNet's features are as wide as its last stage"
        blocks = [BasicBlock(widths[0], widths[0], Conv3DNoTemporal)]
        for before, width in itertools.pairwise(widths):
            shortcut = nn.Sequential(nn.Conv3d(before, width, 1, 2, bias=False), nn.BatchNorm3d(width))
            blocks.append(BasicBlock(before, width, Conv3DSimple, 2, shortcut))
        stem = Conv3dNormActivation(6, widths[0], stride=(1, 2, 2))
        return nn.Sequential(_FramesAndDifferences(), stem, *blocks, nn.AdaptiveMaxPool3d(1), nn.Flatten())

    return build


def _grown(source: str, *, size: int, num_frames: int, widths: Sequence[int], samples: int) -> ComponentSpec:
    """A member of the pool that grows as X3D does: by frames, resolution and width."""
    return ComponentSpec(
        name=f"resnet3d_w{widths[0]}@{num_frames}x{size}",
        source=source,
        input=InputSpec(kind="snippet", size=size, num_frames=num_frames),
        feature_width=widths[-1],
        trunk=_resnet_3d(widths),
        recipe=Recipe(samples=samples, batch_size=16, learning_rate=2e-3),
        classifies=True,
    )


_SPECS = (
    ComponentSpec(
        name="mobilenet_v2_w025@16",
        source="coarse",
        input=InputSpec(kind="frame", size=16),
        feature_width=64,
        trunk=_mobilenet_v2(0.25, [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 2, 1]]),
        recipe=Recipe(samples=24_000, batch_size=32, learning_rate=8e-3),
    ),
    ComponentSpec(
        name="resnet8_w16@64",
        source="fine",
        input=InputSpec(kind="frame", size=64),
        feature_width=64,
        trunk=_resnet((16, 32, 64)),
        recipe=Recipe(samples=24_000, batch_size=32, learning_rate=8e-3, own_groups=("appearance",)),
    ),
    ComponentSpec(
        name="x3d_w200@8x40",
        source="motion",
        input=InputSpec(kind="snippet", size=40, num_frames=8),
        feature_width=64,
        trunk=_x3d(stem_width=12, width_factor=2.0, strides=(2, 2, 2, 1)),
        recipe=Recipe(samples=4_800, batch_size=16, learning_rate=6e-3, own_groups=("motion",)),
    ),
    ComponentSpec(
        name="mobilenet_v2_w050_logmel@32x32",
        source="audio",
        input=InputSpec(kind="logmel", size=32, num_frames=32),
        feature_width=64,
        trunk=_mobilenet_v2(0.5, [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 2, 2], [4, 64, 1, 2]], channels=1),
        recipe=Recipe(samples=8_000, batch_size=32, learning_rate=8e-3, own_groups=("sound",)),
    ),
)
# For clips of 16 frames at 16 per second; what "RGB differences" sees is the motion component of the small family.
_CLIP_SPECS = (
    ComponentSpec(
        name="x3d_w100@16x32",
        source="appearance",
        input=InputSpec(kind="snippet", size=32, num_frames=16),
        feature_width=64,
        trunk=_x3d(stem_width=8, width_factor=1.0, strides=(2, 2, 2, 1), on_differences=False),
        recipe=Recipe(samples=6_400, batch_size=16, learning_rate=6e-3),
    ),
    ComponentSpec(
        name="resnet8_w32_flow@16x48",
        source="flow",
        input=InputSpec(kind="flow", size=48, num_frames=16),
        feature_width=128,
        trunk=_resnet((32, 64, 128)),
        recipe=Recipe(samples=6_400, batch_size=16, learning_rate=4e-3),
    ),
)
# X3D's way of growing on plain 3-D ResNets, each two to four times the cost of the one before. Not X3D itself: after
# the 20,000 samples that a CPU can train in minutes, one of 14 MMAC named movements, and digits by chance.
_X3D_POOL = (
    _grown("xs", size=20, num_frames=4, widths=(8, 16, 32), samples=24_000),
    _grown("s", size=28, num_frames=4, widths=(12, 24, 48), samples=24_000),
    _grown("m", size=36, num_frames=6, widths=(12, 24, 48), samples=28_000),
    _grown("l", size=48, num_frames=6, widths=(16, 32, 64), samples=22_000),
)
_EFFICIENTNET = ComponentSpec(
    name="efficientnet_small@40",
    source="b0",
    input=InputSpec(kind="frame", size=40),
    feature_width=64,
    trunk=_efficientnet([(1, 3, 1, 16, 1), (4, 3, 2, 24, 1), (4, 5, 2, 32, 1), (4, 3, 1, 48, 1)]),
    recipe=Recipe(samples=32_000, batch_size=16, learning_rate=2e-3),
    classifies=True,
)
_MIXED_POOL = (_EFFICIENTNET, _X3D_POOL[2])
