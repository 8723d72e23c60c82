"""AdaFrame's own mathematics; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from benchmarks.harness.listed import LISTED

from paretovid.trainables.catalog import method_config
from paretovid.trainables.cost import ComponentCost, CostTable
from paretovid.trainables.errors import NonFiniteError, UsageError
from paretovid.trainables.layers.frame_policies import index_of
from paretovid.trainables.methods.ada_frame import (
    ALGORITHM2,
    NEVER,
    AdaFrame,
    UtilityStop,
    paper_patience,
    relative_entropy,
)
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import (
    COMPONENTS,
    MACS,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

POINTER: dict[str, Any] = {
    "policy": "pointer",
    "agent": {"revisits": "nearest_new", "initial_state": "learned"},
}


def reads(utilities: list[float], steps: int, **setting: float) -> int:
    """After how many of these utilities a run would have stopped."""
    stop = UtilityStop(setting, steps)
    for count, utility in enumerate(utilities, start=1):
        if bool(stop.update(torch.tensor([utility]))[0]):
            return count
    return len(utilities)


def test_the_patience_is_the_papers():
    assert [paper_patience(mu, 10) for mu in (0.2, 0.69, 0.7, 1.0)] == [6, 6, 10, 10]


@pytest.mark.parametrize(
    ("utilities", "setting", "expected"),
    [
        ([0.5, 0.6, 0.45, 0.1], {"mu": 0.1}, 3),  # 0.15 below the maximum
        ([0.5, 0.6, 0.55, 0.58, 0.57, 0.9], {"mu": 0.1, "patience": 3}, 5),  # three without a new maximum
        (
            [0.5, 0.49, 0.51, 0.5, 0.52, 0.1],
            {"mu": 0.1, "patience": 2},
            6,
        ),  # a new maximum starts the count again
        ([0.5, 0.4, 0.3, 0.2, 0.1], {"mu": NEVER}, 5),
        ([-0.5, -0.52, -0.7, -0.8], {"mu": 0.1}, 3),  # the maximum is the first utility, not 0
    ],
)
def test_margin_or_patience(utilities, setting, expected):
    assert reads(utilities, 10, **setting) == expected


def test_algorithm_2_counts_falls_and_runs_at_least_its_patience():
    rule = {"stop_rule": ALGORITHM2, "mu": 0.2}
    # The maximum starts at 0, so that utilities below -mu fall at once; p = 10 // 2 + 1.
    assert reads([-0.5] * 10, 10, **rule) == 6
    assert reads([0.6, 0.3, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3], 10, **rule, patience=3) == 5
    assert reads([0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 10, **rule) == 10


def test_no_number_of_frames_below_the_patience_under_algorithm_2():
    """Why it cannot be what the paper's tables were made with: K = 10, mu = 0.2 is said to use 2.46 frames."""
    falling = [1.0 - 0.3 * i for i in range(10)]
    assert reads(falling, 10, mu=0.2, stop_rule=ALGORITHM2) >= 6
    assert reads(falling, 10, mu=0.2) == 2


def test_a_place_is_clamped_for_indexing_only():
    places = torch.tensor([-0.3, 0.0, 0.49, 0.51, 1.0, 1.7])
    assert index_of(places, torch.full((6,), 3)).tolist() == [0, 0, 1, 1, 2, 2]
    assert index_of(torch.tensor([0.9, 0.9]), torch.tensor([1, 0])).tolist() == [0, 0]


def test_all_settings_but_the_default_one_come_from_one_walk(monkeypatch):
    method, split = synthetic_method("ada_frame", dict(LISTED["ada_frame"])), synthetic_split()
    settings = method.settings()
    assert len(settings) == 2 and settings[0]["mu"] == 0.7
    default = [
        setting for setting, _ in method.stop_points(run_cached(method, split, settings[0]), settings[0])
    ]
    assert default and all(
        float(setting["max_gflops"]) > 0 for setting in default
    )  # its own cuts, nothing of later
    walked = run_cached(method, split, settings[1])
    monkeypatch.setattr(method.agent, "run", None)  # whoever walks again fails
    answered = method.stop_points(walked, settings[1])
    assert len(answered) > 100
    assert len({tuple(sorted(setting.items())) for setting, _ in answered}) == len(answered)


@pytest.mark.slow
def test_cost_rises_with_mu_for_every_video():
    method, split = synthetic_method("ada_frame"), synthetic_split(num_videos=24, seed=2)
    train_briefly(method, synthetic_split(num_videos=48, seed=1), steps=30)
    costs = synthetic_costs(method)
    # One patience for all: the paper's changes with mu.
    spent = [
        costs.gflops(run_cached(method, split, {"mu": mu, "patience": 5}).calls)
        for mu in (0.0, 0.02, 0.1, 0.5, NEVER)
    ]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(spent))
    assert spent[-1].mean() > spent[0].mean()


def test_a_frame_seen_twice_is_paid_once_and_twice_by_the_papers_count():
    method, split = synthetic_method("ada_frame", {"steps": 6}), synthetic_split()
    outcome = run_cached(method, split, {"mu": NEVER})
    fine, again = outcome.calls["synthetic_fine@1"], outcome.calls["ada_frame.revisit"]
    assert (fine + again).tolist() == outcome.calls["ada_frame.step"].tolist() == [6] * len(fine)
    assert fine[-1] == 1  # the video of one step
    backbones = {
        source: ComponentCost(macs=macs, input="synthetic", provenance="made up")
        for source, macs in MACS.items()
    }
    paper = CostTable(
        {**{COMPONENTS[s]: c for s, c in backbones.items()}, **method.paper_component_costs(backbones)}
    )
    entries = outcome.calls["ada_frame.memory"]
    expected = 6 * (MACS["fine"] + entries * MACS["coarse"]) / 1e9
    torch.testing.assert_close(paper.gflops(outcome.calls), expected.double())
    honest = synthetic_costs(method)
    own = 6 * honest["ada_frame.step"].macs + entries * honest["ada_frame.memory"].macs
    expected = (fine * MACS["fine"] + entries * MACS["coarse"] + own) / 1e9
    torch.testing.assert_close(honest.gflops(outcome.calls), expected.double())


def test_nearest_new_sees_every_frame_once_before_any_twice():
    method = synthetic_method("ada_frame", {"steps": 7, "agent": {"revisits": "nearest_new"}})
    split = synthetic_split(num_videos=12)
    outcome = run_cached(method, split, {"mu": NEVER})
    assert outcome.calls["synthetic_fine@1"].tolist() == split.num_steps.clamp(max=7).tolist()


def test_the_walk_starts_at_the_first_frame():
    method, split = synthetic_method("ada_frame"), synthetic_split()
    assert (run_cached(method, split, {"mu": NEVER}).trace["steps"][:, 0] == 0).all()


def test_rows_of_padding_only_change_nothing_and_make_no_nan():
    method, split = synthetic_method("ada_frame", POINTER), synthetic_split(num_videos=4)
    method.eval()

    def loss(features, mask, targets, keys):
        torch.manual_seed(0)
        return method.loss(Batch(features, mask, targets, keys), Progress(0, 1)).total

    empty = {name: torch.cat([value, torch.zeros_like(value[:1])]) for name, value in split.features.items()}
    mask = torch.cat([split.mask, torch.zeros_like(split.mask[:1])])
    targets, keys = split.targets[[0, 1, 2, 3, 0]], torch.arange(5)
    padded = loss(empty, mask, targets, keys)
    assert torch.isfinite(padded)
    empty = {name: value.clone() for name, value in empty.items()}
    for value in empty.values():
        value[-1] = 7.0
    torch.testing.assert_close(loss(empty, mask, targets[[0, 1, 2, 3, 1]], keys), padded)


@pytest.mark.slow
def test_the_policy_learns_where_the_evidence_is():
    # Without dropout the classifier learns these videos by heart, and nothing is left to reward.
    agent = {**POINTER["agent"], "dropout": 0.5, "memory": {"dropout": 0.2, "projection": 16}}
    method = synthetic_method("ada_frame", {**POINTER, "agent": agent, "steps": 3, "rollouts": 4})
    split = synthetic_split(num_videos=128, max_steps=12, seed=3)
    needles = (split.features["coarse"].mean(dim=-1) > 0.5) & split.mask

    def found() -> float:
        looked = run_cached(method, split, {"mu": NEVER}).decisions == 2
        return float((looked & needles).sum() / looked.sum())

    before = found()
    train_briefly(method, split, steps=60, learning_rate=1e-2)
    assert found() > before + 0.1


@pytest.mark.slow
def test_the_utility_learns_the_return():
    method = synthetic_method("ada_frame", POINTER)
    split = synthetic_split(num_videos=32, seed=3)
    train_briefly(method, split, steps=30)
    for name, parameter in method.named_parameters():
        parameter.requires_grad_("utility" in name)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    torch.manual_seed(0)
    before = method.loss(batch, Progress(0, 2)).parts["utility"]
    train_briefly(method, split, steps=80)
    torch.manual_seed(0)
    assert method.loss(batch, Progress(1, 2)).parts["utility"] < 0.9 * before


def test_utilities_that_are_not_finite_are_reported():
    method, split = synthetic_method("ada_frame"), synthetic_split()
    assert isinstance(method, AdaFrame)
    with torch.no_grad():
        method.agent.deciders["utility"].get_parameter("bias").fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="utility is not a finite number at step 1"):
        run_cached(method, split, {"mu": 0.7})


def test_relative_entropy_is_1_for_no_idea_and_0_for_certainty():
    torch.testing.assert_close(relative_entropy(torch.full((1, 5), 0.2), False), torch.ones(1))
    assert float(relative_entropy(torch.eye(5)[:1], False)) < 1e-6
    torch.testing.assert_close(relative_entropy(torch.full((1, 5), 0.5), True), torch.ones(1))
    certain = torch.sigmoid(torch.tensor([[-40.0, 40.0, 90.0]]))
    assert float(relative_entropy(certain, True)) == pytest.approx(0, abs=1e-6)
    assert float(relative_entropy(torch.ones(1, 1), False)) == 0


def test_entropy_stops_where_it_is_set_to():
    method, split = synthetic_method("ada_frame"), synthetic_split()
    at_once = run_cached(method, split, {"mu": NEVER, "max_entropy": 1.0})
    assert at_once.calls["ada_frame.step"].tolist() == [1] * len(split.num_steps)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, r"steps must be in \[1, 100\], not 0"),
        ({"reward": "money"}, "Allowed: margin, prediction, transition"),
        ({"returns_from": "yesterday"}, "Allowed: current, next"),
        ({"policy": "pointer", "agent": {"memory": {"kind": "none"}}}, "needs a memory"),
        ({"mus": [0.1, 0.1]}, "mus cannot be"),
        ({"agent": {"revisits": "never"}}, "revisits cannot be"),
        ({"discount": 1.5}, "discount must be"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("ada_frame", fields)


def test_the_policys_weight_is_that_of_its_part_of_the_loss():
    split = synthetic_split()
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    for weight in (0.0, 1.0, 3.0):
        method: Any = synthetic_method("ada_frame", {"policy_weight": weight})
        torch.manual_seed(0)
        loss = method.loss(batch, Progress(0, 1))
        parts = loss.parts
        assert abs(parts["policy"]) > 1e-4
        expected = parts["classification"] + parts["utility"] + weight * parts["policy"]
        assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-5)
        loss.total.backward()
        moved = [p.grad is not None and bool(p.grad.any()) for p in method.agent.policy.parameters()]
        assert moved and all(each == (weight > 0) for each in moved)


def test_an_agent_that_knows_its_place_hears_of_it_and_another_does_not():
    """Frames that are all alike: only the place tells one from another."""
    for knows_place in (False, True):
        fields = {
            "policy": "uniform",
            "steps": 3,
            "agent": {"memory": {"kind": "none"}, "knows_place": knows_place},
        }
        method = synthetic_method("ada_frame", fields)
        assert isinstance(method, AdaFrame)
        agent, like = method.agent, torch.zeros(1)
        frame, state = torch.ones(1, agent.config.frame_projection), agent.cell.initial(1, like)
        first, last = (agent._step(frame, None, state, torch.tensor([place])) for place in (0.0, 1.0))
        assert torch.equal(first, last) != knows_place
        split = synthetic_split()
        alike = {source: torch.ones_like(values) for source, values in split.features.items()}
        walk = method.agent.walk(Batch(alike, split.mask, split.targets, split.video_keys), 2)
        long_enough = split.num_steps > 1
        steps = walk.hidden[long_enough]
        # The second frame lies elsewhere in a video than the first, at the same place in every video.
        located = agent._step(
            agent.project(torch.ones(1, agent.fine_width)), None, state, torch.tensor([0.0])
        )[0]
        torch.testing.assert_close(steps[:, 0], located.expand_as(steps[:, 0]))
