"""What a search spends its epochs on (`search.plan`): never more than its trials would at the method's own length.
Real but for cluster and training (`platform/testing/simulated.py`).
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from paretovid.platform.config.load import load_sweep_config, to_record
from paretovid.platform.config.resolve import SweepPlan, resolve
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution.stopping import SweepStopped
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.sweep import SweepRecord, known_record
from paretovid.platform.registry.card import model_card
from paretovid.platform.search.study import Budget, ParetoStudy
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps import run as running
from paretovid.platform.sweeps.status import status_of
from paretovid.platform.sweeps.sweep import (
    confirm_sweep,
    extend_sweep,
    plan_sweep,
    resume_sweep,
    run_sweep,
)
from paretovid.platform.testing.simulated import expensive_is_better, simulated
from paretovid.platform.tracking.store import open_store
from paretovid.search_spaces.plans import DEFAULT_PLAN, PLANS, trainings_of
from paretovid.search_spaces.schema import ADDED, KnobConfig
from paretovid.trainables.errors import UnknownNameError, UsageError
from paretovid.trainables.training.config import TrialConfig

BASE = 40
"""Epochs of LiteEval's own trainings."""


def planned(*words: str) -> SweepPlan:
    return resolve(load_sweep_config(["baselines=[{name: lstm, method: lstm}]", *words]))


# Configurations


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("trials", [4, 5, 16])
def test_no_plan_spends_more_than_the_trials_would(plan: str, trials: int) -> None:
    found = planned(f"search.plan={plan}", f"search.trials={trials}")
    assert found.epochs == trials * BASE
    if found.epochs_knob is None:
        assert found.trainings * found.search_training({}).epochs <= trials * BASE
    assert found.training.epochs == BASE, "baselines are trained as ever"


def test_long_is_a_quarter_of_the_trainings_at_four_times_the_epochs_that_are_given() -> None:
    found = planned("search.plan=long", "search.trials=16", "training.epochs=10")
    assert (found.trainings, found.search_training({}).epochs) == (4, 40)
    assert found.knobs.keys() == {"gamma", "lambda"} and found.hyperparameters == {}
    with pytest.raises(UsageError, match=r"one training of 4 trials, and search.trials is 3"):
        planned("search.plan=long", "search.trials=3")
    assert [trainings_of("long", trials) for trials in (4, 7, 8)] == [1, 1, 2]


def test_wide_searches_multiples_of_what_the_method_is_trained_with() -> None:
    found = planned("search.plan=wide", "training.epochs=20", "method.training.learning_rate=1e-4")
    assert found.knobs.keys() == {"gamma", "lambda", "epochs", "learning_rate", "weight_decay", "hidden"}
    epochs, rate = found.knobs["epochs"], found.knobs["learning_rate"]
    assert (epochs.low, epochs.high, epochs.whole, epochs.log) == (10, 80, True, True)
    assert (rate.low, rate.high) == (pytest.approx(0.33e-4), pytest.approx(3e-4))
    assert found.knobs["hidden"].choices == [64, 128, 256]
    trained = found.search_training({"gamma": 0.1, "epochs": 33, "learning_rate": 2e-4, "weight_decay": 0.5})
    assert (trained.epochs, trained.learning_rate, trained.weight_decay) == (33, 2e-4, 0.5)
    assert trained.batch_size == found.training.batch_size


def test_what_wide_searches_is_declared_in_yaml_and_a_method_may_have_other_ranges() -> None:
    of_method = load_sweep_config(["search.plan=wide", "baselines=[]"])
    of_method.method.hyperparameters["epochs"] = KnobConfig(field="training.epochs", low=1, high=2)
    assert (resolve(of_method).knobs["epochs"].low, resolve(of_method).knobs["epochs"].high) == (
        BASE,
        2 * BASE,
    )
    assert "weight_decay" not in planned("search.plan=wide", "~search.hyperparameters.weight_decay").knobs
    assert "weight_decay" not in planned("search.plan=wide", "training.weight_decay=0").knobs
    fixed = planned("search.plan=wide", "method.model.network.fine_hidden=64")
    assert "hidden" not in fixed.knobs and "epochs" in fixed.knobs
    other = resolve(load_sweep_config(["search.plan=wide", "method=hcms", "baselines=[]"]))
    assert "hidden" not in other.knobs and "learning_rate" in other.knobs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search.plan=broad"], "unknown value of search.plan: 'broad'"),
        (["search.plan=wide", "search.hyperparameters.epochs.field=hidden"], "hyperparameters.epochs.field"),
        (["search.plan=wide", "search.hyperparameters.epochs.field=training.epoch"], "epoch"),
        (["search.plan=wide", "search.hyperparameters.epochs.low=5"], "low .5. is above high"),
        (["search.plan=wide", "search.hyperparameters.learning_rate.low=0"], "cannot begin at 0"),
        (
            ["search.plan=wide", "search.trials=1", "search.hyperparameters.epochs.low=2"],
            "pays for 40 epochs",
        ),
        (["search.plan=wide", "method.hyperparameters.hidden.choices=[1,32]"], "fine_hidden"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: list[str], message: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=message):
        planned(*words)


def test_a_search_without_hyperparameters_is_the_one_that_it_was_before_there_were_any() -> None:
    assert load_sweep_config().search.plan == DEFAULT_PLAN
    record: Any = to_record(load_sweep_config(["search.plan=knobs"]))
    assert "hyperparameters" not in record["search"] and "hyperparameters" not in record["method"]
    wide: Any = to_record(load_sweep_config(["search.plan=wide"]))
    assert wide["search"]["hyperparameters"].keys() == {"epochs", "learning_rate", "weight_decay"}


# Studies

KNOBS = {
    "gamma": KnobConfig(field="target_usage", low=0.01, high=0.5, log=True),
    "epochs": KnobConfig(field="training.epochs", low=10, high=80, log=True, whole=True),
}
METRICS = {"top1": 0.5, "gflops_std": 0.0, "gflops_p95": 0.0, "calls": {}, "usage_std_over_mean": 0.0}


def study(folder: Path, total: int, **changes: Any) -> ParetoStudy:
    settings: dict[str, Any] = {
        "storage": f"journal://{folder / 'studies'}",
        "name": "s",
        "knobs": KNOBS,
        "trials": total // 10,
        "sampler": "random",
        "anchored": {"epochs": 20},
        "budget": Budget(knob="epochs", total=total, least=10),
    }
    return ParetoStudy(**{**settings, **changes})


def asked(made: ParetoStudy) -> list[dict[str, Any]]:
    found = []
    while (suggestion := made.ask()) is not None:
        found.append(dict(suggestion.knobs))
        made.report_failure(suggestion.trial_id, "no matter", retry=False)
    return found


@pytest.mark.parametrize("total", [20, 45, 100, 333])
def test_trials_together_take_no_more_than_the_budget_and_leave_less_than_one(
    tmp_path: Path, total: int
) -> None:
    found = asked(study(tmp_path, total))
    spent = [knobs["epochs"] for knobs in found]
    assert total - 10 < sum(spent) <= total and min(spent) >= 10
    assert spent[:2] == [20, 20][: len(spent)], "the anchors are ends of budgets, not of lengths"


def test_a_trial_that_waits_is_paid_for_and_more_trials_pay_for_more(tmp_path: Path) -> None:
    first = study(tmp_path, 100)
    while (suggestion := first.ask()) is not None:
        last = suggestion
    first.requeue_open()
    again = study(tmp_path, 100)
    found = asked(again)
    assert last.knobs in found and 90 < sum(knobs["epochs"] for knobs in found) <= 100
    assert again.why_ended is None
    more = asked(study(tmp_path, 160))
    assert 50 < sum(knobs["epochs"] for knobs in more) <= 70


def test_published_settings_come_first_where_anchors_would_take_their_place(tmp_path: Path) -> None:
    published = [{"gamma": 0.1}, {"gamma": 0.03}]
    made = study(tmp_path, 200, published=published, published_first=True)
    assert [knobs["gamma"] for knobs in asked(made)[:4]] == [0.1, 0.03, 0.5, 0.01]


# Sweeps


class Table:
    """What trainings reach, and how long they were."""

    def __init__(self, stop_at: str = "") -> None:
        self.epochs: dict[str, int] = {}
        self._stop_at = stop_at

    def __call__(self, trial: TrialConfig) -> Sequence[tuple[float, float]]:
        if trial.trial == self._stop_at and trial.trial not in self.epochs:
            signal.raise_signal(signal.SIGTERM)
        self.epochs[trial.trial] = trial.training.epochs
        return expensive_is_better(trial)

    @property
    def searched(self) -> dict[str, int]:
        return {name: epochs for name, epochs in self.epochs.items() if name[0] == "t"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(running, "STOPPED_TRACKING_SECONDS", 30.0)
        patch.setattr(running, "write_png", lambda front, path: path.touch())
        made = Home(tmp_path_factory.mktemp("home"))
        open_store(made)
        yield made


def run(home: Home, name: str, *words: str, table: Table) -> None:
    few = [f"home={home.root}", f"name={name}", "baselines=[{name: lstm, method: lstm}]"]
    run_sweep(load_sweep_config([*few, *words]), Progress.silent(), backend=simulated(table))


def results(home: Home, name: str) -> dict[str, Any]:
    trials = home.sweep(name).with_result()
    return {trial.name: json.loads(trial.result.read_text()) for trial in trials}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_long_trains_the_published_settings_for_longer(home: Home) -> None:
    table = Table()
    run(home, "long", "search.plan=long", "search.trials=9", table=table)
    assert table.epochs == {"t0000": 4 * BASE, "t0001": 4 * BASE, "lstm": BASE}
    found = results(home, "long")
    assert [found[f"t000{i}"]["training_knobs"]["gamma"] for i in range(2)] == [0.1, 0.05]
    status = status_of(home, "long")
    assert (status.asked, status.finished, status.state) == (3, 3, "finished")
    extend_sweep(str(home.root), "long", 3, [], Progress.silent(), backend=simulated(table))
    assert table.searched.keys() == {"t0000", "t0001", "t0002"}, "12 trials are 3 trainings"
    store = open_store(home)
    condition = "tags.`paretovid.sweep` = 'long' AND tags.`paretovid.trial` = 't0000'"
    (child,) = store.client.search_runs([store.experiment_id], condition)
    assert child.data.params["training.epochs"] == "160"
    front = read_front([home.sweep("long")])
    assert "epochs = 160" in model_card(front, front.front[0], "m", [])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wide_spends_what_the_trials_would_and_records_what_it_tried(home: Home) -> None:
    table = Table()
    run(home, "wide", "search.plan=wide", "search.trials=8", table=table)
    assert 8 * BASE - BASE // 2 < sum(table.searched.values()) <= 8 * BASE
    assert table.epochs["lstm"] == BASE
    found = {name: each for name, each in results(home, "wide").items() if name != "lstm"}
    for name, result in found.items():
        knobs = result["training_knobs"]
        assert knobs.keys() == {"gamma", "lambda", "epochs", "learning_rate", "weight_decay", "hidden"}
        trained = result["training_config"]
        assert all(trained[each] == knobs[each] for each in ("epochs", "learning_rate", "weight_decay"))
        assert trained["epochs"] == table.epochs[name]
        assert result["model"]["network"]["fine_hidden"] == knobs["hidden"]
    assert len({result["training_knobs"]["learning_rate"] for result in found.values()}) > 2
    assert found["t0000"]["training_knobs"]["epochs"] == BASE, "anchors are ends of budgets alone"
    record = known_record(home.sweep("wide"))
    assert record.trainings == record.searched_trials == len(found) and record.state == "finished"
    status = status_of(home, "wide")
    assert (status.asked, status.finished) == (len(found) + 1, len(found) + 1) and status.why_ended is None
    store = open_store(home)
    condition = "tags.`paretovid.sweep` = 'wide' AND tags.`paretovid.trial` = 't0003'"
    (child,) = store.client.search_runs([store.experiment_id], condition)
    knobs = found["t0003"]["training_knobs"]
    assert child.data.params["learning_rate"] == str(knobs["learning_rate"])
    assert child.data.params["training.epochs"] == str(knobs["epochs"])
    front = read_front([home.sweep("wide")])
    assert "learning_rate = " in model_card(front, front.front[0], "m", [])
    # Its points are confirmed with the hyperparameters that they have.
    again = Table()
    confirm_sweep(str(home.root), "wide", ["t0003-p00"], 1, [], Progress.silent(), backend=simulated(again))
    assert again.epochs == {"t0003@seed1": knobs["epochs"]}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wide_is_the_same_stopped_and_resumed(home: Home) -> None:
    words = ("search.plan=wide", "search.trials=8", "search.concurrent=1")
    whole = Table()
    run(home, "whole", *words, table=whole)
    with pytest.raises(SweepStopped):
        run(home, "cut", *words, table=Table(stop_at="t0003"))
    rest = Table()
    resume_sweep(str(home.root), "cut", [], Progress.silent(), backend=simulated(rest))
    for name in ("whole", "cut"):
        assert sum(each["training_config"]["epochs"] for each in results(home, name).values()) <= 9 * BASE
    tried = [
        {trial: each["training_knobs"] for trial, each in results(home, name).items()}
        for name in ("whole", "cut")
    ]
    assert tried[0] == tried[1]


def test_the_plan_is_printed_before_anything_starts(tmp_path: Path) -> None:
    def text(*words: str) -> str:
        return str(plan_sweep(load_sweep_config([f"home={tmp_path}", "search.trials=8", *words])))

    assert "8 trainings of lite_eval for 40 epochs each" in text()
    long = text("search.plan=long", "search.seeds=3")
    assert "2 trainings of lite_eval for 160 epochs each" in long and "again with 3 other seeds" in long
    assert "first the published settings" in long
    wide = text("search.plan=wide")
    assert "trainings of lite_eval for 320 epochs in all, at most 16" in wide
    assert "epochs       20 to 160 (log)" in wide


def test_a_record_of_before_there_were_plans_has_the_number_that_it_says() -> None:
    record = SweepRecord.from_json(
        {"name": "s", "state": "finished", "config": {"search": {"trials": 7}}}, "s"
    )
    added = {name.removeprefix("search."): value for name, value in ADDED.items()}
    assert added["plan"] == "knobs"
    assert record.searched_trials == 7 and record.config["search"] == {"trials": 7, **added}
