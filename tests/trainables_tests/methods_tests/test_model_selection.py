"""Model selection's own mathematics and edge cases; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from benchmarks.harness.listed import LISTED

from paretovid.trainables.catalog import method_config
from paretovid.trainables.cost import measure_macs
from paretovid.trainables.data.dataset import is_for_backbones
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.evaluate import run_settings
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.layers.model_pool import Clips, SelectorBank, all_agree, choose, member_losses
from paretovid.trainables.methods.model_selection import ModelSelection, affinity
from paretovid.trainables.outcome import Batch, Progress, SourceInfo
from paretovid.trainables.testing import (
    COMPONENTS,
    SOURCE_INFO,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_metrics,
    synthetic_split,
    train_briefly,
)

SHARES = torch.tensor([0.1, 0.2, 0.7])


def selection(**fields: object) -> ModelSelection:
    method = synthetic_method("model_selection", fields)
    assert isinstance(method, ModelSelection)
    return method


def trained(**fields: object) -> ModelSelection:
    method = selection(**fields)
    train_briefly(method, synthetic_split(num_videos=32, seed=1))
    return method


def batch_of(split: FeatureSplit) -> Batch:
    return Batch(split.features, split.mask, split.targets, split.video_keys)


def labels(losses: torch.Tensor, alphas: list[float], **options: object) -> torch.Tensor:
    settings = {"agreed": None, "form": "binary", "temperature": 0.1, **options}
    return affinity(losses, SHARES, torch.tensor(alphas), **settings)  # type: ignore[arg-type]


def test_the_affinity_is_equation_2_by_hand():
    losses = torch.tensor([[1.0, 0.2], [0.8, 0.2], [0.1, 0.2]])  # three members, two videos
    given = labels(losses, [0.0, 1.0, 2.0]).argmax(dim=-1)
    # First video: (1, .8, .1); + F: (1.1, 1.0, .8); + 2 F: (1.2, 1.2, 1.5), equal for the first two.
    assert given.tolist() == [[2, 0], [2, 0], [0, 0]]


def test_equal_models_go_to_the_first_in_order():
    losses = torch.tensor([[0.3], [0.3]])
    binary = affinity(
        losses, torch.tensor([0.5, 0.5]), torch.ones(1), agreed=None, form="binary", temperature=1.0
    )
    assert binary.tolist() == [[[1, 0]]]


def test_soft_affinity_is_a_softmax_of_minus_the_price():
    losses = torch.tensor([[1.0], [0.9], [0.8]])
    soft = labels(losses, [0.5], form="soft", temperature=0.2)
    by_hand = torch.tensor([1.05, 1.0, 1.15]).div(-0.2).exp()
    torch.testing.assert_close(soft[0, 0], by_hand / by_hand.sum())
    sharp = labels(losses, [0.5], form="soft", temperature=1e-3)
    torch.testing.assert_close(sharp, labels(losses, [0.5]))


def test_where_all_agree_the_cheapest_is_meant_whatever_the_losses():
    scores = torch.tensor([[[0.6, 0.4], [0.6, 0.4]], [[0.9, 0.1], [0.1, 0.9]]])  # K, B, C
    agreed = all_agree(scores, multi_label=False)
    assert agreed.tolist() == [True, False]
    losses = torch.tensor([[0.5, 0.5], [0.1, 0.1], [0.4, 0.4]])
    assert labels(losses, [0.0], agreed=agreed).argmax(dim=-1).tolist() == [[0, 1]]
    tags = torch.tensor([[[0.6, 0.7]], [[0.9, 0.2]]])
    assert all_agree(tags, multi_label=True).tolist() == [False]


def test_losses_are_cross_entropy_and_its_binary_form_over_tags():
    scores = torch.tensor([[[0.5, 0.25, 0.25]]])
    one = torch.tensor([[1.0, 0, 0]])
    assert member_losses(scores, one, multi_label=False).item() == pytest.approx(math.log(2))
    by_hand = (math.log(2) - 2 * math.log(0.75)) / 3
    assert member_losses(scores, one, multi_label=True).item() == pytest.approx(by_hand)
    assert math.isfinite(member_losses(torch.tensor([[[0.0, 1.0]]]), one[:, :2], multi_label=False).item())


def test_the_cheapest_that_reaches_theta_and_else_the_most_confident():
    confidence = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.1, 0.4], [0.3, 0.3, 0.4]])
    for theta, expected in ((0.0, [0, 0, 0]), (0.25, [1, 0, 0]), (0.4, [2, 0, 2]), (0.5, [2, 0, 2])):
        assert choose(confidence, theta, torch.arange(3)).tolist() == expected
    assert (
        choose(confidence, 1.0, torch.arange(3)).tolist() == confidence.argmax(dim=1).tolist()
    )  # above every confidence


def test_what_was_read_is_the_cheapest_choice():
    confidence = torch.tensor([[0.4, 0.1, 0.5], [0.4, 0.3, 0.3]])
    assert choose(confidence, 0.3, torch.tensor([1, 0, 2])).tolist() == [0, 1]
    losses = torch.tensor([[0.3], [0.3], [0.4]])
    added = torch.tensor([0.1, 0.0, 0.7])
    for agreed in (None, torch.tensor([True])):
        given = affinity(losses, added, torch.ones(1), agreed=agreed, form="binary", temperature=1.0)
        assert given.argmax(dim=-1).tolist() == [[1]]
    outcome = run_cached(trained(selector_source="m"), synthetic_split(), {"theta": 0.0})
    assert [name for name, count in outcome.calls.items() if count.any()] == [
        COMPONENTS["m"],
        "model_selection.selector",
    ]


@pytest.mark.parametrize("reads", ["xs", "m"])
def test_a_higher_theta_never_costs_less_for_any_video(reads):
    method, split = trained(alpha=0.3, selector_source=reads), synthetic_split(num_videos=40, seed=2)
    costs = [
        synthetic_costs(method).gflops(run_cached(method, split, {"theta": theta / 20}).calls)
        for theta in range(21)
    ]
    assert all(bool((after >= before).all()) for before, after in itertools.pairwise(costs))
    assert bool((costs[-1] > costs[0]).any())


@pytest.mark.parametrize("reads", ["xs", "m"])
def test_one_member_is_always_paid_and_at_most_one_more(reads):
    method, split = trained(alpha=0.3, selector_source=reads), synthetic_split(num_videos=40, seed=2)
    outcome = run_cached(method, split, {"clips": 2})
    clips = split.num_steps.clamp(max=2)
    assert torch.equal(outcome.calls[COMPONENTS[reads]], clips)
    others = torch.stack(
        [
            outcome.calls[COMPONENTS[s]]
            for s in method.config.pool
            if s != reads and COMPONENTS[s] in outcome.calls
        ]
    )
    assert bool(((others == clips) | (others == 0)).all())
    assert bool(((others > 0).sum(dim=0) <= 1).all()) and bool((others > 0).any())
    assert outcome.calls["model_selection.selector"].tolist() == [1] * 40
    alone = run_cached(
        synthetic_method("single_model"), split, {"member": method.selector_member, "clips": 2}
    )
    kept = (others > 0).sum(dim=0) == 0
    torch.testing.assert_close(outcome.scores[kept], alone.scores[kept])  # reused, not asked again


def test_clips_beyond_the_video_give_all_its_steps():
    num_steps = torch.tensor([3, 1, 9])
    clips = Clips.of(num_steps, 4)
    assert clips.count.tolist() == [3, 1, 4]
    assert [sorted(row[row >= 0].tolist()) for row in clips.index()] == [[0, 1, 2], [0], [1, 3, 5, 7]]
    method, split = trained(), synthetic_split()
    everything = run_cached(method, split, {"clips": 10, "ensemble": 1})
    assert torch.equal(everything.calls[COMPONENTS["l"]], split.num_steps)


def test_a_video_score_is_the_mean_of_its_clips_probabilities():
    split = synthetic_split()
    outcome = run_cached(synthetic_method("single_model"), split, {"member": 3, "clips": 10})
    by_hand = torch.stack(
        [split.features["l"][i, : int(n)].softmax(dim=-1).mean(dim=0) for i, n in enumerate(split.num_steps)]
    )
    torch.testing.assert_close(outcome.scores, by_hand)


def test_selectors_of_a_bank_are_those_of_trainings_of_their_own():
    split = synthetic_split(num_videos=32, seed=1)
    bank = selection(alpha=0.01, alphas=(0.2, 1.0))
    train_briefly(bank, split)
    for alpha in (0.01, 0.2, 1.0):
        alone = selection(alpha=alpha)
        train_briefly(alone, split)
        setting = {"trained_alpha": alpha}
        torch.testing.assert_close(
            run_cached(bank, split, setting).scores, run_cached(alone, split, {}).scores
        )
        scores = split.features["xs"][:, 0].softmax(dim=-1)
        place = (0.01, 0.2, 1.0).index(alpha)
        torch.testing.assert_close(
            bank.selectors.confidence(scores, place), alone.selectors.confidence(scores, 0)
        )
        torch.testing.assert_close(bank.selectors(scores)[place].exp(), alone.selectors.confidence(scores, 0))


def test_multiples_of_alpha_are_trained_beside_it_each_once():
    config = method_config("model_selection", {"alpha": 0.1, "alphas": [0.3], "alpha_multiples": [3, 0.5]})
    assert config.trained_alphas() == pytest.approx((0.1, 0.3, 0.05))
    method = trained(alpha=0.1, alpha_multiples=[0.5, 2], thetas=[0.5, 0.2])
    split = synthetic_split()
    outcome = run_cached(method, split, {"clips": 3, "ensemble": 1})
    found = {
        setting["trained_alpha"] for setting, _ in method.stop_points(outcome, {"clips": 3, "ensemble": 1})
    }
    assert found == {-1.0, 0.05, 0.2}


def test_asking_everyone_is_no_operating_point_of_a_selection():
    method = selection(**LISTED["model_selection"])
    split = synthetic_split()
    answered = run_settings(
        method, split, method.settings(), components=COMPONENTS, costs=synthetic_costs(method)
    )
    assert len(answered) > 50 and not any(setting["ensemble"] for setting, _ in answered)
    (asked,) = run_settings(
        method,
        split,
        [{"ensemble": 1, "clips": 3}],
        components=COMPONENTS,
        costs=synthetic_costs(method),
        expand=False,
    )
    assert asked[0]["ensemble"] == 1, "who asks for it by name gets it"


def test_an_alpha_that_was_not_trained_is_refused():
    with pytest.raises(UsageError, match=r"no selector was trained for alpha 0\.5") as error:
        run_cached(selection(alpha=0.01, alphas=(1.0,)), synthetic_split(), {"trained_alpha": 0.5})
    assert "0.01, 1" in error.value.hint


def test_a_high_alpha_learns_the_cheapest_and_a_low_one_does_not():
    split = synthetic_split(num_videos=64, seed=3)
    shares = {}
    for alpha in (0.0, 1000.0):
        method = selection(alpha=alpha)
        train_briefly(method, split, steps=60)
        calls = run_cached(method, split, {}).calls
        shares[alpha] = sum(
            int(calls[COMPONENTS[s]].sum()) for s in ("s", "m", "l") if COMPONENTS[s] in calls
        )
    assert shares[1000.0] == 0 and shares[0.0] > 0


def test_only_videos_that_the_pool_has_not_seen_are_learned_from():
    split = synthetic_split(num_videos=32)
    is_seen = is_for_backbones(split.video_keys, 0.5)
    assert 8 < int(is_seen.sum()) < 24
    changed = {s: v.clone() for s, v in split.features.items()}
    for source in ("xs", "s", "m", "l"):
        changed[source][is_seen] = 9.0
    other = dataclasses.replace(batch_of(split), features=changed)
    unseen, everyone = selection(), selection(selector_videos="all")
    first, second = (unseen.loss(b, Progress(0, 1)).total for b in (batch_of(split), other))
    torch.testing.assert_close(first, second)
    first, second = (everyone.loss(b, Progress(0, 1)).total for b in (batch_of(split), other))
    assert not torch.isclose(first, second)


def test_a_batch_without_any_unseen_video_teaches_nothing_and_is_no_nan():
    split = synthetic_split(num_videos=32)
    seen = is_for_backbones(split.video_keys, 0.5)
    batch = Batch(
        {s: v[seen] for s, v in split.features.items()},
        split.mask[seen],
        split.targets[seen],
        split.video_keys[seen],
    )
    method = selection()
    loss = method.loss(batch, Progress(0, 1)).total
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in method.parameters() if p.grad is not None)


def test_a_pool_that_has_seen_everything_leaves_no_video_to_learn_from():
    info = {s: dataclasses.replace(SOURCE_INFO[s], video_share=1.0) for s in ("xs", "s", "m", "l")}
    with pytest.raises(UsageError, match="none is left") as error:
        selection().use_source_info(info)
    assert "video_share" in error.value.hint
    selection(selector_videos="all").use_source_info(info)


def test_a_pool_out_of_order_is_reported_its_order_and_equal_cost_is_no_disorder():
    with pytest.raises(UsageError, match="not in order of cost") as error:
        selection(pool=("m", "xs"))
    assert "xs, m" in error.value.hint
    equal = {s: SourceInfo(gmacs=0.5, video_share=0.5) for s in ("m", "s")}
    for pool in (("m", "s"), ("s", "m")):
        method = synthetic_method("single_model", {"pool": pool}) if pool == ("s", "m") else None
        fresh = ModelSelection(
            method_config("model_selection", {"pool": list(pool)}),
            widths={"m": 4, "s": 4},
            num_classes=4,
            multi_label=False,
        )
        fresh.use_source_info(equal)
        assert fresh.pool.cost_shares.tolist() == [0.5, 0.5]
        assert method is None or method.reads() == ("none", "s", "m")


def test_shares_of_cost_add_up_to_one_and_travel_with_the_weights():
    method = selection()
    torch.testing.assert_close(method.pool.cost_shares, torch.tensor([1.0, 3, 9, 27]) / 40)
    assert "pool.cost_shares" in method.state_dict()


def test_features_are_refused_as_a_pool():
    config = method_config("model_selection", {"pool": ["coarse", "xs"]})
    with pytest.raises(UsageError, match="'coarse' gives 8 features") as error:
        ModelSelection(config, widths={"coarse": 8, "xs": 4}, num_classes=4, multi_label=False)
    assert "backbones=x3d_pool" in error.value.hint


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"alpha": -0.1}, "alpha must be in .*, not -0.1"),
        ({"alpha": float("nan")}, "alpha must be in .*, not nan"),
        ({"alphas": [0.1, -1.0]}, r"alphas\[1\] must be in .*, not -1\.0"),
        ({"alphas": [0.1, 0.1]}, "alphas cannot be"),
        ({"pool": []}, "pool cannot be"),
        ({"pool": ["m"]}, "leaves nothing to select"),
        ({"pool": ["m", "m"]}, "pool cannot be"),
        ({"selector_source": "xxl"}, "is not in the pool"),
        ({"thetas": [0.5, 1.5]}, r"thetas\[1\] must be in"),
        ({"clip_counts": [1, 3]}, "clip_counts cannot be"),
        ({"training_clips": 0}, "training_clips must be in .*, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"hidden": 0}, "hidden must be in .*, not 0"),
        ({"label_rule": "eq3"}, "label_rule cannot be 'eq3'"),
    ],
)
def test_impossible_settings_say_what_is_allowed(fields, said):
    with pytest.raises(UsageError, match=said) as error:
        method_config("model_selection", fields)
    assert error.value.hint


def test_a_collapsed_selector_is_reported():
    method = selection()
    calls = {COMPONENTS["xs"]: 3.0, method.component: 1.0}
    assert "every video goes to xs" in method.warnings(synthetic_metrics(calls=calls))[0]
    assert method.warnings(synthetic_metrics(calls={**calls, COMPONENTS["l"]: 1.2})) == []


def test_the_cost_of_a_selector_does_not_grow_with_the_bank():
    one, many = selection(), selection(alphas=(0.1, 0.2, 0.3))
    expected = 4 * 64 + 64 * 4
    for method in (one, many):
        assert method.component_costs()[method.component].macs == expected
    bank = SelectorBank(3, num_classes=4, hidden=64, members=4)
    assert measure_macs(bank, torch.zeros(1, 4)) == 3 * expected


@pytest.mark.parametrize("reads", ["", "s", "l"])
def test_what_the_selector_reads_is_paid_in_any_case_and_adds_nothing(reads):
    """At a high alpha price alone decides, and what was read costs nothing more."""
    method = selection(selector_source=reads, alpha=100.0, selector_videos="all")
    loss = method.loss(batch_of(synthetic_split(num_videos=16)), Progress(0, 1))
    labelled = {name: share for name, share in loss.parts.items() if name.startswith("labels_")}
    assert labelled.pop(f"labels_{reads or 'xs'}") == pytest.approx(1.0)
    assert set(labelled.values()) == {0.0}


def test_the_price_of_another_member_is_its_share_of_the_whole_pools_cost():
    method = selection(selector_source="s")
    gmacs = [SOURCE_INFO[source].gmacs for source in method.config.pool]
    shares = [each / sum(gmacs) for each in gmacs]
    expected = [
        0.0 if source == "s" else share for source, share in zip(method.config.pool, shares, strict=True)
    ]
    assert method._added_shares().tolist() == pytest.approx(expected)
    assert method.pool.cost_shares.tolist() == pytest.approx(shares), "which themselves stay as they are"
