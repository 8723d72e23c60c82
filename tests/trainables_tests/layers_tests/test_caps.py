"""What a cap on a video's cost means, apart from any one method: its errors, and which settings carry a rule."""

from __future__ import annotations

import pytest
import torch

from paretovid.trainables.catalog import method_class
from paretovid.trainables.errors import UnknownNameError, UsageError
from paretovid.trainables.layers.caps import (
    CHEAP,
    KNOBS,
    Cap,
    affordable_frames,
    check_known,
    complete,
    no_cap_error,
)
from paretovid.trainables.provider import FeatureProvider
from paretovid.trainables.testing import COMPONENTS, MACS, synthetic_costs, synthetic_method, synthetic_split


def test_a_setting_carries_a_rule_only_under_a_cap() -> None:
    assert complete({"max_gflops": 2.0}) == {"max_gflops": 2.0, "cap_rule": "stop"}
    assert complete({"max_gflops": 2.0, "cap_rule": CHEAP}) == {"max_gflops": 2.0, "cap_rule": "cheap"}
    assert complete({"mu": 0.1, "cap_rule": "stop"}) == {"mu": 0.1}


def test_a_rule_that_a_method_does_not_know_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="cap_rule of lstm cannot be 'cheap'") as error:
        Cap.of({"cap_rule": "cheap"}, method_class("lstm"))
    assert "no cheaper read" in error.value.hint
    with pytest.raises(UsageError, match="cannot be 'both'"):
        Cap.of({"cap_rule": "both"}, method_class("lite_eval"))


def test_who_has_no_cap_says_why_and_what_bounds_it_instead() -> None:
    with pytest.raises(UsageError, match="top_k has no max_gflops: it settles") as error:
        check_known(method_class("top_k"), ("num_frames", "max_gflops"))
    assert error.value.hint == "Its own knobs bound what it costs: num_frames."
    check_known(method_class("top_k"), ("num_frames",))
    check_known(method_class("uniform"), ("max_gflops", "cap_rule"))


def test_a_models_parameters_that_are_not_there() -> None:
    """Of a model that cannot have a cap, of one made before its method had any, of one made before there was a rule."""
    cases: tuple[tuple[str, str | None, dict[str, float], str], ...] = (
        ("max_gflops", "it pays at once", {}, "this model has no max_gflops: it pays at once"),
        ("max_gflops", None, {"mu": 0.7}, "this version of the model has no max_gflops"),
        ("cap_rule", None, {"max_gflops": 0.0}, "this version of the model has no cap_rule"),
    )
    for name, why, known, message in cases:
        error = no_cap_error(name, why, known)
        assert str(error.message) == message and type(error) is UsageError
    assert "keeps what max_gflops meant then" in no_cap_error("cap_rule", None, {"max_gflops": 0.0}).hint
    assert isinstance(no_cap_error("muu", None, {"mu": 0.7}), UnknownNameError)


def test_frames_are_taken_as_long_as_they_fit_and_what_was_paid_before_is_not_paid_again() -> None:
    method, split = synthetic_method("lstm", {"with_coarse": True}), synthetic_split()
    provider = FeatureProvider(
        split.features,
        num_steps=split.num_steps,
        video_keys=split.video_keys,
        components=COMPONENTS,
        costs=synthetic_costs(method),
    )
    costs = synthetic_costs(method)
    frame = MACS["fine"] + MACS["coarse"] + costs["lstm.rnn"].macs
    steps = [torch.where(split.num_steps > i, i, -1) for i in range(9)]

    def taken(macs: int, remembered: dict[str, torch.Tensor] | None = None) -> list[int]:
        cap = Cap(max_gflops=(macs + costs["lstm.head"].macs) / 1e9, rule="stop")
        found = affordable_frames(
            provider,
            cap,
            steps,
            sources=("fine", "coarse"),
            own=["lstm.rnn"],
            answer="lstm.head",
            remembered=remembered,
        )
        counts: list[int] = found.count.tolist()
        return counts

    assert taken(3 * frame) == split.num_steps.clamp(max=3).tolist()
    assert taken(3 * frame - 1) == split.num_steps.clamp(max=2).tolist()
    known = {"coarse": torch.tensor([[0, 1]] * len(split.num_steps))}
    assert taken(3 * frame - 2 * MACS["coarse"], known) == split.num_steps.clamp(max=3).tolist()
    with pytest.raises(UsageError, match="does not pay for one fine read"):
        taken(frame - 1)


def test_both_knobs_are_declared_together() -> None:
    assert [knob.name for knob in KNOBS] == ["max_gflops", "cap_rule"]
