"""The rules of a family of backbones."""

from __future__ import annotations

import torch

from paretovid.trainables.backbones.catalog import component, family, measure_component
from paretovid.trainables.contracts.base import Contract
from paretovid.trainables.testing import (
    NUM_CLASSES,
)


class FamilyContract(Contract):
    """The rules of a family of backbones; a plug-in's tests inherit them."""

    def test_every_component_can_be_built_and_costed(self) -> None:
        for source, name in family(self.name).items():
            spec = component(name)
            backbone = spec.build(NUM_CLASSES).eval()
            with torch.no_grad():
                features = backbone(torch.zeros(2, *spec.input.shape))
            assert features.shape == (2, backbone.width), (
                f"rule: {name} ({source}) gives [B, {backbone.width}], as its feature_width says; {features.shape}"
            )
            assert measure_component(name, NUM_CLASSES).macs > 0, f"rule: a call of {name} costs something"

    def test_an_answer_does_not_depend_on_the_batch(self) -> None:
        for name in family(self.name).values():
            backbone = component(name).build(NUM_CLASSES).eval()
            inputs = 255 * torch.rand(
                3, *component(name).input.shape, generator=torch.Generator().manual_seed(0)
            )
            with torch.no_grad():
                together, alone = backbone(inputs), torch.cat([backbone(each[None]) for each in inputs])
            rule = f"rule: what {name} gives does not depend on the batch"
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3, msg=rule)
