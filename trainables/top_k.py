"""Look at every step cheaply, then closely at the few that a cheap classifier finds most telling.

After B. Korbar, D. Tran, L. Torresani: "SCSampler: Sampling Salient Clips From Video for Efficient Action
Recognition", ICCV 2019, in the form in which later papers compare with it: a step's saliency is the largest
class probability that the cheap network gives it, and the answer is the mean score of the dear network on the
K most salient steps. SCSampler also trains its saliency by ranking; that is not built.

B videos, T steps, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from paretovid.trainables.coarse_to_fine import COARSE, FINE, LOOKED_COARSE
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.method import (
    Batch,
    InferenceKnob,
    Loss,
    Method,
    Outcome,
    Progress,
    Setting,
    check_distinct,
    register,
)
from paretovid.trainables.provider import Provider
from paretovid.trainables.uniform import FrameScores, mark_looked

TOP_FRAMES = InferenceKnob(
    name="num_frames",
    default=8,
    low=1,
    high=10_000,
    whole=True,
    description="frames to look at closely, the most salient first",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopKConfig:
    """Settings of the saliency baseline."""

    saliency: Literal["confidence"] = "confidence"
    """What a step is ranked by: the largest class probability of its coarse features."""
    frame_counts: tuple[int, ...] = (8, 1, 2, 3, 4, 6, 10, 12)
    """Inference settings to evaluate; the first is the natural one."""

    def __post_init__(self) -> None:
        if self.saliency != "confidence":
            raise UsageError(f"unknown saliency: {self.saliency!r}", "Allowed: confidence.")
        check_distinct("frame_counts", self.frame_counts, TOP_FRAMES.low, TOP_FRAMES.high)


def most_salient(saliency: Tensor, num_steps: Tensor, num_frames: int) -> list[Tensor]:
    """The `num_frames` highest of saliency `[B, T]`, highest first, as a list of `[B]` step indices.

    Of equals the earlier comes first. A video with fewer steps has -1 for the surplus.
    """
    steps = torch.arange(saliency.shape[1], device=saliency.device)
    order = saliency.masked_fill(steps >= num_steps[:, None], -torch.inf)
    order = order.argsort(dim=1, descending=True, stable=True)[:, :num_frames]
    return list(order.masked_fill(order >= num_steps[:, None], -1).T)


@register
@final
class TopK(Method):
    """See the module's text."""

    name: ClassVar[str] = "top_k"
    Config: ClassVar[type[Any]] = TopKConfig
    inference_knobs = (TOP_FRAMES,)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: TopKConfig) -> tuple[str, ...]:
        return (COARSE, FINE)

    def __init__(
        self, config: TopKConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.coarse = FrameScores({COARSE: widths[COARSE]}, num_classes, multi_label)
        self.fine = FrameScores({FINE: widths[FINE]}, num_classes, multi_label)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        coarse, fine = self.coarse.loss(batch).total, self.fine.loss(batch).total
        return Loss(coarse + fine, {"coarse": float(coarse.detach()), "fine": float(fine.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        provider.expect(COARSE)
        num_steps = provider.num_steps
        decisions = num_steps.new_zeros(provider.batch_size, provider.max_steps)
        saliency = []
        for step in range(provider.max_steps):
            index = torch.where(provider.valid(step), step, -1)
            scores, _ = self.coarse.read(provider, self.name, index)
            saliency.append(scores.amax(dim=-1))
            mark_looked(decisions, index, LOOKED_COARSE)
        num_frames = int(setting.get("num_frames", TOP_FRAMES.default))
        total = torch.zeros_like(scores)
        count = torch.zeros_like(num_steps)
        for index in most_salient(torch.stack(saliency, dim=1), num_steps, num_frames):
            scores, wanted = self.fine.read(provider, self.name, index)
            total, count = total + scores, count + wanted
            mark_looked(decisions, index)
        return Outcome(
            scores=total / count.clamp(min=1)[:, None], calls=dict(provider.calls), decisions=decisions
        )

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        return {**self.coarse.component_costs(self.name), **self.fine.component_costs(self.name)}
