"""VideoEpitoma's timestep selector: which timesteps deserve a closer look, in view of the whole video.

"VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under review), section 3. Self-attention
correlates each timestep with the others (context), concept kernels compare it with what was learned to matter, and
an MLP makes one logit of that. The gate is a clipped sigmoid in training, with noise, and a step function in
evaluation.

Symbols: x_i `[D]` a timestep, K `[N, P]` concept kernels, s_i `[N]` similarities, alpha_i the logit, z_i the gate.

B videos, T timesteps, D width of the light source, P projected, N kernels.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.gated_recurrence import Projection
from paretovid.trainables.temporal_attention import SelfAttention, step_and_pair_macs

L0Form = Literal["open_probability", "hard_concrete"]
CLIP = 0.5
"""Below this value of the sigmoid a gate is closed."""
HARD_CONCRETE_SHIFT = -2 / 3 * math.log(0.1 / 1.1)
"""-beta log(-gamma / zeta), with beta 2/3 and the stretch from gamma = -0.1 to zeta = 1.1: 1.60 (Louizos et al.)."""


def clipped_sigmoid(logits: Tensor) -> Tensor:
    """Figure 3: the sigmoid where it is at least 0.5, else 0 without gradient."""
    opened = torch.sigmoid(logits)
    return opened * (opened >= CLIP)


def logistic_noise(like: Tensor) -> Tensor:
    """The difference of two Gumbel variables, which is what "Gumbel noise" means for a gate of two states."""
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return torch.logit(uniform)


def l0_penalty(alpha: Tensor, valid: Tensor, form: L0Form) -> Tensor:
    """Scalar: the expected share of open timesteps, mean over each video's `valid` ones, then over videos.

    `open_probability` is sigmoid(alpha), exact for logistic noise at any temperature. `hard_concrete` is the formula
    of C. Louizos, M. Welling, D. P. Kingma: "Learning Sparse Neural Networks through L0 Regularization", Eq. 12.

    Arguments:
        alpha: `[B, T]`.
        valid: `[B, T]` bool; a video without any counts as nothing.
    """
    opened = torch.sigmoid(alpha + HARD_CONCRETE_SHIFT if form == "hard_concrete" else alpha) * valid
    count = valid.sum(dim=1)
    shares = opened.sum(dim=1) / count.clamp(min=1)
    return shares.sum() / (count > 0).sum().clamp(min=1)


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
        return self.gate(similarities).squeeze(-1)

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
