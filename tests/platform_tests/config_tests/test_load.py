from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from paretovid.platform.config.load import (
    data_settings,
    ends,
    group_options,
    load_sweep_config,
    model_with_knobs,
    searched_knobs,
    to_record,
    training_settings,
)
from paretovid.platform.config.resolve import resolve, resolve_methods
from paretovid.platform.sweeps.sweep import plan_sweep
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.timestep_selector import SelectorShape, build_selector, save_selector


def test_defaults_are_whole_and_plain() -> None:
    config = load_sweep_config()
    assert config.method.name == "lite_eval"
    gamma = config.method.training_knobs["gamma"]
    assert (gamma.low, gamma.high, gamma.log, gamma.field) == (0.01, 0.5, True, "target_usage")
    assert {baseline.name for baseline in config.baselines} >= {"uniform", "lstm", "random-gate"}
    record = to_record(config)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_overrides_reach_typed_fields() -> None:
    config = load_sweep_config(
        [
            "search.trials=4",
            "method.training_knobs.gamma.low=0.05",
            "seed=7",
            "baselines=[]",
            "search.hours=0.5",
        ]
    )
    assert config.search.trials == 4
    assert config.method.training_knobs["gamma"].low == 0.05
    assert (config.seed, config.baselines, config.search.hours) == (7, [], 0.5)


def test_a_data_set_may_be_called() -> None:
    assert load_sweep_config(["data=folder", "data.name=A.b-c_9"]).data["name"] == "A.b-c_9"


def test_free_sections_need_no_plus() -> None:
    config = load_sweep_config(
        [
            "data.videos_train=40",
            "method.model.network.cell=gru",
            "training.epochs=3",
            "backbones.training.epochs=1",
        ]
    )
    assert data_settings(config) == {"generator": "moving_digits", "videos_train": 40}
    assert config.method.model == {"network": {"cell": "gru"}}
    assert config.training == {"epochs": 3}
    assert config.backbones.training == {"epochs": 1}


@pytest.mark.slow
def test_a_method_brings_its_data_backbones_and_training_and_the_command_line_has_the_last_word() -> None:
    method = "method=model_selection_localization"
    config = load_sweep_config([method])
    assert (config.data["name"], config.backbones.family) == ("moving_digits_untrimmed", "localization")
    assert training_settings(config) == {"epochs": 60, "batch_size": 16}
    given = load_sweep_config(
        [method, "data=moving_digits_untrimmed_multi", "training.epochs=2", "backbones=small"]
    )
    assert (given.data["name"], given.backbones.family) == ("moving_digits_untrimmed_multi", "small")
    assert training_settings(given) == {"epochs": 2, "batch_size": 16}
    assert training_settings(load_sweep_config(["training.epochs=3"])) == {"epochs": 3}


def test_baselines_of_another_task_are_refused() -> None:
    config = load_sweep_config(
        ["method=model_selection_localization", "baselines=[{name: uniform, method: uniform}]"]
    )
    with pytest.raises(UsageError, match="of classification, model_selection_localization of localization"):
        plan_sweep(config)


BAD = [
    ("data.name=../../x", "data.name='../../x' is not allowed", "letter or digit"),
    ("data.name=a/b", "data.name='a/b' is not allowed", "letter or digit"),
    ("data.name=..", "data.name='..' is not allowed", "letter or digit"),
    ("data.name='a b'", "data.name='a b' is not allowed", "letter or digit"),
    ("~data.name", "data.name=None is not allowed", "letter or digit"),
    ("backbones.max_weights_gigabytes=0", "backbones.max_weights_gigabytes must be", "0"),
    ("search.trails=3", "unknown setting: 'search.trails'", "Did you mean 'search.trials'"),
    ("trials=3", "unknown setting: 'trials'", "Did you mean 'search.trials'"),
    ("+foo=1", "unknown setting: 'foo'", "seed"),
    ("hydra.run.dir=x", "unknown setting", "accounting"),
    ("method.training_knobs.gama.low=1", "unknown setting", "method.training_knobs.gamma"),
    ("method.training_knobs.gamma.lo=1", "unknown setting", "method.training_knobs.gamma.low"),
    ("~method.training_knobs.zeta", "unknown setting", "method.training_knobs.lambda"),
    ("method=lite_evil", "unknown choice for method: 'lite_evil'", "Did you mean 'lite_eval'"),
    ("search=3", "unknown choice for search: '3'", "default"),
    ("~method", "method cannot be left out", "lite_eval"),
    ("search.trials=abc", "search.trials=abc: Value 'abc'", "schema.py"),
    ("search.trials=1.5", "could not be converted to Integer", "schema.py"),
    ("search.trials=null", "not Optional", "schema.py"),
    ("baselines=[{name: a, methode: b}]", "Key 'methode' not in 'BaselineConfig'", "schema.py"),
    ("search.trials=1,2", "gives several values", "[…]"),
    ("x==", "not an override", "key=value"),
    ("search.trials=0", "search.trials must be 1 or more, not 0", "from 1"),
    ("search.sampler=tpee", "unknown value of search.sampler", "Did you mean 'tpe'"),
    ("search.guided_by=curves", "unknown value of search.guided_by", "Did you mean 'curve'"),
    ("search.max_gflops=-1", "search.max_gflops must be above 0, not -1", "above 0"),
    ("search.max_gflops=.nan", "search.max_gflops", "schema.py"),
    ("search.hours=inf", "search.hours must be above 0, not inf", "finite"),
    ("accounting=honst", "unknown value of accounting", "honest"),
    ("name=a/b", "name='a/b'", "letters"),
    ("seed=-1", "seed must be in [0, 999999999], not -1", "from 0"),
    ("seed=1000000000", "seed must be in [0, 999999999]", "to 999999999"),
    ("cluster.workers_per_trial=0", "cluster.workers_per_trial must be 1 or more", "from 1"),
    ("cluster.resources_per_trial.fast=-1", "cluster.resources_per_trial.fast must be above 0", "above 0"),
    ("extraction.workers=0", "extraction.workers must be 1 or more, not 0", "from 1"),
    ("backbones.workers=0", "backbones.workers must be 1 or more, not 0", "from 1"),
    ("method.training_knobs.gamma.low=0.6", "low (0.6) is above high (0.5)", "Exchange"),
    ("method.training_knobs.gamma.low=0.5", "the range is empty", "method.model.target_usage=0.5"),
    ("method.training_knobs.gamma.low=0", "logarithmic range cannot begin at 0", "above 0"),
    ("method.training_knobs.gamma.high=.inf", "method.training_knobs.gamma.high", ""),
    ("method.training_knobs.gamma.cheapest=lowest", "gamma.cheapest", "low"),
    ("method.training_knobs.gamma.field=''", "gamma.field", "field of the method's Config"),
    ("method.model.target_usage=0.1", "is set and searched (as gamma)", "~method.training_knobs.gamma"),
    ("method.published=[{gama: 0.1}]", "unknown knob in method.published: 'gama'", "Did you mean 'gamma'"),
    ("baselines=[{name: t0001, method: uniform}]", "t0001", "not t and a number"),
    ("baselines=[{name: a, method: uniform}, {name: a, method: lstm}]", "name='a'", "once"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "message", "hint"), BAD, ids=[word for word, _, _ in BAD])
def test_bad_words_are_reported(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_sweep_config([word])
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_setting_is_read_under_its_former_name() -> None:
    assert not load_sweep_config().search.report_all_points
    assert load_sweep_config(["search.tell_swept=true"]).search.report_all_points


def test_what_only_the_user_can_know_has_to_be_given() -> None:
    with pytest.raises(UsageError, match=r"method\.model\.selector has no value"):
        load_sweep_config(["method=video_epitoma_selected"])
    config = load_sweep_config(["method=video_epitoma_selected", "method.model.selector=somewhere"])
    baseline = {b.name: b.model for b in config.baselines}["top-k-selector"]
    assert baseline["selector"] == config.method.model["selector"] == str(Path("somewhere").absolute())
    with pytest.raises(UsageError, match=r"no timestep selector in .*/somewhere"):
        resolve_methods(config)


def test_a_knob_can_be_fixed_instead_of_searched() -> None:
    config = load_sweep_config(["~method.training_knobs.lambda", "method.model.usage_weight=2"])
    assert set(searched_knobs(config)) == {"gamma"}
    assert model_with_knobs(config.method, {"gamma": 0.1}) == {"usage_weight": 2, "target_usage": 0.1}
    assert config.method.model == {"usage_weight": 2}
    with pytest.raises(UsageError, match="no knob is left"):
        load_sweep_config(["~method.training_knobs.lambda", "~method.training_knobs.gamma"])


def test_nested_knob_fields() -> None:
    config = load_sweep_config(
        ["method.training_knobs.gamma.field=network.width", "method.model.network.cell=gru"]
    )
    model = model_with_knobs(config.method, {"gamma": 0.1})
    assert model == {"network": {"cell": "gru", "width": 0.1}}
    assert config.method.model == {"network": {"cell": "gru"}}


def test_the_study_searches_inference_knobs_only_when_set_so() -> None:
    assert set(searched_knobs(load_sweep_config())) == {"gamma", "lambda"}
    config = load_sweep_config(["search.inference_knobs=study"])
    assert set(searched_knobs(config)) == {"gamma", "lambda", "gate_offset", "online_k"}
    assert ends(searched_knobs(config)["online_k"]) == (1, 0)


@pytest.mark.slow
def test_method_settings_are_checked_by_the_method() -> None:
    resolve_methods(load_sweep_config(["method.model.network.cell=gru"]))
    for word, message in (
        ("method.model.usage_reductoin=batch", "usage_reductoin"),
        ("method.model.network.fine_hidden=abc", "fine_hidden must be int"),
        ("method.training_knobs.gamma.high=1.5", "gamma.high must be in [0, 1], not 1.5"),
        ("method.training_knobs.gamma.field=target", "'target'"),
        ("baselines=[{name: a, method: unifrom}]", "unknown method: 'unifrom'"),
    ):
        with pytest.raises(UsageError) as caught:
            resolve_methods(load_sweep_config([word]))
        assert message in caught.value.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["method.training_knobs.lambda.high=2e6"],
            "method.training_knobs.lambda.high must be in [0, 1000000]",
        ),
        (
            ["method.inference_knobs.gate_offset.high=200"],
            "method.inference_knobs.gate_offset.high must be in [-100, 100]",
        ),
        (
            ["method.published=[{gamma: 0.1},{gamma: 7}]"],
            "method.published[1].gamma must be in [0, 1], not 7",
        ),
        (
            ["method.training_knobs.gamma.choices=[0.1,1.2,0.3]"],
            "method.training_knobs.gamma.choices[1] must be in [0, 1], not 1.2",
        ),
    ],
)
def test_no_knob_leaves_the_range_of_what_it_sets(words: list[str], said: str) -> None:
    config = load_sweep_config(words)
    with pytest.raises(UsageError) as caught:
        resolve_methods(config)
    assert said in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("method", group_options("method"))
def test_every_method_file_is_sound(method: str, tmp_path: Path) -> None:
    shape = SelectorShape()
    about = {"data": {"features": {"coarse": "any"}}}
    save_selector(tmp_path, build_selector(shape, 8, prefix="x"), shape, about)
    needed = {"video_epitoma_selected": [f"method.model.selector={tmp_path}"]}
    config = load_sweep_config([f"method={method}", *needed.get(method, [])])
    resolve_methods(config)
    knobs = config.method.training_knobs | config.method.inference_knobs
    assert all(len(knob.description) > 20 and knob.unit for knob in knobs.values())
    for point in config.method.published:
        for name, value in point.items():
            low, high = ends(knobs[name])
            assert value in knobs[name].choices or low <= value <= high


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.model.pool=[m,xs]"], "not in order of cost"),
        (["method.model.pool=[m]"], r"selector.choices=\['m'\] is not allowed"),
        (["backbones.training.video_share=1.0"], "trained on all training videos"),
        (["method.model.alpha_multiples=[0]"], r"alpha_multiples\[0\] must be above 0"),
    ],
)
def test_a_pool_that_cannot_be_is_reported_before_anything_is_made(
    words: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        plan_sweep(load_sweep_config(["method=model_selection", f"home={tmp_path}", *words]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "name", "knob", "message"),
    [
        (
            "video_epitoma",
            "max_gflops",
            KnobConfig(low=0.1, high=1.0),
            "video_epitoma has no max_gflops: it settles",
        ),
        ("ada_frame", "cap_rule", KnobConfig(choices=["stop", "cheap"]), "cap_rule of ada_frame cannot be"),
        ("lite_eval", "cap_rule", KnobConfig(low=0.0, high=1.0), "cap_rule of lite_eval cannot be a range"),
        ("lite_eval", "cap_rule", KnobConfig(choices=["stop", "cheap"]), None),
    ],
)
def test_a_cap_that_a_method_cannot_have_is_refused_before_work_begins(
    method: str, name: str, knob: KnobConfig, message: str | None
) -> None:
    config = load_sweep_config([f"method={method}"])
    config.method.inference_knobs[name] = knob
    with pytest.raises(UsageError, match=message) if message else contextlib.nullcontext():
        resolve(config)
