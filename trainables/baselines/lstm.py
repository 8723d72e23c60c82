"""LSTM-N: N frames through one LSTM, the answer read at the last (LiteEval, Table 1; AdaFrame, Table 1).

With `with_coarse` the coarse features of the same frames are concatenated (LSTM+CF). With a memory, what the
state asks of it is (LSTM-G): AdaFrame without its choice of frames. The frames lie at even distances or are
drawn at random. Their number varies from batch to batch in training, so that one training serves every N;
`training_frames` fixes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from paretovid.trainables.baselines.uniform import (
    FRAME_COUNTS,
    NUM_FRAMES,
    FrameCount,
    TrainingFrames,
    check_frame_counts,
    with_memory_source,
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
from paretovid.trainables.layers.coarse_to_fine import COARSE, FINE, READ_COARSE
from paretovid.trainables.layers.frame_classifier import mark_read
from paretovid.trainables.layers.frame_sampling import Sampling, check_sampling, sampled_steps
from paretovid.trainables.layers.functional import classification_loss, probabilities, stack_steps
from paretovid.trainables.layers.global_memory import GlobalMemory, Memory, MemoryConfig
from paretovid.trainables.layers.recurrent import Cell, CellKind, Projection
from paretovid.trainables.method import Method, register
from paretovid.trainables.outcome import Batch, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, Width, check_ranges
from paretovid.trainables.recurrence.levels import last_hidden
from paretovid.trainables.recurrence.packing import Packed
from paretovid.trainables.recurrence.walk import last_hidden_with_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class LstmConfig:
    """Settings of the LSTM baseline."""

    with_coarse: bool = False
    sampling: Sampling = "uniform"
    """Where in the video the frames lie. Training draws random ones anew for each batch."""
    memory: MemoryConfig = field(default_factory=lambda: MemoryConfig(kind="none"))
    cell: CellKind = "lstm"
    fine_projection: Width = 64
    coarse_projection: Width = 32
    hidden: Width = 128
    dropout: Dropout = 0.0
    """Of projected features, in training."""
    training_frames: TrainingFrames = -1
    """Frames per video in training: -1 varies it over `frame_counts`, 0 takes every step."""
    frame_counts: tuple[FrameCount, ...] = FRAME_COUNTS
    """Inference settings to evaluate; the first is the default one."""
    caps: tuple[CapUnits, ...] = DEFAULT_CAPS
    """Caps to evaluate at the default setting, in units of what one frame costs. Frames are read in order of time."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_sampling(self.sampling)
        check_frame_counts(self.frame_counts)
        check_caps(self.caps)


@final
class _Query(nn.Module):
    """The memory's query as a module, for measuring what it costs."""

    def __init__(self, memory: GlobalMemory) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, hidden: Tensor) -> Tensor:
        return self.memory.context(self.memory.example(), hidden)


@register
@final
class Lstm(Method):
    """See the module's text. Under a cap the answer comes from the frames that come first in time."""

    name: ClassVar[str] = "lstm"
    Config: ClassVar[type[Any]] = LstmConfig
    inference_knobs = (NUM_FRAMES, *KNOBS)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: LstmConfig) -> tuple[str, ...]:
        return with_memory_source(cls._frame_sources(config), config.memory)

    @staticmethod
    def _frame_sources(config: LstmConfig) -> tuple[str, ...]:
        return (FINE, COARSE) if config.with_coarse else (FINE,)

    def __init__(
        self, config: LstmConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        projected = {FINE: config.fine_projection, COARSE: config.coarse_projection}
        self.sources = self._frame_sources(config)
        self.widths = {source: widths[source] for source in self.sources}
        self.projections = nn.ModuleDict(
            {s: Projection(w, projected[s], config.dropout) for s, w in self.widths.items()}
        )
        self.memory = (
            GlobalMemory(config.memory, widths=widths, hidden=config.hidden, prefix=self.name)
            if config.memory.source
            else None
        )
        width = sum(projected[s] for s in self.sources) + (self.memory.width if self.memory else 0)
        self.cell = Cell(config.cell, width, config.hidden)
        self.head = nn.Linear(config.hidden, num_classes)

    def _project(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.projections[s](features[s]) for s in self.sources], dim=-1)

    def _next(self, state: Tensor, inputs: Tensor, wanted: Tensor, memory: Memory | None) -> Tensor:
        if self.memory is not None and memory is not None:
            inputs = torch.cat([inputs, self.memory.context(memory, state[0])], dim=-1)
        return torch.where(wanted[None, :, None], self.cell(inputs, state), state)

    def _training_frames(self) -> int:
        if self.config.training_frames >= 0:
            return self.config.training_frames
        return self.config.frame_counts[int(torch.randint(len(self.config.frame_counts), ()))]

    def _training_steps(self, batch: Batch) -> list[Tensor]:
        num_frames, keys = self._training_frames(), batch.video_keys
        if self.config.sampling == "random":
            keys = keys ^ int(torch.randint(2**62, ()))
        return sampled_steps(self.config.sampling, batch.mask.sum(dim=1), keys, num_frames)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        steps = stack_steps(self._training_steps(batch))
        packed = Packed.of(steps >= 0)
        inputs = self._project({s: packed.select_at(batch.features[s], steps) for s in self.sources})
        if self.memory is None:
            hidden = last_hidden(packed, self.cell.cell, inputs)
        else:
            memory = self.memory.remember(batch.features[self.memory.source], batch.mask.sum(dim=1))
            hidden = last_hidden_with_memory(packed, self.cell.cell, inputs, self.memory.asked(memory))
        loss = classification_loss(self.head(hidden), batch.targets, self.multi_label)
        return Loss(loss, {"classification": float(loss.detach())})

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        decisions = torch.zeros(provider.batch_size, provider.max_steps, dtype=torch.int64)
        state = self.cell.initial(provider.batch_size, self.head.weight)
        memory = self.memory.read(provider) if self.memory else None
        for index in memory.steps.T if memory else ():
            mark_read(decisions, index, READ_COARSE)
        num_frames = int(setting.get("num_frames", 0))
        frames = affordable_frames(
            provider,
            Cap.of(setting, self),
            sampled_steps(self.config.sampling, provider.num_steps, provider.video_keys, num_frames),
            sources=self.sources,
            own=["lstm.rnn"],
            answer="lstm.head",
            remembered={} if memory is None else {self.config.memory.source or "": memory.steps},
            before=self.memory.most_macs(provider) if self.memory else 0,
        )
        before, hidden = decisions.clone(), []
        for index in frames.steps.T:
            wanted = index >= 0
            features = {source: provider.read(source, index, wanted) for source in self.sources}
            state = self._next(state, self._project(features), wanted, memory)
            hidden.append(state[0])
            provider.charge("lstm.rnn", wanted)
            mark_read(decisions, index)
        provider.charge("lstm.head", torch.ones_like(provider.num_steps))
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

    def reads(self) -> tuple[str, ...]:
        return ("none", self.config.memory.source or COARSE, FINE)

    def component_costs(self) -> dict[str, ComponentCost]:
        example = self.head.weight
        inputs = {source: example.new_zeros(1, width) for source, width in self.widths.items()}
        macs = sum(measure_macs(self.projections[s], inputs[s]) for s in self.sources)
        cell_input, state = self._project(inputs).detach(), self.cell.initial(1, example)
        own = {}
        if self.memory is not None:
            macs += measure_macs(_Query(self.memory), state[0])
            cell_input = torch.cat([cell_input, example.new_zeros(1, self.memory.width)], dim=-1)
            own = self.memory.component_costs()
        macs += measure_macs(self.cell, cell_input, state)
        head = measure_macs(self.head, example.new_zeros(1, self.config.hidden))
        return {
            **own,
            "lstm.rnn": ComponentCost(
                macs=macs, input=f"{sum(self.widths.values())} features, {self.config.hidden} units"
            ),
            "lstm.head": ComponentCost(macs=head, input=f"{self.config.hidden} units"),
        }
