"""A recurrent network that walks through a video by its own choice of frames: what such methods share.

AdaFrame chooses the next place and stops by expected gain (`methods/ada_frame.py`); its rivals choose or stop in other
ways (`trainables/baselines/glimpse_agents.py`). Walking, paying and stopping early live here.

B videos, T steps of a video, K steps of the agent, P width of a projected frame, D of the memory, H hidden units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import (
    CAP,
    METHOD,
    Cap,
    points_under_caps,
    record,
    spent_macs,
    stopped_by,
    within,
)
from paretovid.trainables.layers.coarse_to_fine import COARSE, FINE, READ_COARSE, READ_FINE
from paretovid.trainables.layers.frame_classifier import mark_read
from paretovid.trainables.layers.frame_policies import FramePolicy, View, Visited, place_of
from paretovid.trainables.layers.functional import probabilities, stack_steps
from paretovid.trainables.layers.global_memory import GlobalMemory, Memory, MemoryConfig, positional_encoding
from paretovid.trainables.layers.recurrent import Cell, CellKind, Projection
from paretovid.trainables.outcome import Batch, Outcome, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Dropout, Width, check_ranges
from paretovid.trainables.recurrence.walk import run_walk

PLACE_WIDTH = 16
"""Width of the encoding of a place, for agents that are given theirs."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an agent stops after a step."""

    stop: Tensor
    """`[B]` bool."""
    trace: dict[str, Tensor]
    """`[B]` each: what stopping otherwise is judged by."""


Decide = Callable[[int, Tensor, Tensor], Decision]
"""`(agent step, hidden [B, H], scores [B, C]) -> Decision`, in evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """Sizes of the network. AdaFrame: 1024 hidden units for ActivityNet, 2048 for FCVID."""

    memory: MemoryConfig = field(default_factory=MemoryConfig)
    cell: CellKind = "lstm"
    frame_projection: Width = 64
    hidden: Width = 128
    dropout: Dropout = 0.0
    """Of projected frames, in training. Not in the paper, which trains on far more videos."""
    initial_state: Literal["zero", "learned"] = "zero"
    """With zero (the paper) the first query of the memory attends to all entries alike, so that the second frame
    is chosen almost blindly; a learned state can ask at once."""
    revisits: Literal["allow", "nearest_new"] = "allow"
    """With `nearest_new` a place that was seen already stands for the nearest frame that was not. Without noise a
    policy can return to one frame for ever; the paper's videos of minutes hide that, those of seconds do not."""
    knows_place: bool = False
    """Whether the network is given where it looks. The paper's has to find out from what it sees."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cell not in ("lstm", "gru"):
            raise UsageError(f"unknown cell: {self.cell!r}", "Allowed: lstm, gru.")
        if self.initial_state not in ("zero", "learned"):
            raise UsageError(f"unknown initial_state: {self.initial_state!r}", "Allowed: zero, learned.")
        if self.revisits not in ("allow", "nearest_new"):
            raise UsageError(f"unknown revisits: {self.revisits!r}", "Allowed: allow, nearest_new.")


def agent_sources(config: AgentConfig) -> tuple[str, ...]:
    """The fine source, and that of the memory if there is one."""
    return (FINE,) if config.memory.source is None else (FINE, config.memory.source)


def agent_reads(config: AgentConfig) -> tuple[str, ...]:
    """The words of `Method.reads`: a step that only the memory holds, and one that was looked at."""
    return ("none", config.memory.source or COARSE, FINE)


@final
class _Chooser:
    """Draws where the episodes of a training step go, and keeps what the policy knew and did.

    Arguments:
        memory: of the videos of the batch.
        num_steps: of each episode.
        repeats: episodes of each video.
    """

    def __init__(
        self, agent: FrameAgent, batch: Batch, memory: Memory | None, num_steps: int, repeats: int
    ) -> None:
        lengths, keys = batch.mask.sum(dim=1), batch.video_keys
        first = torch.arange(len(lengths), device=lengths.device) * batch.mask.shape[1]
        if repeats > 1:
            lengths, keys, first = (each.repeat_interleave(repeats, 0) for each in (lengths, keys, first))
            memory = memory and memory.repeated(repeats)
        self.views: list[View] = []
        self.actions: list[Tensor] = []
        self._policy, self._memory, self._num_steps = agent.policy, memory, num_steps
        self._lengths, self._keys, self._first = lengths, keys, first
        self._visited = Visited(lengths, batch.mask.shape[1], agent.config.revisits)
        self._everyone = torch.ones_like(lengths, dtype=torch.bool)

    def choose(self, step: int, hidden: Tensor) -> Tensor:
        """Frames of the episodes among all of the batch, `[E]`; the last step's states `[E, H]` choose the next."""
        place = torch.zeros(len(hidden), device=hidden.device)
        if step:
            action, place = self._policy.sample(hidden, self.views[-1])
            self.actions.append(action)
        index = self._visited.index(place)
        self._visited.mark(index, self._everyone)
        if step + 1 < self._num_steps:
            closed = None if self._memory is None else self._visited.closed(self._memory)
            place = place_of(index, self._lengths)
            self.views.append(View(step, self._keys, place, self._lengths, self._memory, closed))
        return self._first + index


@dataclass(frozen=True, slots=True)
class Walk:
    """B walks of training."""

    hidden: Tensor
    """`[B, K, H]`"""
    actions: Tensor
    """`[B, K-1]`: what the policy drew after each step but the last."""
    views: list[View]
    """What it knew then."""


@final
class Episodes:
    """The episodes of a batch whose videos have a step at all: a row of padding only has nothing to say."""

    def __init__(self, batch: Batch, repeats: int) -> None:
        there = batch.mask.any(dim=1)
        self._there = None if bool(there.all()) else there.repeat_interleave(repeats)
        self.targets = self.select(batch.targets.repeat_interleave(repeats, 0))
        """`[E, C]`"""

    def select(self, values: Tensor) -> Tensor:
        """Of `[R * B, ...]` those, `[E, ...]`."""
        return values if self._there is None else values[self._there]


@final
class FrameAgent(nn.Module):
    """The memory-augmented recurrent network with its prediction head (AdaFrame, section 3.1).

    Arguments:
        config: sizes.
        widths: feature width of `agent_sources(config)`.
        policy: makes the policy, given the memory; paid at every step, as are the deciders.
        deciders: sizes of the linear heads on the hidden state that the method stops by.
        prefix: the method's name, in front of its components' names.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        widths: Mapping[str, int],
        num_classes: int,
        multi_label: bool,
        policy: Callable[[GlobalMemory | None], FramePolicy],
        deciders: Mapping[str, int],
        prefix: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.multi_label = multi_label
        self.prefix = prefix
        self.fine_width = widths[FINE]
        self.project = Projection(widths[FINE], config.frame_projection, config.dropout)
        self.memory: GlobalMemory | None = None
        if config.memory.source is not None:
            self.memory = GlobalMemory(config.memory, widths=widths, hidden=config.hidden, prefix=prefix)
        context = self.memory.width if self.memory is not None else 0
        self.place_width = PLACE_WIDTH if config.knows_place else 0
        self.cell = Cell(config.cell, config.frame_projection + context + self.place_width, config.hidden)
        self.head = nn.Linear(config.hidden, num_classes)
        self.policy = policy(self.memory)
        self.deciders = nn.ModuleDict(
            {name: nn.Linear(config.hidden, size) for name, size in deciders.items()}
        )
        self.initial = (
            nn.Parameter(0.1 * torch.randn(self.cell.num_states, 1, config.hidden))
            if config.initial_state == "learned"
            else None
        )

    def _start(self, batch_size: int, like: Tensor) -> Tensor:
        if self.initial is None:
            return self.cell.initial(batch_size, like)
        return self.initial.expand(-1, batch_size, -1)

    def _step(self, frame: Tensor, memory: Memory | None, state: Tensor, place: Tensor) -> Tensor:
        inputs = [frame]
        if memory is not None and self.memory is not None:
            inputs.append(self.memory.context(memory, state[0]))
        if self.place_width:
            inputs.append(positional_encoding(place * PLACE_WIDTH, self.place_width))
        answer: Tensor = self.cell(torch.cat(inputs, dim=-1), state)
        return answer

    def walk(self, batch: Batch, num_steps: int, repeats: int = 1) -> Walk:
        """Training: `num_steps` steps through every video, `repeats` times each, all features present.

        Returns a walk over `repeats * B` episodes; those of one video follow each other.
        """
        features, lengths = batch.features, batch.mask.sum(dim=1)
        memory = None
        if self.memory is not None:
            memory = self.memory.remember(features[self.memory.source], lengths)
        table = self._table(self.project(features[FINE]), lengths)
        chooser = _Chooser(self, batch, memory, num_steps, repeats)
        hidden = run_walk(
            self.cell.cell,
            table,
            chooser.choose,
            [repeats * len(lengths)] * num_steps,
            memory=self.memory.asked(memory) if self.memory is not None and memory is not None else None,
            answer_at=self.config.frame_projection,
            initial=None if self.initial is None else self.initial[:, 0],
        )
        by_episode = hidden.view(num_steps, -1, self.config.hidden).transpose(0, 1).contiguous()
        actions = chooser.actions
        none = table.new_zeros(len(by_episode), 0)
        return Walk(by_episode, stack_steps(actions) if actions else none, chooser.views)

    def _table(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """What the cell is given of each frame, `[B * T, P]`, from projected frames `[B, T, P]`."""
        if self.place_width:
            places = place_of(torch.arange(frames.shape[1], device=frames.device), lengths[:, None])
            frames = torch.cat([frames, positional_encoding(places * PLACE_WIDTH, self.place_width)], dim=-1)
        return frames.flatten(0, 1)

    def log_probability(self, walk: Walk) -> Tensor:
        """Log probability of what the policy drew, `[B, K-1]`, with gradient."""
        if not walk.views:
            return walk.actions
        return self.policy.log_probability(walk.hidden[:, :-1], walk.actions, walk.views)

    def run(self, provider: Provider, num_steps: int, decide: Decide, cap: Cap) -> Outcome:
        """Evaluation and production: asks only for the frames that it jumps to. A read is one frame.

        The trace holds `steps` (the step looked at, -1 after stopping) `[B, K]`, `scores` `[B, K, C]`, `calls/NAME`
        `[B, K]` and what `decide` leaves; `memory` names the steps that the memory was made from; without a cap,
        what `under_caps` needs.

        Raises `UsageError` if the cap does not pay for the memory and one frame.
        """
        device = provider.num_steps.device
        cheapest, read_macs = self._cheapest(provider)
        cap.check(cheapest, FINE)
        memory = self.memory.read(provider) if self.memory is not None else None
        remembered = memory.mask.sum(dim=1) if memory is not None else torch.zeros_like(provider.num_steps)
        state = self._start(provider.batch_size, torch.zeros(1, device=device))
        place = torch.zeros(provider.batch_size, device=device)
        active = provider.num_steps > 0
        refused = torch.zeros_like(active)
        visited = Visited(provider.num_steps, provider.max_steps, self.config.revisits)
        answer = probabilities(self.head(state[0]), self.multi_label)
        trace: dict[str, list[Tensor]] = {}
        for t in range(num_steps):
            if t and not bool(active.any()):
                break
            index = visited.index(place)
            calls = self._read_calls(provider, active & visited.is_new(index), active, remembered * (t > 0))
            fits = cap.fits(spent_macs(provider) + _macs(calls, provider))
            refused, active = refused | (active & ~fits), active & fits
            if t and not bool(active.any()):
                break
            calls = {name: count * active for name, count in calls.items()}
            visited.mark(index, active)
            frame = self.project(provider.read(FINE, index, active))
            place = place_of(index, provider.num_steps)
            state = torch.where(active[None, :, None], self._step(frame, memory, state, place), state)
            scores = probabilities(self.head(state[0]), self.multi_label)
            answer = torch.where(active[:, None], scores, answer)
            for name in self._own:
                provider.charge(name, calls[name])
            decision = decide(t, state[0], scores)
            kept = {"steps": torch.where(active, index, -1), "scores": scores, **decision.trace}
            kept |= {f"calls/{name}": count for name, count in calls.items()}
            kept["spent"] = spent_macs(provider)
            for name, value in kept.items():
                trace.setdefault(name, []).append(value)
            active = active & ~decision.stop
            closed = visited.closed(memory) if memory is not None else None
            place = self.policy.best(
                state[0], View(t, provider.video_keys, place, provider.num_steps, memory, closed)
            )
        joined = {name: stack_steps(values) for name, values in trace.items()}
        if memory is not None:
            joined["memory"] = memory.steps
        if not cap.is_set:
            joined |= record(joined["spent"], cheapest=cheapest, step=read_macs)
        is_early = (joined["steps"] >= 0).sum(dim=1) < num_steps
        return _outcome(provider, answer, joined, stopped_by(refused=refused, is_early=is_early))

    @property
    def _own(self) -> tuple[str, ...]:
        """What a read may call of the agent's own: its step, a frame seen before, the memory asked again."""
        return tuple(f"{self.prefix}.{name}" for name in ("step", "revisit", "memory_reuse"))

    def _read_calls(
        self, provider: Provider, fresh: Tensor, active: Tensor, reused: Tensor
    ) -> dict[str, Tensor]:
        """Component to `[B]` int64, of the active videos' next read.

        Arguments:
            fresh: `[B]` bool, the frame was not seen before.
            reused: `[B]`, entries of the memory that are asked again.
        """
        step, revisit, reuse = self._own
        own = {step: active.long(), revisit: (active & ~fresh).long(), reuse: reused * active}
        return {**own, provider.components[FINE]: fresh.long()}

    def _cheapest(self, provider: Provider) -> tuple[int, int]:
        """Multiply-accumulates of the cheapest answer (a full memory and one read), and of one read."""
        one = provider.costs[self._own[0]].macs + provider.costs[provider.components[FINE]].macs
        return one + (0 if self.memory is None else self.memory.most_macs(provider)), one

    def stopped(self, outcome: Outcome, reads: Tensor) -> Outcome:
        """The outcome of stopping after `reads` `[B]` (at least 1) steps, from one that walked on."""
        trace = outcome.trace
        kept = torch.arange(trace["steps"].shape[1], device=reads.device) < reads[:, None]
        steps = torch.where(kept, trace["steps"], -1)
        rows = torch.arange(len(reads), device=reads.device)
        assert outcome.stopped_by is not None
        return Outcome(
            scores=trace["scores"][rows, reads - 1],
            calls={
                name: count - (trace[f"calls/{name}"] * ~kept).sum(dim=1)
                if f"calls/{name}" in trace
                else count
                for name, count in outcome.calls.items()
            },
            decisions=_decisions({**trace, "steps": steps}, *outcome.decisions.shape),
            stopped_by=torch.where(reads < (trace["steps"] >= 0).sum(dim=1), METHOD, outcome.stopped_by),
        )

    def under_caps(
        self, outcome: Outcome, setting: Setting, caps: Sequence[float]
    ) -> list[tuple[Setting, Outcome]]:
        """What a run would have given under each cap, in reads, from one without any."""
        looked = outcome.trace["steps"] >= 0
        return points_under_caps(
            outcome, setting, caps, lambda fits: self.stopped(outcome, (fits & looked).sum(dim=1))
        )

    def cut(self, outcome: Outcome, reads: Tensor, setting: Setting) -> Outcome:
        """The outcome of stopping after `reads` `[B]` steps, or before if the setting's cap does not pay for them."""
        max_gflops = float(setting.get("max_gflops", 0))
        if not max_gflops:
            return self.stopped(outcome, reads)
        looked = outcome.trace["steps"] >= 0
        paid = (within(outcome.trace["cap/spent"], max_gflops) & looked).sum(dim=1)
        found = self.stopped(outcome, torch.minimum(reads, paid))
        assert found.stopped_by is not None
        return dataclasses.replace(found, stopped_by=torch.where(paid < reads, CAP, found.stopped_by))

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of a step of the agent and of a memory entry. What is seen again is paid once: nothing."""
        return self._costs(
            step=self._step_macs(),
            revisit=ComponentCost(macs=0, input="a frame seen before", provenance="kept in memory"),
            reuse=ComponentCost(macs=0, input="an entry of the memory", provenance="kept in memory"),
            entry=None,
        )

    def paper_component_costs(self, backbones: Mapping[str, ComponentCost]) -> dict[str, ComponentCost]:
        """As AdaFrame's tables count: every step pays its frame and the whole memory again, and nothing else.

        Arguments:
            backbones: source to the cost of its backbone.
        """
        source = "AdaFrame's tables: frames x (backbone + memory)"
        memory = backbones[self.memory.source].macs if self.memory is not None else 0
        nothing = ComponentCost(macs=0, input="-", provenance="not counted by AdaFrame's tables")
        return self._costs(
            step=nothing,
            revisit=ComponentCost(macs=backbones[FINE].macs, input="a frame seen before", provenance=source),
            reuse=ComponentCost(macs=memory, input="an entry of the memory", provenance=source),
            entry=nothing,
        )

    def _costs(
        self,
        *,
        step: ComponentCost,
        revisit: ComponentCost,
        reuse: ComponentCost,
        entry: ComponentCost | None,
    ) -> dict[str, ComponentCost]:
        costs = {"step": step, "revisit": revisit, "memory_reuse": reuse}
        named = {f"{self.prefix}.{name}": cost for name, cost in costs.items()}
        if self.memory is not None:
            measured = self.memory.component_costs()
            named |= measured if entry is None else dict.fromkeys(measured, entry)
        return named

    def _step_macs(self) -> ComponentCost:
        state = self._start(1, self.head.weight).detach()
        memory = self.memory.example() if self.memory is not None else None
        frame = self.head.weight.new_zeros(1, self.fine_width)
        macs = measure_macs(_WholeStep(self), frame, memory, state, frame.new_zeros(1))
        return ComponentCost(
            macs=macs, input=f"{self.fine_width} features, {self.config.hidden} units, memory and heads"
        )


def _macs(calls: Mapping[str, Tensor], provider: Provider) -> Tensor:
    """`[B]` int64: what calls cost."""
    return torch.stack([count * provider.costs[name].macs for name, count in calls.items()]).sum(dim=0)


class _WholeStep(nn.Module):
    """All that a step computes, as one module to measure."""

    def __init__(self, agent: FrameAgent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, frame: Tensor, memory: Memory | None, state: Tensor, place: Tensor) -> list[Tensor]:
        hidden = self.agent._step(self.agent.project(frame), memory, state, place)[0]
        closed = ~memory.mask if memory is not None else None
        self.agent.policy.best(
            hidden, View(0, torch.zeros(1, dtype=torch.int64), place, torch.ones(1), memory, closed)
        )
        return [self.agent.head(hidden), *(decider(hidden) for decider in self.agent.deciders.values())]


def _outcome(provider: Provider, answer: Tensor, trace: dict[str, Tensor], why_stopped: Tensor) -> Outcome:
    """Of a walk that has ended, with scores `answer` `[B, C]`; `why_stopped`: as `caps.stopped_by` gives it."""
    return Outcome(
        scores=answer,
        calls={name: count.clone() for name, count in provider.calls.items()},
        decisions=_decisions(trace, provider.batch_size, provider.max_steps),
        trace=trace,
        stopped_by=why_stopped,
    )


def _decisions(trace: Mapping[str, Tensor], batch_size: int, max_steps: int) -> Tensor:
    """`[B, T]`: what was looked at, from `memory` and `steps` of a trace."""
    decisions = torch.zeros(batch_size, max_steps, dtype=torch.int64)
    for name, value in (("memory", READ_COARSE), ("steps", READ_FINE)):
        for index in trace[name].T if name in trace else ():
            mark_read(decisions, index, value)
    return decisions
