"""Frames chosen without thought; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from paretovid.trainables.baselines.uniform import Uniform, UniformConfig
from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.frame_sampling import random_steps, uniform_steps
from paretovid.trainables.testing import (
    padded_by,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

NUM_STEPS = torch.tensor([40, 7, 3, 1, 40])
KEYS = torch.tensor([11, -5, 2**60, 0, 12])


def drawn(num_frames: int, num_steps: torch.Tensor = NUM_STEPS, keys: torch.Tensor = KEYS) -> list[list[int]]:
    return torch.stack(random_steps(num_steps, keys, num_frames), dim=1).tolist()


@pytest.mark.parametrize("num_frames", [0, 1, 4, 7, 50])
def test_random_steps_are_different_steps_of_the_video_in_order_of_time(num_frames):
    steps = drawn(num_frames)
    width = num_frames or 40
    for row, length in zip(steps, NUM_STEPS.tolist(), strict=True):
        there = [step for step in row if step >= 0]
        assert len(row) == width and len(there) == min(width, length)
        assert row == there + [-1] * (width - len(there))
        assert all(earlier < later for earlier, later in pairwise(there)) and there[-1] < length
    assert len(uniform_steps(NUM_STEPS, num_frames)) == width


def test_random_steps_hang_on_the_video_alone():
    together = drawn(4)
    for i in range(len(KEYS)):
        assert drawn(4, NUM_STEPS[i : i + 1], KEYS[i : i + 1]) == [together[i]]
    assert together[0] != together[4]  # another key, another draw


def test_more_random_steps_are_those_of_fewer_and_others():
    for few, many in pairwise([drawn(n) for n in (1, 2, 5, 9)]):
        assert all(set(a) - {-1} <= set(b) for a, b in zip(few, many, strict=True))


def test_random_steps_lie_everywhere_alike():
    num_steps, keys = torch.full((4000,), 5), torch.arange(4000) * 7919
    counts = torch.bincount(torch.cat(random_steps(num_steps, keys, 2)), minlength=5)
    assert counts.tolist() == pytest.approx([1600] * 5, rel=0.1)


def test_random_sampling_reads_the_random_steps_whatever_the_padding():
    method, split = synthetic_method("uniform", {"sampling": "random"}), synthetic_split()
    expected = random_steps(split.num_steps, split.video_keys, 3)
    for each in (split, padded_by(split, 5)):
        looked = (run_cached(method, each, {"num_frames": 3}).decisions == 2).nonzero().tolist()
        assert looked == sorted(
            [row, step] for index in expected for row, step in enumerate(index.tolist()) if step >= 0
        )


def test_an_entry_of_memory_is_paid_once_and_a_step_that_frames_share_with_it_too():
    split = synthetic_split()
    method = synthetic_method("uniform", {"with_coarse": True, "memory": {"frames": 4, "kind": "visual"}})
    entries = split.num_steps.clamp(max=4)
    for num_frames in (0, 1, 4):
        calls = run_cached(method, split, {"num_frames": num_frames}).calls
        assert torch.equal(calls["uniform.memory"], entries)
        assert torch.equal(calls["uniform.memory_head"], entries)
        remembered = torch.stack(uniform_steps(split.num_steps, 4), dim=1).tolist()
        looked = torch.stack(uniform_steps(split.num_steps, num_frames), dim=1).tolist()
        union = [len((set(a) | set(b)) - {-1}) for a, b in zip(remembered, looked, strict=True)]
        assert calls["synthetic_coarse@1"].tolist() == union


def test_the_memory_counts_for_one_half():
    split = synthetic_split()
    method = synthetic_method("uniform", {"memory": {"frames": 3, "kind": "visual"}})
    train_briefly(method, split)
    assert isinstance(method, Uniform) and method.memory_scores is not None
    fused = run_cached(method, split, {"num_frames": 2}).scores
    with torch.no_grad():
        memory = method.memory_scores.memory.remember(split.features["coarse"], split.num_steps)
        by_hand = [
            torch.softmax(method.memory_scores.head(memory.plain[i, :n]), dim=-1).mean(dim=0)
            for i, n in enumerate(split.num_steps.clamp(max=3).tolist())
        ]
    memory_scores, method.memory_scores = method.memory_scores, None
    frames = run_cached(method, split, {"num_frames": 2}).scores
    method.memory_scores = memory_scores
    assert not torch.allclose(fused, frames, atol=1e-2)
    torch.testing.assert_close(fused, (frames + torch.stack(by_hand)) / 2)


def test_a_memory_of_a_step_is_a_cheap_read_and_a_frame_an_expensive_one():
    split = synthetic_split()
    method = synthetic_method("uniform", {"memory": {"frames": 4, "kind": "audio"}})
    decisions = run_cached(method, split, {"num_frames": 1}).decisions
    assert decisions[0].tolist() == [0, 1, 0, 1, 2, 1, 0, 1, 0]  # nine steps
    assert decisions[-1].tolist() == [2] + [0] * 8  # one step


def test_the_memory_asks_for_its_source_once():
    sources = [
        Uniform.sources_of(method_config("uniform", fields))
        for fields in (
            {},
            {"memory": {"kind": "visual"}},
            {"memory": {"kind": "audio"}},
            {"with_coarse": True, "memory": {"kind": "visual"}},
        )
    ]
    assert sources == [("fine",), ("fine", "coarse"), ("fine", "audio"), ("fine", "coarse")]


def test_without_a_memory_nothing_of_it_is_there():
    assert UniformConfig().memory.source is None
    plain = synthetic_method("uniform")
    assert [name.split(".")[0] for name in plain.state_dict()] == ["frame_scores"] * 4
    assert set(plain.component_costs()) == {"uniform.fine_head"}
    remembering = synthetic_method("uniform", {"memory": {"kind": "visual"}})
    assert set(synthetic_costs(remembering)) >= {"uniform.memory", "uniform.memory_head"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": "often"}, "Allowed: uniform, random"),
        ({"memory": {"kind": "smell"}}, "Allowed: visual, audio, none"),
        ({"memory": {"frames": 0}}, "memory.frames must be 1 or more"),
        ({"frame_counts": []}, "frame_counts cannot be"),
        ({"frame_counts": [3, 3]}, "frame_counts cannot be"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("uniform", fields)
