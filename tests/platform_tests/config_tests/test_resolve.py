"""A plan is checked as a whole before anything is made, and typed from there on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import resolve, resolve_data
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.search.study import Suggestion
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.trials import SweepTrials
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.training.config import TrainingConfig, TrialConfig


def test_a_plan_is_typed() -> None:
    plan = resolve(load_sweep_config(["training.epochs=3", "data.videos_train=40", "search.trials=5"]))
    assert isinstance(plan.training, TrainingConfig) and plan.training.epochs == 3
    generated = plan.preparation.data.generated
    assert isinstance(generated, MovingDigitsConfig) and generated.videos_train == 40
    assert isinstance(plan.method.config, plan.method.method.Config)
    assert set(plan.method.sources) <= set(plan.preparation.backbones.components)
    assert all(isinstance(each.config, each.method.Config) for each in plan.baselines.values())
    assert (plan.objective, set(plan.knobs)) == ("map", {"gamma", "lambda"})


@pytest.mark.parametrize("name", ["lite_eval", "hcms"])
def test_a_sweep_of_one_model_for_a_range_of_budgets_searches_no_budget(name: str) -> None:
    plan = resolve(load_sweep_config([f"method={name}_dial"]))
    assert plan.method.name == name and plan.method.config.condition == "budget"
    assert set(plan.knobs) == {"lambda"}


def test_more_trials_leave_the_plan_they_come_from_as_it_was() -> None:
    plan = resolve(load_sweep_config(["search.trials=5"]))
    more = plan.with_trials(8)
    assert (plan.config.search.trials, more.config.search.trials) == (5, 8)
    assert replace(more, preparation=plan.preparation) == plan


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.epochs=0"], "training.epochs must be 1 or more"),
        (["training.epoch=3"], "unknown setting of training: 'epoch'"),
        (["baselines=[{name: a, method: two_stream}]"], "the baseline a is of localization"),
        (["baselines=[{name: a, method: single_model}]"], "reads the source"),
        (["method=model_selection", "backbones=small"], "reads the source"),
        (["data=folder", "data.name=mine", "data.step_seconds=1"], "takes no settings, but has step_seconds"),
        (["extraction.precision=int4"], "int4"),
        (
            ["method=ada_frame", "method.model.condition=budget"],
            "ada_frame cannot be conditioned on a budget",
        ),
        (["method=hcms", "method.model.condition=budget"], "skip_1 is 0.2, but with condition=budget"),
        (
            ["method=lite_eval_dial", "method.inference_knobs.budget.high=0.9"],
            "method.inference_knobs.budget.high must be in [0.01, 0.5]",
        ),
        (["backbones.dtype=int8"], "int8"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    words: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(load_sweep_config([f"home={tmp_path / 'home'}", *words]))
    assert said in refused.value.message and refused.value.hint
    assert not (tmp_path / "home").exists()


def test_a_folder_has_neither_a_reader_nor_a_generator() -> None:
    data = resolve_data(load_sweep_config(["data=folder", "data.name=mine"]))
    assert (data.name, data.reader, data.settings, data.generated) == ("mine", None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["data=folder", "data.name=mine"],
        ["data=moving_digits"],
        ["data=class_folders", "data.videos=x", "data.name=mine"],
    ],
)
def test_every_data_set_takes_limits_of_a_video(words: list[str]) -> None:
    assert resolve_data(load_sweep_config(words)).limits == VideoLimitsConfig()
    given = ["data.max_pixels=1000", "data.max_steps=7", "data.max_decode_seconds=1.5"]
    found = resolve_data(load_sweep_config([*words, *given])).limits
    assert found == VideoLimitsConfig(max_pixels=1000, max_steps=7, max_decode_seconds=1.5)
    for wrong in (
        "data.max_pixels=0",
        "data.max_steps=-1",
        "data.max_decode_seconds=.nan",
        "data.max_pixels=x",
    ):
        with pytest.raises(UsageError, match=wrong.partition("=")[0]):
            resolve_data(load_sweep_config([*words, wrong]))


def test_what_a_worker_gets_is_the_trial_that_was_planned(tmp_path: Path) -> None:
    plan = resolve(
        load_sweep_config(["training.epochs=3", "method.model.network.cell=gru", "search.points=12"])
    )
    dataset = Dataset(
        name="d", root=tmp_path, classes=("a",), step_seconds=1.0, multi_label=False, records=()
    )
    prepared = Prepared(
        home=Home(tmp_path), dataset=dataset, backbones={}, features={"fine": tmp_path / "f@1"}
    )
    trials = SweepTrials(plan, "s", prepared)
    suggestion = Suggestion(
        trial_id="t0001", knobs={"gamma": 0.1, "lambda": 2, "online_k": 1}, attempt=1, origin="sampler"
    )
    sent = json.loads(json.dumps({"added by others": 1, **trials.searched(suggestion)}))
    trial = TrialConfig.from_json(sent)
    assert trial == TrialConfig.from_json(trial.to_json())
    assert trial.model == {"network": {"cell": "gru"}, "target_usage": 0.1, "usage_weight": 2}
    assert (trial.training_knobs, trial.inference_setting) == ({"gamma": 0.1, "lambda": 2}, {"online_k": 1})
    assert (trial.training, trial.trial, trial.points) == (plan.training, "t0001", 12)
    assert isinstance(trial.training_knobs["lambda"], int), "2.0 would be another digest"
    for baseline in trials.baselines():
        sent_baseline = TrialConfig.from_json(baseline.config)
        assert (sent_baseline.inference_setting, sent_baseline.points) == (None, 12)


def test_a_trial_has_at_least_one_point() -> None:
    with pytest.raises(UsageError, match=r"search\.points must be 1 or more"):
        load_sweep_config(["search.points=0"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"model": None}, "has no field 'model'"), ({"seed": "x"}, "seed must be a whole number")],
)
def test_a_trial_that_cannot_be_read_is_refused(changed: dict[str, object], said: str) -> None:
    good = TrialConfig(sweep="s", trial="t", method="uniform", dataset="d", features={}, output="o")
    with pytest.raises(DataError, match=said):
        TrialConfig.from_json({**good.to_json(), **changed})
