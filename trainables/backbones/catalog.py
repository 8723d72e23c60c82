"""Backbones by name: what each is shown, how wide its features are, what a call costs.

A **backbone** turns what a decoder gives for one step (a frame, a snippet of frames, a log-mel patch) into a
feature vector: its pooled penultimate layer. Normalisation of the input happens inside, so that training,
extraction and prediction cannot differ in it. The classifier on top serves the backbone's own training only;
policies read the features, and the cost of a component leaves it out.

A component that **classifies** is a whole recognizer of single steps, a member of a pool to select from: what is
read of it, stored and paid for are its logits, one per class of the data set, classifier included.

Built from torchvision (MobileNetV2, ResNet, EfficientNet) and PyTorchVideo (X3D). The small family is what the platform
trains by itself in about a minute; its cost ratios coarse : fine : motion are of the papers' kind. The papers' own
backbones are in `paper.py`; they are built and costed alike, but their weights come from elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.data.flow import ZERO
from paretovid.trainables.data.videos import InputSpec
from paretovid.trainables.errors import DataError, unknown_name

WEIGHTS_FILE = "backbone.safetensors"
META_FILE = "backbone.json"


@final
class Backbone(nn.Module):
    """A trunk with its input normalisation, and a classifier for its own training.

    Arguments:
        trunk: normalised input to features `[B, D]`. It is shown `[B, 3, S, S]` for a frame,
            `[B, 3, F, S, S]` for a snippet, `[B, 2, F - 1, S, S]` for a flow, `[B, 1, mels, bins]` for a log-mel
            patch.
        kind: of the input: frame, snippet, flow or logmel.
        feature_width: D.
        num_classes: outputs of the classifier.
        classifies: what it gives are the classifier's logits, not the features below it.
        scale: of the input, as the weights expect it; None: that of the small family.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        kind: str,
        feature_width: int,
        num_classes: int,
        *,
        classifies: bool = False,
        scale: PixelScale | None = None,
    ) -> None:
        super().__init__()
        # Channels last is the layout that decoded frames have already, and twice as fast on CPUs.
        is_3d = any(parameter.dim() == 5 for parameter in trunk.parameters())
        layout = torch.channels_last_3d if is_3d else torch.channels_last
        self.trunk = trunk.to(memory_format=layout)  # type: ignore[call-overload]
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(feature_width, num_classes))
        self.kind = kind
        self.classifies = classifies
        self.width = num_classes if classifies else feature_width
        """D of what `forward` gives."""
        # Movements are small beside what a stored flow can show.
        usual = (float(ZERO), 16.0) if kind == "flow" else (127.5, 64.0)
        mean, std = usual if scale is None else (list(scale.mean), list(scale.std))
        self.register_buffer("input_mean", torch.tensor(mean))
        self.register_buffer("input_std", torch.tensor(std))

    def forward(self, inputs: Tensor | np.ndarray) -> Tensor:
        """What is read of it, `[B, D]` float32: features, or logits if it classifies.

        Arguments:
            inputs: a batch as decoded: uint8 or float, `[B, ...]` as in `InputSpec`.
        """
        features = self.features(inputs)
        return self.classify(features) if self.classifies else features

    def features(self, inputs: Tensor | np.ndarray) -> Tensor:
        """The pooled penultimate layer, `[B, feature_width]`, of a batch as decoded."""
        x = torch.as_tensor(inputs, device=self.input_mean.device).float()
        x = (x - self.input_mean) / self.input_std
        if self.kind == "frame":
            x = x.permute(0, 3, 1, 2)
        elif self.kind in ("snippet", "flow"):
            x = x.permute(0, 4, 1, 2, 3)
        else:
            x = x[:, None]
        features: Tensor = self.trunk(x)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of features `[B, feature_width]`."""
        logits: Tensor = self.head(features)
        return logits


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a component is trained by default: enough for `moving_digits` at its default size."""

    samples: int
    """Drawn in all, over all workers."""
    batch_size: int
    """Over all workers."""
    learning_rate: float
    """The highest of a one-cycle schedule."""
    own_groups: tuple[str, ...] = ()
    """Groups of classes that it is there to tell apart; where a data set knows them, they are drawn more often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelScale:
    """What is taken off the input and what the rest is divided by, in the input's own values (0 to 255 of a pixel)."""

    mean: tuple[float, ...]
    """One for all channels, or one each."""
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights that others have published: what to get, and how they are laid out."""

    file: str
    """Its usual name."""
    origin: str
    """Who publishes it."""
    head: tuple[str, ...] = ()
    """How the names of the classifier's parameters begin; they are left out."""
    head_layer: str = ""
    """Of a component that classifies: how the names of its last layer begin, which is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSpec:
    """A backbone before it is built."""

    name: str
    source: str
    """The role that it is made for: coarse, fine, motion or audio; appearance or flow of a clip; in a pool, its name
    there."""
    input: InputSpec
    feature_width: int
    trunk: Callable[[InputSpec, int], nn.Module]
    """`(input, feature_width)` to a module from normalised input to features."""
    recipe: Recipe
    classifies: bool = False
    """What is read of it are logits: a member of a pool to select from."""
    scale: PixelScale | None = None
    weights: Weights | None = None
    """None: the platform trains it from nothing."""
    published_gmacs: float | None = None
    published_source: str | None = None

    def build(self, num_classes: int) -> Backbone:
        """A backbone with fresh weights from torch's global generator."""
        trunk = self.trunk(self.input, self.feature_width)
        return Backbone(
            trunk,
            self.input.kind,
            self.feature_width,
            num_classes,
            classifies=self.classifies,
            scale=self.scale,
        )


def describe_input(spec: InputSpec) -> str:
    """The input for people: `3x64x64` (channels, height, width), `3x8x40x40` (and frames), `2x15x48x48` (two
    directions of flow between frames), `1x32x32`.
    """
    if spec.kind == "frame":
        return f"3x{spec.size}x{spec.size}"
    if spec.kind == "snippet":
        return f"3x{spec.num_frames}x{spec.size}x{spec.size}"
    if spec.kind == "flow":
        return f"2x{spec.num_frames - 1}x{spec.size}x{spec.size}"
    return f"1x{spec.size}x{spec.num_frames}"


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
COMPONENTS: dict[str, ComponentSpec] = {
    spec.name: spec for spec in (*_SPECS, *_CLIP_SPECS, *_X3D_POOL, _EFFICIENTNET)
}
FAMILIES: dict[str, dict[str, str]] = {
    **{
        family_name: {spec.source: spec.name for spec in members}
        for family_name, members in (("small", _SPECS), ("x3d_pool", _X3D_POOL), ("mixed_pool", _MIXED_POOL))
    },
    "localization": {**{spec.source: spec.name for spec in _CLIP_SPECS}, "difference": "x3d_w200@8x40"},
}
"""Family to source to component."""


def component(name: str) -> ComponentSpec:
    """The component of that name. Raises `UnknownNameError` that lists what there is."""
    known = all_components()
    try:
        return known[name]
    except KeyError:
        raise unknown_name("component", name, known) from None


def family(name: str) -> dict[str, str]:
    """Source to component of a family. Raises `UnknownNameError` that lists what there is."""
    from paretovid.trainables.backbones.paper import PAPER_FAMILIES  # which imports this module

    known = {**FAMILIES, **PAPER_FAMILIES}
    try:
        return known[name]
    except KeyError:
        raise unknown_name("backbone family", name, known) from None


@functools.cache
def all_components() -> dict[str, ComponentSpec]:
    """`COMPONENTS`, and the papers' backbones, by name."""
    from paretovid.trainables.backbones.paper import PAPER_SPECS  # which imports this module

    return {**COMPONENTS, **{spec.name: spec for spec in PAPER_SPECS}}


@functools.cache
def measure_component(name: str, num_classes: int | None = None) -> ComponentCost:
    """Cost of one call: of the real module at its real input, batch 1; the classifier only of one that classifies.

    Counted on PyTorch's meta device: the same operators on the same shapes, without weights or arithmetic.

    Arguments:
        num_classes: of the data set; may be left out for a component that does not classify.
    """
    spec = component(name)
    assert num_classes or not spec.classifies, f"{name} classifies: its cost depends on the number of classes"
    # Building draws weights; a measurement must not move a seed.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = spec.build(num_classes or 1)
        inputs = torch.zeros(1, *spec.input.shape)
    return ComponentCost(
        macs=measure_macs(backbone, inputs),
        input=describe_input(spec.input),
        published_gmacs=spec.published_gmacs,
        published_source=spec.published_source,
    )


def save_backbone(folder: Path, name: str, backbone: Backbone, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Writes weights, then the JSON that names their digest: with the JSON, the folder is whole.

    Arguments:
        name: of the component that `backbone` was built from.
        meta: labels, training and dataset_fingerprint, as plain data.

    Returns what was written to the JSON: `meta` with the component, its input and `weights_sha256`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file({key: value.cpu().contiguous() for key, value in backbone.state_dict().items()}, partial)
    spec = component(name)
    written = {
        "component": name,
        "architecture": {"num_outputs": backbone.head[-1].out_features, "feature_width": spec.feature_width},
        "input": {"kind": spec.input.kind, "size": spec.input.size, "num_frames": spec.input.num_frames},
        **meta,
        "weights_sha256": hashlib.sha256(partial.read_bytes()).hexdigest(),
    }
    partial.replace(folder / WEIGHTS_FILE)
    partial = folder / f"{META_FILE}.partial"
    partial.write_text(json.dumps(written, indent=1, allow_nan=False))
    partial.replace(folder / META_FILE)
    return written


def load_backbone(folder: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone in eval mode, and what its JSON says.

    Raises `DataError` if there is none, or if weights and JSON do not belong together.
    """
    meta = read_backbone_meta(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != meta["weights_sha256"]:
        raise DataError(
            f"the weights in {folder} are missing or not those that its {META_FILE} names",
            "The folder is damaged: delete it and run `paretovid extract`, which trains it again.",
        )
    backbone = component(meta["component"]).build(meta["architecture"]["num_outputs"])
    backbone.load_state_dict(load_file(weights))
    return backbone.eval(), meta


def read_backbone_meta(folder: Path) -> dict[str, Any]:
    """The JSON of a saved backbone. Raises `DataError` if there is none or it cannot be read."""
    try:
        meta: dict[str, Any] = json.loads((folder / META_FILE).read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"no trained backbone in {folder} ({type(error).__name__})",
            "Run `paretovid extract`, which trains the backbones that are missing.",
        ) from error
    return meta
