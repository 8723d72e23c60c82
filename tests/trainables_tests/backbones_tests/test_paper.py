"""The papers' backbones: shapes, costs beside what papers state, what they are shown, and the networks written here."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from paretovid.trainables.backbones.catalog import (
    COMPONENTS,
    FAMILIES,
    all_components,
    component,
    family,
    measure_component,
)
from paretovid.trainables.backbones.networks.i3d import InceptionI3d
from paretovid.trainables.backbones.networks.libraries import _SlowFast
from paretovid.trainables.backbones.networks.same_padding import pad_same
from paretovid.trainables.backbones.networks.shufflenet_3d import ShuffleNet3d, shuffle
from paretovid.trainables.backbones.networks.yamnet import YamNet
from paretovid.trainables.backbones.paper import PAPER_FAMILIES, PAPER_SPECS
from paretovid.trainables.backbones.spec import Backbone, describe_input
from paretovid.trainables.cost import measure_macs
from paretovid.trainables.errors import UsageError

HAS_TIMM = importlib.util.find_spec("timm") is not None
NAMES = [spec.name for spec in PAPER_SPECS if HAS_TIMM or spec.name != "dpn107@224"]
# Where a paper's figure differs by more than 1.5 %, its source must say why.
EXPLAINED = {
    "mobilenet_v3_small@224": "gating",
    "efficientnet_b3@224": "counter is not named",
    "i3d_rgb@8x224": "not stated",
    "i3d_flow@17x224": "flow has two",
    "shufflenet_3d@16x112": "not stated",
    "yamnet@64x96": "one digit",
}
# With the classifier of Kinetics where the component classifies.
GMACS = {
    "mobilenet_v2@112": 0.08090,
    "mobilenet_v3_small@224": 0.05490,
    "resnet50_v1@224": 3.85593,
    "resnet50@224": 4.08714,
    "resnet101@224": 7.79936,
    "dpn107@224": 18.29608,
    "efficientnet_b0@224": 0.38505,
    "efficientnet_b3@224": 0.96117,
    "slowfast_8x8_r50@32x256": 65.70797,
    "x3d_xs@4x160": 0.60526,
    "x3d_s@13x160": 1.96289,
    "x3d_m@16x224": 4.73247,
    "x3d_l@16x312": 18.36771,
    "x3d_m_stride1@16x224": 4.73165,
    "i3d_rgb@16x224": 27.78757,
    "i3d_rgb@8x224": 13.89378,
    "i3d_flow@17x224": 25.58464,
    "shufflenet_3d@16x112": 0.18714,
    "yamnet@64x96": 0.06863,
}
every_paper_component = pytest.mark.parametrize("name", NAMES)


def decoded(name: str, count: int) -> np.ndarray:
    spec = component(name).input
    values = np.random.default_rng(0).integers(0, 256, (count, *spec.shape))
    return values.astype(np.float32) / 64 if spec.kind == "logmel" else values.astype(np.uint8)


@pytest.mark.slow
@every_paper_component
def test_features_are_as_wide_as_said(name: str) -> None:
    spec = component(name)
    with torch.device("meta"):
        backbone = spec.build(5).eval()
        features = backbone(torch.zeros(2, *spec.input.shape))
    assert features.shape == (2, 5 if spec.classifies else spec.feature_width)


@pytest.mark.slow
@every_paper_component
def test_cost_is_measured_and_agrees_with_the_paper_or_is_explained(name: str) -> None:
    cost = measure_component(name, 400 if component(name).classifies else None)
    assert cost.gmacs == pytest.approx(GMACS[name], rel=1e-4)
    assert (cost.published_gmacs is None) == (cost.published_source is None)
    if cost.published_gmacs is None:
        return
    is_close = abs(cost.gmacs / cost.published_gmacs - 1) <= 0.015
    assert is_close == (name not in EXPLAINED)
    if not is_close:
        assert EXPLAINED[name] in str(cost.published_source)


def test_the_cost_on_the_meta_device_is_that_of_real_weights_and_pixels() -> None:
    for name in ("mobilenet_v2@112", "yamnet@64x96", "x3d_w200@8x40"):
        spec = component(name)
        assert measure_macs(spec.build(1), torch.zeros(1, *spec.input.shape)) == measure_component(name).macs


def test_every_cost_is_pinned() -> None:
    assert GMACS.keys() == {spec.name for spec in PAPER_SPECS}


@pytest.mark.parametrize("name", ["mobilenet_v2@112", "yamnet@64x96", "shufflenet_3d@16x112", "x3d_xs@4x160"])
def test_features_of_real_inputs_do_not_depend_on_the_batch(name: str) -> None:
    torch.manual_seed(0)
    backbone = component(name).build(2).eval()
    inputs = decoded(name, 2)
    with torch.no_grad():
        together = backbone(inputs)
        alone = torch.cat([backbone(inputs[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    assert bool(torch.isfinite(together).all()) and float((together[0] - together[1]).abs().max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("x3d_l", "slowfast"))])
def test_every_network_runs_on_real_inputs(name: str) -> None:
    torch.manual_seed(0)
    backbone = component(name).build(2).eval()
    with torch.no_grad():
        features = backbone(decoded(name, 1))
    assert features.shape == (1, 2 if component(name).classifies else component(name).feature_width)
    assert bool(torch.isfinite(features).all()) and float(features.std()) > 0


def test_names_are_unique_and_families_name_what_there_is() -> None:
    assert len({spec.name for spec in PAPER_SPECS}) == len(PAPER_SPECS)
    assert not {spec.name for spec in PAPER_SPECS} & COMPONENTS.keys()
    assert not PAPER_FAMILIES.keys() & FAMILIES.keys()
    for name in PAPER_FAMILIES:
        for each in family(name).values():
            assert component(each).weights is not None
    used = {each for members in PAPER_FAMILIES.values() for each in members.values()}
    # The others are what papers compare with, or charge for.
    assert all_components().keys() - COMPONENTS.keys() - used == {"resnet50@224", "i3d_rgb@16x224"}


def test_each_is_normalised_as_its_weights_expect() -> None:
    pixels = torch.tensor([0.0, 127.5, 255.0]).view(3, 1, 1, 1).expand(3, 2, 2, 3)
    seen: dict[str, torch.Tensor] = {}

    class Trunk(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen["x"] = x
            return x.flatten(1)

    for name, low, high in (
        ("resnet101@224", (0 - 123.675) / 58.395, (255 - 123.675) / 58.395),
        ("dpn107@224", -124 * 0.0167, (255 - 124) * 0.0167),
    ):
        with torch.device("meta"):
            trunk = Trunk()
        spec = component(name)
        Backbone(trunk, "frame", 12, 1, scale=spec.scale)(pixels)
        assert seen["x"].shape == (3, 3, 2, 2)
        assert seen["x"][0, 0, 0, 0].item() == pytest.approx(low, rel=1e-5)
        assert seen["x"][2, 0, 0, 0].item() == pytest.approx(high, rel=1e-5)
        assert seen["x"][0, 2, 0, 0].item() != pytest.approx(low, rel=1e-3), "channels differ"


def test_flow_is_on_the_scale_of_its_weights() -> None:
    # Stored: 128 is no movement and 127 steps are 4 pixels; expected: 20 pixels are 1.
    scale = component("i3d_flow@17x224").scale
    assert scale is not None
    assert (128 + 127 - scale.mean[0]) / scale.std[0] == pytest.approx(4 / 20)


def test_snippets_keep_the_time_between_frames_of_their_training() -> None:
    for name, seconds in (
        ("slowfast_8x8_r50@32x256", 2 / 30),
        ("x3d_xs@4x160", 12 / 30),
        ("x3d_s@13x160", 6 / 30),
        ("x3d_m@16x224", 5 / 30),
        ("x3d_m_stride1@16x224", 1 / 25),
        ("i3d_rgb@16x224", 1 / 25),
        ("i3d_flow@17x224", 1 / 25),
    ):
        spec = component(name).input
        assert spec.span_seconds / spec.num_frames == pytest.approx(seconds)


def test_resnet_v1_shrinks_the_picture_in_the_first_convolution() -> None:
    with torch.device("meta"):
        first, later = (
            component(name).build(1).trunk.get_submodule("layer2.0")
            for name in ("resnet50_v1@224", "resnet50@224")
        )
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert (later.conv1.stride, later.conv2.stride) == ((1, 1), (2, 2))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match="dpn107 needs timm") as error:
        component("dpn107@224").build(1)
    assert "paretovid[paper]" in error.value.hint


# Networks written here


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 2, 2), (9, 7, 2), (5, 1, 2), (4, 3, 1)]
)
def test_same_padding_gives_the_size_that_tensorflow_gives(size: int, kernel: int, stride: int) -> None:
    x = torch.ones(1, 1, size, size)
    padded = pad_same(x, (kernel, kernel), (stride, stride))
    pooled = nn.functional.max_pool2d(padded, kernel, stride)
    assert pooled.shape[-1] == math.ceil(size / stride)
    before = int((padded[0, 0, padded.shape[2] // 2] == 0).nonzero().lt(padded.shape[3] // 2).sum())
    assert padded.shape[3] - size - before in (before, before + 1), "the odd value belongs to the far end"


def test_i3d_has_the_names_and_sizes_of_its_published_weights() -> None:
    with torch.device("meta"):
        state = InceptionI3d().state_dict()
        flow = InceptionI3d(channels=2).state_dict()
    # As in rgb_imagenet.pt of the port.
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_3b.b1b.conv3d.weight"].shape == (128, 96, 3, 3, 3)
    assert state["Mixed_5c.b3b.bn.running_var"].shape == (128,)
    assert flow["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 2, 7, 7, 7)
    learned = sum(value.numel() for name, value in state.items() if name.endswith(("weight", "bias")))
    assert learned == 12_287_264, "the paper's Table 1 says 12 M"


def test_yamnet_has_the_size_that_its_authors_state() -> None:
    with torch.device("meta"):
        network = YamNet()
    learned = sum(value.numel() for value in network.parameters()) + 1024 * 521 + 521
    assert learned == pytest.approx(3.7e6, rel=0.02), "3.7 million weights, says its README"
    classifier = 1024 * 521
    macs = measure_component("yamnet@64x96").macs + classifier
    assert macs == pytest.approx(69.2e6, rel=1e-3), "69.2 million multiplications a patch, says its README"
    assert "layer14.pointwise_conv.conv.weight" in network.state_dict()
    assert "layer1.fused.bn.running_mean" in network.state_dict()


def test_shufflenet_deals_channels_over_groups() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1, 1)
    assert shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    with torch.device("meta"):
        state = ShuffleNet3d().state_dict()
    assert state["layer1.0.conv3.weight"].shape == (240 - 24, 20, 1, 1, 1)
    assert state["layer3.3.conv1.weight"].shape == (240, 320, 1, 1, 1)


def test_slowfast_shows_its_slow_pathway_eight_of_the_frames() -> None:
    with torch.device("meta"):
        trunk = component("slowfast_8x8_r50@32x256").build(1).trunk
    seen: list[tuple[int, ...]] = []
    trunk.get_submodule("blocks")[0].register_forward_pre_hook(  # type: ignore[index]
        lambda _, inputs: seen.extend(tuple(x.shape) for x in inputs[0])
    )
    with torch.device("meta"):
        trunk(torch.zeros(1, 3, 32, 256, 256))
    assert seen == [(1, 3, 8, 256, 256), (1, 3, 32, 256, 256)]


def test_the_slow_pathway_sees_the_first_and_the_last_frame() -> None:
    class Identity(nn.Module):
        def forward(self, pathways: list[torch.Tensor]) -> torch.Tensor:
            return pathways[0]

    network = _SlowFast(SimpleNamespace(blocks=nn.ModuleList([Identity()])))
    numbers = torch.arange(32.0).view(1, 1, 32, 1, 1)
    # As torch.linspace(0, 31, 8).long() in the code that trained the weights.
    assert network(numbers).flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]


def test_the_trunk_of_torchvisions_network_is_its_penultimate_layer() -> None:
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v2(weights=None).eval()
    backbone = component("mobilenet_v2@112").build(1).eval()
    body = {name: value for name, value in whole.state_dict().items() if not name.startswith("classifier.")}
    backbone.trunk.load_state_dict(body)
    pixels = torch.from_numpy(decoded("mobilenet_v2@112", 1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = whole(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(whole.classifier(backbone(pixels)), expected, atol=1e-4, rtol=1e-4)


def test_the_document_says_what_to_get_for_each() -> None:
    lines = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text().splitlines()
    for spec in PAPER_SPECS:
        (line,) = (line for line in lines if line.startswith(f"| `{spec.name}` |"))
        assert spec.weights is not None
        for text in (
            describe_input(spec.input),
            str(spec.feature_width),
            spec.weights.file,
            spec.weights.origin,
        ):
            assert text in line
