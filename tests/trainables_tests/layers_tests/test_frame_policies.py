"""Policies of where to look next: what they draw, and that training raises what was worth it."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.layers.frame_policies import (
    BlindPolicy,
    GaussianPolicy,
    JumpPolicy,
    PointerPolicy,
    View,
)
from paretovid.trainables.layers.global_memory import Memory


def view(batch: int, closed: list[bool] | None = None) -> View:
    keys = torch.eye(3)[None].repeat(batch, 1, 1)
    steps = torch.tensor([0, 4, 9]).repeat(batch, 1)
    mask = torch.ones(batch, 3, dtype=torch.bool)
    shut = torch.tensor([closed or [False] * 3]).repeat(batch, 1)
    return View(
        0,
        torch.arange(batch),
        torch.full((batch,), 0.5),
        torch.full((batch,), 10),
        Memory(keys, keys, keys, mask, steps),
        shut,
    )


def policies():
    torch.manual_seed(0)
    return [GaussianPolicy(4, 0.1), PointerPolicy(4, 3), JumpPolicy(4, (-0.25, 0.1, 0.5))]


@pytest.mark.parametrize("policy", policies(), ids=["gaussian", "pointer", "jump"])
def test_what_paid_off_becomes_likelier(policy):
    hidden, seen = torch.randn(1, 4), view(1)
    with torch.no_grad():
        action, _ = policy.sample(hidden, seen)
    before = policy.log_probability(hidden[:, None], action[:, None], [seen])
    (-before.sum()).backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.01 * parameter.grad
    assert policy.log_probability(hidden[:, None], action[:, None], [seen]) > before


def test_gaussian_places_are_spread_around_the_mean_and_not_clamped():
    policy = GaussianPolicy(4, 0.1)
    with torch.no_grad():
        policy.mean.weight.zero_()
        policy.mean.bias.fill_(-10.0)
    torch.manual_seed(0)
    with torch.no_grad():
        _, place = policy.sample(torch.zeros(4000, 4), view(4000))
    assert float(place.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(place.std()) == pytest.approx(0.1, abs=0.01)
    assert place.min() < 0
    torch.testing.assert_close(
        policy.best(torch.zeros(1, 4), view(1)), torch.tensor([0.0]), atol=1e-4, rtol=0
    )


def test_the_gaussian_gradient_is_that_of_its_density():
    policy, hidden = GaussianPolicy(4, 0.1), torch.randn(1, 1, 4)
    place = torch.tensor([[0.8]])
    mean = torch.sigmoid(policy.mean(hidden))[..., 0]
    exact = torch.distributions.Normal(mean, 0.1).log_prob(place)
    ours = policy.log_probability(hidden, place, [view(1)])
    (expected,) = torch.autograd.grad(exact.sum(), policy.mean.bias, retain_graph=True)
    (got,) = torch.autograd.grad(ours.sum(), policy.mean.bias)
    torch.testing.assert_close(got, expected)


def test_a_pointer_points_to_an_open_entry_and_its_place():
    policy = PointerPolicy(4, 3)
    with torch.no_grad():
        policy.question.weight.zero_()
        policy.question.bias.copy_(torch.tensor([0.0, 1.0, 5.0]))
    assert policy.best(torch.zeros(1, 4), view(1)).tolist() == [1.0]  # step 9 of 0 to 9
    assert policy.best(torch.zeros(1, 4), view(1, [False, False, True])).tolist() == pytest.approx([4 / 9])
    torch.manual_seed(0)
    drawn, _ = policy.sample(torch.zeros(500, 4), view(500, [True, False, False]))
    assert set(drawn.tolist()) <= {1, 2}
    share = float((drawn == 2).float().mean())
    assert share == pytest.approx(float(torch.sigmoid(torch.tensor(4.0))), abs=0.02)


def test_a_jump_goes_from_where_one_is():
    policy = JumpPolicy(4, (-0.25, 0.1))
    with torch.no_grad():
        policy.choice.weight.zero_()
        policy.choice.bias.copy_(torch.tensor([3.0, 0.0]))
    assert policy.best(torch.zeros(1, 4), view(1)).tolist() == [0.25]


def test_blind_places_hang_on_nothing_seen():
    hidden = torch.randn(2, 4)
    even, drawn = BlindPolicy(5, is_random=False), BlindPolicy(5, is_random=True)
    assert even.best(hidden, view(2)).tolist() == [0.25, 0.25]
    assert torch.equal(drawn.best(hidden, view(2)), drawn.best(-hidden, view(2)))
    assert drawn.best(torch.zeros(2000, 4), view(2000)).mean() == pytest.approx(0.5, abs=0.02)
    torch.manual_seed(0)
    first, second = drawn.sample(hidden, view(2)), drawn.sample(hidden, view(2))
    assert not torch.equal(first[1], second[1])  # training sees other places each time
