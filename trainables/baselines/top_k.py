"""Look at every step cheaply, then closely at the few that a cheap classifier finds most telling.

After B. Korbar, D. Tran, L. Torresani: "SCSampler: Sampling Salient Clips From Video for Efficient Action
Recognition", ICCV 2019, in the form in which later papers compare with it: a step's saliency is the largest
class probability that the cheap network gives it, and the answer is the mean score of the expensive network on the
K most salient steps. SCSampler also trains its saliency by ranking; that is not built. With `saliency=selector` a step
is ranked by a selector that VideoEpitoma trained stand-alone (`trainables/layers/timestep_selector.py`).

B videos, T steps, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import Tensor

from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.coarse_to_fine import COARSE, FINE, READ_COARSE
from paretovid.trainables.layers.frame_classifier import FrameScores, mark_read
from paretovid.trainables.layers.timestep_selector import (
    SavedSelector,
    SelectorShape,
    TimestepSelector,
    build_selector,
    by_content,
    located,
)
from paretovid.trainables.method import (
    ChecksFeatures,
    Method,
    NeedsFiles,
    check_distinct,
    register,
)
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import check_ranges

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

    saliency: Literal["confidence", "selector"] = "confidence"
    """What a step is ranked by: the largest class probability of its coarse features, or a selector's logit."""
    selector: str = ""
    """Folder of the selector, or of the trial that trained it; `sha256:...`: its weights are in this model's file."""
    selector_shape: SelectorShape = field(default_factory=SelectorShape)
    """Read from the folder, where there is one."""
    frame_counts: tuple[Annotated[int, TOP_FRAMES.range], ...] = (8, 1, 2, 3, 4, 6, 10, 12)
    """Inference settings to evaluate; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.saliency not in ("confidence", "selector"):
            raise UsageError(f"unknown saliency: {self.saliency!r}", "Allowed: confidence, selector.")
        if (self.saliency == "selector") != bool(self.selector):
            raise UsageError(
                f"saliency is {self.saliency} and selector is {self.selector!r}",
                "saliency=selector needs the folder of one, and nothing else has a use for it.",
            )
        SavedSelector.named(self.selector)  # raises if there is none
        check_distinct("frame_counts", self.frame_counts)


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
class TopK(Method, ChecksFeatures, NeedsFiles):
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
        self.saved = SavedSelector.named(config.selector)
        self.coarse: FrameScores | None = None
        self.selector: TimestepSelector | None = None
        if self.saved is not None:
            self.selector = self.saved.build(COARSE, widths[COARSE], prefix=self.name)
        elif config.selector:
            self.selector = build_selector(config.selector_shape, widths[COARSE], prefix=self.name)
            self.selector.requires_grad_(False)
        else:
            self.coarse = FrameScores({COARSE: widths[COARSE]}, num_classes, multi_label)
        self.fine = FrameScores({FINE: widths[FINE]}, num_classes, multi_label)

    def check_features(self, features: Mapping[str, str]) -> None:
        if self.saved is not None:
            self.saved.check_features(features)

    @classmethod
    def located(cls, model: JsonObject) -> JsonObject:
        return located(model)

    @classmethod
    def by_content(cls, model: JsonObject) -> JsonObject:
        return by_content(model)

    def portable(self, model: JsonObject) -> JsonObject:
        if self.saved is None:
            return dict(model)
        return {**model, "selector": self.saved.digest, "selector_shape": asdict(self.saved.shape)}

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        losses = {"fine": self.fine.loss(batch).total}
        if self.coarse is not None:
            losses["coarse"] = self.coarse.loss(batch).total
        total = torch.stack(list(losses.values())).sum()
        return Loss(total, {name: float(loss.detach()) for name, loss in losses.items()})

    def _saliency(self, provider: Provider) -> Tensor:
        """`[B, T]`, all steps looked at cheaply; what is past a video's end means nothing."""
        indices = [
            torch.where(provider.valid(step), step, torch.full_like(provider.num_steps, -1))
            for step in range(provider.max_steps)
        ]
        if self.coarse is not None:
            coarse = [self.coarse.read(provider, self.name, index)[0].amax(dim=-1) for index in indices]
            return torch.stack(coarse, dim=1)
        assert self.selector is not None
        valid = torch.stack(indices, dim=1) >= 0
        features = torch.stack([provider.read(COARSE, index, index >= 0) for index in indices], dim=1)
        for name, count in self.selector.calls(valid).items():
            provider.charge(name, count)
        answer: Tensor = self.selector(features, valid)
        return answer

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        provider.expect(COARSE)
        num_steps = provider.num_steps
        saliency = self._saliency(provider)
        steps = torch.arange(provider.max_steps, device=num_steps.device)
        decisions = (steps < num_steps[:, None]).long() * READ_COARSE
        num_frames = int(setting.get("num_frames", TOP_FRAMES.default))
        chosen = most_salient(saliency, num_steps, num_frames)
        total, count = torch.zeros(()), torch.zeros_like(num_steps)
        for index in chosen:
            scores, wanted = self.fine.read(provider, self.name, index)
            total, count = total + scores, count + wanted
            mark_read(decisions, index)
        return Outcome(
            scores=total / count.clamp(min=1)[:, None], calls=dict(provider.calls), decisions=decisions
        )

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        salient = self.selector.component_costs() if self.selector is not None else {}
        if self.coarse is not None:
            salient = self.coarse.component_costs(self.name)
        return {**salient, **self.fine.component_costs(self.name)}
