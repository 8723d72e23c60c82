"""The suite of families of backbones: one that breaks a rule fails, and is told which; ours keep them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paretovid.trainables.backbones.catalog import component, family, register_family
from paretovid.trainables.backbones.spec import ComponentSpec
from paretovid.trainables.contracts.backbones import FamilyContract
from paretovid.trainables.data.videos import InputSpec

pytestmark = pytest.mark.usefixtures("no_plugins")


class Trunk(nn.Module):
    """Pictures `[B, 3, S, S]` to the mean of each channel, which `change` then has its way with: `[B, 3]`."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.change = change

    def forward(self, pictures: Tensor) -> Tensor:
        return self.change(self.convolution(pictures).mean(dim=(2, 3)))


class Free(nn.Module):
    """Calls nothing that FLOPs are counted of."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))


NUMBERS = itertools.count()
"""A component's cost is measured once a process, by its name."""
BUILT = "test_every_component_can_be_built_and_costed"
ALONE = "test_an_answer_does_not_depend_on_the_batch"
BROKEN: list[tuple[str, str, Callable[[], nn.Module]]] = [
    (BUILT, r"mine\d+@8 \(fine\) gives \[B, 3\]", lambda: Trunk(lambda features: features[:, :2])),
    (BUILT, r"a call of mine\d+@8 costs something", Free),
    (
        ALONE,
        r"what mine\d+@8 gives does not depend on the batch",
        lambda: Trunk(lambda features: features - features.mean(dim=0)),
    ),
]


def suite_of(trunk: Callable[[], nn.Module]) -> FamilyContract:
    def made(spec: InputSpec, feature_width: int) -> nn.Module:
        return trunk()

    model = component(family("small")["fine"])
    mine: ComponentSpec = dataclasses.replace(
        model,
        name=f"mine{next(NUMBERS)}@8",
        input=InputSpec(kind="frame", size=8),
        feature_width=3,
        trunk=made,
    )
    register_family("mine", {"fine": mine})
    suite: FamilyContract = type("TestMine", (FamilyContract,), {"name": "mine"})()
    suite.setup_method()
    return suite


def rules_of(suite: object) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


@pytest.mark.parametrize(("test", "rule", "trunk"), BROKEN, ids=[rule[:12] for _, rule, _ in BROKEN])
def test_a_family_that_breaks_a_rule_is_told_which(
    test: str, rule: str, trunk: Callable[[], nn.Module]
) -> None:
    with pytest.raises(AssertionError, match=rf"^rule: .*{rule}"):
        getattr(suite_of(trunk), test)()


def test_a_family_that_keeps_them_passes_and_every_test_was_seen_to_fail() -> None:
    torch.manual_seed(0)
    suite = suite_of(lambda: Trunk(lambda features: features))
    for test in rules_of(suite):
        getattr(suite, test)()
    assert set(rules_of(suite)) == {test for test, _, _ in BROKEN}


class TestSmall(FamilyContract):
    name = "small"
