"""A recurrent walk through rows of a table that are chosen on the way, with a memory to ask, as one function.

A step: a row of the table is chosen (without gradient), the state before the step asks the memory, and the cell takes
both. What it is for: `trainables/layers/frame_agent.py`, `trainables/layers/global_memory.py`.

B videos, E = R * B episodes (those of a video follow each other), n of them at a step, K steps, N rows of all steps; P
width of the table, D of the memory, M its entries, H hidden units, S states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from paretovid.trainables.recurrence.cells import CellSteps, input_weights, steps_of, used_up_once
from paretovid.trainables.recurrence.packing import Packed

aten = torch.ops.aten

Choose = Callable[[int, Tensor], Tensor]
"""`(step, hidden before it [n, H]) -> rows of the table [n]`."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A memory of B videos."""

    query: Tensor
    """`[D, H]`: weight of the question that a hidden state asks."""
    keys: Tensor
    """`[B, M, D]`, zero at entries that are not there."""
    values: Tensor
    """`[B, M, D]`"""
    absent: Tensor
    """`[B, 1, M]`: added to the logits, 0 at entries that are there."""


def run_walk(
    cell: nn.LSTMCell | nn.GRUCell,
    table: Tensor,
    choose: Choose,
    sizes: Sequence[int],
    *,
    memory: Asked | None = None,
    answer_at: int | None = None,
    initial: Tensor | None = None,
) -> Tensor:
    """Hidden states after every step of every episode, `[N, H]`, the rows of a step following each other.

    Arguments:
        cell: takes a row of the table and what the memory answers.
        table: `[rows, P]`.
        answer_at: before which of the table's P values the cell takes the memory's; None: after all of them.
        sizes: n of each step, never rising; a step is of the first n episodes. All of one size if E is not B.
        initial: `[S, H]` before the first step; None: zero.
    """
    weight, bias = input_weights(cell)
    if memory is not None and answer_at not in (None, table.shape[1]):
        parts = weight.tensor_split([answer_at, answer_at + len(memory.query)], dim=1)
        weight = torch.cat([parts[0], parts[2], parts[1]], dim=1)
    width = table.shape[1]
    # Rows that are chosen several times are projected once; of a table of which few are chosen, these are.
    is_projected = len(table) <= sum(sizes)
    if is_projected:
        table, weight = F.linear(table, weight[:, :width], bias), weight[:, width:]
    else:
        weight = torch.cat([weight, bias[:, None]], dim=1)
    asked = (None, None, None) if memory is None else (memory.query, memory.keys, memory.values)
    answer: Tensor = _Walk.apply(
        _Plan(steps_of(cell), choose, tuple(sizes), None if memory is None else memory.absent, is_projected),
        *(table, weight, cell.weight_hh, cell.bias_hh, initial, *asked),
    )
    return answer


def last_hidden_with_memory(
    packed: Packed, cell: nn.LSTMCell | nn.GRUCell, inputs: Tensor, memory: Asked
) -> Tensor:
    """As `levels.last_hidden`, of a cell that takes inputs `[N, P]` and what the memory answers."""
    if not packed.sizes:
        return inputs.new_zeros(packed.num_videos, cell.hidden_size)
    videos = packed.by_length[: packed.sizes[0]]
    sorted_memory = Asked(
        memory.query, *(each.index_select(0, videos) for each in (memory.keys, memory.values, memory.absent))
    )
    rows = torch.arange(len(inputs), device=inputs.device).split(packed.sizes)
    hidden = run_walk(cell, inputs, lambda step, _: rows[step], packed.sizes, memory=sorted_memory)
    # Before the first step all states are zero.
    none = hidden.new_zeros(packed.num_videos, hidden.shape[1])
    return torch.cat([none, hidden]).index_select(0, packed.last)


@final
@dataclass(frozen=True, slots=True)
class _Plan:
    """What is no tensor with a gradient."""

    kind: type[CellSteps]
    choose: Choose
    sizes: tuple[int, ...]
    absent: Tensor | None
    is_projected: bool
    """Of the table: by the cell's input weights. `weight` is then of the memory's answer alone; else its last column is
    the bias's."""


@final
class _Memory:
    """What was asked at every step, and the gradients of it."""

    def __init__(self, plan: _Plan, query: Tensor, keys: Tensor, values: Tensor) -> None:
        self.query, self.keys, self.values, self.absent = query, keys, values, plan.absent
        self.repeats = plan.sizes[0] // len(keys)
        self._sizes = plan.sizes
        self._questions: list[Tensor] = []
        self._weights: list[Tensor] = []

    def answer(self, hidden: Tensor) -> Tensor:
        """`[n, D]` for states `[n, H]`."""
        videos = len(hidden) // self.repeats
        assert self.absent is not None
        question = (hidden @ self.query.t()).view(videos, self.repeats, -1)
        logits = torch.baddbmm(self.absent[:videos], question, self.keys[:videos].transpose(1, 2))
        weights = torch.softmax(logits, dim=-1)
        self._questions.append(question)
        self._weights.append(weights)
        return torch.bmm(weights, self.values[:videos]).flatten(0, 1)

    def prepare(self) -> None:
        """Before the first step back."""
        self.of_keys, self.of_values = torch.zeros_like(self.keys), torch.zeros_like(self.values)
        self._of_questions = self.query.new_empty(sum(self._sizes), len(self.query))
        self._of_question = self._of_questions.split(self._sizes)

    def backward(self, step: int, of_answer: Tensor, before: Tensor) -> None:
        """Adds to the gradient of hidden states `before` `[n, H]` what that of the answer `[n, D]` gives."""
        question, weights = self._questions[step], self._weights[step]
        videos = len(question)
        of_answer = of_answer.view(videos, self.repeats, -1)
        of_weights = torch.bmm(of_answer, self.values[:videos].transpose(1, 2))
        of_logits = aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        self.of_values[:videos].baddbmm_(weights.transpose(1, 2), of_answer)
        self.of_keys[:videos].baddbmm_(of_logits.transpose(1, 2), question)
        of_question = self._of_question[step]
        torch.bmm(of_logits, self.keys[:videos], out=of_question.view_as(question))
        before.addmm_(of_question, self.query)

    def gradients(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of query, keys and values; `before` `[N, H]`: the hidden states that asked."""
        return self._of_questions.t() @ before, self.of_keys, self.of_values


class _Walk(torch.autograd.Function):
    """`run_walk`."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor | None) -> Tensor:
        table, weight, recurrent, recurrent_bias, initial, query, keys, values = tensors
        assert table is not None and weight is not None
        assert recurrent is not None and recurrent_bias is not None
        sizes, rows = plan.sizes, sum(plan.sizes)
        memory = None
        if query is not None and keys is not None and values is not None:
            memory = _Memory(plan, query, keys, values)
        width = 0 if plan.is_projected else table.shape[1]
        answers = slice(width, width + (0 if query is None else len(query)))
        inputs = table.new_ones(rows, weight.shape[1])
        projected = table.new_empty(rows, weight.shape[0])
        states = table.new_empty(sizes[0] + rows, plan.kind.num_states, recurrent.shape[1])
        blocks = states.split((sizes[0], *sizes))
        blocks[0].copy_(torch.zeros(()) if initial is None else initial)
        cell = plan.kind(projected, recurrent, recurrent_bias, sizes)
        chosen: list[Tensor] = []
        turned = weight.t()
        by_step = zip(sizes, inputs.split(sizes), projected.split(sizes), strict=True)
        for step, (size, given, made) in enumerate(by_step):
            before = blocks[step][:size]
            chosen.append(plan.choose(step, before[:, 0]))
            if memory is not None:
                given[:, answers] = memory.answer(before[:, 0])
            if plan.is_projected:
                torch.index_select(table, 0, chosen[-1], out=made)
                if memory is not None:
                    made.addmm_(given, turned)
            else:
                given[:, :width] = table.index_select(0, chosen[-1])
                torch.mm(given, turned, out=made)
            cell.forward(step, before, blocks[step + 1])
        ctx.walked = (plan, table, weight, inputs, states, initial, cell, memory, torch.cat(chosen))
        return states[sizes[0] :, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, table, weight, inputs, states, initial, cell, memory, chosen = used_up_once(ctx, "walked")
        sizes, width = plan.sizes, 0 if plan.is_projected else table.shape[1]
        before = states[: len(inputs)]
        if sizes[-1] != sizes[0]:
            blocks = states.split((sizes[0], *sizes))
            before = torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=False)])
        cell.prepare(before)
        whole = torch.zeros_like(states)
        whole[sizes[0] :, 0] = gradients[0]
        of_states = whole.split((sizes[0], *sizes))
        if memory is not None:
            memory.prepare()
        for step in reversed(range(len(sizes))):
            earlier = of_states[step][: sizes[step]]
            cell.backward(step, of_states[step + 1], earlier)
            if memory is not None:
                of_answer = cell.of_projected(step) @ weight[:, width : width + len(memory.query)]
                memory.backward(step, of_answer, earlier[:, 0])
        parts, recurrent, recurrent_bias = cell.gradients(before)
        of_rows = parts if plan.is_projected else parts @ weight[:, :width]
        of_table = torch.zeros_like(table).index_add_(0, chosen, of_rows)
        asked = (None, None, None) if memory is None else memory.gradients(before[:, 0])
        of_initial = None if initial is None else of_states[0].sum(dim=0)
        return (None, of_table, parts.t() @ inputs, recurrent, recurrent_bias, of_initial, *asked)
