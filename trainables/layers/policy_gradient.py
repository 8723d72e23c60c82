"""Rewards, returns and the policy-gradient loss of agents that choose frames (AdaFrame, Eqs. 4-6 and 9).

B episodes, K steps, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RewardKind = Literal["margin", "prediction", "transition"]
ReturnsFrom = Literal["current", "next"]


def true_class_score(scores: Tensor, targets: Tensor) -> Tensor:
    """`[B, K, C]` probabilities and `[B, C]` targets to the (mean) probability of the true classes, `[B, K]`."""
    true = targets[:, None] > 0
    return (scores * true).sum(dim=-1) / true.sum(dim=-1).clamp(min=1)


def margin(scores: Tensor, targets: Tensor) -> Tensor:
    """m_t of Eq. 4, `[B, K]`: the true class's probability minus the largest other one.

    With several true classes: their mean probability minus the largest of the others.
    """
    others = scores.masked_fill(targets[:, None] > 0, 0.0).amax(dim=-1)
    return true_class_score(scores, targets) - others


def rewards(scores: Tensor, targets: Tensor, kind: RewardKind) -> Tensor:
    """r_t of every step, `[B, K]`, without gradient; zero at the first, which nobody chose.

    `margin`: by how much m_t exceeds all margins before (Eq. 4; m_0 is undefined, the running maximum starts at
    m_1). `prediction`: the true class's probability. `transition`: its change (the ablations of section 4.3).
    """
    scores = scores.detach()
    if kind == "margin":
        margins = margin(scores, targets)
        gained = (margins[:, 1:] - margins.cummax(dim=1).values[:, :-1]).clamp(min=0)
    else:
        true = true_class_score(scores, targets)
        gained = true[:, 1:] if kind == "prediction" else true[:, 1:] - true[:, :-1]
    return torch.cat([torch.zeros_like(scores[:, :1, 0]), gained], dim=1)


def returns(reward: Tensor, discount: float, begin: ReturnsFrom = "current") -> Tensor:
    """V_t of every step, `[B, K]`: rewards from r_t on (`current`, Eq. 6 as printed) or from r_t+1 (`next`).

    r_t is fixed when the action of step t is chosen: it adds variance to the policy gradient and no bias.
    """
    step = torch.arange(reward.shape[1], device=reward.device)
    ahead = (
        step[:, None] - step - int(begin == "next")
    )  # of the return in each column, how far off a reward is
    weights = torch.where(ahead >= 0, discount ** ahead.clamp(min=0).to(reward.dtype), 0.0)
    return reward @ weights
