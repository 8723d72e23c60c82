"""Networks of torchvision, PyTorchVideo and timm without their classifiers.

Each function gives a builder for `ComponentSpec.trunk`. Parameters keep the names that the library gives them, so
that its published weights fit once the classifier's are left out. PyTorchVideo (extra `motion`) and timm (extra
`paper`) are imported when one of their networks is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from paretovid.trainables.data.videos import InputSpec
from paretovid.trainables.errors import UsageError

Builder = Callable[[InputSpec, int], nn.Module]
"""`(input, feature_width)` to a module from normalised input to features `[B, feature_width]`."""


def torchvision_trunk(name: str, *, head: str) -> Builder:
    """A network of torchvision. `head`: the attribute that holds its classifier."""

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from torchvision.models import get_model

        network = get_model(name, weights=None)
        setattr(network, head, nn.Identity())
        answer: nn.Module = network
        return answer

    return build


def resnet_v1(name: str) -> Builder:
    """A bottleneck ResNet whose stages shrink the picture in their first 1x1 convolution, as the paper has it.

    K. He, X. Zhang, S. Ren, J. Sun: "Deep Residual Learning for Image Recognition", CVPR 2016. torchvision's
    ("v1.5") shrink it in the 3x3 convolution, which costs 6 % more for 50 layers.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        network = torchvision_trunk(name, head="fc")(spec, feature_width)
        for stage in ("layer2", "layer3", "layer4"):
            first = network.get_submodule(stage)[0]  # type: ignore[index]
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        return network

    return build


def timm_trunk(name: str) -> Builder:
    """A network of timm."""

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        try:
            import timm
        except ModuleNotFoundError as error:
            if error.name != "timm":
                raise
            raise UsageError(
                f"{name} needs timm, which is not installed", "pip install 'paretovid[paper]'."
            ) from error
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        return network

    return build


def x3d(*, depth_factor: float) -> Builder:
    """PyTorchVideo's X3D. C. Feichtenhofer: "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020.

    Arguments:
        depth_factor: of the layers per stage: 2.2 for XS, S and M, 5.0 for L.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from pytorchvideo.models.x3d import create_x3d

        network: nn.Module = create_x3d(
            input_clip_length=spec.num_frames,
            input_crop_size=spec.size,
            depth_factor=depth_factor,
            head_dim_out=feature_width,
        )
        return _without_head(network)

    return build


@final
class _SlowFast(nn.Module):
    """Both pathways of SlowFast from one snippet; the slow one sees every fourth frame."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks = network.blocks

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        # As in its training: from the first frame to the last, not strictly every fourth.
        count = frames // 4
        slow = [i * (frames - 1) // (count - 1) for i in range(count)]
        pathways: Any = [x[:, :, slow], x]
        for block in self.blocks:
            pathways = block(pathways)
        features: Tensor = pathways
        return features


def slowfast() -> Builder:
    """PyTorchVideo's SlowFast with ResNet-50, 8x8: 8 slow and 32 fast frames.

    C. Feichtenhofer, H. Fan, J. Malik, K. He: "SlowFast Networks for Video Recognition", ICCV 2019.
    """

    def build(spec: InputSpec, feature_width: int) -> nn.Module:
        from pytorchvideo.models.slowfast import create_slowfast

        return _without_head(_SlowFast(create_slowfast(slowfast_fusion_conv_kernel_size=(7, 1, 1))))

    return build


def _without_head(network: Any) -> nn.Module:
    """One of PyTorchVideo's networks up to its pooled penultimate layer."""
    head = network.blocks[-1]
    head.proj, head.dropout, head.activation = nn.Identity(), None, None
    module: nn.Module = network
    return module
