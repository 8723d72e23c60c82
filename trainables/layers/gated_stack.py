"""A stack of recurrent levels with a gate in front of each but the first: one way through a video for any number.

LiteEval is a stack of two levels, HCMS of three. Sources are ordered from the one that is read at every step
to the one that is asked for least. At step t, with x_l the projected features of source l:

    level 0 runs:          s_0 <- cell_0(x_0, s_0)
    gate l (l >= 1) sees   [x_0; ...; x_(l-1); s_l]    (s_l of the step before), if level l - 1 ran
    level l runs:          s_l <- cell_l([x_0; ...; x_l], s_l)    if level l - 1 ran and its gate says so
    level l is skipped:    the first H_(l-1) entries of s_l <- s_(l-1)    otherwise (`synchronize`)

The answer is read from the hidden state of the last level. Whatever a skipped level below holds has been copied
upward by then, so the answer knows all that was read.

B videos, T steps, C classes, L levels; D_l, P_l and H_l the widths of source l, of its projection and of level
l's hidden state, H_0 < H_1 < ...; S states of a cell (hidden and cell: 2 for an LSTM, 1 for a GRU).

Costs are in multiply-accumulates (`cost.py`). **Running level l once** costs its backbone, its projection and
cell, and the gate in front of level l + 1, which has to be asked whenever level l ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.layers.caps import STOP, Cap, record, stopped_by
from paretovid.trainables.layers.conditioned.gates import Conditioned, Sampled, TrainingGate, gate_at
from paretovid.trainables.layers.functional import probabilities, stack_steps
from paretovid.trainables.layers.recurrent import (
    Cell,
    CellKind,
    Projection,
    state_as_features,
    synchronize,
)
from paretovid.trainables.outcome import Outcome
from paretovid.trainables.provider import Provider
from paretovid.trainables.recurrence.levels import DrawnGate, RecurrentLevel, SampledGate, run_levels
from paretovid.trainables.recurrence.packing import Packed

Decide = Callable[[int, Tensor], Tensor]
"""`(step, gate input [B, G_l]) -> use [B]` bool, in evaluation."""

NO_CAP = Cap(max_gflops=0, rule=STOP)


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSize:
    """What a level reads, and how wide it is."""

    source: str
    projection: int
    """P_l: the source's features are projected to this many."""
    hidden: int
    """H_l: hidden units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What decides whether a level runs."""

    decide: Decide
    component: str | None
    """Charged whenever the gate is asked; None if deciding costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Where a run stops reading a video before its end. The defaults: nowhere."""

    cap: Cap = NO_CAP
    """A read is one run of a level. A refused one that stops a video ends it after that step, with the level
    skipped; one that does not is skipped alone. A refused first level ends the video in any case."""
    top_runs: int = 0
    """The video ends right after so many runs of the last level; 0: never."""

    @property
    def may_stop(self) -> bool:
        """False if every step of every video is sure to be read."""
        return self.cap.is_set or bool(self.top_runs)


@final
@dataclass(frozen=True, slots=True)
class Level:
    """One level of a stack: the projection of its source, and its cell."""

    source: str
    project: Projection
    cell: Cell


@final
class GatedLevels(nn.Module):
    """Projections, cells and head of a stack; the gates belong to whoever decides.

    Arguments:
        sizes: of two or more levels, hidden sizes rising.
        dropout: of projected features, in training.
        step_dropout: share of a video's steps that training leaves out, others each time.
        synchronize: False leaves the state of a skipped level as it is.
        widths: source to D_l.
        prefix: the method's name, in front of its components' names.
    """

    def __init__(
        self,
        sizes: Sequence[LevelSize],
        *,
        cell: CellKind,
        dropout: float,
        step_dropout: float,
        synchronize: bool,
        widths: Mapping[str, int],
        num_classes: int,
        multi_label: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.widths = {size.source: widths[size.source] for size in sizes}
        self.step_dropout = step_dropout
        self.synchronize = synchronize
        self.multi_label = multi_label
        self.prefix = prefix
        # Modules are named by source, and made in this order: weights of a seed and checkpoints hang on both.
        projections = [Projection(self.widths[s.source], s.projection, dropout) for s in sizes]
        seen, cells = 0, []
        for size in sizes:
            seen += size.projection
            cells.append(Cell(cell, seen, size.hidden))
        for size, projection in zip(sizes, projections, strict=True):
            self.add_module(f"project_{size.source}", projection)
        for size, made in zip(sizes, cells, strict=True):
            self.add_module(size.source, made)
        self.head = nn.Linear(sizes[-1].hidden, num_classes)
        self.levels = tuple(
            Level(size.source, projection, made)
            for size, projection, made in zip(sizes, projections, cells, strict=True)
        )

    def gate_width(self, level: int) -> int:
        """G_l: projected features of the levels below, and this level's state."""
        below = sum(size.projection for size in self.sizes[:level])
        return below + self.levels[level].cell.num_states * self.sizes[level].hidden

    def gates(self) -> list[nn.Linear]:
        """Fresh linear gates for levels 1..L-1: `[B, G_l]` to logits `[B, 2]` (skip, use)."""
        return [nn.Linear(self.gate_width(level), 2) for level in range(1, len(self.levels))]

    # Training

    def train_through(
        self, features: Mapping[str, Tensor], mask: Tensor, gates: Sequence[TrainingGate]
    ) -> tuple[Tensor, Tensor]:
        """All steps but those that `step_dropout` leaves out, with all features present. Both branches of every gate
        are computed; what is paid for is decided in evaluation.

        Arguments:
            features: source to `[B, T, D_l]`.
            mask: `[B, T]` bool.
            gates: one for each level but the first.

        Returns logits at each video's last step, `[B, C]`, and the share of its steps at which each level but
        the first ran, `[B, L - 1]`.
        """
        states, used, packed = self._through(features, mask, gates)
        # As a share of the steps that were there, so that leaving some out does not look like thrift.
        there_at_all = packed.counts.clamp(min=1)
        usage = [packed.sum_by_video(each, mask.shape[1]) / there_at_all for each in used]
        return self.head(states[-1][:, 0]), torch.stack(usage, dim=-1)

    def last_states(
        self, features: Mapping[str, Tensor], mask: Tensor, gates: Sequence[TrainingGate]
    ) -> list[Tensor]:
        """Of every level after each video's last step, `[B, S, H_l]`; arguments as of `train_through`."""
        return self._through(features, mask, gates)[0]

    def _through(
        self, features: Mapping[str, Tensor], mask: Tensor, gates: Sequence[TrainingGate]
    ) -> tuple[list[Tensor], list[Tensor], Packed]:
        """Last states of each level; whether each level but the first ran at each row `[N]`; the rows."""
        packed = Packed.of(mask & self._kept_steps(mask))
        noise = self._noise(mask, gates)
        seen, below = mask.new_zeros(0), []
        for number, level in enumerate(self.levels):
            gate: SampledGate | DrawnGate | None = None
            if number:
                each, drawn = gates[number - 1], None if noise is None else noise[:, :, number - 1]
                gate = gate_at(each, seen, drawn, packed)
            projected = level.project(packed.select(features[level.source]))
            seen = torch.cat([seen, projected], dim=-1) if number else projected
            below.append(RecurrentLevel(level.cell.cell, seen, gate))
        states, used = run_levels(packed, below, synchronize=self.synchronize)
        return states, used, packed

    @staticmethod
    def _noise(mask: Tensor, gates: Sequence[TrainingGate]) -> Tensor | None:
        """Logistic noise `[B, T, L - 1]`: of each gate, the difference of two Gumbel variables."""
        if not any(isinstance(gate, (Sampled, Conditioned)) for gate in gates):
            return None
        drawn = (
            torch.empty(mask.shape[1], len(gates), mask.shape[0], 2, device=mask.device).exponential_().log()
        )
        return (drawn[..., 0] - drawn[..., 1]).permute(2, 0, 1)

    def _kept_steps(self, mask: Tensor) -> Tensor:
        """`[B, T]` bool: the steps of this batch that training does not leave out."""
        if not self.training or self.step_dropout == 0:
            return torch.ones_like(mask)
        return torch.rand(mask.shape, device=mask.device) >= self.step_dropout

    def _skipped(self, state: Tensor, below: Tensor) -> Tensor:
        """The state of a level that does not run at a step after which the level below has state `below`."""
        return synchronize(state, below) if self.synchronize else state

    # Evaluation and production

    def run(
        self,
        provider: Provider,
        gates: Sequence[Gate],
        limits: Limits,
        *,
        traces_every_level: bool = False,
    ) -> Outcome:
        """Through the videos, asking only for what the gates want and the limits allow.

        Arguments:
            gates: one for each level but the first.
            traces_every_level: keeps what `cut` needs to end a video in the middle of a step.

        The outcome's trace: `ran [B, T, L]` bool; `states [B, T, K, H]`, entry k the hidden state of the last
        level after the step had only levels 0..k run (K = L, or K = 1: all levels that ran); `level/COMPONENT`,
        the level that calls it; without a cap what `caps.points_under_caps` needs, a read per step and level.

        Raises `UsageError` if the cap does not pay for the first level at the first step.
        """
        device = provider.num_steps.device
        macs = self.level_macs(provider, gates)
        limits.cap.check(macs[0] + macs[-1], self.levels[0].source)
        walk = _Walk(provider, gates, _Budget(macs, limits.cap, device))
        if not limits.may_stop:
            provider.expect(self.levels[0].source)
        states = [
            level.cell.initial(provider.batch_size, torch.zeros(1, device=device)) for level in self.levels
        ]
        runs = torch.zeros(provider.batch_size, len(self.levels), dtype=torch.int64, device=device)
        stopped = torch.zeros(provider.batch_size, dtype=torch.bool, device=device)
        refused_once = torch.zeros_like(stopped)
        ran_at, tops = [], []
        for t in range(provider.max_steps):
            asked = provider.valid(t) & ~stopped
            starts = asked & walk.budget.affords(0, runs)
            stopped = stopped | (asked & ~starts)
            refused_once = refused_once | (asked & ~starts)
            if provider.batch_size == 1 and not bool(starts):
                break
            new, ran, refused = self._step(t, starts, states, runs, walk)
            here = starts[None, :, None]
            after = [torch.where(here, n, s) for n, s in zip(new, states, strict=True)]
            tops.append(self._tops(new, states, here) if traces_every_level else after[-1][0][:, None])
            ran_at.append(ran)
            states, runs = after, runs + ran
            refused_once = refused_once | refused
            if limits.cap.stops:
                stopped = stopped | refused
            if limits.top_runs:
                stopped = stopped | (runs[:, -1] >= limits.top_runs)
        trace = {"ran": stack_steps(ran_at), "states": stack_steps(tops)}
        if not limits.cap.is_set:
            trace |= record(
                spent_after(trace["ran"], walk.budget.macs), cheapest=macs[0] + macs[-1], step=sum(macs[:-1])
            )
        why = stopped_by(refused=refused_once, is_early=runs[:, 0] < provider.num_steps)
        return self._outcome(walk, states[-1][0], runs, trace, why)

    def _outcome(
        self, walk: _Walk, hidden: Tensor, runs: Tensor, trace: dict[str, Tensor], why_stopped: Tensor
    ) -> Outcome:
        """Of a run that has ended in the last level's states `[B, H]`: charges its `runs` `[B, L]` and the answer.

        Arguments:
            trace: what has been kept of the steps; the level of each component is added.
            why_stopped: as `caps.stopped_by` gives it.
        """
        provider = walk.provider
        for level in range(len(self.levels)):
            backbone, *others = self._components_of(level, provider, walk.gates)
            for name in others:  # the backbone is charged when read
                provider.charge(name, runs[:, level])
            trace |= {f"level/{name}": torch.tensor(level) for name in (backbone, *others)}
        provider.charge(f"{self.prefix}.head", torch.ones_like(runs[:, 0]))
        return Outcome(
            scores=probabilities(self.head(hidden), self.multi_label),
            calls={name: count.clone() for name, count in provider.calls.items()},
            decisions=trace["ran"].sum(dim=-1),
            trace=trace,
            stopped_by=why_stopped,
        )

    def _step(
        self, t: int, starts: Tensor, states: Sequence[Tensor], runs: Tensor, walk: _Walk
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """One step of the videos that start it, `[B]` bool; `runs [B, L]` so far.

        Returns the states after it (of any value for other videos), `ran [B, L]` bool, and `refused [B]` bool:
        a gate asked for a level that the budget does not pay for.
        """
        provider, first = walk.provider, self.levels[0]
        runs = runs.clone()
        runs[:, 0] += starts
        seen = first.project(provider.read(first.source, t, starts))
        new, ran, refused = [first.cell(seen, states[0])], [starts], torch.zeros_like(starts)
        for i, (level, gate) in enumerate(zip(self.levels[1:], walk.gates, strict=True), start=1):
            state, use = states[i], ran[-1]
            after = self._skipped(state, new[-1])
            if bool(use.any()):
                wants = use & gate.decide(t, torch.cat([seen, state_as_features(state)], dim=-1))
                use = wants & walk.budget.affords(i, runs)
                refused = refused | (wants & ~use)
            if bool(use.any()):
                seen = torch.cat([seen, level.project(provider.read(level.source, t, use))], dim=-1)
                after = torch.where(use[None, :, None], level.cell(seen, state), after)
            runs[:, i] += use
            new.append(after)
            ran.append(use)
        return new, torch.stack(ran, dim=-1), refused

    def _tops(self, new: Sequence[Tensor], states: Sequence[Tensor], here: Tensor) -> Tensor:
        """`[B, L, H]`: the last level's hidden state, had levels above 0, 1, ... been skipped at this step."""
        tops = []
        for level, state in enumerate(new):
            for above in states[level + 1 :]:
                state = self._skipped(above, state)
            tops.append(torch.where(here, state, states[-1])[0])
        return torch.stack(tops, dim=1)

    def cut(self, outcome: Outcome, kept: Tensor) -> Outcome:
        """The outcome of a run that had stopped earlier, from one that read on.

        Arguments:
            outcome: of `run`. To stop in the middle of a step it must have traced every level.
            kept: `[B, T, L]` bool, which runs of a level it would have made: for each video those up to some
                point, the very first among them.
        """
        ran, states = outcome.trace["ran"], outcome.trace["states"]
        kept = kept & ran
        depth = kept.sum(dim=-1)
        last = (depth > 0).sum(dim=1) - 1
        rows = torch.arange(len(last), device=last.device)
        inside = (depth[rows, last] - 1).clamp(max=states.shape[2] - 1)
        calls = {
            name: kept[..., int(outcome.trace[f"level/{name}"])].sum(dim=1)
            if f"level/{name}" in outcome.trace
            else count
            for name, count in outcome.calls.items()
        }
        return Outcome(
            scores=probabilities(self.head(states[rows, last, inside]), self.multi_label),
            calls=calls,
            decisions=depth,
        )

    # Cost

    def _components_of(self, level: int, provider: Provider, gates: Sequence[Gate]) -> list[str]:
        """What running a level once calls: its backbone first."""
        source = self.levels[level].source
        names = [provider.components[source], f"{self.prefix}.{source}_rnn"]
        if level < len(gates):
            gate = gates[level].component
            names += [] if gate is None else [gate]
        return names

    def level_macs(self, provider: Provider, gates: Sequence[Gate]) -> list[int]:
        """Multiply-accumulates of running each level once, and last of the answer: L + 1 of them."""
        each = [self._components_of(level, provider, gates) for level in range(len(self.levels))]
        each.append([f"{self.prefix}.head"])
        return [sum(provider.costs[name].macs for name in names) for names in each]

    def component_costs(self) -> dict[str, ComponentCost]:
        """Measured cost of the projections, cells and head, all four LSTM gates included."""
        example = self.head.weight
        macs: dict[str, int] = {}
        seen = example.new_zeros(1, 0)
        for level, size in zip(self.levels, self.sizes, strict=True):
            seen = torch.cat([seen, example.new_zeros(1, size.projection)], dim=-1)
            projection = measure_macs(level.project, example.new_zeros(1, self.widths[size.source]))
            cell = measure_macs(level.cell, seen, level.cell.initial(1, example))
            macs[f"{size.source}_rnn"] = projection + cell
        macs["head"] = measure_macs(self.head, example.new_zeros(1, self.sizes[-1].hidden))
        return self.described(macs)

    def gate_cost(self, gate: nn.Module, level: int) -> ComponentCost:
        """Measured cost of asking the gate in front of a level once."""
        width = self.gate_width(level)
        macs = measure_macs(gate, self.head.weight.new_zeros(1, width))
        return ComponentCost(macs=macs, input=f"{width} values")

    def described(
        self, macs: Mapping[str, int], provenance: str = "torch.utils.flop_counter"
    ) -> dict[str, ComponentCost]:
        """Costs by component from multiply-accumulates by `SOURCE_rnn` and `head`."""
        inputs = {
            f"{size.source}_rnn": f"{self.widths[size.source]} features, {size.hidden} units"
            for size in self.sizes
        }
        inputs["head"] = f"{self.sizes[-1].hidden} units"
        return {
            f"{self.prefix}.{name}": ComponentCost(macs=macs[name], input=given, provenance=provenance)
            for name, given in inputs.items()
        }


def spent_after(ran: Tensor, macs: Tensor) -> Tensor:
    """`[B, T * L]` int64: what a video that ended after each run of a level would have cost.

    Arguments:
        ran: `[B, T, L]` bool, of a run without a cap.
        macs: `[L + 1]` int64, as `GatedLevels.level_macs` gives it.
    """
    return (ran * macs[:-1]).flatten(1).cumsum(dim=1) + macs[-1]


@final
class _Budget:
    """Keeps each video's cost under a cap, with the answer's own cost in reserve."""

    def __init__(self, macs: Sequence[int], cap: Cap, device: torch.device) -> None:
        self.macs = torch.tensor(macs, device=device)
        self._cap = cap

    def affords(self, level: int, runs: Tensor) -> Tensor:
        """`[B]` bool: after `runs [B, L]`, another one of this level fits."""
        spent = (runs * self.macs[:-1]).sum(dim=1)
        return self._cap.fits(spent + self.macs[level] + self.macs[-1])


@final
@dataclass(frozen=True, slots=True)
class _Walk:
    """What a run through videos consults at every step."""

    provider: Provider
    gates: Sequence[Gate]
    budget: _Budget
