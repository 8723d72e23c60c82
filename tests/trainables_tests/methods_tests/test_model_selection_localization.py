"""Disparity, affinity and the choice of a model per clip; the general contract is in test_method_contract.py."""

from __future__ import annotations

import itertools

import pytest
import torch

from paretovid.trainables.catalog import method_class, method_config
from paretovid.trainables.errors import NonFiniteError, UsageError
from paretovid.trainables.methods.model_selection_localization import (
    ModelSelectionLocalization,
    affinity,
    disparity,
)
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import (
    COMPONENTS,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_metrics,
    synthetic_split,
    train_briefly,
)

NAME = "model_selection_localization"
EVERYWHERE = {"theta": 1.0}


def selection(**fields: object) -> ModelSelectionLocalization:
    method = synthetic_method(NAME, fields)
    assert isinstance(method, ModelSelectionLocalization)
    return method


def mask_of(*counts: int, steps: int = 4) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(counts)[:, None]


def test_disparity_is_relative_to_the_videos_largest_and_of_its_own_class():
    appearance = torch.tensor([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.0, 9.0]]])
    motion = torch.tensor([[[0.1, 0.1], [0.1, 0.5], [0.2, 0.0], [9.0, 0.0]]])
    targets, mask = torch.tensor([[1.0, 0.0]]), mask_of(3)
    torch.testing.assert_close(disparity(appearance, motion, targets, mask), torch.tensor([[1, 0.5, 0, 0]]))
    both = disparity(appearance, motion, torch.tensor([[1.0, 1.0]]), mask)
    torch.testing.assert_close(both, torch.tensor([[1, 0.5, 1, 0]]))  # the third clip by the second label
    assert not disparity(appearance, motion, torch.zeros(1, 2), mask).any()


def test_heads_that_agree_everywhere_have_no_disparity_and_leave_all_to_appearance():
    same = torch.full((1, 4, 2), 0.5)
    apart = disparity(same, same, torch.tensor([[1.0, 0.0]]), mask_of(4))
    weights = affinity(apart, mask_of(4), 0.7, is_soft=True)
    assert not apart.any() and weights[..., 1].sum() == 0 and (weights[..., 0] == 1).all()


def test_beta_is_the_share_of_clips_whose_pseudo_label_is_motion():
    apart = torch.tensor([[0.1, 0.9, 0.4, 1.0], [0.3, 1.0, 5.0, 5.0]])
    mask = mask_of(4, 2)
    hard = affinity(apart, mask, 0.5, is_soft=False)
    assert hard[..., 1].tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]
    assert hard[..., 0].tolist() == [[1, 0, 1, 0], [1, 0, 0, 0]]
    soft = affinity(apart, mask, 0.5, is_soft=True)
    # tau is 0.4 in the first video and 0.3 in the second: what is left to appearance.
    assert soft[0, :, 1].tolist() == pytest.approx([0, 1.5, 0, 1.6])
    assert soft[0, :, 0].tolist() == pytest.approx([1.3, 0, 1.0, 0])
    assert soft[1].sum(dim=1).tolist() == pytest.approx([1.0, 1.7, 0, 0])


@pytest.mark.parametrize(("beta", "to_motion"), [(0.3, 0), (0.7, 1)])
def test_one_clip_goes_where_beta_rounds_it(beta, to_motion):
    weights = affinity(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), beta, is_soft=False)
    assert weights[0, 0].tolist() == [1 - to_motion, to_motion]


def test_heads_know_nothing_of_beta():
    split = synthetic_split(num_videos=12)
    methods = [selection(beta=beta) for beta in (0.2, 0.8)]
    for method in methods:
        train_briefly(method, split, steps=20)
    first, second = (method.state_dict() for method in methods)
    heads = [key for key in first if not key.startswith("selector")]
    assert heads and all(torch.equal(first[key], second[key]) for key in heads)
    assert any(not torch.equal(first[key], second[key]) for key in first if key.startswith("selector"))


@pytest.mark.slow
def test_the_selector_learns_what_beta_asks_for():
    split = synthetic_split(num_videos=24)
    shares = []
    for beta in (0.1, 0.9):
        method = selection(beta=beta)
        train_briefly(method, split, steps=60)
        outcome = run_cached(method, split, {"theta": 0.5})
        shares.append(float((outcome.decisions == 2).sum() / split.num_steps.sum()))
    assert shares[0] < 0.3 and shares[1] > 0.7


def test_frozen_heads_are_as_in_evaluation_and_do_not_move():
    method, split = selection(), synthetic_split(num_videos=12)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    method.loss(batch, Progress(0, 10)).total.backward()
    assert all(p.requires_grad for p in method.appearance.parameters())
    loss = method.loss(batch, Progress(9, 10))
    assert not any(p.requires_grad for p in [*method.appearance.parameters(), *method.motion.parameters()])
    assert method.appearance.training and set(loss.parts) >= {"selector", "to_motion"}


def test_videos_without_labels_teach_the_selector_nothing():
    method, split = selection(selector_dropout=0.0), synthetic_split(num_videos=6, multi_label=True)
    without = Batch(split.features, split.mask, torch.zeros_like(split.targets), split.video_keys)
    assert float(method.loss(without, Progress(9, 10)).total.detach()) == 0


def test_a_higher_theta_never_costs_less():
    method, split = selection(), synthetic_split(num_videos=24)
    train_briefly(method, split, steps=30)
    costs = synthetic_costs(method)
    spent = [costs.gflops(run_cached(method, split, {"theta": t}).calls) for t in (0, 0.3, 0.5, 0.8, 1)]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(spent))
    flow = COMPONENTS["flow"]
    assert not run_cached(method, split, {"theta": 0.0}).calls[flow].any()
    assert torch.equal(run_cached(method, split, EVERYWHERE).calls[flow], split.num_steps)


def test_a_clip_has_the_activations_of_the_model_that_judged_it():
    method, split = selection(), synthetic_split(num_videos=12)
    train_briefly(method, split, steps=30)
    confidence = run_cached(method, split, EVERYWHERE).trace["confidence"]
    theta = float(confidence[split.mask].median())
    outcome, trace = run_cached(method, split, {"theta": theta}), run_cached(method, split, EVERYWHERE).trace
    assert {1, 2} == set(outcome.decisions[split.mask].tolist())
    for value, name in ((1, "appearance"), (2, "motion")):
        mine = outcome.decisions == value
        torch.testing.assert_close(outcome.trace["activations"][mine], trace[name][mine])


def test_argmax_never_asks_for_more_than_the_larger_confidence():
    method, split = selection(fallback="argmax"), synthetic_split(num_videos=12)
    train_briefly(method, split, steps=30)
    at = {theta: run_cached(method, split, {"theta": theta}) for theta in (0.5, 0.9)}
    assert torch.equal(at[0.5].decisions, at[0.9].decisions)
    thetas = [setting["theta"] for setting in method.settings()]
    assert thetas[0] == max(thetas) == 0.5


def test_instances_lie_in_the_video_and_are_on_the_scale_of_seconds():
    method, split = selection(), synthetic_split(num_videos=12)
    train_briefly(method, split, steps=30)
    outcome = run_cached(method, split, {"theta": 0.5})
    assert outcome.detections is not None and any(outcome.detections)
    for found, count in zip(outcome.detections, split.num_steps.tolist(), strict=True):
        assert all(0 <= d.start_seconds < d.end_seconds <= count and 0 <= d.score <= 1 for d in found)
        assert list(found) == sorted(found, key=lambda d: -d.score)


def test_weights_that_are_not_finite_are_an_error():
    method, split = selection(), synthetic_split()
    with torch.no_grad():
        method.appearance.classify.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="localization heads"):
        run_cached(method, split, {"theta": 0.0})


def test_the_paper_leaves_its_heads_out_and_we_do_not():
    method = selection()
    own = method.component_costs()
    assert set(own) == {f"{NAME}.{part}" for part in ("appearance_head", "motion_head", "selector")}
    assert all(cost.macs > 0 for cost in own.values())
    assert all(cost.macs == 0 for cost in method.paper_component_costs({}).values())


def test_a_collapsed_selector_is_remarked():
    method = selection()
    calls = {f"{NAME}.appearance_head": 20.0, f"{NAME}.motion_head": 20.0}
    assert "every clip" in method.warnings(synthetic_metrics(calls=calls))[0]
    assert "no clip" in method.warnings(synthetic_metrics(calls={**calls, f"{NAME}.motion_head": 0.0}))[0]
    assert method.warnings(synthetic_metrics(calls={**calls, f"{NAME}.motion_head": 7.0})) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"beta": 0.0},
        {"beta": 1.0},
        {"heads_share": 1.0},
        {"affinity": "mixed"},
        {"fallback": "cheapest"},
        {"motion": "audio"},
        {"selector_hidden": 0},
        {"thetas": [0.5, 0.5]},
        {"thetas": [1.5]},
    ],
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        method_config(NAME, fields)


# Baselines


def test_baselines_read_what_they_say_and_no_more():
    split = synthetic_split(num_videos=8)
    for name, read in (
        ("appearance_only", {"appearance"}),
        ("motion_only", {"flow"}),
        ("two_stream", {"appearance", "flow"}),
    ):
        method = synthetic_method(name)
        assert set(method_class(name).sources_of(method_config(name, {}))) == read
        calls = run_cached(method, split, {}).calls
        assert {source for source in ("appearance", "flow") if COMPONENTS[source] in calls} == read
        assert all(torch.equal(count, split.num_steps) for count in calls.values())
    assert method_class("motion_only").sources_of(method_config("motion_only", {"motion": "difference"})) == (
        "difference",
    )


def test_random_clips_give_their_share_to_motion_and_more_are_those_of_less_and_others():
    split = synthetic_split(num_videos=200, max_steps=12)
    method = synthetic_method("random_clips")
    before = torch.zeros_like(split.mask)
    for share in (0.0, 0.3, 0.6, 1.0):
        asked = run_cached(method, split, {"share": share}).decisions == 2
        assert float(asked.sum() / split.num_steps.sum()) == pytest.approx(share, abs=0.03)
        assert not (before & ~asked).any()
        before = asked


def test_two_streams_are_the_mean_of_both():
    method, split = synthetic_method("two_stream"), synthetic_split()
    outcome = run_cached(method, split, {})
    heads = method.get_submodule("heads")
    each = [
        head.activations(split.features[source])  # type: ignore[operator]
        for source, head in heads.eval().named_children()
    ]
    torch.testing.assert_close(
        outcome.trace["activations"][split.mask], torch.stack(each).mean(dim=0)[split.mask].detach()
    )
