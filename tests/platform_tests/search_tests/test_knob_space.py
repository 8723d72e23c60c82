from __future__ import annotations

import json
import math

from paretovid.platform.search.knob_space import Knobs, KnobSpace, key_of
from paretovid.search_spaces.schema import KnobConfig

MIXED = KnobSpace(
    {
        "gamma": KnobConfig(low=0.01, high=0.5, log=True),
        "clips": KnobConfig(low=2, high=4, whole=True),
        "head": KnobConfig(choices=["a", "b"], cheapest="high"),
    }
)
SMALL = KnobSpace(
    {"clips": KnobConfig(low=2, high=4, whole=True), "head": KnobConfig(choices=["a", "b"], cheapest="low")}
)


def test_what_can_be_counted_is_every_value_of_a_knob() -> None:
    assert SMALL.size == 6 and math.isinf(MIXED.size)
    known: set[str] = set()
    for seed in range(6):
        knobs = SMALL.untried(known, {}, seed)
        assert knobs is not None
        known.add(key_of(knobs))
    assert known == {key_of({"clips": clips, "head": head}) for clips in (2, 3, 4) for head in "ab"}
    assert SMALL.untried(known, {}, 6) is None


def test_the_last_untried_one_of_many_is_found() -> None:
    many = KnobSpace(
        {"clips": KnobConfig(low=1, high=300, whole=True), "head": KnobConfig(choices=["a", "b", "c"])}
    )
    last: Knobs = {"clips": 77, "head": "c"}
    known = {key_of({"clips": clips, "head": head}) for clips in range(1, 301) for head in "abc"} - {
        key_of(last)
    }
    assert many.untried(known, {}, 0) == last
    assert many.untried(known, {"head": "a"}, 0) is None and many.untried(known, {"head": "c"}, 0) == last


def test_the_ends_are_by_what_is_cheapest() -> None:
    assert MIXED.end(most_expensive=True) == {"gamma": 0.5, "clips": 4, "head": "a"}
    assert MIXED.end(most_expensive=False) == {"gamma": 0.01, "clips": 2, "head": "b"}


def test_points_out_of_range_are_left_out() -> None:
    points: list[Knobs] = [
        {"gamma": 0.1, "other": 3},
        {"gamma": 0.6},
        {"clips": 2.5},
        {"head": "c"},
        {"clips": "2"},
        {},
    ]
    assert MIXED.within([*points, {"clips": 3, "head": "b"}]) == [{"gamma": 0.1}, {"clips": 3, "head": "b"}]


def test_values_have_the_types_of_their_knobs() -> None:
    typed = MIXED.typed({"gamma": 0.1, "clips": 3.0, "head": "a", "other": 1})
    assert json.dumps(typed) == '{"gamma": 0.1, "clips": 3, "head": "a"}'
    whole = KnobSpace({"lambda": KnobConfig(low=1, high=8)})
    assert json.dumps(whole.typed({"lambda": 2})) == '{"lambda": 2.0}'


def test_an_untried_one_has_what_is_fixed_and_is_the_same_for_a_seed() -> None:
    first = MIXED.untried((), {"gamma": 0.2}, 3)
    assert first is not None and first["gamma"] == 0.2 and first["clips"] in (2, 3, 4)
    assert MIXED.untried((), {"gamma": 0.2}, 3) == first
    other = MIXED.untried({key_of(first)}, {"gamma": 0.2}, 3)
    assert other is not None and other != first and other["gamma"] == 0.2
    assert SMALL.untried({key_of({"clips": 3, "head": "a"})}, {"clips": 3}, 0) == {"clips": 3, "head": "b"}


def test_a_continuous_knob_whose_values_were_all_tried_ends_too() -> None:
    low, high = 0.1, math.nextafter(0.1, 1)
    narrow = KnobSpace({"gamma": KnobConfig(low=low, high=high)})
    assert narrow.untried({key_of({"gamma": high})}, {}, 0) == {"gamma": low}
    assert narrow.untried({key_of({"gamma": value}) for value in (low, high)}, {}, 0) is None
