"""From outcomes to the figures of an operating point, on cases small enough to be worked out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paretovid.trainables.cost import ComponentCost, CostTable
from paretovid.trainables.data.dataset import Event
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.detection import GroundTruth
from paretovid.trainables.evaluation.evaluate import (
    Measured,
    measure,
    run_settings,
    same_answers,
    true_instances,
)
from paretovid.trainables.layers.caps import CAP, END, KNOBS_WITH_CHEAP, METHOD
from paretovid.trainables.method import RunsForOthers
from paretovid.trainables.outcome import Detection, Outcome, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.testing import COMPONENTS, synthetic_split

COSTS = CostTable(
    {"a": ComponentCost(macs=1_000_000_000, input=""), "b": ComponentCost(macs=10_000_000_000, input="")}
)
FOUND = Detection(label=0, start_seconds=0.0, end_seconds=10.0, score=1.0)


def measured(**changes: Any) -> Measured:
    """Two classes, four videos of 4, 2, 4 and 1 steps."""
    fields: dict[str, Any] = {
        "setting": {},
        "scores": np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]], np.float32),
        "gflops": np.array([1.0, 2.0, 3.0, 10.0]),
        "calls": {"a": np.array([1, 2, 3, 4])},
        "decisions": np.array([[1, 2, 2, 0], [2, 0, 0, 0], [1, 1, 1, 1], [2, 0, 0, 0]], np.int8),
    }
    return Measured(**{**fields, **changes})


def figures_of(found: Measured, targets: Any = None, steps: Any = None, **options: Any) -> dict[str, Any]:
    """As they stand in a result."""
    given = (TARGETS if targets is None else targets, STEPS if steps is None else steps)
    return dict(found.metrics(*given, **options).to_json())


TARGETS = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
STEPS = np.array([4, 2, 4, 1])


def test_cost_is_its_mean_spread_and_95th_percentile_over_videos():
    figures = figures_of(measured(gflops=np.arange(101.0)))
    assert (figures["gflops"], figures["gflops_p95"]) == (50.0, 95.0)
    assert figures["gflops_std"] == pytest.approx(np.arange(101.0).std())
    assert figures_of(measured())["gflops"] == 4.0


def test_calls_are_their_mean_and_usage_is_each_videos_own_share():
    figures = figures_of(measured())
    assert figures["calls"] == {"a": 2.5} and figures["videos"] == 4
    shares = np.array([2 / 4, 1 / 2, 0 / 4, 1 / 1])  # of its own steps, not of the longest video's
    assert figures["usage"] == pytest.approx(shares.mean())
    assert figures["usage_std_over_mean"] == pytest.approx(shares.std() / shares.mean())
    one_source = figures_of(measured(), used_above=0)
    assert one_source["usage"] == pytest.approx((3 / 4 + 1 / 2 + 4 / 4 + 1 / 1) / 4)
    nothing = figures_of(measured(decisions=np.zeros((4, 4), np.int8)))
    assert (nothing["usage"], nothing["usage_std_over_mean"]) == (0.0, 0.0)


def test_quality_is_that_of_its_scores_under_every_name():
    figures = figures_of(measured())
    # Of class 0 the positive comes first; of class 1 all three come before the other.
    assert (figures["map"], figures["map_present"], figures["map_interpolated"]) == (1.0, 1.0, 1.0)
    assert figures["top1"] == 0.75
    absent = figures_of(measured(), TARGETS[:, ::-1] * [1, 0])
    assert absent["map"] == pytest.approx(absent["map_present"] / 2)


def test_why_reading_ended_is_a_share_of_the_videos():
    ends = np.array([END, METHOD, CAP, CAP], np.int8)
    figures = figures_of(measured(stopped_by=ends))
    assert figures["stopped_by"] == {"end": 0.25, "method": 0.25, "cap": 0.5}
    assert "stopped_by" not in figures_of(measured())


def test_detections_are_measured_against_the_instances_and_come_first():
    ground_truth = GroundTruth(
        events=[[Event(label=0, start_seconds=0, end_seconds=10)]] * 4, ambiguous=[[]] * 4
    )
    found = measured(detections=((FOUND,), (FOUND,), (FOUND,), ()))
    figures = figures_of(found, instances=ground_truth)
    assert found.metrics(TARGETS, STEPS, instances=ground_truth).objective == "map_iou_0.1_0.7"
    assert next(iter(figures)) == "map_iou_0.1_0.7" and figures["map_iou_0.1_0.7"] == pytest.approx(0.75)
    assert "map_iou_0.1_0.7" not in figures_of(measured(), instances=ground_truth)


def test_several_labels_a_video_have_the_figures_of_their_own_evaluation():
    multi: Any = SimpleNamespace(multi_label=True, classes=("run", "red"), class_groups={"run": "action"})
    figures = figures_of(measured(), dataset=multi)
    assert (figures["map_charades"], figures["map_category_action"]) == (1.0, 1.0)
    without = figures_of(measured(), TARGETS * [1, 0], dataset=multi)
    assert "map_charades" not in without, "a class without a positive has none"
    multi.multi_label = False
    assert "map_charades" not in figures_of(measured(), dataset=multi)


def outcome(calls: Mapping[str, Sequence[int]], steps: int = 2, **fields: Any) -> Outcome:
    (count,) = {len(each) for each in calls.values()}
    return Outcome(
        scores=fields.pop("scores", torch.full((count, 2), 0.5)),
        calls={name: torch.tensor(each) for name, each in calls.items()},
        decisions=torch.ones(count, steps, dtype=torch.int64),
        **fields,
    )


def test_batches_of_unequal_length_are_joined_in_the_settings_order():
    split: Any = None
    first: Any = [({"k": 1.0}, outcome({"a": [1, 2]}, 2)), ({"k": 0.0}, outcome({"a": [0, 0]}, 2))]
    second: Any = [({"k": 1.0}, outcome({"a": [3], "b": [1]}, 3)), ({"k": 0.0}, outcome({"b": [2]}, 3))]
    one, other = measure([(split, first), (split, second)], COSTS, max_steps=4)
    assert (one.setting, other.setting) == ({"k": 1.0}, {"k": 0.0})
    # A component that a batch never called was called 0 times there.
    assert {name: count.tolist() for name, count in one.calls.items()} == {"a": [1, 2, 3], "b": [0, 0, 1]}
    assert one.gflops.tolist() == [1.0, 2.0, 13.0] and other.gflops.tolist() == [0.0, 0.0, 20.0]
    assert one.decisions.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert one.detections is None and one.stopped_by is None


def test_ends_and_detections_are_joined_if_every_batch_has_them():
    split: Any = None
    whole = [
        outcome({"a": [1]}, stopped_by=torch.tensor([end]), detections=((FOUND,),)) for end in (CAP, END)
    ]
    (joined,) = measure([(split, [({}, each)]) for each in whole], COSTS, max_steps=2)
    assert joined.stopped_by is not None and joined.stopped_by.tolist() == [CAP, END]
    assert joined.detections == ((FOUND,), (FOUND,))
    bare = outcome({"a": [1]})
    (joined,) = measure([(split, [({}, whole[0])]), (split, [({}, bare)])], COSTS, max_steps=2)
    assert joined.stopped_by is None and joined.detections is None


def test_equal_answers_are_the_same_only_at_equal_cost():
    one = measured(detections=((FOUND,), (), (), ()))
    assert same_answers(one, dataclasses.replace(one, setting={"k": 1.0}, scores=one.scores + 1e-8))
    assert not same_answers(one, dataclasses.replace(one, gflops=one.gflops + np.array([0, 0, 0, 1e-9])))
    assert not same_answers(one, dataclasses.replace(one, scores=one.scores + np.float32(1e-3)))
    assert not same_answers(one, dataclasses.replace(one, detections=((), (), (), ())))


class Asked(nn.Module, RunsForOthers):
    """Notes what it is asked with. Its settings with `k` at 2 are only there to answer others."""

    name, inference_knobs, no_cap = "asked", (), "it is a test"

    def __init__(self, deployable: bool = True) -> None:
        super().__init__()
        self.deployable = deployable
        self.asked: list[Provider] = []
        self.settings_run: list[Setting] = []

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        self.settings_run.append(setting)
        assert not self.training and not torch.is_grad_enabled()
        self.asked.append(provider)
        provider.read("coarse", 0, torch.ones(provider.batch_size, dtype=torch.bool))
        return outcome({"a": [1] * provider.batch_size})

    def is_operating_point(self, setting: Setting) -> bool:
        return setting["k"] != 2

    def stop_points(self, given: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        return [({**setting, "max_gflops": 1.0}, given), ({**setting, "stop": 1.0}, given)]


def asked(method: Any, **options: Any) -> list[Setting]:
    costs = CostTable({name: ComponentCost(macs=1, input="") for name in COMPONENTS.values()})
    given = run_settings(
        method, synthetic_split(), [{"k": 1.0}, {"k": 2.0}], components=COMPONENTS, costs=costs, **options
    )
    return [setting for setting, _ in given]


def test_a_run_answers_its_setting_and_further_ones_those_under_a_cap_last():
    assert asked(Asked()) == [
        {"k": 1.0},
        {"k": 1.0, "stop": 1.0},
        {"k": 2.0, "stop": 1.0},
        {"k": 1.0, "max_gflops": 1.0},
        {"k": 2.0, "max_gflops": 1.0},
    ]
    assert asked(Asked(), expand=False) == [{"k": 1.0}, {"k": 2.0}]


def test_caps_that_continue_cheaply_are_run_for_the_first_setting_behind_all_others():
    method = Asked()
    method.inference_knobs = KNOBS_WITH_CHEAP  # type: ignore[assignment]
    cheap = {"k": 1.0, "max_gflops": 1.0, "cap_rule": "cheap"}
    assert asked(method)[-2:] == [{"k": 2.0, "max_gflops": 1.0}, cheap]
    assert method.settings_run == [{"k": 1.0}, cheap, {"k": 2.0}]
    assert asked(method, expand=False) == [{"k": 1.0}, {"k": 2.0}]


def test_each_setting_starts_unpaid_and_only_an_oracle_gets_the_ground_truth():
    method, oracle = Asked(), Asked(deployable=False)
    asked(method, step_seconds=0.5)
    asked(oracle)
    assert [provider.targets for provider in method.asked] == [None, None]
    assert all(torch.equal(provider.targets, synthetic_split().targets) for provider in oracle.asked)  # type: ignore[arg-type]
    assert {provider.step_seconds for provider in method.asked} == {0.5}
    assert {provider.step_seconds for provider in oracle.asked} == {1.0}
    assert all(int(provider.calls[COMPONENTS["coarse"]].max()) == 1 for provider in method.asked)
    assert method.training, "and is left as it was"


def test_true_instances_are_cut_to_the_video_and_have_to_be_there():
    dataset: Any = SimpleNamespace(name="some")
    record: Any = SimpleNamespace(
        duration_seconds=10.0,
        events=(Event(label=1, start_seconds=5, end_seconds=99),),
        ambiguous=((8.0, 12.0), (11.0, 12.0)),
    )
    ground_truth = true_instances(dataset, [record])
    assert ground_truth.events == ((Event(label=1, start_seconds=5, end_seconds=10),),)
    assert ground_truth.ambiguous == (((8.0, 10.0),),)
    record.events = ()
    with pytest.raises(DataError, match="some says of no video when something happens"):
        true_instances(dataset, [record])
