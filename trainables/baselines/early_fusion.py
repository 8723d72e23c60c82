"""Early fusion: views at even distances, their sources side by side, through one LSTM (HCMS, Table 1).

A, I, M, A+I, ..., A+I+M of that table are `sources` of one to three names; its 10 views and all of them are
`num_frames` 10 and 0. The number of views varies from batch to batch in training, so that one training serves
every N; `training_frames` fixes it. The answer is read at the last view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.baselines.uniform import (
    FRAME_COUNTS,
    NUM_FRAMES,
    FrameCount,
    TrainingFrames,
    check_frame_counts,
)
from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.layers.caps import (
    DEFAULT_CAPS,
    KNOBS,
    Cap,
    CapUnits,
    affordable_frames,
    check_caps,
    frames_under_caps,
)
from paretovid.trainables.layers.frame_sampling import uniform_steps
from paretovid.trainables.layers.functional import classification_loss, probabilities, stack_steps
from paretovid.trainables.layers.recurrent import Cell, CellKind, Projection
from paretovid.trainables.method import Method, register
from paretovid.trainables.methods.hcms import check_sources
from paretovid.trainables.outcome import Batch, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, Width, check_ranges
from paretovid.trainables.recurrence.levels import last_hidden
from paretovid.trainables.recurrence.packing import Packed


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyFusionConfig:
    """Settings of early fusion."""

    sources: tuple[str, ...] = ("audio", "fine", "motion")
    cell: CellKind = "lstm"
    projection: Width = 64
    """Width to which each source's features are projected before they are joined."""
    hidden: Width = 128
    dropout: Dropout = 0.0
    """Of projected features, in training."""
    training_frames: TrainingFrames = -1
    """Views per video in training: -1 varies it over `frame_counts`, 0 takes every step."""
    frame_counts: tuple[FrameCount, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the default one."""
    caps: tuple[CapUnits, ...] = DEFAULT_CAPS
    """Caps to evaluate at the default setting, in units of what one frame costs. Frames are read in order of time."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_sources(self.sources)
        check_frame_counts(self.frame_counts)
        check_caps(self.caps)


@register
@final
class EarlyFusion(Method):
    """See the module's text."""

    name: ClassVar[str] = "early_fusion"
    Config: ClassVar[type[Any]] = EarlyFusionConfig
    inference_knobs = (NUM_FRAMES, *KNOBS)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: EarlyFusionConfig) -> tuple[str, ...]:
        return config.sources

    def __init__(
        self, config: EarlyFusionConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.widths = {source: widths[source] for source in config.sources}
        self.projections = nn.ModuleDict(
            {s: Projection(w, config.projection, config.dropout) for s, w in self.widths.items()}
        )
        self.cell = Cell(config.cell, config.projection * len(config.sources), config.hidden)
        self.head = nn.Linear(config.hidden, num_classes)

    def reads(self) -> tuple[str, ...]:
        return ("none", *self.config.sources)

    def _project(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.projections[s](features[s]) for s in self.config.sources], dim=-1)

    def _next(self, state: Tensor, inputs: Tensor, wanted: Tensor) -> Tensor:
        return torch.where(wanted[None, :, None], self.cell(inputs, state), state)

    def _training_frames(self) -> int:
        if self.config.training_frames >= 0:
            return self.config.training_frames
        return self.config.frame_counts[int(torch.randint(len(self.config.frame_counts), ()))]

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        steps = stack_steps(uniform_steps(batch.mask.sum(dim=1), self._training_frames()))
        packed = Packed.of(steps >= 0)
        sources = self.config.sources
        inputs = self._project({s: packed.select_at(batch.features[s], steps) for s in sources})
        hidden = last_hidden(packed, self.cell.cell, inputs)
        loss = classification_loss(self.head(hidden), batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        num_frames = int(setting.get("num_frames", NUM_FRAMES.default))
        cap = Cap.of(setting, self)
        if not num_frames and not cap.is_set:
            provider.expect(self.config.sources[0])
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        state = self.cell.initial(provider.batch_size, self.head.weight)
        frames = affordable_frames(
            provider,
            cap,
            uniform_steps(provider.num_steps, num_frames),
            sources=self.config.sources,
            own=[f"{self.name}.rnn"],
            answer=f"{self.name}.head",
        )
        before, hidden = decisions.clone(), []
        for index in frames.steps.T:
            wanted = index >= 0
            features = {source: provider.read(source, index, wanted) for source in self.config.sources}
            state = self._next(state, self._project(features), wanted)
            hidden.append(state[0])
            provider.charge(f"{self.name}.rnn", wanted)
            rows = torch.nonzero(wanted).flatten()
            decisions[rows, index[rows]] = len(self.config.sources)
        provider.charge(f"{self.name}.head", torch.ones_like(provider.num_steps))
        scores = probabilities(self.head(state[0]), self.multi_label)
        return Outcome(
            scores=scores,
            calls=dict(provider.calls),
            decisions=decisions,
            trace={"hidden": stack_steps(hidden), "before": before, **frames.trace},
            stopped_by=frames.stopped_by,
        )

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        if setting != self.settings()[0]:
            return []

        def answer(count: Tensor) -> Tensor:
            hidden = outcome.trace["hidden"][torch.arange(len(count)), count - 1]
            return probabilities(self.head(hidden), self.multi_label)

        before = outcome.trace["before"]
        return frames_under_caps(outcome, setting, self.config.caps, before=before, answer=answer)

    def settings(self) -> list[Setting]:
        return [{"num_frames": n} for n in self.config.frame_counts]

    def component_costs(self) -> dict[str, ComponentCost]:
        example = self.head.weight
        inputs = {source: example.new_zeros(1, width) for source, width in self.widths.items()}
        macs = sum(measure_macs(self.projections[s], inputs[s]) for s in self.config.sources)
        macs += measure_macs(self.cell, self._project(inputs).detach(), self.cell.initial(1, example))
        head = measure_macs(self.head, example.new_zeros(1, self.config.hidden))
        return {
            f"{self.name}.rnn": ComponentCost(
                macs=macs, input=f"{sum(self.widths.values())} features, {self.config.hidden} units"
            ),
            f"{self.name}.head": ComponentCost(macs=head, input=f"{self.config.hidden} units"),
        }
