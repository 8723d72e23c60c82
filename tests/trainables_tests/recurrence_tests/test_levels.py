"""Gated levels in few operators compute what the recursion says, and so do their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.trainables_tests.recurrence_tests import plain
from torch import Tensor

from paretovid.trainables.layers.conditioned.gates import Conditioned, Given, Sampled, TrainingGate
from paretovid.trainables.layers.gated_stack import GatedLevels, LevelSize
from paretovid.trainables.recurrence.levels import RecurrentLevel, SampledGate, run_levels
from paretovid.trainables.recurrence.packing import Packed

VIDEOS, STEPS, CLASSES = 10, 9, 5
CLOSE: dict[str, Any] = {"rtol": 0.0, "atol": 2e-6}


def network(
    levels: int, cell: Any = "lstm", synchronize: bool = True, step_dropout: float = 0.4
) -> GatedLevels:
    torch.manual_seed(3)
    sizes = [LevelSize(source=f"s{i}", projection=6 + i, hidden=8 * 2**i) for i in range(levels)]
    return GatedLevels(
        sizes,
        cell=cell,
        dropout=0.0,
        step_dropout=step_dropout,
        synchronize=synchronize,
        widths={size.source: 7 for size in sizes},
        num_classes=CLASSES,
        multi_label=False,
        prefix="x",
    )


def batch(levels: int) -> tuple[dict[str, Tensor], Tensor]:
    """Videos of 0 to all steps, one of them with a hole."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([STEPS, 1, 0, 4, 7, 7, 2, 9, 3, 5])
    mask = torch.arange(STEPS) < lengths[:, None]
    mask[4, 2] = False
    features = {f"s{i}": torch.randn(VIDEOS, STEPS, 7, generator=generator) for i in range(levels)}
    return features, mask


def gates_of(
    levels: GatedLevels, kind: str, temperature: float = 0.7
) -> tuple[list[TrainingGate], list[Tensor]]:
    """Gates, and their parameters."""
    if kind == "given":
        generator = torch.Generator().manual_seed(7)
        return [
            Given(use=torch.rand(VIDEOS, STEPS, generator=generator) < 0.6) for _ in levels.levels[1:]
        ], []
    if kind == "conditioned":
        generator = torch.Generator().manual_seed(9)
        z = torch.rand(VIDEOS, generator=generator) * 2 - 1
        factors = torch.stack([torch.ones(VIDEOS), z, z * z], dim=1)
        terms = [levels.gates() for _ in range(3)]
        return [
            Conditioned(terms=each, factors=factors, temperature=temperature)
            for each in zip(*terms, strict=True)
        ], [parameter for each in terms for gate in each for parameter in gate.parameters()]
    linear = levels.gates()
    return [Sampled(gate=each, temperature=temperature) for each in linear], [
        parameter for each in linear for parameter in each.parameters()
    ]


def scalar(logits: Tensor, usage: Tensor) -> Tensor:
    """A loss with another gradient for each logit and usage."""
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    return (
        (logits * weights).sum() / VIDEOS + (usage.mean(dim=0) - 0.3).square().sum() + usage.square().mean()
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("kind", ["sampled", "conditioned", "given"])
@pytest.mark.parametrize(("levels", "synchronize"), [(2, True), (3, True), (4, True), (2, False), (3, False)])
def test_loss_and_gradients_are_those_of_the_recursion(
    cell: str, kind: str, levels: int, synchronize: bool
) -> None:
    made = network(levels, cell, synchronize)
    features, mask = batch(levels)
    gates, parameters = gates_of(made, kind)
    parameters += list(made.parameters())
    found = []
    for through in (made.train_through, lambda *a: plain.train_through(made, *a)[:2]):
        torch.manual_seed(11)
        logits, usage = through(features, mask, gates)
        loss = scalar(logits, usage)
        found.append([logits, usage, loss, *torch.autograd.grad(loss, parameters, allow_unused=True)])
    assert 0.05 < float(found[0][1].detach().mean()) < 0.95, "both branches are taken"
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None), "weight decay moves what has a gradient of zero"
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, **CLOSE)
    is_unused = [gradient is None for gradient in found[1][3:]]
    assert any(is_unused) == (not synchronize)
    assert all(float(gradient.abs().sum()) > 0 for gradient in found[1][3:] if gradient is not None)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_last_states_of_every_level_are_those_of_the_recursion(cell: str) -> None:
    made = network(3, cell).eval()
    features, mask = batch(3)
    gates, _ = gates_of(made, "given")
    states = plain.train_through(made, features, mask, gates)[2]
    for ours, theirs in zip(made.last_states(features, mask, gates), states, strict=True):
        torch.testing.assert_close(ours.transpose(0, 1), theirs, **CLOSE)


def test_the_gradient_goes_on_to_the_features() -> None:
    made = network(3)
    features, mask = batch(3)
    gates, _ = gates_of(made, "sampled")
    found = []
    for through in (made.train_through, lambda *a: plain.train_through(made, *a)[:2]):
        torch.manual_seed(11)
        given = {name: values.clone().requires_grad_() for name, values in features.items()}
        found.append(torch.autograd.grad(scalar(*through(given, mask, gates)), list(given.values())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_batch_of_which_every_step_is_left_out_has_the_answer_of_no_step() -> None:
    made = network(2, step_dropout=0.0)
    features, mask = batch(2)
    gates, _ = gates_of(made, "sampled")
    logits, usage = made.train_through(features, torch.zeros_like(mask), gates)
    assert torch.equal(logits, made.head.bias.expand_as(logits)) and not usage.any()
    scalar(logits, usage).backward()
    assert made.head.bias.grad is not None


def test_going_back_twice_is_refused() -> None:
    made = network(2)
    features, mask = batch(2)
    loss = scalar(*made.train_through(features, mask, gates_of(made, "sampled")[0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_a_frozen_gate_gets_no_gradient_and_changes_no_other() -> None:
    made = network(2)
    features, mask = batch(2)
    gates, parameters = gates_of(made, "sampled")
    found = []
    for is_frozen in (False, True):
        for parameter in parameters:
            parameter.requires_grad_(not is_frozen)
        torch.manual_seed(11)
        loss = scalar(*made.train_through(features, mask, gates))
        found.append(torch.autograd.grad(loss, list(made.parameters())))
    for free, frozen in zip(*found, strict=True):
        assert torch.equal(free, frozen)


def test_samples_follow_the_logits_and_carry_a_gradient() -> None:
    videos, logit = 4000, 2.0
    packed = Packed.of(torch.ones(videos, 1, dtype=torch.bool))
    torch.manual_seed(0)
    drawn = torch.empty(videos, 2).exponential_().log()
    score = (logit + drawn[:, 0] - drawn[:, 1]).requires_grad_()
    cells = [torch.nn.LSTMCell(1, 2), torch.nn.LSTMCell(1, 3)]
    gate = SampledGate(score, torch.zeros(6), 0.7)
    levels = [
        RecurrentLevel(cell, torch.zeros(videos, 1), each)
        for cell, each in zip(cells, (None, gate), strict=True)
    ]
    (ran,) = run_levels(packed, levels)[1]
    assert set(ran.tolist()) == {0.0, 1.0}
    assert float(ran.detach().mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(logit))), abs=0.02)
    ran.sum().backward()
    soft = torch.sigmoid(score.detach() / 0.7)
    torch.testing.assert_close(score.grad, soft * (1 - soft) / 0.7)


def test_dropout_of_projected_features_is_drawn_anew() -> None:
    made = network(2)
    for level in made.levels:
        dropout = level.project.layers[-1]
        assert isinstance(dropout, torch.nn.Dropout)
        dropout.p = 0.5
    features, mask = batch(2)
    gates, _ = gates_of(made, "given")
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(made.train_through(features, mask, gates)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
