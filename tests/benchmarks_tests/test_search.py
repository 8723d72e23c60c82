"""Searchers on a table of trainings: what a table keeps, what a search pays, and what is made of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.harness.results import Rows, read_results
from benchmarks.harness.run import RESULTS
from benchmarks.peers.curve_table import CurveTable, TableKnob, TableRow, rung_epochs
from benchmarks.peers.ours import OURS, OurSearch
from benchmarks.peers.searchers import NotInstalledError, searcher
from benchmarks.peers.traces import Trace, read_trace, trace_path, write_trace
from benchmarks.peers.walk import Curve, Question, Step, epochs_spent, walk
from benchmarks.search import DEFAULT, MINE, figures, made, search, shares, stops_by_excess
from benchmarks.search_table import METHODS, TABLES, Planned, planned, train_row
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import resolve_preparation
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import prepare
from paretovid.trainables.evaluation.pareto import Reference

KNOBS = (
    TableKnob(name="gamma", low=0.01, high=1, log=True),
    TableKnob(name="epochs", low=10, high=40, choices=(10, 20, 40)),
)


def row(number: int, gamma: float, epochs: int, quality: float, origin: str = "drawn") -> TableRow:
    """Half as good after a quarter of its schedule; 0.1 worse on test."""
    curves = [
        {
            "val": [(gamma, share * quality), (gamma / 2, share * quality / 2)],
            "test": [(gamma, share * quality - 0.1), (gamma / 2, share * quality / 2 - 0.1)],
        }
        for share in (0.5, 0.75, 1.0)
    ]
    return TableRow(
        number=number, origin=origin, knobs={"gamma": gamma, "epochs": float(epochs)}, curves=curves
    )


def small_table() -> CurveTable:
    """Ten rows, of which two are given first."""
    rows = [row(0, 0.5, 20, 0.9, "anchor"), row(1, 0.02, 20, 0.4, "published")]
    rows += [row(2 + i, 0.03 + 0.05 * i, (10, 20, 40)[i % 3], 0.4 + 0.05 * i) for i in range(8)]
    return CurveTable(method="made_up", knobs=KNOBS, rows=tuple(rows))


class Listed:
    """Asks what it was given, and keeps what it was told."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = list(questions)
        self.reported: list[tuple[Curve, int]] = []

    def ask(self) -> Question:
        return self._questions.pop(0)

    def report(self, curve: Curve, rung: int) -> None:
        self.reported.append((curve, rung))


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = small_table()
    table.pack(tmp_path / "t.npz")
    again = CurveTable.read(tmp_path / "t.npz")
    assert (again.method, again.knobs) == (table.method, table.knobs)
    for one, other in zip(again.rows, table.rows, strict=True):
        assert (one.number, one.origin, one.knobs) == (other.number, other.origin, other.knobs)
        for own, before in zip(one.curves, other.curves, strict=True):
            for split in ("val", "test"):
                for pair, expected in zip(own[split], before[split], strict=True):
                    assert pair == pytest.approx(expected, abs=1.1e-5)


def test_the_nearest_row_is_taken_once() -> None:
    table = small_table()
    place = table.place(table.rows[3].knobs)
    assert table.nearest(place, ()) == 3
    assert table.nearest(place, {3}) != 3
    with pytest.raises(ValueError, match="every row"):
        table.nearest(place, range(len(table.rows)))


@pytest.mark.parametrize("knob", KNOBS, ids=lambda each: each.name)
def test_a_value_of_a_knob_has_its_place(knob: TableKnob) -> None:
    for value in knob.choices or (0.01, 0.2, 1.0):
        assert knob.value(knob.unit(value)) == pytest.approx(value)
    assert (knob.unit(knob.low), knob.unit(knob.high)) == (0, 1)


def test_rungs_are_rounded_up() -> None:
    assert rung_epochs(10) == (3, 5, 10)
    assert rung_epochs(80) == (20, 40, 80)


def test_a_row_that_goes_on_costs_what_is_left() -> None:
    table = small_table()
    assert [table.rows[i].epochs for i in (2, 4)] == [10, 40]
    steps = [Step(row=4, rung=0), Step(row=2, rung=2), Step(row=4, rung=1), Step(row=4, rung=2)]
    assert epochs_spent(table, steps) == [10, 20, 30, 50]


def test_a_search_ends_when_its_epochs_are_spent_or_the_table_is_used_up() -> None:
    table = small_table()
    places = [table.place(each.knobs) for each in table.rows]
    asked = Listed([Question(place=place, key=i) for i, place in enumerate(places)])
    steps = walk(table, asked, budget_epochs=60)
    assert [step.row for step in steps] == [0, 1, 2, 3]
    assert [curve for curve, _ in asked.reported] == [table.rows[i].curves[2]["val"] for i in range(4)]
    asked = Listed([Question(place=places[0], key=i) for i in range(11)])
    steps = walk(table, asked, budget_epochs=10_000)
    assert sorted(step.row for step in steps) == list(range(10))


def test_a_training_that_is_stopped_costs_its_first_rung_and_says_what_it_had() -> None:
    table = small_table()
    places = [table.place(table.rows[i].knobs) for i in (0, 4, 3)]
    asked = Listed([Question(place=place, key=i) for i, place in enumerate(places)])
    steps = walk(table, asked, budget_epochs=50, stops=lambda curve, others: len(others) == 1)
    assert steps == [Step(row=0, rung=2), Step(row=4, rung=0), Step(row=3, rung=2)]
    assert epochs_spent(table, steps) == [20, 30, 50]
    assert asked.reported[1] == (table.rows[4].curves[0]["val"], 0)


def test_curves_are_compared_at_their_own_costs() -> None:
    cheap, expensive, poor = [(1.0, 0.5)], [(4.0, 0.9)], [(4.0, 0.4)]
    assert not stops_by_excess(poor, [cheap, cheap, expensive]), "there is too little to compare it with"
    assert stops_by_excess(poor, [cheap, cheap, expensive, expensive])
    assert not stops_by_excess(cheap, [poor, poor, expensive, expensive])


def test_a_front_is_chosen_on_validation_and_shown_on_test() -> None:
    box = Reference(gflops=2, quality=0)
    better = ((1.0, 0.5), (1.0, 0.4))
    lucky = ((0.5, 0.5), (1.0, 0.2))
    assert shares([better], box) == pytest.approx((25, 20))
    assert shares([better, lucky], box) == pytest.approx((37.5, 10)), "what is worse on test was chosen"


def test_figures_of_a_search() -> None:
    table = small_table()
    everything = tuple(Step(row=i, rung=2) for i in range(10))
    found = figures(table, Trace(method="made_up", searcher=DEFAULT, seed=0, steps=everything))
    assert found["trainings"] == 10
    assert found["whole.val.reached"] and found["whole.test.reached"]
    total = sum(each.epochs for each in table.rows)
    assert 0 < found["whole.val.epochs"] <= total
    stopped = tuple(Step(row=i, rung=0) for i in range(10))
    ours = figures(table, Trace(method="made_up", searcher=DEFAULT, seed=0, steps=stopped))
    assert ours["whole.val.800"] == 0 and not ours["whole.val.reached"], "ours has no result of what it stops"
    peer = figures(table, Trace(method="made_up", searcher="neps moasha", seed=0, steps=stopped))
    assert 0 < peer["whole.val.800"] < found["whole.val.800"]


@pytest.mark.parametrize("name", OURS)
def test_ours_begins_with_what_every_sweep_begins_with(name: str) -> None:
    table = small_table()
    found = search(table, name, 1, budget_epochs=100)
    assert [step.row for step in found.steps[:2]] == [0, 1]
    assert found == search(table, name, 1, budget_epochs=100)


def test_ours_learns_of_the_place_that_it_suggested() -> None:
    """What it is told is best at a place, it finds."""
    table = small_table()
    mine = OurSearch(table, "curves", 0)
    reported: list[float] = []
    for _ in range(14):
        gamma = mine.ask().place[0]
        reported.append(gamma)
        # One setting each, of one cost: a curve adds something if it is better than all others.
        quality = 1 - (gamma - 0.8) ** 2
        mine.report([(1.0, quality), (2.0, 0.0)], 2)
    assert min(abs(gamma - 0.8) for gamma in reported[2:]) < 0.05


def test_a_training_that_was_stopped_teaches_ours_nothing() -> None:
    table = small_table()
    places: list[list[float]] = []
    for quality in (0.1, 0.99):
        mine = OurSearch(table, "tpe, curve", 0)
        asked: list[float] = []
        for number in range(14):
            asked += mine.ask().place
            is_stopped = number % 3 == 2
            own = quality if is_stopped else 0.3 + 0.02 * number
            mine.report([(1.0, own), (2.0, 0.0)], 0 if is_stopped else 2)
        places.append(asked)
    assert places[0] == places[1]


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ax", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.ax_peer", raising=False)
    with pytest.raises(NotInstalledError, match=r"ax cannot be run.*pip install ax-platform"):
        searcher("ax", small_table(), 0)


@pytest.mark.parametrize("name", ["optuna tpe", "optuna nsga-ii"])
def test_optuna_as_it_comes(name: str) -> None:
    table = small_table()
    steps = walk(table, searcher(name, table, 0), budget_epochs=10_000)
    assert sorted(step.row for step in steps) == list(range(10))


def test_a_search_is_kept_in_a_file(tmp_path: Path) -> None:
    steps = (Step(row=1, rung=0), Step(row=1, rung=2))
    trace = Trace(method="made_up", searcher="tpe, point, stopped", seed=3, steps=steps)
    path = trace_path(tmp_path, trace.method, trace.searcher, trace.seed)
    write_trace(path, trace)
    assert read_trace(path) == trace and path.name == "tpe_point_stopped-made_up-03.csv"


def test_plans_are_the_same_whatever_the_count() -> None:
    for method in METHODS:
        assert planned(method, 20)[:12] == planned(method, 12)
        origins = [each.origin for each in planned(method, 20)]
        assert origins[:3] == ["anchor", "anchor", "published"] and origins[-1] == "drawn"
        assert len({json.dumps(each.knobs, sort_keys=True) for each in planned(method, 200)}) == 200


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_row_is_trained_once_and_measured_at_its_rungs(prepared_home: Path, tmp_path: Path) -> None:
    home = copied(prepared_home, tmp_path / "home")
    config = load_sweep_config([*SMALL_DATA, f"home={home}"])
    prepared = prepare(resolve_preparation(config), Progress.silent())
    knobs = {
        "gamma": 0.3,
        "lambda": 1.0,
        "learning_rate": 3e-3,
        "weight_decay": 1e-4,
        "epochs": 4.0,
        "hidden": 64.0,
    }
    row = Planned(number=7, origin="drawn", knobs=knobs)
    train_row("lite_eval", row, prepared, tmp_path)
    path = tmp_path / "lite_eval-0007.json"
    written = path.read_text()
    curves = json.loads(written)["curves"]
    assert len(curves) == 3 and all(1 <= len(curve["val"]) == len(curve["test"]) <= 24 for curve in curves)
    assert curves[0] != curves[2], "the network of a quarter of the schedule is another one"
    assert all(len(curve["val"]) <= 12 for curve in curves[:2])
    train_row("lite_eval", row, prepared, tmp_path)
    assert path.read_text() == written, "seconds and all: it was not trained again"


def stored(table: str) -> Rows:
    return read_results(RESULTS / "search")[table]


@pytest.mark.parametrize("method", METHODS)
def test_stored_figures_follow_from_the_stored_steps(method: str) -> None:
    table = CurveTable.read(TABLES / f"{method}.npz")
    steps = stored("steps").groups(("method", "searcher", "seed"))
    for row in stored("searches").matching({"method": method, "seed": 0}).rows:
        taken = steps[method, row["searcher"], 0]
        trace = Trace(
            method=method,
            searcher=str(row["searcher"]),
            seed=0,
            steps=tuple(Step(row=int(each["row"]), rung=int(each["rung"])) for each in taken.rows),
        )
        for name, value in figures(table, trace).items():
            assert row[name] == (pytest.approx(value) if isinstance(value, float) else value), name


@pytest.mark.parametrize("method", METHODS)
def test_stored_searches_can_be_repeated(method: str) -> None:
    table = CurveTable.read(TABLES / f"{method}.npz")
    for name in ("random", "tpe, point"):
        assert name in MINE
        taken = stored("steps").matching({"method": method, "searcher": name, "seed": 1}).rows
        steps = walk(table, made(table, name, 1), budget_epochs=300)
        assert [step.row for step in steps] == [row["row"] for row in taken[: len(steps)]]
