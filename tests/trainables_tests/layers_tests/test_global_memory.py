"""The global memory: which steps it holds, what it costs, how it is asked."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.cost import CostTable, deterministic_eval
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.global_memory import GlobalMemory, Memory, MemoryConfig, positional_encoding
from paretovid.trainables.provider import FeatureProvider
from paretovid.trainables.testing import (
    COMPONENTS,
    WIDTHS,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
)


def memory_of(**fields):
    torch.manual_seed(0)
    return GlobalMemory(MemoryConfig(**fields), widths=WIDTHS, hidden=5, prefix="x")


def test_a_short_video_fills_as_many_entries_as_it_has_steps():
    split = synthetic_split(num_videos=5, max_steps=9)
    held = memory_of(frames=6).remember(split.features["coarse"], split.num_steps)
    assert held.mask.sum(dim=1).tolist() == split.num_steps.clamp(max=6).tolist()
    assert (held.steps < split.num_steps[:, None]).all()
    for steps, n in zip(held.steps.tolist(), split.num_steps.tolist(), strict=True):
        seen = [step for step in steps if step >= 0]
        assert seen == sorted(set(seen)) and len(seen) == min(6, n)


def test_what_is_read_is_what_training_remembers_and_is_paid_once():
    split = synthetic_split(num_videos=5, max_steps=9)
    memory = memory_of(frames=6)
    costs = CostTable({**memory.component_costs(), **_costs()})
    provider = FeatureProvider(
        split.features,
        num_steps=split.num_steps,
        video_keys=split.video_keys,
        components=COMPONENTS,
        costs=costs,
    )
    with deterministic_eval(memory):
        read, again = memory.read(provider), memory.remember(split.features["coarse"], split.num_steps)
    torch.testing.assert_close(read.keys, again.keys)
    expected = split.num_steps.clamp(max=6).tolist()
    assert provider.calls["synthetic_coarse@1"].tolist() == expected
    assert provider.calls["x.memory"].tolist() == expected


def _costs():
    table = synthetic_costs(synthetic_method("uniform"))
    return {name: table[name] for name in table if name.startswith("synthetic")}


def test_the_answer_is_the_entry_that_fits_the_question():
    memory = memory_of(frames=3, projection=0)
    assert memory.query is not None
    keys = torch.zeros(1, 3, memory.width)
    keys[0, 1, 2] = 50.0
    values = torch.arange(3.0)[None, :, None].expand(1, 3, memory.width)
    held = Memory(keys, values, values, torch.ones(1, 3, dtype=torch.bool), torch.arange(3)[None])
    with torch.no_grad():
        memory.query.weight.zero_()
        memory.query.weight[2, 0] = 1.0
    asked = memory.context(held, torch.tensor([[1.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(asked, torch.ones(1, memory.width))
    nothing = memory.context(held, torch.zeros(1, 5))  # no question: all entries alike
    torch.testing.assert_close(nothing, torch.ones(1, memory.width))


def test_entries_that_are_not_there_are_not_attended_to():
    memory = memory_of(frames=4)
    features = torch.randn(1, 2, WIDTHS["coarse"])
    held = memory.remember(features, torch.tensor([2]))
    held.values[:, 2:] = 1e6
    question = torch.randn(1, 5)
    for asked in (question, -question):  # one of them would fit the entries that are not there
        assert memory.context(held, asked).abs().max() < 100
    empty = memory.remember(features, torch.tensor([0]))
    assert torch.isfinite(memory.context(empty, torch.randn(1, 5))).all()


def test_places_are_encoded_alike_whatever_the_length():
    memory = memory_of(frames=4)
    same = torch.ones(1, 1, WIDTHS["coarse"])
    short = memory.remember(same.expand(1, 4, -1), torch.tensor([4]))
    long = memory.remember(same.expand(1, 400, -1), torch.tensor([400]))
    torch.testing.assert_close(short.keys, long.keys, atol=0.02, rtol=0)
    assert not torch.allclose(short.keys[:, 0], short.keys[:, 3], atol=0.1)


def test_raw_values_have_no_positions():
    split = synthetic_split(num_videos=3)
    held = memory_of(frames=4, values="raw").remember(split.features["coarse"], split.num_steps)
    assert torch.equal(held.values, held.plain) and not torch.equal(held.keys, held.plain)


def test_the_encoding_is_the_usual_one():
    encoded = positional_encoding(torch.tensor([0.0, 3.0]), 4)
    torch.testing.assert_close(encoded[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(encoded[1, :2], torch.tensor([3.0]).sin().new_tensor([0.14112, -0.98999]))
    torch.testing.assert_close(encoded[1, 2], torch.tensor(0.03).sin())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "smell"}, "unknown memory kind"),
        ({"frames": 0}, "1 or more"),
        ({"projection": -1}, "projection must be in"),
        ({"values": "keys"}, "unknown memory values"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        MemoryConfig(**fields)
