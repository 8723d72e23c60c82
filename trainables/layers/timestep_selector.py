"""VideoEpitoma's timestep selector: which timesteps deserve a closer look, in view of the whole video.

"VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under review), section 3. Self-attention
correlates each timestep with the others (context), concept kernels compare it with what was learned to matter, and
an MLP makes one logit of that. The gate is a clipped sigmoid in training, with noise, and a step function in
evaluation.

Symbols: x_i `[D]` a timestep, K `[N, P]` concept kernels, s_i `[N]` similarities, alpha_i the logit, z_i the gate.

A selector that was trained by itself is an artifact: a folder with `selector.safetensors` and `selector.json`, which
any method can put in front of its classifier.

B videos, T timesteps, D width of the light source, P projected, N kernels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paretovid.trainables.config import typed_config
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import Fields, JsonObject, parse_json, save_tensors
from paretovid.trainables.errors import DataError, NonFiniteError, UsageError, VersionError
from paretovid.trainables.layers.recurrent import Projection
from paretovid.trainables.layers.temporal_attention import SelfAttention, step_and_pair_macs
from paretovid.trainables.layers.whole_batch import sum_over_workers
from paretovid.trainables.ranges import Width, check_ranges

L0Form = Literal["open_probability", "hard_concrete"]
CLIP = 0.5
"""Below this value of the sigmoid a gate is closed."""
HARD_CONCRETE_SHIFT = -2 / 3 * math.log(0.1 / 1.1)
"""-beta log(-gamma / zeta), with beta 2/3 and the stretch from gamma = -0.1 to zeta = 1.1: 1.60 (Louizos et al.)."""


SELECTOR_FOLDER = "selector"
"""Beside the result of the trial that trained it."""
DIGEST = "sha256:"
"""In place of a folder: a selector whose weights are in the model's own file."""
_META, _WEIGHTS = "selector.json", "selector.safetensors"
_VERSION = 1
"""Of the JSON; one without a version is of version 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectorShape:
    """What a selector is built from."""

    light: str = "coarse"
    """The source that it reads."""
    projection: Width = 32
    kernels: Width = 32
    hidden: Width = 32
    has_context: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)


def clipped_sigmoid(logits: Tensor) -> Tensor:
    """Figure 3: the sigmoid of `[...]` logits where it is at least 0.5, else 0 without gradient."""
    opened = torch.sigmoid(logits)
    return opened * (opened >= CLIP)


def logistic_noise(like: Tensor) -> Tensor:
    """The difference of two Gumbel variables, which is what "Gumbel noise" means for a gate of two states; `[...]` as
    `like`.
    """
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return torch.logit(uniform)


def l0_penalty(alpha: Tensor, valid: Tensor, form: L0Form, workers: int = 1) -> Tensor:
    """Scalar: the expected share of open timesteps, mean over each video's `valid` ones, then over videos.

    `open_probability` is sigmoid(alpha), exact for logistic noise at any temperature. `hard_concrete` is the formula
    of C. Louizos, M. Welling, D. P. Kingma: "Learning Sparse Neural Networks through L0 Regularization", Eq. 12.

    Arguments:
        alpha: `[B, T]`.
        valid: `[B, T]` bool; a video without any counts as nothing.
        workers: that share the batch (`Batch.workers`); the mean is over the videos of all.
    """
    opened = torch.sigmoid(alpha + HARD_CONCRETE_SHIFT if form == "hard_concrete" else alpha) * valid
    count = valid.sum(dim=1)
    shares = opened.sum(dim=1) / count.clamp(min=1)
    videos = sum_over_workers((count > 0).sum(), workers).clamp(min=1)
    return sum_over_workers(shares.sum(), workers) / videos


def best_open(alpha: Tensor, valid: Tensor, top_k: int) -> Tensor:
    """The `top_k` largest of alpha `[B, T]` among the `valid`, `[B, T]` bool. Of equals the earlier comes first."""
    order = alpha.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(valid)
    chosen.scatter_(1, order[:, :top_k], True)
    return chosen & valid


def step_open(alpha: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """The step function: `valid` timesteps whose sigmoid(alpha) reaches `threshold`; none does: the best one.

    `[B, T]` bool from alpha `[B, T]`.
    """
    chosen = valid & (torch.sigmoid(alpha) >= threshold)
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, best_open(alpha, valid, 1))


@final
class TimestepSelector(nn.Module):
    """Timesteps of the light source to one logit each.

    It knows nothing of what is done with what it selects: trained once, it can stand before any classifier.

    Arguments:
        width: D of the light source.
        projection: P.
        kernels: N.
        hidden: units between the two layers of the gate's MLP.
        has_context: False leaves out self-attention: each timestep is judged by itself ("frame gating", Fig. 6).
        prefix: the method's name, in front of its components' names.
    """

    def __init__(
        self,
        *,
        width: int,
        projection: int,
        kernels: int,
        hidden: int,
        dropout: float,
        has_context: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        self.feature_width, self.width = width, projection
        self.step_component, self.pair_component = f"{prefix}.selector_step", f"{prefix}.selector_pair"
        self.project = Projection(width, projection, dropout)
        self.context = SelfAttention(projection, max(1, projection // 2)) if has_context else None
        self.kernels = nn.Parameter(torch.randn(kernels, projection) / math.sqrt(projection))
        self.gate = nn.Sequential(nn.Linear(kernels, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """alpha `[B, T]` from features `[B, T, D]`; what comes out where not `valid` `[B, T]` means nothing."""
        x = self.project(features)
        if self.context is not None:
            x = self.context(x, valid)
        similarities = x @ self.kernels.T
        answer: Tensor = self.gate(similarities).squeeze(-1)
        return answer

    def gates(self, alpha: Tensor, valid: Tensor, temperature: float) -> Tensor:
        """Training: z `[B, T]` with noise. Where noise closes all of a video, the best one keeps its sigmoid."""
        noisy = (alpha + logistic_noise(alpha)) / temperature
        z = clipped_sigmoid(noisy) * valid
        best = best_open(noisy.detach(), valid, 1) & ~(z > 0).any(dim=1, keepdim=True)
        return torch.where(best, torch.sigmoid(noisy), z)

    def calls(self, valid: Tensor) -> dict[str, Tensor]:
        """Component to calls `[B]` of one pass over the `valid` timesteps."""
        count = valid.sum(dim=1)
        calls = {self.step_component: count}
        return calls if self.context is None else {**calls, self.pair_component: count * count}

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost per timestep and, with context, per pair of timesteps."""
        device = self.kernels.device
        features = torch.zeros(1, 1, self.feature_width, device=device)
        step, pair = step_and_pair_macs(self, features, torch.ones(1, 1, dtype=torch.bool, device=device))
        costs = {self.step_component: ComponentCost(macs=step, input=f"{self.feature_width} features")}
        if self.context is not None:
            costs[self.pair_component] = ComponentCost(macs=pair, input=f"2 x {self.width} values")
        return costs


def build_selector(
    shape: SelectorShape, width: int, *, prefix: str, dropout: float = 0.0
) -> TimestepSelector:
    """A selector of this shape on a light source of D = `width`, with fresh weights."""
    return TimestepSelector(
        width=width,
        projection=shape.projection,
        kernels=shape.kernels,
        hidden=shape.hidden,
        dropout=dropout,
        has_context=shape.has_context,
        prefix=prefix,
    )


def save_selector(
    folder: Path, selector: TimestepSelector, shape: SelectorShape, about: Mapping[str, Any]
) -> None:
    """Writes the artifact: weights, then the JSON that names their digest."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu().contiguous() for name, value in selector.state_dict().items()}
    with partial_file(folder / f"{_WEIGHTS}.partial") as partial:
        save_tensors(tensors, partial)
        meta = {
            "version": _VERSION,
            "shape": asdict(shape),
            "width": selector.feature_width,
            "sha256": hashlib.sha256(partial.read_bytes()).hexdigest(),
            "about": dict(about),
        }
        partial.replace(folder / _WEIGHTS)
    with partial_file(folder / f"{_META}.partial") as partial:
        partial.write_text(json.dumps(meta, indent=1, allow_nan=False))
        partial.replace(folder / _META)


@final
@dataclass(frozen=True, slots=True)
class SavedSelector:
    """An artifact, read and checked."""

    folder: Path
    shape: SelectorShape
    width: int
    """D of the light source."""
    digest: str
    """`sha256:` and the digest of the weights."""
    features: str
    """The features of the light source that it was trained on."""
    weights: dict[str, Tensor]

    @classmethod
    def named(cls, selector: str) -> SavedSelector | None:
        """As a configuration names it; None for none, and for one whose weights are in the model's own file."""
        return None if not selector or selector.startswith(DIGEST) else read_selector(selector)

    def build(self, light: str, width: int, *, prefix: str) -> TimestepSelector:
        """The selector with its weights, frozen.

        Raises `UsageError` if it does not read `light`, or if that is not `width` wide.
        """
        if (light, width) != (self.shape.light, self.width):
            raise UsageError(
                f"the selector in {self.folder} reads {self.width} {self.shape.light} features a step, not "
                f"{width} {light} ones",
                "It belongs to another light network: train one with method=video_epitoma "
                "method.model.regime=stand_alone.",
            )
        selector = build_selector(self.shape, width, prefix=prefix)
        selector.load_state_dict(self.weights)
        return selector.requires_grad_(False)

    def check_features(self, features: Mapping[str, str]) -> None:
        """Raises `UsageError` if the light source's features (by source) are not those that it was trained on."""
        if features[self.shape.light] != self.features:
            raise UsageError(
                f"the selector in {self.folder} was trained on the features {self.features}, not on "
                f"{features[self.shape.light]}",
                "Other weights or videos made these: train a selector on them with method=video_epitoma "
                "method.model.regime=stand_alone.",
            )


def by_content(model: JsonObject) -> JsonObject:
    """A configuration's fields with the digest of its `selector` in place of the folder (`NeedsFiles.by_content`)."""
    named = model.get("selector")
    if not isinstance(named, str) or not named:
        return dict(model)
    saved = SavedSelector.named(named)
    return {**model, "selector": named if saved is None else saved.digest}


def located(model: JsonObject) -> JsonObject:
    """A configuration's fields with the absolute folder of its `selector` (`NeedsFiles.located`)."""
    named = model.get("selector")
    if not named or str(named).startswith(DIGEST):
        return dict(model)
    return {**model, "selector": str(Path(str(named)).expanduser().absolute())}


def read_selector(folder: str) -> SavedSelector:
    """The artifact in a folder, or in the folder of the trial that made it.

    Raises `UsageError` if none is whole, `VersionError` for one of a later version.
    """
    path = Path(folder).expanduser()
    if (path / SELECTOR_FOLDER).is_dir():
        path = path / SELECTOR_FOLDER
    try:
        fields = Fields(parse_json((path / _META).read_text()), str(path / _META), "")
        fields.check_version(_VERSION)
        digest = hashlib.sha256((path / _WEIGHTS).read_bytes()).hexdigest()
        if digest != fields.text("sha256"):
            raise ValueError("its weights are not those that its JSON names")
        shape = typed_config(SelectorShape, fields.json("shape"), f"{path / _META}: shape")
        features = fields.fields("about").fields("data").fields("features").text(shape.light)
        width, weights = fields.whole("width"), load_file(path / _WEIGHTS)
    except VersionError:
        raise
    except (OSError, ValueError, DataError, NonFiniteError) as error:
        raise UsageError(
            f"no timestep selector in {path}: {error}",
            "Give the folder of a trial of method=video_epitoma with method.model.regime=stand_alone, such as "
            "paretovid-home/sweeps/SWEEP/trials/TRIAL.",
        ) from error
    return SavedSelector(path, shape, width, DIGEST + digest, features, weights)
