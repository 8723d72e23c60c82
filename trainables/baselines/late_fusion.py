"""Late fusion: every source judges views at even distances by itself, and all that they say is averaged.

A linear classifier per source, trained on all steps against the video's label on the mean score; an answer is
the mean over sources and views. It is UNIFORM-N (`uniform.py`) for any set of sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from paretovid.trainables.baselines.uniform import FRAME_COUNTS, NUM_FRAMES, FrameCount, check_frame_counts
from paretovid.trainables.cost import ComponentCost
from paretovid.trainables.layers.frame_classifier import FrameScores
from paretovid.trainables.layers.frame_sampling import uniform_steps
from paretovid.trainables.method import Method, register
from paretovid.trainables.methods.hcms import check_sources
from paretovid.trainables.outcome import Batch, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class LateFusionConfig:
    """Settings of late fusion."""

    sources: tuple[str, ...] = ("audio", "fine", "motion")
    frame_counts: tuple[FrameCount, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the default one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_sources(self.sources)
        check_frame_counts(self.frame_counts)


@register
@final
class LateFusion(Method):
    """See the module's text."""

    name: ClassVar[str] = "late_fusion"
    Config: ClassVar[type[Any]] = LateFusionConfig
    inference_knobs = (NUM_FRAMES,)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: LateFusionConfig) -> tuple[str, ...]:
        return config.sources

    def __init__(
        self, config: LateFusionConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        used = {source: widths[source] for source in config.sources}
        self.frame_scores = FrameScores(used, num_classes, multi_label)

    def reads(self) -> tuple[str, ...]:
        return ("none", *self.config.sources)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        return self.frame_scores.loss(batch)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        num_frames = int(setting.get("num_frames", NUM_FRAMES.default))
        if not num_frames:
            provider.expect(self.config.sources[0])
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        totals, count = [], torch.zeros_like(provider.num_steps)
        for index in uniform_steps(provider.num_steps, num_frames):
            scores, wanted = self.frame_scores.read(provider, self.name, index)
            totals.append(scores)
            count = count + wanted
            rows = torch.nonzero(wanted).flatten()
            decisions[rows, index[rows]] = len(self.config.sources)
        return Outcome(
            scores=torch.stack(totals).sum(dim=0) / count[:, None],
            calls=dict(provider.calls),
            decisions=decisions,
        )

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        return self.frame_scores.component_costs(self.name)
