"""A step of an LSTM or a GRU on rows of buffers, forward and backward, in few operators.

What a backward step needs and no other step changes is computed for all steps at once, as factors of the gradient of
the states after a step. Equations are those of `nn.LSTMCell` and `nn.GRUCell`, whose parameters are used.

n rows of a step, N of all steps, D input width, H hidden units, S states (hidden and cell: 2 for an LSTM, 1 for a GRU),
A parts of the activations (4 and 3). States are `[n, S, H]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten


class CellSteps(ABC):
    """The steps of one cell over N rows. No gradient is recorded here: whoever calls it stands for that.

    Arguments:
        projected: `[N, A * H]`, as `projected_inputs` gives it; used up.
        weight: `weight_hh` of PyTorch's cell, `[A * H, H]`.
        bias: its `bias_hh`, `[A * H]`.
        sizes: rows of each step.
    """

    num_states: ClassVar[int]

    @abstractmethod
    def __init__(self, projected: Tensor, weight: Tensor, bias: Tensor, sizes: Sequence[int]) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, step: int, before: Tensor, after: Tensor) -> None:
        """Writes the states `after` a step, from those `before` it; both `[n, S, H]`."""

    @abstractmethod
    def prepare(self, before: Tensor) -> None:
        """To be called between the last step forward and the first one back; `before`: `[N, S, H]`, the states before
        each row's step."""

    @abstractmethod
    def backward(self, step: int, after: Tensor, before: Tensor) -> None:
        """Adds to the gradient of the states `before` a step what that of the states `after` it gives, `[n, S, H]`."""

    @abstractmethod
    def of_projected(self, step: int) -> Tensor:
        """The gradient of `projected` at a step, `[n, A * H]`, once it was gone back."""

    @abstractmethod
    def gradients(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of `projected`, `weight` and `bias` (None: it has none), in their shapes; `before`: `[N, S, H]`, as `prepare`
        takes it."""


@final
class LstmSteps(CellSteps):
    """An LSTM. Its parts lie in the order output, input, forget, new: three sigmoids side by side, and the three that
    the gradient of the cell state goes to as well. PyTorch's order, turned by one."""

    num_states = 2

    def __init__(self, projected: Tensor, weight: Tensor, bias: Tensor, sizes: Sequence[int]) -> None:
        hidden = weight.shape[1]
        self._weight = weight.view(4, hidden, hidden).roll(1, 0).flatten(0, 1)
        self._turned = self._weight.t()
        self._parts = projected
        self._tanh = projected.new_empty(len(projected), hidden)
        self._sizes, self._hidden = sizes, hidden
        self._steps = [
            (parts, parts[:, : 3 * hidden], parts[:, 3 * hidden :], *parts.chunk(4, dim=1)[:3], tanh)
            for parts, tanh in zip(self._parts.split(sizes), self._tanh.split(sizes), strict=True)
        ]

    def forward(self, step: int, before: Tensor, after: Tensor) -> None:
        parts, sigmoids, new, output, entering, kept, tanh = self._steps[step]
        hidden, memory = after.unbind(1)
        parts.addmm_(before[:, 0], self._turned)
        sigmoids.sigmoid_()
        new.tanh_()
        torch.mul(kept, before[:, 1], out=memory)
        memory.addcmul_(entering, new)
        torch.tanh(memory, out=tanh)
        torch.mul(output, tanh, out=hidden)

    def prepare(self, before: Tensor) -> None:
        factors = self._parts.view(-1, 4, self._hidden)
        output, entering, forget, new = factors.unbind(1)
        through, kept = aten.tanh_backward(output, self._tanh), forget.clone()
        # Factors take the place of the parts: memory that was not touched before costs more than the arithmetic.
        aten.sigmoid_backward.grad_input(self._tanh, output, grad_input=output)
        aten.sigmoid_backward.grad_input(before[:, 1], forget, grad_input=forget)
        aten.sigmoid_backward.grad_input(new, entering, grad_input=self._tanh)
        aten.tanh_backward.grad_input(entering, new, grad_input=new)
        entering.copy_(self._tanh)
        self._factors = factors
        self._work = torch.empty_like(through[: max(self._sizes, default=0)])
        self._back: list[tuple[Tensor, ...]] = [
            (f.flatten(1), f[:, 0], f[:, 1:], k, t)
            for f, k, t in zip(
                factors.split(self._sizes), kept.split(self._sizes), through.split(self._sizes), strict=True
            )
        ]

    def backward(self, step: int, after: Tensor, before: Tensor) -> None:
        parts, output, others, kept, through = self._back[step]
        hidden, memory = after.unbind(1)
        memory = torch.addcmul(memory, hidden, through, out=self._work[: len(after)])
        # Factors become the gradients of what goes into the sigmoids and the tanh.
        output.mul_(hidden)
        others.mul_(memory[:, None])
        before[:, 1].addcmul_(memory, kept)
        before[:, 0].addmm_(parts, self._weight)

    def of_projected(self, step: int) -> Tensor:
        return self._back[step][0]

    def gradients(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        parts = self._factors.flatten(1)
        weight = parts.t() @ before[:, 0]
        return parts, weight.view(4, self._hidden, self._hidden).roll(-1, 0).flatten(0, 1), None


@final
class GruSteps(CellSteps):
    """A GRU, its parts in PyTorch's order: reset, update, new."""

    num_states = 1

    def __init__(self, projected: Tensor, weight: Tensor, bias: Tensor, sizes: Sequence[int]) -> None:
        hidden = weight.shape[1]
        self._weight, self._bias, self._turned = weight, bias, weight.t()
        self._parts, self._recurrent = torch.empty_like(projected), torch.empty_like(projected)
        self._sizes, self._hidden = sizes, hidden
        self._steps = [
            (recurrent, *(each.tensor_split([2 * hidden], dim=1) for each in (given, parts, recurrent)))
            for given, parts, recurrent in zip(
                projected.split(sizes), self._parts.split(sizes), self._recurrent.split(sizes), strict=True
            )
        ]

    def forward(self, step: int, before: Tensor, after: Tensor) -> None:
        whole, (given, given_new), (gates, new), (recurrent, recurrent_new) = self._steps[step]
        reset, update = gates.chunk(2, dim=1)
        torch.addmm(self._bias, before[:, 0], self._turned, out=whole)
        torch.add(given, recurrent, out=gates).sigmoid_()
        torch.addcmul(given_new, reset, recurrent_new, out=new).tanh_()
        torch.lerp(new, before[:, 0], update, out=after[:, 0])

    def prepare(self, before: Tensor) -> None:
        reset, update, new = self._parts.view(-1, 3, self._hidden).unbind(1)
        to_new = aten.tanh_backward(1 - update, new)
        to_update = aten.sigmoid_backward(before[:, 0] - new, update)
        to_reset = aten.sigmoid_backward(to_new * self._recurrent[:, 2 * self._hidden :], reset)
        factors = torch.stack([to_reset, to_update, to_new], dim=1)
        self._factors, self._to_recurrent = factors, factors.clone()
        self._to_recurrent[:, 2].mul_(reset)
        split = (each.split(self._sizes) for each in (factors, self._to_recurrent, update))
        self._back: list[tuple[Tensor, ...]] = list(zip(*split, strict=True))

    def backward(self, step: int, after: Tensor, before: Tensor) -> None:
        parts, recurrent, update = self._back[step]
        hidden = after[:, 0]
        parts.mul_(after)
        recurrent.mul_(after)
        before[:, 0].addcmul_(hidden, update)
        before[:, 0].addmm_(recurrent.flatten(1), self._weight)

    def of_projected(self, step: int) -> Tensor:
        return self._back[step][0].flatten(1)

    def gradients(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        recurrent = self._to_recurrent.flatten(1)
        return self._factors.flatten(1), recurrent.t() @ before[:, 0], recurrent.sum(dim=0)


def used_up_once(context: Any, name: str) -> Any:
    """What a function's forward left in its context. Going back fills the same memory with gradients: only once.

    Raises `RuntimeError` the second time, as autograd does where it freed what it had saved.
    """
    kept = getattr(context, name)
    if kept is None:
        raise RuntimeError("the gradient of these recurrent steps was computed already, and can be only once")
    setattr(context, name, None)
    return kept


def steps_of(cell: nn.Module) -> type[CellSteps]:
    """The steps of PyTorch's cell."""
    return LstmSteps if isinstance(cell, nn.LSTMCell) else GruSteps


def input_weights(cell: nn.LSTMCell | nn.GRUCell) -> tuple[Tensor, Tensor]:
    """Weight `[A * H, D]` and bias `[A * H]` that make `projected` of a cell's inputs."""
    if isinstance(cell, nn.GRUCell):
        return cell.weight_ih, cell.bias_ih
    weight = cell.weight_ih.view(4, cell.hidden_size, -1).roll(1, 0).flatten(0, 1)
    bias = (cell.bias_ih + cell.bias_hh).view(4, -1).roll(1, 0).flatten()
    return weight, bias


def projected_inputs(cell: nn.LSTMCell | nn.GRUCell, inputs: Tensor) -> Tensor:
    """What a cell makes of inputs `[N, D]` before it looks at its state, as `CellSteps` takes it, `[N, A * H]`."""
    return F.linear(inputs, *input_weights(cell))
