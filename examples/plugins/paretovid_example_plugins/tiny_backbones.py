"""A family of backbones: the coarse one is the platform's, the close one is three convolutions of its own."""

from __future__ import annotations

import itertools

from torch import nn

from paretovid.trainables.backbones.catalog import register_family
from paretovid.trainables.backbones.spec import ComponentSpec, Recipe
from paretovid.trainables.data.videos import InputSpec


def three_convolutions(spec: InputSpec, feature_width: int) -> nn.Module:
    """From a normalised picture `[B, 3, S, S]` to features `[B, D]`."""
    widths = (3, 16, 32, feature_width)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())


FAMILY = {
    "coarse": "mobilenet_v2_w025@16",
    "fine": ComponentSpec(
        name="three_convolutions@48",
        source="fine",
        input=InputSpec(kind="frame", size=48),
        feature_width=48,
        trunk=three_convolutions,
        recipe=Recipe(samples=16_000, batch_size=32, learning_rate=8e-3),
    ),
}
"""Source to a component, or to the name of one that is there. Weights and features are kept under its name."""

register_family("example_tiny", FAMILY)  # for plugins=[...]; the entry point alone is enough once installed
