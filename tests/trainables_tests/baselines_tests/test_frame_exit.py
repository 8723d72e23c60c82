"""FrameExit's own mathematics; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from benchmarks.harness.listed import LISTED

from paretovid.trainables.baselines.frame_exit import FrameExit, exit_steps, refining_order
from paretovid.trainables.catalog import method_config
from paretovid.trainables.cost import deterministic_eval
from paretovid.trainables.errors import UsageError
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.provider import VideoProvider
from paretovid.trainables.testing import (
    COMPONENTS,
    WIDTHS,
    padded_by,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

NEVER = {"exit_threshold": 1.0}


def frame_exit(**fields: object) -> FrameExit:
    method = synthetic_method("frame_exit", fields)
    assert isinstance(method, FrameExit)
    return method


def trained(**fields: object) -> FrameExit:
    method = frame_exit(**fields)
    train_briefly(method, synthetic_split(num_videos=64, seed=1), steps=60)
    return method


def with_gates(method: FrameExit, logits: list[float]) -> FrameExit:
    """The gates say the same whatever they see."""
    with torch.no_grad():
        for position, logit in enumerate(logits):
            last = method.get_submodule(f"gates.{position}.2")
            assert isinstance(last, torch.nn.Linear)
            last.weight.zero_()
            last.bias.fill_(logit)
    return method


def test_the_order_starts_in_the_middle_and_halves_the_gaps():
    assert refining_order(1) == [0]
    assert refining_order(2) == [1, 0]
    assert refining_order(3) == [1, 0, 2]
    assert refining_order(8) == [4, 2, 6, 1, 5, 3, 7, 0]
    assert refining_order(10) == [5, 2, 7, 1, 6, 3, 8, 0, 4, 9]
    for count in range(1, 70):
        assert sorted(refining_order(count)) == list(range(count))


def test_the_steps_visited_lie_over_the_whole_video():
    steps = exit_steps(torch.tensor([40, 4, 3, 1]), 4)
    assert steps.tolist() == [[25, 15, 35, 5], [2, 1, 3, 0], [1, 0, 2, -1], [0, -1, -1, -1]]


def test_all_frames_are_seen_if_nothing_stops():
    method, split = trained(max_frames=4), synthetic_split()
    outcome = run_cached(method, split, NEVER)
    with torch.no_grad():
        for i, row in enumerate(exit_steps(split.num_steps, 4).tolist()):
            there = [step for step in row if step >= 0]
            assert (outcome.decisions[i] == 2).nonzero().flatten().tolist() == sorted(there)
            pooled = method.project(split.features["fine"][i, there]).amax(dim=0)
            by_hand = torch.softmax(method.classifiers[len(there) - 1](pooled), dim=-1)
            torch.testing.assert_close(outcome.scores[i], by_hand)


def test_a_video_stops_at_the_first_gate_that_is_sure_enough_and_at_its_end():
    method, split = with_gates(frame_exit(max_frames=4), [-1.0, 1.0, 3.0]), synthetic_split()
    for threshold, reads in ((0.1, 1), (0.5, 2), (0.9, 3), (0.99, 4)):
        outcome = run_cached(method, split, {"exit_threshold": threshold})
        expected = split.num_steps.clamp(max=reads)
        assert torch.equal((outcome.decisions == 2).sum(dim=1), expected)
        assert torch.equal(outcome.calls["frame_exit.projection"], expected)
        assert outcome.calls["frame_exit.classifier"].tolist() == [1] * len(expected)
        # At a video's last frame there is nothing to decide.
        asked = torch.minimum(split.num_steps.clamp(max=4) - 1, torch.tensor(reads))
        assert torch.equal(outcome.calls["frame_exit.gate"], asked)


def test_at_threshold_one_no_gate_stops_or_is_asked():
    method, split = with_gates(frame_exit(max_frames=4), [100.0] * 3), synthetic_split()
    outcome = run_cached(method, split, NEVER)
    assert torch.equal((outcome.decisions == 2).sum(dim=1), split.num_steps.clamp(max=4))
    assert not outcome.calls["frame_exit.gate"].any()


def test_a_higher_bar_never_costs_less():
    method, split = trained(), synthetic_split(num_videos=32)
    costs = synthetic_costs(method)
    for knob, values, rest in (
        ("exit_threshold", (0.0, 0.1, 0.5, 0.9, 0.99), {}),
        ("min_confidence", (0.1, 0.5, 0.9, 0.99, 1.0), NEVER),
    ):
        spent = [costs.gflops(run_cached(method, split, {**rest, knob: value}).calls) for value in values]
        assert all(bool((later >= earlier).all()) for earlier, later in pairwise(spent))
        assert bool((spent[-1] > spent[0]).any())


def test_confidence_stops_where_it_is_reached_and_pays_a_classifier_per_read():
    method, split = trained(), synthetic_split(num_videos=32)
    outcome = run_cached(method, split, {**NEVER, "min_confidence": 0.8})
    reads = (outcome.decisions == 2).sum(dim=1)
    assert len(set(reads.tolist())) > 2
    assert torch.equal(outcome.calls["frame_exit.classifier"], reads)
    assert not outcome.calls["frame_exit.gate"].any()
    sure = outcome.scores.amax(dim=1) >= 0.8
    assert torch.equal(sure | (reads == split.num_steps), torch.ones_like(sure))
    both = run_cached(method, split, {"exit_threshold": 0.5, "min_confidence": 0.8})
    gates = run_cached(method, split, {})
    assert torch.equal(
        (both.decisions == 2).sum(dim=1), torch.minimum(reads, (gates.decisions == 2).sum(dim=1))
    )


def test_a_raw_video_is_read_no_further_than_where_it_stops():
    method, split = with_gates(frame_exit(max_frames=4), [-1.0, 1.0, 3.0]), synthetic_split()
    read: list[int] = []

    def compute(source: str, step: int) -> torch.Tensor:
        read.append(step)
        return split.features[source][0, step]

    provider = VideoProvider(
        compute,
        widths=WIDTHS,
        num_steps=9,
        video_key=0,
        components=COMPONENTS,
        costs=synthetic_costs(method),
    )
    with deterministic_eval(method):
        method.run(provider, {})
    assert read == exit_steps(torch.tensor([9]), 4)[0, :2].tolist()


def test_gates_learn_to_stop_below_epsilon():
    method, split = frame_exit(beta=0.4, max_frames=4), synthetic_split()
    index = exit_steps(split.num_steps, 4)
    below = []
    with torch.no_grad():
        for i, row in enumerate(index.tolist()):
            for t in (1, 2, 3):
                steps = [step for step in row[:t] if step >= 0]
                pooled = method.project(split.features["fine"][i, steps]).amax(dim=0)
                logits = method.classifiers[t - 1](pooled)
                below.append(
                    -torch.log_softmax(logits, dim=-1)[split.targets[i].argmax()] < 0.4 * math.exp(t / 2)
                )
    share = sum(map(float, below)) / len(below)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    assert 0.2 < share < 0.8
    assert method.loss(batch, Progress(0, 1)).parts["stop_share"] == pytest.approx(share)


@pytest.mark.slow
def test_a_higher_beta_stops_earlier():
    split = synthetic_split(num_videos=64, seed=2)
    reads = [
        float((run_cached(trained(beta=beta), split, {}).decisions == 2).sum(dim=1).float().mean())
        for beta in (1e-4, 1e-2, 1.0)
    ]
    assert reads[0] > reads[1] + 0.3 > reads[2] + 0.6


def test_the_gates_loss_reaches_the_gates_alone():
    split = padded_by(synthetic_split(), 2)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    gradients = []
    for weight in (1.0, 50.0):
        method = frame_exit(exit_weight=weight)
        method.loss(batch, Progress(0, 1)).total.backward()
        gradients.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(method.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]) == (not name.startswith("gates.")), name


def test_only_a_run_to_the_end_answers_others_and_none_twice():
    method, split = trained(**{**LISTED["frame_exit"], "thresholds": (0.3, 0.5, 0.9, 1.0)}), synthetic_split()
    default, never = method.settings()
    assert (default, never) == ({"exit_threshold": 0.5}, NEVER)
    for setting in ({}, default, {**NEVER, "min_confidence": 0.9}):
        assert method.stop_points(run_cached(method, split, setting), setting) == []
    answered = [setting for setting, _ in method.stop_points(run_cached(method, split, never), never)]
    under_caps = [setting for setting in answered if "max_gflops" in setting]
    assert {setting["exit_threshold"] for setting in under_caps} == {0.5, 1.0}
    assert [setting for setting in answered if setting not in under_caps] == [
        *({"exit_threshold": value} for value in (0.3, 0.9)),
        *({**NEVER, "min_confidence": value} for value in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": 0}, "beta must be above 0"),
        ({"beta": float("nan")}, "beta must be above 0"),
        ({"max_frames": 1}, "max_frames must be in"),
        ({"projection": 0}, "projection must be in"),
        ({"exit_weight": -1.0}, "exit_weight must be in"),
        ({"thresholds": [0.2, 1.5]}, r"thresholds\[1\] must be in \[0, 1\]"),
        ({"confidences": [0.9, 0.9]}, "confidences cannot be"),
        ({"confidences": [0, 0.9]}, "confidences cannot have 0"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("frame_exit", fields)
