"""First sure: looks at every `stride`-th step closely, one after the other, and answers when it is sure enough.

The skeleton of a method: a configuration, what it reads, how it is trained, how it runs, and what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.layers.frame_classifier import score_loss
from paretovid.trainables.layers.functional import probabilities
from paretovid.trainables.method import Method, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Range, check_ranges

FINE = "fine"
CONFIDENCE = InferenceKnob(
    name="confidence",
    default=1.0,
    low=0.1,
    high=1.0,
    description="probability of the best class at which it answers; lower costs less",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstSureConfig:
    """Settings of the method; every one has a default, and every number a range."""

    stride: Annotated[int, Range(1, 100)] = 2
    """Steps from one read to the next."""
    confidences: tuple[Annotated[float, CONFIDENCE.range], ...] = (1.0, 0.9, 0.7, 0.5)
    """Inference settings to evaluate; the first is the knob's default."""

    def __post_init__(self) -> None:
        check_ranges(self)


@register
@final
class FirstSure(Method):
    """See the module's text."""

    name: ClassVar[str] = "first_sure"
    Config: ClassVar[type[Any]] = FirstSureConfig
    inference_knobs = (CONFIDENCE,)
    no_cap: ClassVar[str] = (
        "this skeleton leaves it out; trainables/layers/caps.py has what a method that reads by the step needs"
    )

    @classmethod
    def sources_of(cls, config: FirstSureConfig) -> tuple[str, ...]:
        return (FINE,)

    def __init__(
        self, config: FirstSureConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.width = widths[FINE]
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, num_classes))

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Minus the log-likelihood of the mean over the steps that are looked at."""
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        looked = batch.mask & (steps % self.config.stride == 0)
        scores = self._scores(batch.features[FINE]) * looked[..., None]
        mean = scores.sum(dim=1) / looked.sum(dim=1, keepdim=True)
        loss = score_loss(mean, batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        """Every read and every call of the head is counted by the provider, for the videos that want it."""
        confidence = float(setting.get("confidence", CONFIDENCE.default))
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        total = torch.zeros(provider.batch_size, self.num_classes)
        count = torch.zeros_like(provider.num_steps)
        unsure = torch.ones(provider.batch_size, dtype=torch.bool)
        for step in range(0, provider.max_steps, self.config.stride):
            wanted = unsure & provider.valid(step)
            features = provider.read(FINE, step, wanted)
            provider.charge(f"{self.name}.head", wanted)
            total = total + self._scores(features) * wanted[:, None]
            count = count + wanted
            decisions[wanted, step] = 1
            unsure = unsure & ((total / count[:, None]).max(dim=1).values < confidence)
        return Outcome(scores=total / count[:, None], calls=dict(provider.calls), decisions=decisions)

    def _scores(self, features: Tensor) -> Tensor:
        """Features `[..., D]` to probabilities `[..., C]`."""
        return probabilities(self.head(features), self.multi_label)

    def settings(self) -> list[Setting]:
        return [{"confidence": value} for value in self.config.confidences]

    def reads(self) -> tuple[str, ...]:
        return ("none", FINE)

    def component_costs(self) -> dict[str, ComponentCost]:
        example = torch.zeros(1, self.width, device=next(self.parameters()).device)
        cost = ComponentCost(macs=measure_macs(self.head, example), input=f"{self.width} features")
        return {f"{self.name}.head": cost}
