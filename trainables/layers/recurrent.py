"""Recurrent levels with a gate in front: the machinery that coarse-to-fine methods share.

A **level** reads the projected features of its own source, concatenated with those of the levels below.
A gate decides per step whether the level runs; if not, the first entries of its state are overwritten
with the state of the level below (LiteEval, section 3.1, "Synchronizing the cRNN with the fRNN").

B videos, T steps, H hidden units, D input width. A state is `[S, B, H]` with S = 2 (hidden and cell) for an
LSTM and S = 1 for a GRU, so that copying states is one operation for both.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

CellKind = Literal["lstm", "gru"]


@final
class Cell(nn.Module):
    """One recurrent cell, LSTM or GRU, with its state as one tensor."""

    def __init__(self, kind: CellKind, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.num_states = 2 if kind == "lstm" else 1
        self.cell: nn.LSTMCell | nn.GRUCell = (
            nn.LSTMCell(width, hidden) if kind == "lstm" else nn.GRUCell(width, hidden)
        )

    def initial(self, batch_size: int, like: Tensor) -> Tensor:
        """Zero state `[S, B, H]` on the device of `like`."""
        return like.new_zeros(self.num_states, batch_size, self.hidden)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """`[B, D]` inputs and `[S, B, H]` state to the next state."""
        if self.num_states == 1:
            answer: Tensor = self.cell(inputs, state[0])[None]
            return answer
        return torch.stack(self.cell(inputs, (state[0], state[1])))


@final
class Projection(nn.Module):
    """Linear, layer norm, ReLU, dropout.

    LiteEval's code uses batch norm over all padded steps; layer norm does not depend on the padding or on
    the other videos of the batch, which an answer must not either.
    """

    def __init__(self, width: int, projected: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, projected), nn.LayerNorm(projected), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[..., D]` to `[..., P]`."""
        answer: Tensor = self.layers(features)
        return answer


def synchronize(state: Tensor, below: Tensor) -> Tensor:
    """The state `[S, B, H]` with its first entries replaced by the state `[S, B, H_below]` of the level below.

    Hidden and cell state are both copied, as in LiteEval's code. Needs H_below < H.
    """
    return torch.cat([below, state[..., below.shape[-1] :]], dim=-1)


def state_as_features(state: Tensor) -> Tensor:
    """`[S, B, H]` as `[B, S*H]`: what a gate sees of a level."""
    return state.transpose(0, 1).flatten(1)
