from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from paretovid.trainables.cost import (
    ComponentCost,
    CostTable,
    check_accounting,
    deterministic_eval,
    measure_macs,
)
from paretovid.trainables.documents import Fields
from paretovid.trainables.errors import DataError, UnknownCostError, UsageError
from paretovid.trainables.layers.recurrent import Cell


def test_measured_macs_are_those_of_the_formulas():
    assert measure_macs(nn.Linear(10, 7), torch.zeros(1, 10)) == 70
    convolution = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    assert measure_macs(convolution, torch.zeros(1, 3, 16, 16)) == 8 * 8 * 8 * 3 * 9


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_all_gates_of_a_cell_are_counted(kind, gates):
    cell = Cell(kind, 20, 30)
    state = cell.initial(1, torch.zeros(1))
    assert measure_macs(cell, torch.zeros(1, 20), state) == gates * 30 * (20 + 30)


def test_measuring_leaves_the_mode_as_it_was():
    norm = nn.BatchNorm1d(2)
    module = nn.Sequential(nn.Linear(2, 2), norm)
    module.train()
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    measure_macs(module, torch.ones(1, 2))
    assert module.training
    assert torch.equal(norm.running_mean, before)


def test_gflops_are_calls_times_cost():
    table = CostTable({"a": ComponentCost(macs=2_000_000, input=""), "b": ComponentCost(macs=500, input="")})
    gflops = table.gflops({"a": torch.tensor([1, 0]), "b": torch.tensor([0, 4])})
    assert gflops.tolist() == [2e-3, 2e-6]


def test_an_unknown_component_is_an_error_that_lists_the_known_ones():
    table = CostTable({"resnet": ComponentCost(macs=1, input="")})
    with pytest.raises(UnknownCostError, match="'resnett' is unknown") as error:
        table.gflops({"resnett": torch.tensor([0])})
    assert "resnet" in error.value.hint
    with pytest.raises(ValueError, match="no component was called"):
        table.gflops({})


def test_a_component_keeps_one_cost():
    table = CostTable({"a": ComponentCost(macs=1, input="")})
    table.add("a", ComponentCost(macs=1, input=""))
    with pytest.raises(ValueError, match="has a cost already"):
        table.add("a", ComponentCost(macs=2, input=""))


def test_json_round_trip():
    table = CostTable(
        {"a": ComponentCost(macs=3, input="x", published_gmacs=0.1, published_source="Table 1")}
    )
    assert CostTable.from_json(table.to_json())["a"] == table["a"]


def test_accounting():
    assert [check_accounting(known) for known in ("paper", "honest")] == ["paper", "honest"]
    with pytest.raises(UsageError, match="honset"):
        check_accounting("honset")


def test_a_table_knows_its_components_and_their_cost_in_the_papers_unit():
    table = CostTable({"a": ComponentCost(macs=3_000_000, input=""), "b": ComponentCost(macs=1, input="")})
    assert list(table) == ["a", "b"] and "a" in table and "c" not in table
    assert table["a"].gmacs == 3e-3
    copied = CostTable(table._costs)
    copied.add("c", ComponentCost(macs=1, input=""))
    assert "c" not in table


def test_costs_add_up_exactly_over_components_of_very_unequal_cost():
    table = CostTable({"a": ComponentCost(macs=10**12, input=""), "b": ComponentCost(macs=1, input="")})
    spent = table.gflops({"a": torch.tensor([[1, 2]]), "b": torch.tensor([[1, 0]])})
    assert spent.dtype == torch.float64 and spent.tolist() == [[1000.000000001, 2000.0]]


def test_evaluation_is_without_noise_and_gradient_and_leaves_the_mode_as_it_was():
    module = nn.Dropout()
    for was_training in (True, False):
        module.train(was_training)
        with pytest.raises(RuntimeError, match="on purpose"), deterministic_eval(module):
            assert not module.training and not torch.is_grad_enabled()
            raise RuntimeError("on purpose")
        assert module.training == was_training and torch.is_grad_enabled()
        with pytest.raises(TypeError):
            measure_macs(module, "no tensor", "and one too many")
        assert module.training == was_training


def test_what_is_measured_needs_no_gradient_and_is_in_evaluation():
    class Noted(nn.Module):
        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            return x @ x.T

    assert measure_macs(Noted(), torch.ones(3, 5)) == 45


def test_a_cost_is_read_back_as_it_was_written_and_a_short_one_has_its_defaults():
    whole = ComponentCost(
        macs=3, input="x", provenance="a paper", published_gmacs=0.1, published_source="Table 1"
    )
    short = ComponentCost(macs=3, input="x")
    for cost in (whole, short):
        written = {name: value for name, value in dataclasses.asdict(cost).items() if value is not None}
        assert ComponentCost.read(Fields(written, "result.json", "Repair it.")) == cost
    minimal = Fields({"macs": 3, "input": "x"}, "result.json", "Repair it.")
    assert ComponentCost.read(minimal) == short
    with pytest.raises(DataError, match="input"):
        ComponentCost.read(Fields({"macs": 3}, "result.json", "Repair it."))
