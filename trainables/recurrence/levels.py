"""A stack of gated recurrent levels over whole videos, as one function with a gradient of its own.

The recursion is that of `trainables/layers/gated_stack.py`. Autograd would record some 50 operators a step and level,
and add up the gradients of all weights at every step; here a step of a gated level is a dozen forward and a dozen back,
and weights get theirs from one product over all steps.

B videos, N rows of all steps that take part (`packing.py`), L levels; level l has H units and S states, and at a step
`[n, S, H]`. A gate's logit is a score of its inputs and a weight of the states before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paretovid.trainables.recurrence.cells import CellSteps, projected_inputs, steps_of, used_up_once
from paretovid.trainables.recurrence.packing import Packed


@final
@dataclass(frozen=True, slots=True)
class SampledGate:
    """A level runs where its noisy logit is above 0; the gradient is that of a sigmoid of it."""

    score: Tensor
    """`[N]`: the logit without what the state gives, noise included."""
    weight: Tensor
    """`[S * H]`, of the level's states before the step: hidden, then cell. `[B, S * H]`: each video has its own."""
    temperature: float


@final
@dataclass(frozen=True, slots=True)
class DrawnGate:
    """A level runs where somebody else has said so."""

    use: Tensor
    """`[N]` bool."""


@final
@dataclass(frozen=True, slots=True)
class RecurrentLevel:
    """What goes into a level."""

    cell: nn.LSTMCell | nn.GRUCell
    inputs: Tensor
    """`[N, D]`."""
    gate: SampledGate | DrawnGate | None = None
    """None runs the level at every step; of the first level."""


def run_levels(
    packed: Packed, levels: Sequence[RecurrentLevel], *, synchronize: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """The steps of a batch through a stack whose first level has no gate, all states zero at first.

    Arguments:
        synchronize: the first entries of a skipped level's states become the states of the level below.

    Returns the last states of each level, `[B, S, H]`, and for each level but the first whether it ran, `[N]` 0 or 1,
    with gradient (straight through) if gates are sampled. A level runs only where the one below ran.
    """
    kinds = {type(level.gate) for level in levels[1:]}
    assert levels[0].gate is None and len(kinds) <= 1, (
        "gates of both kinds: the gradient of one above is not passed on"
    )
    tensors: list[Tensor | None] = []
    for level in levels:
        sampled = level.gate if isinstance(level.gate, SampledGate) else None
        tensors += [
            projected_inputs(level.cell, level.inputs),
            level.cell.weight_hh,
            level.cell.bias_hh,
            None if sampled is None else sampled.score,
            None if sampled is None else sampled.weight,
        ]
    answer: tuple[Tensor, ...] = _Levels.apply(_Plan(packed, tuple(levels), synchronize), *tensors)
    return list(answer[: len(levels)]), list(answer[len(levels) :])


def last_hidden(packed: Packed, cell: nn.LSTMCell | nn.GRUCell, inputs: Tensor) -> Tensor:
    """The last hidden state of each video, `[B, H]`, of one cell over inputs `[N, D]`; zero where there is no step."""
    (states,), _ = run_levels(packed, [RecurrentLevel(cell, inputs)])
    return states[:, 0]


@final
@dataclass(frozen=True, slots=True)
class _Plan:
    """What is no tensor with a gradient."""

    packed: Packed
    levels: tuple[RecurrentLevel, ...]
    synchronize: bool


_PER_LEVEL = 5
"""Tensors that a level has among the function's arguments: `run_levels` says which."""


@final
class _Level:
    """One level's buffers: its states after every step, and what its cell made of them before anything was skipped."""

    def __init__(
        self, plan: _Plan, number: int, tensors: Sequence[Tensor | None], below: _Level | None
    ) -> None:
        projected, weight, bias, self.score, self.weight = tensors
        assert projected is not None and weight is not None and bias is not None
        packed, self.below, self.synchronize = plan.packed, below, plan.synchronize
        self.gate = plan.levels[number].gate
        kind = steps_of(plan.levels[number].cell)
        self.sizes, self.packed = packed.sizes, packed
        self.cell: CellSteps = kind(projected, weight, bias, packed.sizes)
        shape = (kind.num_states, weight.shape[1])
        self.states = projected.new_empty(packed.num_videos + len(projected), *shape)
        self.states[: packed.num_videos] = 0
        self.blocks = self.states.split((packed.num_videos, *packed.sizes))
        self.made = self.blocks[1:]
        if below is None:
            return
        self.cells_own = projected.new_empty(len(projected), *shape)
        self.made = self.cells_own.split(packed.sizes)
        self.ran = projected.new_empty(len(projected))
        self.use = self.ran if below.below is None else torch.empty_like(self.ran)
        if isinstance(self.gate, DrawnGate):
            self.use.copy_(self.gate.use)
        self.logits = None if self.score is None else torch.empty_like(self.score)
        # Videos that have weights of their own, in the order in which each step has them.
        self.weights = (
            self.weight.index_select(0, packed.by_length)
            if self.weight is not None and self.weight.dim() == 2
            else None
        )
        self._by_step = [
            (*each, each[1][:, None, None])
            for each in zip(self.use.split(packed.sizes), self.ran.split(packed.sizes), strict=True)
        ]
        self._scores = () if self.score is None else self.score.split(packed.sizes)
        self._logits = () if self.logits is None else self.logits.split(packed.sizes)

    def forward(self, step: int) -> None:
        """The states after a step; those of the level below are there."""
        size = self.sizes[step]
        before, after = self.blocks[step][:size], self.blocks[step + 1]
        made, below = self.made[step], self.below
        self.cell.forward(step, before, made)
        if below is None:
            return
        use, ran, picks = self._by_step[step]
        if self.weight is not None:
            if self.weights is None:
                torch.addmv(self._scores[step], before.flatten(1), self.weight, out=self._logits[step])
            else:
                of_states = (before.flatten(1) * self.weights[:size]).sum(dim=1)
                torch.add(self._scores[step], of_states, out=self._logits[step])
            torch.gt(self._logits[step], 0, out=use)
        if below.below is not None:
            torch.mul(use, below._by_step[step][1], out=ran)
        # With weights of exactly 0 and 1 this picks.
        torch.lerp(before, made, picks, out=after)
        if self.synchronize:
            lower = below.blocks[step + 1]
            width = lower.shape[-1]
            torch.lerp(lower, made[..., :width], picks, out=after[..., :width])

    def prepare(self, last: Tensor | None, ran: Tensor | None) -> None:
        """Before the first step back: gradients of the last states `[B, S, H]` and of whether it ran `[N]`."""
        # Nothing hangs on such a level's states. A gradient of zero would let weight decay move its weights.
        self.is_unused = last is None and self.weight is None and not self.synchronize
        if self.is_unused:
            return
        self.before = self.states.index_select(0, self.packed.before)
        self.gradient = torch.zeros_like(self.states)
        if last is not None:
            self.gradient.index_copy_(0, self.packed.last, last)
        self.gradients = self.gradient.split((self.packed.num_videos, *self.sizes))
        self.cell.prepare(self.before)
        if self.below is None:
            return
        self._work = self.states.new_empty(max(self.sizes, default=0), *self.states.shape[1:])
        of_ran = torch.zeros_like(self.ran) if ran is None else ran.clone()
        self.of_ran = of_ran.split(self.sizes)
        if self.weight is not None and self.logits is not None:
            self._prepare_gate()

    def _prepare_gate(self) -> None:
        assert isinstance(self.gate, SampledGate) and self.logits is not None and self.below is not None
        # What the gate chose between: what the cell made, and what a step that is skipped has.
        width = self.below.states.shape[-1] if self.synchronize else 0
        self.cells_own[..., width:].sub_(self.before[..., width:])
        if width:
            self.cells_own[..., :width].sub_(self.below.states[self.packed.num_videos :])
        self._difference = self.cells_own.flatten(1).split(self.sizes)
        soft = torch.sigmoid(self.logits / self.gate.temperature)
        slope = soft * (1 - soft) / self.gate.temperature
        if self.below.below is not None:
            slope = slope * self.below.ran
            self._used = self.use.split(self.sizes)
        self.of_score = slope
        self._of_score = slope.split(self.sizes)

    def backward(self, step: int) -> None:
        """The gradient of the states before a step, from that of the states after it."""
        if self.is_unused:
            return
        after, before = self.gradients[step + 1], self.gradients[step][: self.sizes[step]]
        if self.below is None:
            self.cell.backward(step, after, before)
            return
        taken = torch.mul(after, self._by_step[step][2], out=self._work[: len(after)])
        torch.sub(after, taken, out=before)
        if self.synchronize:
            lower = self.below.gradients[step + 1]
            copied = before[..., : lower.shape[-1]]
            lower.add_(copied)
            copied.zero_()
        self.cell.backward(step, taken, before)
        if self.weight is not None:
            of_ran = self.of_ran[step]
            of_ran.add_((after.flatten(1) * self._difference[step]).sum(dim=1))
            of_score = self._of_score[step].mul_(of_ran)
            if self.weights is None:
                before.flatten(1).addr_(of_score, self.weight)
            else:
                before.flatten(1).addcmul_(of_score[:, None], self.weights[: len(before)])
            if self.below.below is not None and self.below.weight is not None:
                self.below.of_ran[step].addcmul_(of_ran, self._used[step])

    def result(self) -> list[Tensor | None]:
        """Gradients of the level's tensors, in the order of the function's arguments."""
        if self.is_unused:
            return [None] * _PER_LEVEL
        found: list[Tensor | None] = [*self.cell.gradients(self.before)]
        if self.weight is None:
            return [*found, None, None]
        if self.weights is None:
            return [*found, self.of_score, self.before.flatten(1).t() @ self.of_score]
        of_rows = self.before.flatten(1) * self.of_score[:, None]
        return [
            *found,
            self.of_score,
            torch.zeros_like(self.weights).index_add_(0, self.packed.videos, of_rows),
        ]


class _Levels(torch.autograd.Function):
    """`run_levels`."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        levels: list[_Level] = []
        for number in range(len(plan.levels)):
            own = tensors[number * _PER_LEVEL : (number + 1) * _PER_LEVEL]
            levels.append(_Level(plan, number, own, levels[-1] if levels else None))
        for step in range(len(plan.packed.sizes)):
            for level in levels:
                level.forward(step)
        ctx.levels = levels
        ctx.set_materialize_grads(False)
        last = [level.states.index_select(0, plan.packed.last) for level in levels]
        ran = [level.ran.clone() for level in levels[1:]]
        ctx.mark_non_differentiable(
            *(each for each, level in zip(ran, levels[1:], strict=True) if level.weight is None)
        )
        return (*last, *ran)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        levels: list[_Level] = used_up_once(ctx, "levels")
        for number, level in enumerate(levels):
            of_ran = gradients[len(levels) + number - 1] if number else None
            level.prepare(gradients[number], of_ran)
        for step in reversed(range(len(levels[0].sizes))):
            for level in reversed(levels):
                level.backward(step)
        return (None, *(each for level in levels for each in level.result()))
