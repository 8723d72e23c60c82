"""The LSTM over frames and what it asks of a memory; the general contract is in test_method_contract.py."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.baselines.lstm import Lstm
from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.frame_sampling import random_steps, uniform_steps
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import run_cached, synthetic_method, synthetic_split, train_briefly

MEMORY = {"kind": "visual", "frames": 4, "projection": 5}


def test_an_entry_of_memory_is_paid_once_however_often_it_is_asked():
    method, split = synthetic_method("lstm", {"memory": MEMORY}), synthetic_split()
    entries = split.num_steps.clamp(max=4)
    for num_frames in (0, 1, 6):
        calls = run_cached(method, split, {"num_frames": num_frames}).calls
        assert torch.equal(calls["lstm.memory"], entries)
        assert torch.equal(calls["synthetic_coarse@1"], entries)
        assert torch.equal(calls["lstm.rnn"], split.num_steps.clamp(max=num_frames or 9))


def test_what_the_memory_holds_changes_the_answer_and_the_rest_of_its_source_does_not():
    method, split = synthetic_method("lstm", {"memory": MEMORY}), synthetic_split()
    train_briefly(method, split)
    before = run_cached(method, split, {"num_frames": 2}).scores
    remembered = torch.stack(uniform_steps(split.num_steps, 4), dim=1)[0].tolist()
    elsewhere = [step for step in range(9) if step not in remembered]
    split.features["coarse"][0, elsewhere] += 3.0 * torch.randn(8)
    assert torch.equal(run_cached(method, split, {"num_frames": 2}).scores, before)
    split.features["coarse"][0, remembered] += 3.0 * torch.randn(8)
    after = run_cached(method, split, {"num_frames": 2}).scores
    assert not torch.allclose(after[0], before[0]) and torch.equal(after[1:], before[1:])


def test_every_step_asks_the_memory_with_the_state_before_it(monkeypatch):
    method, split = synthetic_method("lstm", {"memory": MEMORY}), synthetic_split()
    assert isinstance(method, Lstm) and method.memory is not None
    asked: list[torch.Tensor] = []
    context = method.memory.context

    def spy(memory, hidden):
        if len(hidden) > 1:  # one: its cost is being measured
            asked.append(hidden.clone())
        return context(memory, hidden)

    monkeypatch.setattr(method.memory, "context", spy)
    run_cached(method, split, {"num_frames": 3})
    assert len(asked) == 3
    assert not asked[0].any() and asked[1].any() and not torch.equal(asked[1][0], asked[2][0])


def test_the_cost_of_a_step_has_the_query_and_the_wider_cell():
    plain, remembering = synthetic_method("lstm"), synthetic_method("lstm", {"memory": MEMORY})
    more = remembering.component_costs()["lstm.rnn"].macs - plain.component_costs()["lstm.rnn"].macs
    hidden, width, frames = 128, 5, 4
    assert more == hidden * width + 2 * frames * width + 4 * hidden * width
    assert remembering.component_costs()["lstm.memory"].macs == 8 * width


def test_random_sampling_reads_the_random_steps_in_evaluation():
    method, split = synthetic_method("lstm", {"sampling": "random"}), synthetic_split()
    looked = run_cached(method, split, {"num_frames": 3}).decisions.nonzero().tolist()
    expected = random_steps(split.num_steps, split.video_keys, 3)
    assert looked == sorted(
        [row, int(step)] for index in expected for row, step in enumerate(index) if step >= 0
    )


def test_training_draws_random_steps_anew_and_uniform_ones_not():
    split = synthetic_split(num_videos=12)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    for sampling, different in (("random", 8), ("uniform", 1)):
        method = synthetic_method("lstm", {"sampling": sampling, "training_frames": 1})
        torch.manual_seed(0)
        losses = {float(method.loss(batch, Progress(0, 1)).total.detach()) for _ in range(8)}
        assert len(losses) == different


def test_without_a_memory_the_network_is_as_it_was():
    names = list(synthetic_method("lstm").state_dict())
    assert {name.split(".")[0] for name in names} == {"projections", "cell", "head"}
    assert names[0] == "projections.fine.layers.0.weight" and names[-1] == "head.bias"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": "even"}, "Allowed: uniform, random"),
        ({"memory": {"values": "coded"}}, "Allowed: encoded, raw"),
        ({"training_frames": -2}, r"must be in \[-1, 10000\]"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("lstm", fields)
