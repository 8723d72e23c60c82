"""What a backbone is: its input, its network, its weights, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from paretovid.trainables.data.flow import ZERO
from paretovid.trainables.data.videos import InputSpec


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
        self.trunk = trunk.to(memory_format=layout)
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
