"""Where operating points are placed: by cost alone, evenly, and no more than asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from paretovid.trainables.cost import CostTable
from paretovid.trainables.evaluation.evaluate import answer_settings
from paretovid.trainables.evaluation.placement import Placement, place_settings, placed
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.layers.placing.lines import offsets, quantiles
from paretovid.trainables.method import Method, PlacesSettings
from paretovid.trainables.methods.hcms import Hcms
from paretovid.trainables.methods.lite_eval import GATE_OFFSET, LiteEval
from paretovid.trainables.outcome import Line, Outcome, Setting
from paretovid.trainables.testing import (
    COMPONENTS,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

PLACING = (
    "ada_frame",
    "fast_forward",
    "frame_exit",
    "frame_glimpse",
    "hcms",
    "lite_eval",
    "model_selection",
    "model_selection_localization",
    "video_epitoma",
)


def line(name: str, values: Sequence[float], **fields: Any) -> Line:
    return Line(name=name, settings=tuple({name: value} for value in values), **fields)


class Costs:
    """Costs by formula, of three videos of unequal length, with what was asked for."""

    def __init__(self, formula: Callable[[Setting], float]) -> None:
        self.formula = formula
        self.asked: list[Setting] = []

    def __call__(self, settings: Sequence[Setting]) -> list[NDArray[np.float64]]:
        self.asked += settings
        return [self.formula(each) * np.array([0.5, 1.0, 1.5]) for each in settings]

    def logs(self, placement: Placement, name: str) -> list[float]:
        return sorted(math.log(self.formula(each)) for each in placement.settings if name in each)


def sigmoid_of_offset(setting: Setting) -> float:
    """From 1 to 100, nearly all of it within one unit of the offset."""
    return 1.0 + 99.0 / (1.0 + math.exp(-8.0 * float(setting.get("offset", 0.0))))


@pytest.mark.parametrize("points", [2, 5, 12, 24])
def test_costs_are_at_even_ratios_from_end_to_end(points: int) -> None:
    costs = Costs(sigmoid_of_offset)
    lines = [line("offset", np.linspace(-20, 20, 2001).round(2).tolist())]
    placement = placed({"offset": 0.0}, lines, costs, points)
    assert placement.settings[0] == {"offset": 0.0} and len(placement.settings) == points
    logs = costs.logs(placement, "offset")
    even = math.log(100) / (points - 1)
    gaps = [after - before for before, after in itertools.pairwise(logs)]
    if points > 2:
        assert logs[0] == pytest.approx(0, abs=1e-6) and logs[-1] == pytest.approx(math.log(100), abs=1e-6)
        assert max(gaps) < 1.7 * even, "the default setting is where it is, and divides the axis unevenly"
    assert len(costs.asked) < 6 * points, "nothing is run for its own sake"


def test_at_least_half_are_the_networks_own_decisions_and_the_rest_is_of_all_cuts() -> None:
    def formula(setting: Setting) -> float:
        return float(setting.get("k", 0)) or float(setting.get("cap", 0)) or sigmoid_of_offset(setting)

    lines = [
        line("offset", np.linspace(-5, 5, 501).round(2).tolist()),
        line("k", list(range(1, 50)), cuts_short=True),
        line("cap", np.geomspace(1, 49, 49).tolist(), cuts_short=True),
    ]
    placement = placed({"offset": 0.0}, lines, Costs(formula), 24)
    counts = {name: sum(name in each for each in placement.settings) for name in ("offset", "k", "cap")}
    assert sum(counts.values()) == 24 and counts["offset"] == 12
    assert min(counts["k"], counts["cap"]) >= 4


def test_settings_that_decide_alike_are_measured_once() -> None:
    lines = [line("offset", [-5.0, 0.0, 5.0]), line("other", [-5.0, 0.0, 5.0])]
    costs = Costs(lambda each: sigmoid_of_offset({"offset": each.get("offset", each.get("other", 0.0))}))
    placement = placed({"offset": 0.0}, lines, costs, 24)
    assert placement.settings == ({"offset": 0.0}, {"offset": -5.0}, {"offset": 5.0})


def test_cuts_do_not_go_below_the_cheapest_of_the_own_decisions() -> None:
    lines = [
        line("offset", np.linspace(-5, 5, 101).round(2).tolist()),
        line("cap", np.geomspace(0.001, 49, 97).tolist(), cuts_short=True),
    ]
    costs = Costs(lambda each: float(each.get("cap", 0)) or sigmoid_of_offset(each))
    placement = placed({"offset": 0.0}, lines, costs, 24)
    caps = [float(each["cap"]) for each in placement.settings if "cap" in each]
    assert caps and min(caps) > 0.7


def test_listed_settings_are_taken_as_they_are_and_count() -> None:
    lines = [
        line("offset", [-1.0, -0.99], is_listed=True),
        line("k", list(range(1, 50)), cuts_short=True),
    ]
    costs = Costs(lambda each: float(each.get("k", 50)))
    placement = placed({"offset": 0.0}, lines, costs, 8)
    assert placement.settings[:3] == ({"offset": 0.0}, {"offset": -1.0}, {"offset": -0.99})
    assert len(placement.settings) == 8 and sum("k" in each for each in placement.settings) == 5
    one = placed({"offset": 0.0}, lines, costs, 1)
    assert one.settings == placement.settings[:3] and one.warnings == ()


def test_a_constant_line_is_said_and_only_constant_ones_leave_the_default_alone() -> None:
    costs = Costs(lambda each: 1.0 + float(each.get("k", 0)))
    constant, other = line("offset", []), line("k", list(range(1, 9)), cuts_short=True)
    placement = placed({"offset": 0.0}, [constant, other], costs, 24)
    assert placement.settings == ({"offset": 0.0},) and costs.asked == []
    assert len(placement.warnings) == 1 and placement.warnings[0].startswith("offset: ")
    second = line("threshold", [0.1, 0.2, 0.9])
    costs = Costs(lambda each: 1.0 + float(each.get("k", 0)) + 9 * float(each.get("threshold", 0)))
    placement = placed({"offset": 0.0}, [constant, second, other], costs, 24)
    assert len(placement.settings) > 4 and len(placement.warnings) == 1


def test_quantiles_are_short_numbers_between_their_neighbours() -> None:
    found = quantiles(torch.tensor([0.123456, 0.9, 0.9000001, torch.nan, torch.inf, 5.0]))
    assert found == sorted(set(found)) and found[0] < 0.2 and found[-1] > 4.5
    assert all(len(str(each)) < 12 for each in found)
    assert quantiles(torch.full((9,), 0.3)) == quantiles(torch.zeros(0)) == []
    sure = torch.tensor([1 - 1e-9, 1 - 2e-9, 1 - 3e-9, 0.5], dtype=torch.float64)
    assert sum(each > 1 - 1e-8 for each in quantiles(sure)) > 2, (
        "sigmoids that are nearly full are kept apart"
    )


def test_offsets_reach_beyond_the_logits_and_keep_to_the_knob() -> None:
    found = offsets(torch.tensor([-2.0, 0.0, 3.0, torch.nan]), GATE_OFFSET)
    assert found == sorted(set(found)) and found[0] == pytest.approx(-12, abs=0.5) and found[-1] > 12
    assert max(after - before for before, after in itertools.pairwise(found[20:-20])) < 0.5
    wide = offsets(torch.tensor([-90.0, 90.0]), GATE_OFFSET)
    assert (min(wide), max(wide)) == (GATE_OFFSET.low, GATE_OFFSET.high)
    assert offsets(torch.full((5,), 1.0), GATE_OFFSET) == offsets(torch.zeros(0), GATE_OFFSET) == []


# Of methods


class Placing:
    """A trained method, and what it is asked about some videos."""

    def __init__(self, name: str, batches: Sequence[FeatureSplit] = (), **fields: Any) -> None:
        self.method = synthetic_method(name, fields)
        train_briefly(self.method, synthetic_split(num_videos=24, seed=1))
        self.costs = synthetic_costs(self.method)
        self.batches = batches or [synthetic_split(num_videos=40, seed=2)]
        self.asked = 0

    def answers(self, settings: Sequence[Setting]) -> Iterator[list[tuple[Setting, Outcome]]]:
        for batch in self.batches:
            self.asked += len(settings)
            yield answered(self.method, batch, settings, self.costs)

    def place(self, points: int) -> Placement:
        assert isinstance(self.method, PlacesSettings) and self.method.places()
        default = self.method.settings()[0]
        return place_settings(self.method, default, self.answers, self.costs, points)


def answered(
    method: Method, batch: FeatureSplit, settings: Sequence[Setting], costs: CostTable
) -> list[tuple[Setting, Outcome]]:
    return answer_settings(method, batch, settings, components=COMPONENTS, costs=costs)


@pytest.mark.parametrize("name", PLACING)
def test_every_method_gives_as_many_as_asked_for_and_the_same_again(name: str) -> None:
    placing = Placing(name)
    placement = placing.place(9)
    assert placement.settings[0] == placing.method.settings()[0]
    assert 5 <= len({str(each) for each in placement.settings}) == len(placement.settings) <= 9
    assert placing.place(9) == placement
    assert placing.place(1).settings == placement.settings[:1]
    (batch,) = placing.batches
    found = answered(placing.method, batch, placement.settings, placing.costs)
    spent = [float(placing.costs.gflops(outcome.calls).mean()) for _, outcome in found]
    assert max(spent) > 1.5 * min(spent), "they are spread over what it can cost"


def test_batches_make_no_difference() -> None:
    split = synthetic_split(num_videos=12, seed=2)

    def part(rows: slice) -> FeatureSplit:
        return FeatureSplit(
            features={source: values[rows] for source, values in split.features.items()},
            mask=split.mask[rows],
            num_steps=split.num_steps[rows],
            targets=split.targets[rows],
            video_keys=split.video_keys[rows],
            video_ids=split.video_ids[rows],
        )

    whole, parts = (Placing("lite_eval", b) for b in ([split], [part(slice(0, 5)), part(slice(5, 12))]))
    assert whole.place(12) == parts.place(12)


def constant(method: Method) -> None:
    """Makes the gate say the same whatever it sees."""
    assert isinstance(method, LiteEval) and isinstance(method.gate, torch.nn.Linear)
    with torch.no_grad():
        method.gate.weight.zero_()


def test_a_gate_whose_logits_are_constant_gives_one_point_and_a_warning() -> None:
    placing = Placing("lite_eval")
    constant(placing.method)
    placement = placing.place(24)
    assert placement.settings == ({"gate_offset": 0.0, "online_k": 0},)
    assert [text.partition(":")[0] for text in placement.warnings] == ["gate_offset"]


def test_of_two_gates_the_other_one_is_placed() -> None:
    placing = Placing("hcms")
    assert isinstance(placing.method, Hcms)
    with torch.no_grad():
        next(placing.method.gates[1].parameters()).zero_()
    placement = placing.place(24)
    assert [text.partition(":")[0] for text in placement.warnings] == ["gate_offset_2"]
    assert len({each["gate_offset_1"] for each in placement.settings}) > 4
    assert {each["gate_offset_2"] for each in placement.settings} == {0.0}


def test_pairs_of_offsets_are_spread_over_both_gates() -> None:
    placement = Placing("hcms").place(24)
    pairs = {(each["gate_offset_1"], each["gate_offset_2"]) for each in placement.settings}
    first, second = ({pair[gate] for pair in pairs} for gate in (0, 1))
    assert len(first) > 3 and len(second) > 3
    assert any(0.0 not in pair for pair in pairs) and {cap_rule(each) for each in placement.settings} == {
        None,
        "stop",
        "cheap",
    }


def cap_rule(setting: Setting) -> float | str | None:
    return setting.get("cap_rule")


def test_lists_of_a_configuration_are_measured_as_they_are() -> None:
    placement = Placing("lite_eval", online_ks=[2], caps=[1.0]).place(10)
    cut = [each for each in placement.settings if each["online_k"] or each.get("max_gflops")]
    assert [each["online_k"] for each in cut] == [2, 0, 0]
    assert [each.get("cap_rule") for each in cut] == [None, "stop", "cheap"]
    assert len(placement.settings) == 10
    listed = synthetic_method("lite_eval", {"gate_offsets": [0.0], "online_ks": [2], "caps": []})
    assert isinstance(listed, PlacesSettings) and not listed.places()
