from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from paretovid.trainables.backbones import catalog
from paretovid.trainables.backbones.catalog import (
    COMPONENTS,
    component,
    family,
    load_backbone,
    measure_component,
    save_backbone,
)
from paretovid.trainables.backbones.description import BackboneOrigin
from paretovid.trainables.errors import DataError, UnknownNameError

every_component = pytest.mark.parametrize("name", sorted(COMPONENTS))


def decoded(name: str, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, *component(name).input.shape)
    values = np.random.default_rng(seed).integers(0, 256, shape)
    kind = component(name).input.kind
    return values.astype(np.float32) / 64 if kind == "logmel" else values.astype(np.uint8)


@every_component
def test_features_are_as_wide_as_said_and_do_not_depend_on_the_batch(name):
    torch.manual_seed(0)
    backbone = component(name).build(5).eval()
    inputs = decoded(name, 4)
    with torch.no_grad():
        together = backbone(inputs)
        alone = torch.cat([backbone(inputs[i : i + 1]) for i in range(4)])
        features = backbone.features(inputs)
    assert features.shape == (4, component(name).feature_width)
    assert backbone.classify(features).shape == (4, 5)
    assert together.shape == (4, backbone.width)
    assert backbone.width == (5 if component(name).classifies else component(name).feature_width)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 0, "different inputs look the same"


@every_component
def test_cost_is_measured_without_moving_the_random_state(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    catalog._measured.cache_clear()
    cost = measure_component(name, 5)
    assert torch.equal(torch.rand(1), expected)
    assert cost.macs > 0 and cost.provenance == "torch.utils.flop_counter"


def test_cost_ratios_are_of_the_papers_kind():
    macs = {source: measure_component(name).macs for source, name in family("small").items()}
    assert macs["fine"] >= 50 * macs["coarse"]
    assert macs["motion"] > macs["fine"] > macs["audio"]


def test_motion_of_a_clip_is_as_expensive_beside_its_appearance_as_in_the_paper():
    macs = {source: measure_component(name).macs for source, name in family("localization").items()}
    # X3D-M has 4.73 GMACs; I3D on flow 25.59, or 56 as the paper counts it.
    assert 5 < macs["flow"] / macs["appearance"] < 12
    assert macs["appearance"] < macs["difference"] < macs["flow"]
    assert measure_component(family("localization")["flow"]).input == "2x15x48x48"


@pytest.mark.parametrize("pool", ["x3d_pool", "mixed_pool"])
def test_a_pool_grows_in_cost_and_pays_for_its_classifiers(pool):
    macs = [measure_component(name, 12).macs for name in family(pool).values()]
    assert all(after > 2 * before for before, after in itertools.pairwise(macs))
    if pool == "x3d_pool":
        assert all(after <= 4 * before for before, after in itertools.pairwise(macs))
    for name in family(pool).values():
        spec = component(name)
        assert spec.classifies
        more = measure_component(name, 112).macs - measure_component(name, 12).macs
        assert more == 100 * spec.feature_width


def test_members_of_the_pool_see_what_stands_still_and_what_moves():
    torch.manual_seed(0)
    member = component(family("x3d_pool")["xs"]).build(5).eval()
    still = np.full((1, *component(family("x3d_pool")["xs"]).input.shape), 60, np.uint8)
    bright, moving = still.copy(), still.copy()
    bright[..., 5:9, 5:9, :] = 200
    moving[:, 2, 5:9, 5:9] = 200
    with torch.no_grad():
        first, second, third = member(still), member(bright), member(moving)
    assert not torch.allclose(first, second) and not torch.allclose(second, third)


def test_a_backbone_survives_its_folder_and_a_damaged_one_is_refused(tmp_path):
    name = family("small")["coarse"]
    backbone = component(name).build(3).eval()
    written = save_backbone(tmp_path, name, backbone, BackboneOrigin(labels=("a", "b", "c")))
    loaded, described = load_backbone(tmp_path)
    assert described == written and described.origin.labels == ("a", "b", "c") and not loaded.training
    inputs = decoded(name, 2)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), backbone(inputs))
    weights = tmp_path / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(DataError, match="not those that its"):
        load_backbone(tmp_path)
    with pytest.raises(DataError, match="no trained backbone") as error:
        load_backbone(tmp_path / "other")
    assert "paretovid extract" in error.value.hint
    assert json.loads((tmp_path / "backbone.json").read_text())["component"] == name


def test_unknown_names_list_what_there_is():
    with pytest.raises(UnknownNameError, match="unknown component: 'resnet9'") as error:
        component("resnet9")
    assert family("small")["fine"] in error.value.hint
    with pytest.raises(UnknownNameError, match="unknown backbone family"):
        family("large")
