"""Rewards and returns, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.layers.policy_gradient import margin, returns, rewards

# One video of class 0, four steps; the margins are -0.2, 0.4, 0.1, 0.6.
SCORES = torch.tensor([[[0.3, 0.5, 0.2], [0.6, 0.2, 0.2], [0.5, 0.4, 0.1], [0.75, 0.15, 0.1]]])
TRUE_CLASS = torch.tensor([[1.0, 0.0, 0.0]])


def test_the_margin_is_the_true_class_minus_the_largest_other_class():
    torch.testing.assert_close(margin(SCORES, TRUE_CLASS), torch.tensor([[-0.2, 0.4, 0.1, 0.6]]))


def test_with_two_true_classes_their_mean_counts():
    both = torch.tensor([[1.0, 1.0, 0.0]])
    torch.testing.assert_close(margin(SCORES, both)[:, 0], torch.tensor([0.4 - 0.2]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("margin", [0.0, 0.6, 0.0, 0.2]),  # 0.1 is below the maximum 0.4; 0.6 exceeds it by 0.2
        ("prediction", [0.0, 0.6, 0.5, 0.75]),
        ("transition", [0.0, 0.3, -0.1, 0.25]),
    ],
)
def test_rewards_of_every_kind(kind, expected):
    scores = SCORES.clone().requires_grad_()
    reward = rewards(scores, TRUE_CLASS, kind)
    torch.testing.assert_close(reward, torch.tensor([expected]))
    assert not reward.requires_grad


def test_returns_are_discounted_sums_from_this_reward_or_the_next():
    reward = torch.tensor([[1.0, 2.0, 4.0]])
    assert returns(reward, 0.5)[0].tolist() == [1 + 1 + 1, 2 + 2, 4]
    assert returns(reward, 0.5, "next")[0].tolist() == [2 + 2, 4, 0]
