from __future__ import annotations

import pytest
import torch

from paretovid.trainables.cost import ComponentCost, CostTable
from paretovid.trainables.errors import UnknownCostError, UnknownNameError, UsageError
from paretovid.trainables.provider import FeatureProvider, VideoProvider

COSTS = CostTable({"net": ComponentCost(macs=1000, input="")})


def cached(**changes):
    features = {"fine": torch.arange(12.0).reshape(2, 3, 2)}
    return FeatureProvider(
        features,
        num_steps=torch.tensor([3, 1]),
        video_keys=torch.tensor([1, 2]),
        components={"fine": "net"},
        costs=changes.get("costs", COSTS),
        targets=changes.get("targets"),
    )


def test_only_wanted_and_existing_steps_are_read_and_paid():
    provider = cached()
    values = provider.read("fine", 1, torch.tensor([True, True]))
    assert values.tolist() == [[2.0, 3.0], [0.0, 0.0]]  # the second video has one step
    provider.read("fine", 0, torch.tensor([False, True]))
    assert provider.calls["net"].tolist() == [1, 1]
    assert provider.costs.gflops(provider.calls).tolist() == [1e-6, 1e-6]


def test_a_step_read_twice_is_paid_once():
    provider = cached()
    for _ in range(2):
        provider.read("fine", torch.tensor([2, 0]), torch.tensor([True, True]))
    assert provider.calls["net"].tolist() == [1, 1]


def test_a_raw_video_computes_when_asked_and_once():
    asked = []

    def compute(source, step):
        asked.append((source, step))
        return torch.full((2,), float(step))

    provider = VideoProvider(
        compute, widths={"fine": 2}, num_steps=3, video_key=1, components={"fine": "net"}, costs=COSTS
    )
    provider.read("fine", 0, torch.tensor([False]))
    provider.read("fine", 5, torch.tensor([True]))
    assert asked == []
    for _ in range(2):
        assert provider.read("fine", 2, torch.tensor([True])).tolist() == [[2.0, 2.0]]
    assert asked == [("fine", 2)]
    assert provider.calls["net"].tolist() == [1]


def test_unknown_source_and_unknown_cost_are_errors():
    with pytest.raises(UnknownNameError, match="fin'"):
        cached().read("fin", 0, torch.tensor([True, True]))
    with pytest.raises(UnknownCostError):
        cached(costs=CostTable()).read("fine", 0, torch.tensor([True, True]))


def test_an_expected_source_is_computed_at_once_and_paid_when_read():
    asked = []

    def compute_all(source):
        asked.append(source)
        return torch.arange(6.0).reshape(3, 2)

    provider = VideoProvider(
        lambda source, step: pytest.fail("a step was computed alone"),
        widths={"fine": 2},
        num_steps=3,
        video_key=1,
        components={"fine": "net"},
        costs=COSTS,
        compute_all=compute_all,
    )
    provider.expect("fine")
    assert asked == ["fine"] and provider.calls == {}
    assert provider.read("fine", 1, torch.tensor([True])).tolist() == [[2.0, 3.0]]
    assert provider.calls["net"].tolist() == [1]
    with pytest.raises(KeyError):
        provider.expect("fin")


def test_a_step_that_was_not_wanted_before_is_paid_when_it_is_read():
    provider = cached()
    provider.read("fine", 0, torch.tensor([True, False]))
    assert provider.read("fine", 0, torch.tensor([True, True])).tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert provider.calls["net"].tolist() == [1, 1]
    provider.read("fine", 0, torch.tensor([False, True]))
    assert provider.calls["net"].tolist() == [1, 1], "and still only once"


def test_steps_before_the_first_are_none_and_cost_nothing():
    provider = cached()
    values = provider.read("fine", torch.tensor([-1, 0]), torch.tensor([True, True]))
    assert values.tolist() == [[0.0, 0.0], [6.0, 7.0]]
    assert provider.calls["net"].tolist() == [0, 1]
    assert provider.read("fine", -1, torch.tensor([True, True])).tolist() == [[0.0, 0.0]] * 2
    provider.read("fine", 2, torch.tensor([True, False]))  # which -1 must not have marked as read
    assert provider.calls["net"].tolist() == [1, 1]


def test_an_oracle_may_look_ahead_unpaid_and_nobody_else():
    with pytest.raises(UsageError, match="before it is paid for"):
        cached().peek("fine")
    provider = cached(targets=torch.ones(2, 2))
    assert provider.peek("fine").shape == (2, 3, 2) and provider.calls == {}


def test_what_is_counted_adds_up_whatever_its_type():
    provider = cached()
    count = torch.tensor([2, 0])
    provider.charge("net", count)
    provider.charge("net", torch.tensor([True, True]))
    assert provider.calls["net"].tolist() == [3, 1] and count.tolist() == [2, 0]
    assert COSTS.gflops(provider.calls).tolist() == [3e-6, 1e-6]
    with pytest.raises(UnknownCostError):
        provider.charge("nett", count)
    assert provider.valid(0).tolist() == [True, True] and provider.valid(1).tolist() == [True, False]
    assert (provider.batch_size, provider.max_steps, provider.step_seconds) == (2, 3, 1.0)


def test_a_raw_video_says_what_it_was_asked_for_in_order_and_each_once():
    provider = VideoProvider(
        lambda source, step: torch.full((2,), float(step)),
        widths={"fine": 2},
        num_steps=3,
        video_key=1,
        components={"fine": "net"},
        costs=COSTS,
        step_seconds=0.5,
    )
    provider.expect("fine")  # it cannot compute all at once, and does not
    for step in (2, 0, 2):
        provider.read("fine", step, torch.tensor([True]))
    provider.read("fine", -1, torch.tensor([True]))
    assert provider.read("fine", 1, torch.tensor([False])).tolist() == [[0.0, 0.0]]
    assert provider.reads == [("fine", 2), ("fine", 0)] and provider.calls["net"].tolist() == [2]
    assert (provider.num_steps.tolist(), provider.video_keys.tolist()) == ([3], [1])
    assert provider.step_seconds == 0.5 and provider.targets is None
