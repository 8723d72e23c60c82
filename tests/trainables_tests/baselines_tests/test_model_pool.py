"""Baselines over a pool: what the general contract does not say."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.baselines.model_pool import ModelCascade, ModelOracle, SingleModel
from paretovid.trainables.evaluation.metrics import top1
from paretovid.trainables.layers.model_pool import Clips
from paretovid.trainables.testing import run_cached, synthetic_method, synthetic_split


def test_no_choice_of_one_member_is_right_more_often_than_the_oracle() -> None:
    oracle, single = (synthetic_method(name, {}) for name in ("model_oracle", "single_model"))
    assert isinstance(oracle, ModelOracle) and isinstance(single, SingleModel)
    split = synthetic_split(num_videos=64, seed=3)
    ground_truth = split.targets.numpy()
    members = [run_cached(single, split, {"member": k, "clips": 3}) for k in range(len(oracle.pool.pool))]
    right = torch.stack([m.scores.argmax(-1) == split.targets.argmax(-1) for m in members])
    found = {p: run_cached(oracle, split, {"price": p, "clips": 3}) for p in (0.0, 0.5, 100.0)}
    best = float(right.any(dim=0).double().mean())
    assert max(top1(m.scores.numpy(), ground_truth) for m in members) < best
    # Up to a price of one mistake for the whole pool it is never worth one.
    assert (
        top1(found[0.0].scores.numpy(), ground_truth) == top1(found[0.5].scores.numpy(), ground_truth) == best
    )
    cheapest = torch.where(right.any(dim=0), right.int().argmax(dim=0), 0)
    decided = found[0.5].decisions.amax(dim=1) - 1
    assert (decided == cheapest)[right.any(dim=0)].all()
    assert (found[100.0].decisions.amax(dim=1) == 1).all()


def test_the_least_certain_tag_decides_how_sure_a_cascade_is() -> None:
    cascade = synthetic_method("model_cascade", {}, multi_label=True)
    assert isinstance(cascade, ModelCascade)
    scores = torch.tensor([[0.01, 0.99, 0.02], [0.01, 0.6, 0.02]])
    assert cascade._is_sure(scores, 0.9).tolist() == [True, False]
    assert cascade._is_sure(scores, 0.19).tolist() == [True, True]
    assert cascade._is_sure(torch.ones(1, 3), 1.0).tolist() == [False], "1 asks everybody"


def test_an_oracle_of_tags_counts_the_wrong_ones() -> None:
    oracle, single = (
        synthetic_method(name, {}, multi_label=True) for name in ("model_oracle", "single_model")
    )
    split = synthetic_split(num_videos=32, seed=3, multi_label=True)
    assert isinstance(single, SingleModel)
    places = range(len(single.pool.pool))
    members = [run_cached(single, split, {"member": k, "clips": 3}).scores for k in places]
    wrong = torch.stack([((m > 0.5) != (split.targets > 0)).float().mean(-1) for m in members])
    chosen = run_cached(oracle, split, {"price": 0.0, "clips": 3})
    assert torch.allclose(((chosen.scores > 0.5) != (split.targets > 0)).float().mean(-1), wrong.amin(dim=0))


@pytest.mark.parametrize("count", [1, 3])
def test_clips_are_averaged(count: int) -> None:
    single = synthetic_method("single_model", {})
    assert isinstance(single, SingleModel)
    split = synthetic_split(num_videos=4, seed=0)
    found = run_cached(single, split, {"member": 1, "clips": count})
    expected = single.pool.of_features(split.features, Clips.of(split.num_steps, count))[1]
    assert torch.allclose(found.scores, expected, atol=1e-6)
