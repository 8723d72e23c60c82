"""Heads, losses and proposals of weakly supervised localization, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.localization_head import (
    HeadConfig,
    LocalizationHead,
    ProposalConfig,
    best_clips_mean,
    co_activity_loss,
    feature_change,
    head_loss,
    instances,
    multiple_instance_loss,
)
from paretovid.trainables.outcome import Batch

ALL = torch.ones(1, 8, dtype=torch.bool)


def found(activations: list[float], scores: float = 0.9, **proposals) -> list[tuple[float, float]]:
    """Intervals of class 0 of two, in clips."""
    first = torch.tensor(activations)
    both = torch.stack([first, 1 - first], dim=1)
    config = ProposalConfig(**{"least_clips": 1, **proposals})
    each = instances(both, torch.tensor([scores, 0.1]), config, 1.0)
    assert all(d.label == 0 for d in each)
    return sorted((d.start_seconds, d.end_seconds) for d in each)


def test_a_video_scores_the_mean_of_its_best_eighth():
    values = torch.arange(16.0).reshape(1, 16, 1)
    every = torch.ones(1, 16, dtype=torch.bool)
    assert best_clips_mean(values, every, 8).item() == 14.5  # of 16 clips two
    assert best_clips_mean(values, every & (torch.arange(16) < 9), 8).item() == 7.5  # of 9 two
    assert best_clips_mean(values, every & (torch.arange(16) < 8), 8).item() == 7.0  # of 8 one
    assert best_clips_mean(values, every & (torch.arange(16) < 1), 8).item() == 0.0


def test_several_labels_share_the_instance_loss_and_none_costs_nothing():
    logits = torch.tensor([[2.0, 2.0, -50.0]])
    assert multiple_instance_loss(logits, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(
        math.log(2)
    )
    assert multiple_instance_loss(logits, torch.zeros(1, 3)).item() == 0


def activity(strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two videos of four clips whose first clips are active, with embeddings that tell active from inactive."""
    logits = torch.zeros(2, 4, 2)
    logits[:, 0, 0] = strength
    embedded = torch.zeros(2, 4, 3)
    embedded[:, 0, 0] = 1.0
    embedded[:, 1:, 1] = 1.0
    return embedded, logits


def test_co_activity_wants_active_parts_alike_and_unlike_the_rest():
    mask, targets = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    embedded, logits = activity(50.0)
    # Active parts are equal (distance 0), the rest is orthogonal (1): 0 - 1 + 0.5 is below 0.
    assert co_activity_loss(embedded, logits, mask, targets, 0.5).item() == pytest.approx(0, abs=1e-6)
    # All alike: the margin is missed by all of it.
    alike = torch.ones_like(embedded)
    assert co_activity_loss(alike, logits, mask, targets, 0.5).item() == pytest.approx(0.5, abs=1e-6)
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert co_activity_loss(alike, logits, mask, apart, 0.5).item() == 0  # no class is shared
    short = mask & (torch.arange(4) < 1)
    assert co_activity_loss(alike, logits, short, targets, 0.5).item() == 0  # one clip has no rest


def test_head_losses_do_not_see_padding():
    torch.manual_seed(0)
    config = HeadConfig(dropout=0.0, hidden=8)
    head = LocalizationHead(config, width=5, num_classes=3, component="x")
    features, targets = torch.randn(4, 6, 5), torch.eye(3)[[0, 1, 0, 1]]
    mask = torch.arange(9) < torch.tensor([[6], [3], [1], [5]])
    longer = torch.cat([features, torch.full((4, 3, 5), 1e3)], dim=1)

    def losses(x: torch.Tensor, m: torch.Tensor) -> list[float]:
        batch = Batch({}, m, targets, torch.zeros(4, dtype=torch.int64))
        return [float(part.detach()) for part in head_loss(head, x, batch, config)]

    assert losses(features, mask[:, :6]) == pytest.approx(losses(longer, mask))


def test_instances_are_runs_above_half_of_the_range():
    assert found([0.1, 0.9, 0.9, 0.1, 0.1, 0.8, 0.1, 0.1]) == [(1, 3), (5, 6)]
    assert found([0.1, 0.9, 0.9, 0.1, 0.1, 0.8, 0.1, 0.1], least_clips=2) == [(1, 3)]
    assert found([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7, 0.7], threshold=0.8) == [(0, 1)]
    assert found([0.1, 0.1, 0.9], scores=0.4) == []  # below chance: the class is not there


def test_a_constant_class_is_everywhere_and_one_clip_is_enough_of_a_video():
    assert found([0.5] * 6, least_clips=2) == [(0, 6)]
    assert found([0.7], least_clips=2) == [(0, 1)]


def test_scores_weigh_the_peak_and_the_class_and_seconds_follow_the_steps():
    activations = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]])
    (detection,) = instances(activations, torch.tensor([0.6, 0.1]), ProposalConfig(), 0.64)
    assert (detection.label, detection.start_seconds, detection.end_seconds) == (0, 0.64, 1.92)
    assert detection.score == pytest.approx((0.8 + 0.7 * 0.6) / 1.7)


def test_snapping_moves_ends_to_the_sharpest_change_within_reach():
    activations = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1])
    both, scores = torch.stack([activations, 1 - activations], dim=1), torch.tensor([0.9, 0.1])
    change = torch.tensor([0.0, 0.8, 0.1, 0.1, 0.1, 0.1, 0.9])

    def ends(reach: int) -> tuple[float, float]:
        (each,) = instances(both, scores, ProposalConfig(snap_clips=reach), 1.0, change)
        return each.start_seconds, each.end_seconds

    assert ends(0) == (2, 5)
    assert ends(1) == (1, 6)
    flat = torch.zeros(7)
    (each,) = instances(both, scores, ProposalConfig(snap_clips=2), 1.0, flat)
    assert (each.start_seconds, each.end_seconds) == (2, 5)  # nothing changes: nothing moves
    assert feature_change(torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (HeadConfig, {"hidden": 0}),
        (HeadConfig, {"dropout": 1.0}),
        (HeadConfig, {"similarity_weight": 1.0}),
        (HeadConfig, {"similarity_margin": -1.0}),
        (ProposalConfig, {"threshold": 0.0}),
        (ProposalConfig, {"least_clips": 0}),
        (ProposalConfig, {"snap_clips": -1}),
        (ProposalConfig, {"class_weight": float("nan")}),
    ],
)
def test_impossible_settings_are_refused(kind, fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        kind(**fields)
