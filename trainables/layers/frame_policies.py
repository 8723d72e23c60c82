"""How an agent chooses where to look next: policies that are sampled in training and followed in evaluation.

* `GaussianPolicy`: a place in the video, drawn around a learned mean (AdaFrame, section 3.1, after Mnih et al. 2014).
* `PointerPolicy`: one of the memory's entries, by how well it fits the state. Ours.
* `JumpPolicy`: one of a few fixed jumps forward or back (FastForward: Fan et al., IJCAI 2018).
* `BlindPolicy`: places at even distances or at random, as a control.

B videos, K steps, M entries of memory, H hidden units. A place is a number from 0 (first step of a video) to 1 (last).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretovid.trainables.data.video_keys import uniform_hash
from paretovid.trainables.layers.global_memory import Memory

_CLOSED = -1e9  # finite, so that nothing open still is a distribution


@dataclass(frozen=True, slots=True)
class View:
    """What a policy knows beside the hidden state."""

    step: int
    """Of the agent, from 0."""
    video_keys: Tensor
    """`[B]` int64: a hash of each video's id."""
    place: Tensor
    """`[B]`: the place just looked at."""
    num_steps: Tensor
    """`[B]`: steps of each video."""
    memory: Memory | None
    closed: Tensor | None
    """`[B, M]` bool: entries of the memory that cannot be chosen."""


class FramePolicy(nn.Module, ABC):
    """Chooses the next place from the hidden state."""

    @abstractmethod
    def sample(self, hidden: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """An action and the place that it stands for, `[B]` each, in states `[B, H]`; training."""

    @abstractmethod
    def best(self, hidden: Tensor, view: View) -> Tensor:
        """The place `[B]` that the policy thinks best in states `[B, H]`; evaluation."""

    @abstractmethod
    def log_probability(self, hidden: Tensor, actions: Tensor, views: Sequence[View]) -> Tensor:
        """`[B, K]` log probabilities of sampled `actions` `[B, K]` in states `[B, K, H]`, with gradient."""


@final
class GaussianPolicy(FramePolicy):
    """N(a_t, deviation^2) with a_t = sigmoid(W_s h_t); the sample is clamped only where it is used."""

    def __init__(self, hidden: int, deviation: float) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden, 1)
        self.deviation = deviation

    def sample(self, hidden: Tensor, view: View) -> tuple[Tensor, Tensor]:
        mean = self.best(hidden, view)
        place = mean + self.deviation * torch.randn_like(mean)
        return place, place

    def best(self, hidden: Tensor, view: View) -> Tensor:
        return torch.sigmoid(self.mean(hidden)).squeeze(-1)

    def log_probability(self, hidden: Tensor, actions: Tensor, views: Sequence[View]) -> Tensor:
        # Up to a constant, which has no gradient.
        mean = torch.sigmoid(self.mean(hidden)).squeeze(-1)
        return -0.5 * ((actions - mean) / self.deviation).square()


@final
class PointerPolicy(FramePolicy):
    """A softmax over the memory's entries: the state's question times each entry."""

    def __init__(self, hidden: int, memory_width: int) -> None:
        super().__init__()
        self.question = nn.Linear(hidden, memory_width)

    def _logits(self, hidden: Tensor, view: View) -> Tensor:
        assert view.memory is not None and view.closed is not None
        logits = torch.bmm(view.memory.keys, self.question(hidden)[:, :, None])[:, :, 0]
        return logits.masked_fill(view.closed, _CLOSED)

    def _place(self, entry: Tensor, view: View) -> Tensor:
        assert view.memory is not None
        step = view.memory.steps.gather(1, entry[:, None])[:, 0]
        return step.clamp(min=0) / (view.num_steps - 1).clamp(min=1)

    def sample(self, hidden: Tensor, view: View) -> tuple[Tensor, Tensor]:
        logits = self._logits(hidden, view)
        # The largest of logits with Gumbel noise is a sample of their softmax.
        entry = (logits - torch.empty_like(logits).exponential_().log()).argmax(dim=1)
        return entry, self._place(entry, view)

    def best(self, hidden: Tensor, view: View) -> Tensor:
        return self._place(self._logits(hidden, view).argmax(dim=1), view)

    def log_probability(self, hidden: Tensor, actions: Tensor, views: Sequence[View]) -> Tensor:
        memory = views[0].memory
        assert memory is not None
        logits = torch.bmm(self.question(hidden), memory.keys.transpose(1, 2))
        closed = torch.stack([view.closed for view in views if view.closed is not None], dim=1)
        return _chosen(logits.masked_fill(closed, _CLOSED), actions)


@final
class JumpPolicy(FramePolicy):
    """A softmax over jumps, each a share of the video to go forward (above 0) or back."""

    def __init__(self, hidden: int, jumps: Sequence[float]) -> None:
        super().__init__()
        self.choice = nn.Linear(hidden, len(jumps))
        self.register_buffer("jumps", torch.tensor(jumps), persistent=False)
        self.jumps: Tensor

    def sample(self, hidden: Tensor, view: View) -> tuple[Tensor, Tensor]:
        logits = self.choice(hidden)
        action = (logits - torch.empty_like(logits).exponential_().log()).argmax(dim=1)
        return action, view.place + self.jumps[action]

    def best(self, hidden: Tensor, view: View) -> Tensor:
        return view.place + self.jumps[self.choice(hidden).argmax(dim=1)]

    def log_probability(self, hidden: Tensor, actions: Tensor, views: Sequence[View]) -> Tensor:
        return _chosen(self.choice(hidden), actions)


@final
class BlindPolicy(FramePolicy):
    """Places that hang on nothing seen: `num_steps` at even distances, or drawn at random. A control.

    In evaluation the draw hangs on the video's key and the step alone; in training it is another each time.
    """

    def __init__(self, num_steps: int, is_random: bool) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.is_random = is_random

    def sample(self, hidden: Tensor, view: View) -> tuple[Tensor, Tensor]:
        place = torch.rand_like(hidden[:, 0]) if self.is_random else self.best(hidden, view)
        return place, place

    def best(self, hidden: Tensor, view: View) -> Tensor:
        if self.is_random:
            return uniform_hash(view.video_keys, view.step).to(hidden.dtype)
        return torch.full_like(hidden[:, 0], (view.step + 1) / max(1, self.num_steps - 1))

    def log_probability(self, hidden: Tensor, actions: Tensor, views: Sequence[View]) -> Tensor:
        return torch.zeros_like(actions)


def _chosen(logits: Tensor, actions: Tensor) -> Tensor:
    """Log probability of the chosen one: `[B, K, A]` logits and `[B, K]` indices to `[B, K]`."""
    return F.log_softmax(logits, dim=-1).gather(-1, actions[..., None])[..., 0]


def index_of(place: Tensor, num_steps: Tensor) -> Tensor:
    """Step of a place: `[B]` floats, 0 the first step and 1 the last, to `[B]` int64; outside is clamped."""
    return (place.clamp(0, 1) * (num_steps - 1).clamp(min=0)).round().long()


def place_of(index: Tensor, num_steps: Tensor) -> Tensor:
    """Where in its video a step is: `[B]` int64 to `[B]` from 0 (first step) to 1 (last)."""
    return index / (num_steps - 1).clamp(min=1)


@final
class Visited:
    """Which frames of B videos were looked at, and which frame a place stands for."""

    def __init__(self, num_steps: Tensor, max_steps: int, rule: str) -> None:
        self._num_steps = num_steps
        self._rule = rule
        self._steps = torch.arange(max(1, max_steps), device=num_steps.device)
        self._absent = self._steps >= num_steps[:, None]
        self._seen = torch.zeros_like(self._absent)
        self._rows = torch.arange(len(num_steps), device=num_steps.device)

    def index(self, place: Tensor) -> Tensor:
        """The step that a place stands for, `[B]`."""
        index = index_of(place, self._num_steps)
        if self._rule == "allow":
            return index
        distance = (self._steps - (place.clamp(0, 1) * (self._num_steps - 1))[:, None]).abs()
        closed = self._absent | self._seen
        nearest = distance.masked_fill(closed, torch.inf).argmin(dim=1)
        return torch.where(closed.all(dim=1), index, nearest)

    def closed(self, memory: Memory) -> Tensor:
        """`[B, M]` bool: the entries of a memory whose frames are not there or, unless revisits are allowed, seen."""
        if self._rule == "allow":
            return ~memory.mask
        return ~memory.mask | self._seen.gather(1, memory.steps.clamp(min=0))

    def is_new(self, index: Tensor) -> Tensor:
        """Who has not seen a step yet, `[B]` bool."""
        return ~self._seen[self._rows, index]

    def mark(self, index: Tensor, active: Tensor) -> None:
        """Notes what the active videos look at, steps `[B]` of those that are `active` `[B]`."""
        self._seen[self._rows, index] |= active
