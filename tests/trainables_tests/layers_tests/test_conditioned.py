"""Gates that know a budget: what is drawn, what it costs, and which plain gate it is at each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from paretovid.trainables.catalog import ConfiguredMethod, method_config, method_names
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.placement import place_settings
from paretovid.trainables.layers.conditioned.budget import (
    BudgetGate,
    Budgets,
    Drawn,
    price_penalty,
    target_penalty,
)
from paretovid.trainables.layers.conditioned.lines import budget_lines
from paretovid.trainables.methods.hcms import Hcms
from paretovid.trainables.methods.lite_eval import LiteEval
from paretovid.trainables.outcome import Batch, Line, Progress
from paretovid.trainables.testing import (
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

CONDITIONED = ("lite_eval", "hcms")


def batch(num_videos: int = 16) -> Batch:
    split = synthetic_split(num_videos=num_videos, seed=1)
    return Batch(split.features, split.mask, split.targets, split.video_keys)


def test_each_quarter_of_a_batch_draws_from_another_quarter_of_the_range() -> None:
    torch.manual_seed(0)
    budgets = Budgets(0.01, 1.0)
    seen = [budgets.drawn(batch()) for _ in range(50)]
    for drawn in seen:
        assert drawn.group.tolist() == [i // 4 for i in range(16)]
        quarters = torch.floor((drawn.z + 1) / 2 * 4).tolist()
        assert sorted(quarters) == [0, 1, 2, 3]
        torch.testing.assert_close(drawn.of_videos, drawn.budgets[drawn.group])
    assert len({tuple(torch.floor((drawn.z + 1) * 2).tolist()) for drawn in seen}) > 5, "in any order"
    assert budgets.at(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([0.01, 0.1, 1.0])
    assert budgets.place(0.1) == pytest.approx(0.0)
    assert budgets.drawn(batch(3)).group.tolist() == [0, 1, 2]


def test_a_group_pays_for_its_mean_usage_by_its_own_budget() -> None:
    drawn = Drawn(
        z=torch.zeros(4),
        group=torch.tensor([0, 0, 2, 2]),
        budgets=torch.tensor([0.5, 0.9, 0.1, 0.9]),
        workers=1,
    )
    usage = torch.tensor([[0.2, 0.1], [0.4, 0.1], [0.1, 0.0], [0.5, 0.2]])
    # Means of groups: (0.3, 0.1) for the targets (0.5, 0.25), and (0.3, 0.1) for (0.1, 0.01).
    of_groups = (0.2**2 / 0.5 + 0.15**2 / 0.25 + 0.2**2 / 0.1 + 0.09**2 / 0.01) / 2
    assert float(target_penalty(usage, drawn, "batch")) == pytest.approx(of_groups)
    of_videos = (0.3**2 + 0.1**2) / 0.5 + 2 * 0.15**2 / 0.25 + 0.4**2 / 0.1 + (0.01**2 + 0.19**2) / 0.01
    assert float(target_penalty(usage, drawn, "video")) == pytest.approx(of_videos / 4)
    price = price_penalty(usage, drawn, torch.tensor([0.25, 0.75]))
    assert float(price) == pytest.approx(((0.125 + 0.175) / 0.5 + (0.025 + 0.275) / 0.1) / 4)


def test_a_gate_at_a_budget_is_the_one_that_was_trained_there() -> None:
    torch.manual_seed(0)
    budgets = Budgets(0.01, 1.0)
    gate = BudgetGate(5, budgets)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    z = torch.tensor([-0.7, -0.2, 0.3, 0.9])
    sampled = gate.sampled(Drawn(z=z, group=torch.arange(4), budgets=budgets.at(z), workers=1), 0.5)
    inputs = torch.randn(5)
    for video, budget in enumerate(budgets.at(z).tolist()):
        parts = zip(sampled.factors[video], sampled.terms, strict=True)
        expected = sum(factor * term(inputs) for factor, term in parts)
        torch.testing.assert_close(gate.at(budget)(inputs), expected)


def test_a_gate_begins_as_the_plain_one_at_every_budget() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(5, 2)
    torch.manual_seed(0)
    gate = BudgetGate(5, Budgets(0.01, 1.0))
    for budget in (0.01, 0.3, 1.0):
        assert torch.equal(gate.at(budget).weight, plain.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "on"), [(name, on) for name in CONDITIONED for on in ("target", "price")])
def test_a_higher_budget_is_used(name: str, on: str) -> None:
    fields = {"condition": "budget", "condition_on": on, "usage_weight": 2.0}
    method = synthetic_method(name, fields)
    train_briefly(method, synthetic_split(num_videos=64, seed=3), steps=150)
    assert isinstance(method, (LiteEval, Hcms)) and method.config.budgets is not None
    split, costs = synthetic_split(num_videos=64, seed=4), synthetic_costs(method)
    spent = [
        float(costs.gflops(run_cached(method, split, {"budget": budget}, costs).calls).mean())
        for budget in (method.config.budgets.low, method.config.budgets.high)
    ]
    assert spent[1] > 1.5 * spent[0], spent


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_budget_that_was_not_trained_names_the_range(name: str) -> None:
    fields = {"condition": "budget", "budget_low": 0.1, "budget_high": 0.4}
    method, split = synthetic_method(name, fields), synthetic_split()
    for budget in (0.09, 0.41, float("nan")):
        with pytest.raises(UsageError, match=r"trained for 0\.1 to 0\.4"):
            run_cached(method, split, {"budget": budget})
    with pytest.raises(UsageError, match="has no budget"):
        run_cached(synthetic_method(name), split, {"budget": 0.2})


def test_the_default_budget_is_within_a_narrow_range() -> None:
    assert Budgets(0.2148, 0.2192).middle == 0.2192 and Budgets(0.01, 0.5).middle == 0.071


@pytest.mark.parametrize("name", CONDITIONED)
def test_only_a_method_that_is_conditioned_has_the_knob(name: str) -> None:
    plain, conditioned = (synthetic_method(name, fields) for fields in ({}, {"condition": "budget"}))
    knobs = ConfiguredMethod.of(name, {"condition": "budget"}).knobs
    assert ConfiguredMethod.of(name, {}).knobs == plain.inference_knobs == knobs[1:]
    assert knobs[0].name == "budget" and conditioned.settings()[0]["budget"] == knobs[0].default
    assert conditioned.component_costs() == plain.component_costs(), "an answer costs no more"


def test_training_through_a_conditioned_gate_reaches_all_its_terms_alike_whatever_the_budget() -> None:
    method = synthetic_method("lite_eval", {"condition": "budget"})
    torch.manual_seed(0)
    method.loss(batch(), Progress(0, 10)).total.backward()
    gradients = [p.grad for n, p in method.named_parameters() if n.startswith("gate.terms")]
    assert len(gradients) == 6 and all(g is not None and bool(g.abs().sum() > 0) for g in gradients)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("lite_eval", {"condition": "price"}, "method.condition cannot be 'price'|condition cannot be"),
        (
            "lite_eval",
            {"condition": "budget", "target_usage": 0.3},
            "target_usage is 0.3, but with condition",
        ),
        ("hcms", {"condition": "budget", "skip_2": 0.9}, "skip_2 is 0.9, but with condition"),
        ("hcms", {"condition": "budget", "budget_low": 0.5, "budget_high": 0.5}, "budget_low is 0.5"),
        ("lite_eval", {"condition": "budget", "budget_high": 2.0}, "a budget is a share of steps"),
        ("lite_eval", {"condition": "budget", "budget_low": 0.0}, r"budget_low must be in \[0.0001"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method_config(name, fields)


def test_a_method_without_gates_cannot_be_conditioned() -> None:
    for name in method_names():
        try:
            method_config(name, {"condition": "budget"})
        except UsageError as error:
            assert "cannot be conditioned on a budget" in str(error) and "lite_eval" in error.hint
            assert name not in CONDITIONED
        else:
            assert name in CONDITIONED


# Where settings are placed


def test_a_line_goes_from_closed_gates_through_all_budgets_to_open_ones() -> None:
    offsets = Line(
        name="offset", settings=tuple({"budget": 0.1, "offset": o, "k": 0.0} for o in (-3.0, -1.0, 0.0, 2.0))
    )
    (line,) = budget_lines([offsets, dataclasses.replace(offsets, name="alone")], Budgets(0.01, 1.0))
    settings = [dict(setting) for setting in line.settings]
    assert settings[:3] == [
        {"budget": 0.01, "offset": -3.0, "k": 0.0},
        {"budget": 0.01, "offset": -1.0, "k": 0.0},
        {"budget": 0.01, "offset": 0.0, "k": 0.0},
    ]
    assert settings[-2:] == [
        {"budget": 1.0, "offset": 0.0, "k": 0.0},
        {"budget": 1.0, "offset": 2.0, "k": 0.0},
    ]
    budgets = [float(setting["budget"]) for setting in settings[2:-1]]
    assert budgets == sorted(set(budgets)) and len(budgets) > 50
    assert budget_lines([offsets], None) == [offsets]


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_gate_whose_logits_are_constant_gives_one_point_and_a_warning(name: str) -> None:
    method = synthetic_method(name, {"condition": "budget"})
    with torch.no_grad():
        for part, parameter in method.named_parameters():
            if part.startswith("gate"):
                parameter.zero_()
    assert isinstance(method, (LiteEval, Hcms))
    split, costs = synthetic_split(num_videos=12), synthetic_costs(method)
    placement = place_settings(
        method,
        method.settings()[0],
        lambda settings: [[(each, run_cached(method, split, each, costs)) for each in settings]],
        costs,
        24,
    )
    assert placement.settings == (method.settings()[0],)
    assert "decides alike at every step" in placement.warnings[0]
