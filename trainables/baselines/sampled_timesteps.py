"""VideoEpitoma's classifier on timesteps that nobody chose: at even distances, or drawn at random.

The samplers of Figure 4 and Table 2 of "VideoEpitoma: Efficient Recognition of Long-range Actions" (anonymous, under
review): what its selector has to beat, with the same network behind it. T' varies from batch to batch in training, so
that one training serves every T'; `training_frames` fixes it. Uniform sampling of one takes the centre of the video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from paretovid.trainables.baselines.uniform import (
    FRAME_COUNTS,
    NUM_FRAMES,
    FrameCount,
    TrainingFrames,
    check_frame_counts,
)
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.coarse_to_fine import COARSE
from paretovid.trainables.layers.frame_classifier import mark_read
from paretovid.trainables.layers.frame_sampling import Sampling, check_sampling, gathered, sampled_steps
from paretovid.trainables.layers.functional import classification_loss, probabilities
from paretovid.trainables.layers.temporal_attention import VideoClassifier
from paretovid.trainables.method import Method, register
from paretovid.trainables.methods.video_epitoma import HEAVY_SOURCES, Heavy
from paretovid.trainables.outcome import Batch, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, Width, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class EpitomaSampledConfig:
    """Settings of the sampled baseline."""

    heavy: Heavy = "fine"
    sampling: Sampling = "uniform"
    """Where in the video the timesteps lie. Training draws random ones anew for each batch."""
    projection: Width = 64
    classifier_hidden: Width = 64
    dropout: Dropout = 0.0
    training_frames: TrainingFrames = -1
    """Timesteps per video in training: -1 varies it over `frame_counts`, 0 takes every step."""
    frame_counts: tuple[FrameCount, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.heavy not in HEAVY_SOURCES:
            raise UsageError(f"heavy cannot be {self.heavy!r}", f"Allowed: {', '.join(HEAVY_SOURCES)}.")
        check_sampling(self.sampling)
        check_frame_counts(self.frame_counts)


@register
@final
class EpitomaSampled(Method):
    """See the module's text."""

    name: ClassVar[str] = "epitoma_sampled"
    Config: ClassVar[type[Any]] = EpitomaSampledConfig
    inference_knobs = (NUM_FRAMES,)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: EpitomaSampledConfig) -> tuple[str, ...]:
        return (config.heavy,)

    def __init__(
        self, config: EpitomaSampledConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.classifier = VideoClassifier(
            width=widths[config.heavy],
            projection=config.projection,
            hidden=config.classifier_hidden,
            dropout=config.dropout,
            num_classes=num_classes,
            prefix=self.name,
        )

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        count, keys = self.config.training_frames, batch.video_keys
        if count < 0:
            count = self.config.frame_counts[int(torch.randint(len(self.config.frame_counts), ()))]
        if self.config.sampling == "random":
            keys = keys ^ int(torch.randint(2**62, ()))
        steps = sampled_steps(self.config.sampling, batch.mask.sum(dim=1), keys, count)
        index = torch.stack(steps, dim=1)
        features = gathered(batch.features[self.config.heavy], index)
        logits = self.classifier(self.classifier.project(features), (index >= 0).to(features.dtype))
        loss = classification_loss(logits, batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        num_frames = int(setting.get("num_frames", 0))
        steps = sampled_steps(self.config.sampling, provider.num_steps, provider.video_keys, num_frames)
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        read = []
        for index in steps:
            read.append(provider.read(self.config.heavy, index, index >= 0))
            mark_read(decisions, index)
        is_open = torch.stack(steps, dim=1) >= 0
        self.classifier.charge(provider, is_open)
        projected = self.classifier.project(torch.stack(read, dim=1))
        scores = probabilities(self.classifier(projected, is_open.to(projected.dtype)), self.multi_label)
        return Outcome(scores=scores, calls=dict(provider.calls), decisions=decisions)

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def reads(self) -> tuple[str, ...]:
        return ("none", COARSE, self.config.heavy)

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.classifier.component_costs()
