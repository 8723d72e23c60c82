"""A walk with a gradient of its own computes what the agent's steps say, one after another, and so do its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from paretovid.trainables.baselines.lstm import Lstm
from paretovid.trainables.layers.frame_agent import FrameAgent
from paretovid.trainables.layers.frame_policies import View, index_of, place_of
from paretovid.trainables.layers.functional import classification_loss
from paretovid.trainables.layers.temporal_attention import LstmClassifier
from paretovid.trainables.method import Method
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import synthetic_method, synthetic_split

CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 2e-6}


def batch_of(num_videos: int = 8) -> Batch:
    """Videos of 1 to 9 steps, and one of none."""
    split = synthetic_split(num_videos=num_videos, seed=4)
    mask = split.mask.clone()
    mask[2] = False
    features = {name: values * mask[..., None] for name, values in split.features.items()}
    return Batch(features, mask, split.targets, split.video_keys)


def plain_walk(
    agent: FrameAgent, batch: Batch, num_steps: int, repeats: int
) -> tuple[Tensor, Tensor, list[View]]:
    """Hidden states `[E, K, H]`, actions, and what the policy knew: a step after another, with autograd throughout."""
    lengths, keys = batch.mask.sum(dim=1), batch.video_keys
    memory = None
    if agent.memory is not None:
        memory = agent.memory.remember(batch.features[agent.memory.source], lengths)
    frames = agent.project(batch.features["fine"]).repeat_interleave(repeats, 0)
    lengths, keys = lengths.repeat_interleave(repeats), keys.repeat_interleave(repeats)
    memory = memory and memory.repeated(repeats)
    seen = torch.zeros(len(frames), frames.shape[1], dtype=torch.bool)
    absent = torch.arange(frames.shape[1]) >= lengths[:, None]
    rows = torch.arange(len(frames))
    place, state = torch.zeros(len(frames)), agent._start(len(frames), frames)
    hidden, actions, views = [], [], []
    for t in range(num_steps):
        index = index_of(place, lengths)
        if agent.config.revisits == "nearest_new":
            distance = (torch.arange(frames.shape[1]) - (place.clamp(0, 1) * (lengths - 1))[:, None]).abs()
            nearest = distance.masked_fill(absent | seen, torch.inf).argmin(dim=1)
            index = torch.where((absent | seen).all(dim=1), index, nearest)
        seen[rows, index] = True
        place = place_of(index, lengths)
        state = agent._step(frames[rows, index], memory, state, place)
        hidden.append(state[0])
        if t + 1 < num_steps:
            closed = None
            if memory is not None:
                closed = ~memory.mask
                if agent.config.revisits == "nearest_new":
                    closed = closed | seen.gather(1, memory.steps.clamp(min=0))
            views.append(View(t, keys, place, lengths, memory, closed))
            with torch.no_grad():
                action, place = agent.policy.sample(state[0], views[-1])
            actions.append(action)
    return torch.stack(hidden, dim=1), torch.stack(actions, dim=1), views


AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("ada_frame", {}),
    "pointer": (
        "ada_frame",
        {
            "policy": "pointer",
            "rollouts": 3,
            "agent": {
                "revisits": "nearest_new",
                "initial_state": "learned",
                "knows_place": True,
                "dropout": 0.3,
                "memory": {"projection": 12, "dropout": 0.3, "values": "raw"},
            },
        },
    ),
    "gru": ("ada_frame", {"agent": {"cell": "gru", "initial_state": "learned"}, "rollouts": 2}),
    "without memory": ("ada_frame", {"agent": {"memory": {"kind": "none"}, "knows_place": True}}),
    "jumps": ("fast_forward", {"agent": {"memory": {"kind": "visual"}, "revisits": "nearest_new"}}),
}


@pytest.mark.parametrize("name", AGENTS)
def test_states_actions_and_gradients_are_those_of_the_steps(name: str) -> None:
    method, fields = AGENTS[name]
    made = synthetic_method(method, fields)
    agent, batch, repeats = made.agent, batch_of(), fields.get("rollouts", 1)
    assert isinstance(agent, FrameAgent)
    parameters = [each for each in agent.parameters() if each.requires_grad]
    found = []
    for is_plain in (False, True):
        torch.manual_seed(9)
        if is_plain:
            hidden, actions, _ = plain_walk(agent, batch, 6, repeats)
        else:
            walk = agent.walk(batch, 6, repeats)
            hidden, actions = walk.hidden, walk.actions
        weights = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
        loss = (hidden * weights).sum() / len(hidden)
        found.append([hidden, actions, *torch.autograd.grad(loss, parameters, allow_unused=True)])
    assert len(found[0][0]) == repeats * len(batch.mask)
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, **CLOSE)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found[1][2:]) >= 6


def plain_lstm_loss(method: Lstm, batch: Batch) -> Tensor:
    """The baseline's loss over every step, masked."""
    inputs = torch.cat([method.projections[s](batch.features[s]) for s in method.sources], dim=-1)
    state = method.cell.initial(len(batch.mask), inputs)
    memory = None
    if method.memory is not None:
        memory = method.memory.remember(batch.features[method.memory.source], batch.mask.sum(dim=1))
    for t in range(batch.mask.shape[1]):
        state = method._next(state, inputs[:, t], batch.mask[:, t], memory)
    return classification_loss(method.head(state[0]), batch.targets, False)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("memory", ["none", "visual"])
def test_the_lstm_baseline_has_the_loss_and_gradients_of_its_steps(cell: str, memory: str) -> None:
    fields = {
        "cell": cell,
        "training_frames": 0,
        "with_coarse": True,
        "memory": {"kind": memory, "frames": 4},
    }
    method, batch = synthetic_method("lstm", fields), batch_of()
    assert isinstance(method, Lstm)
    compare(method, [method.loss(batch, Progress(0, 1)).total, plain_lstm_loss(method, batch)])


@pytest.mark.parametrize("memory", ["none", "visual"])
def test_a_batch_without_any_step_has_the_answer_of_no_step(memory: str) -> None:
    method, batch = synthetic_method("lstm", {"memory": {"kind": memory}}), batch_of()
    assert isinstance(method, Lstm)
    empty = Batch(batch.features, torch.zeros_like(batch.mask), batch.targets, batch.video_keys)
    expected = classification_loss(method.head.bias.expand(len(empty.mask), -1), empty.targets, False)
    torch.testing.assert_close(method.loss(empty, Progress(0, 1)).total, expected)


def compare(method: Method, losses: list[Tensor]) -> None:
    """Both losses, and the gradients of all that is trained, agree."""
    parameters = [each for each in method.parameters() if each.requires_grad]
    torch.testing.assert_close(*losses, **CLOSE)
    for ours, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert bool(theirs.any())


def test_the_lstm_on_selected_timesteps_has_the_answer_and_gradients_of_its_steps() -> None:
    torch.manual_seed(2)
    classifier = LstmClassifier(width=5, projection=6, hidden=7, dropout=0.0, num_classes=3, prefix="x")
    gates = torch.tensor([[0.9, 0, 0.6, 0, 1], [0, 0, 0, 0, 0.7], [0, 0, 0, 0, 0], [0.5, 0.6, 0.7, 0.8, 0.9]])
    found = []
    for way in (classifier, classifier._by_steps):
        opened, projected = (
            gates.clone().requires_grad_(),
            torch.randn(4, 5, 6, generator=seeded()).requires_grad_(),
        )
        answer = way(projected, opened)
        parameters = [opened, projected, *classifier.cell.parameters(), *classifier.head.parameters()]
        found.append([answer, *torch.autograd.grad(answer.square().sum(), parameters)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(8)
