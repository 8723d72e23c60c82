"""What the saliency baseline looks at; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from paretovid.trainables.baselines.top_k import TopK, most_salient
from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.method import Exports
from paretovid.trainables.testing import (
    padded_by,
    reloaded,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)


def salient_case() -> tuple[TopK, FeatureSplit]:
    """Two videos whose coarse features say nothing but at a few steps, and a head that knows those."""
    method = synthetic_method("top_k")
    assert isinstance(method, TopK)
    head = method.get_submodule("coarse.heads.coarse.1")
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.weight[0, :3] = torch.tensor([5.0, 3.0, 1.0])
    split = synthetic_split(num_videos=2)
    num_steps = torch.tensor([9, 4])
    mask = torch.arange(9) < num_steps[:, None]
    coarse = torch.zeros(2, 9, 8)
    coarse[0, 6, 0] = coarse[0, 2, 1] = coarse[0, 8, 2] = 1.0  # in this order
    coarse[1, 3, 1] = 1.0
    coarse[1, 5, 0] = 1.0  # past its end
    features = {**split.features, "coarse": coarse, "fine": torch.randn(2, 9, 16) * mask[..., None]}
    return method, dataclasses.replace(split, features=features, mask=mask, num_steps=num_steps)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (1, [[6], [3]]),
        (2, [[2, 6], [0, 3]]),
        (3, [[2, 6, 8], [0, 1, 3]]),
        (5, [[0, 1, 2, 6, 8], [0, 1, 2, 3]]),
    ],
)
def test_the_most_salient_steps_are_looked_at_and_averaged(num_frames, expected):
    method, split = salient_case()
    for each in (split, padded_by(split, 3)):
        outcome = run_cached(method, each, {"num_frames": num_frames})
        assert [(row == 2).nonzero().flatten().tolist() for row in outcome.decisions] == expected
        assert torch.equal(outcome.decisions > 0, split.mask)
        with torch.no_grad():
            by_hand = [
                method.fine({"fine": split.features["fine"][i, steps]}).mean(dim=0)
                for i, steps in enumerate(expected)
            ]
        torch.testing.assert_close(outcome.scores, torch.stack(by_hand))


def test_every_step_is_paid_cheaply_and_the_chosen_at_full_cost():
    method, split = synthetic_method("top_k"), synthetic_split()
    calls = run_cached(method, split, {"num_frames": 3}).calls
    for name in ("synthetic_coarse@1", "top_k.coarse_head"):
        assert torch.equal(calls[name], split.num_steps)
    for name in ("synthetic_fine@1", "top_k.fine_head"):
        assert torch.equal(calls[name], split.num_steps.clamp(max=3))


def test_more_frames_never_cost_less():
    method, split = synthetic_method("top_k"), synthetic_split()
    costs = [
        synthetic_costs(method).gflops(run_cached(method, split, {"num_frames": n}).calls)
        for n in (1, 2, 4, 8)
    ]
    assert all(bool((later >= earlier).all()) for earlier, later in pairwise(costs))
    assert bool((costs[-1] > costs[0]).any())


def test_the_default_setting_is_eight_frames():
    method, split = synthetic_method("top_k"), synthetic_split()
    default, eight = run_cached(method, split, {}), run_cached(method, split, {"num_frames": 8})
    assert torch.equal(default.scores, eight.scores) and torch.equal(default.decisions, eight.decisions)
    assert int((default.decisions[0] == 2).sum()) == 8


def test_of_equals_the_earlier_comes_first():
    saliency = torch.tensor([[0.5, 0.7, 0.5, 0.7], [0.5, 0.5, 0.9, 0.9]])
    steps = most_salient(saliency, torch.tensor([4, 2]), 3)
    assert torch.stack(steps, dim=1).tolist() == [[1, 3, 0], [0, 1, -1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frame_counts": [0, 8]}, r"frame_counts\[0\] must be in \[1, 10000\]"),
        ({"frame_counts": [2, 2]}, "frame_counts cannot be"),
        ({"saliency": "learned"}, "Allowed: confidence"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("top_k", fields)


def test_a_selector_ranks_the_steps_instead(tmp_path):
    selected = synthetic_method("video_epitoma", {"regime": "stand_alone", "top_ks": (3,)})
    train_briefly(selected, synthetic_split(seed=2))
    assert isinstance(selected, Exports)
    selected.export(tmp_path, {"data": {"features": {"coarse": "light@1"}}})
    fields = {"saliency": "selector", "selector": str(tmp_path)}
    method, split = synthetic_method("top_k", fields), synthetic_split(num_videos=12)
    assert isinstance(method, TopK)
    train_briefly(method, split, steps=3)
    outcome = run_cached(method, split, {"num_frames": 3})
    assert torch.equal(outcome.decisions, run_cached(selected, split, {"top_k": 3}).decisions)
    elsewhere = reloaded(method, "top_k", method.portable(fields))
    assert torch.equal(run_cached(elsewhere, split, {"num_frames": 3}).scores, outcome.scores)
    with pytest.raises(UsageError, match="trained on the features light@1"):
        method.check_features({"coarse": "light@2", "fine": "any"})
    for wrong in ({"saliency": "selector"}, {"selector": str(tmp_path)}):
        with pytest.raises(UsageError, match="needs the folder of one"):
            synthetic_method("top_k", wrong)
