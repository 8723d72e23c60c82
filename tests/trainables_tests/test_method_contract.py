"""The contract of `trainables/method.py`, over every registered method and baseline."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from paretovid.trainables.catalog import method_class, method_config, method_names
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.evaluate import run_settings
from paretovid.trainables.layers.caps import CAP, has_cap
from paretovid.trainables.outcome import Batch, Outcome, Progress
from paretovid.trainables.testing import (
    COMPONENTS,
    padded_by,
    reloaded,
    run_cached,
    run_one_by_one,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in method_names()] + [
    ("lite_eval", {"network": {"cell": "gru"}}),
    ("lite_eval", {"network": {"synchronize": False}}),
    ("lite_eval", {"usage_reduction": "video"}),
    ("uniform", {"with_coarse": True}),
    ("lstm", {"with_coarse": True, "cell": "gru"}),
    ("hcms", {"sources": ["coarse", "fine"]}),
    ("hcms", {"sources": ["audio", "coarse", "fine", "motion"]}),
    ("hcms", {"sources": ["motion", "fine", "audio"], "usage_reduction": "video"}),
    ("hcms", {"network": {"cell": "gru"}}),
    ("hcms", {"network": {"synchronize": False}}),
    ("random_levels", {"sources": ["coarse", "fine"], "caps": [1.0, 2.0]}),
    ("early_fusion", {"sources": ["motion"], "cell": "gru"}),
    ("late_fusion", {"sources": ["audio", "fine"]}),
    ("uniform", {"sampling": "random"}),
    ("uniform", {"memory": {"kind": "visual", "frames": 4}}),
    ("uniform", {"with_coarse": True, "memory": {"kind": "audio", "projection": 0}}),
    ("lstm", {"sampling": "random", "memory": {"kind": "visual"}}),
    ("lstm", {"memory": {"kind": "visual", "projection": 0}, "training_frames": 0, "cell": "gru"}),
    ("lstm", {"memory": {"kind": "audio", "values": "raw"}}),
    ("frame_exit", {"max_frames": 4}),
    ("ada_frame", {"policy": "pointer", "agent": {"revisits": "nearest_new", "initial_state": "learned"}}),
    ("ada_frame", {"agent": {"memory": {"kind": "none"}, "cell": "gru"}, "prediction_loss": "every"}),
    ("ada_frame", {"agent": {"memory": {"kind": "audio", "projection": 0}, "knows_place": True}}),
    ("ada_frame", {"steps": 2}),
    ("ada_frame", {"policy": "random"}),
    ("ada_frame", {"policy": "uniform", "agent": {"revisits": "nearest_new"}}),
    ("frame_glimpse", {"agent": {"memory": {"kind": "visual"}}}),
    ("fast_forward", {"agent": {"memory": {"kind": "visual"}, "revisits": "nearest_new"}}),
    ("video_epitoma", {"heavy": "motion", "timesteps": 4}),
    ("video_epitoma", {"context": "none", "l0_form": "hard_concrete", "timesteps": 20}),
    ("video_epitoma", {"regime": "stand_alone", "step_dropout": 0.0}),
    ("video_epitoma", {"timesteps": 2, "step_dropout": 0.0, "dropout": 0.2}),
    ("video_epitoma", {"classifier": "mean"}),
    ("video_epitoma", {"classifier": "lstm", "regime": "stand_alone", "selector": "sha256:0"}),
    ("epitoma_sampled", {"heavy": "motion", "sampling": "random"}),
    ("top_k", {"saliency": "selector", "selector": "sha256:0"}),
    ("model_selection_localization", {"motion": "difference", "beta": 0.3, "affinity": "hard"}),
    ("model_selection_localization", {"fallback": "argmax", "proposals": {"snap_clips": 1}}),
    ("model_selection_localization", {"heads": {"similarity_weight": 0.0, "dropout": 0.0}}),
    ("random_clips", {"motion": "difference", "proposals": {"snap_clips": 2}}),
    ("model_selection", {"selector_source": "m", "alphas": [0.0, 0.1, 1.0]}),
    ("model_selection", {"selector_source": "l", "label_form": "soft", "alpha": 0.0}),
    (
        "model_selection",
        {"label_rule": "agree_then_cheapest", "selector_videos": "all", "selector_source": "s"},
    ),
    ("single_model", {"pool": ["s", "l"]}),
]
LOCALIZING = [name for name in method_names() if method_class(name).task == "localization"]
LEVELLED = ("hcms", "lite_eval", "random_gate", "random_levels")
DIFFERENTIABLE = ("lite_eval", "hcms", "uniform", "lstm", "early_fusion", "late_fusion", "frame_exit")
"""Of some that a gradient of the features must reach: else the test of padding would hold for nothing."""
UNTRAINED = ("single_model", "random_model", "model_cascade", "model_ensemble", "model_oracle")
"""They have no parameters."""


def over(variants: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    """Runs a test over variants."""
    ids = [f"{name}-{'-'.join(map(str, fields)) or 'default'}" for name, fields in variants]
    return pytest.mark.parametrize(("name", "fields"), variants, ids=ids)


every_method = over(VARIANTS)
every_trained_method = over([variant for variant in VARIANTS if variant[0] not in UNTRAINED])


def trained(name: str, fields: dict[str, Any], multi_label: bool = False):
    """A copy of the variant, which is trained once for all tests."""
    return copy.deepcopy(_trained(name, json.dumps(fields), multi_label))


@cache
def _trained(name: str, fields: str, multi_label: bool):
    method = synthetic_method(name, json.loads(fields), multi_label=multi_label)
    train_briefly(method, synthetic_split(seed=1, multi_label=multi_label))
    return method


def answers(name: str, fields: dict[str, Any], multi_label: bool = False) -> list[tuple[Any, Any]]:
    """Each of the trained variant's settings with its outcome on the split; for reading only."""
    return _answers(name, json.dumps(fields), multi_label)


@cache
def _answers(name: str, fields: str, multi_label: bool) -> list[tuple[Any, Any]]:
    method, split = trained(name, json.loads(fields), multi_label), synthetic_split(multi_label=multi_label)
    return [(setting, run_cached(method, split, setting)) for setting in method.settings()]


def test_what_is_not_trained_has_no_parameters():
    assert not any(list(synthetic_method(name).parameters()) for name in UNTRAINED)


@every_trained_method
def test_training_lowers_the_loss_and_reaches_every_parameter(name, fields):
    method = synthetic_method(name, fields)
    split = synthetic_split(num_videos=24)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    for step in (0, 9):  # what is trained first may be frozen at the end
        method.loss(batch, Progress(step, 10)).total.backward()
    if fields.get("selector"):  # trained before, and frozen
        assert not any(p.requires_grad for n, p in method.named_parameters() if n.startswith("selector."))
    trained = [(n, p) for n, p in method.named_parameters() if not fields.get("selector") or p.requires_grad]
    unreached = [n for n, p in trained if p.grad is None or not p.grad.abs().sum() > 0]
    if fields == {"network": {"synchronize": False}}:  # what the first network remembers is then of no use
        unreached = [n for n in unreached if not n.startswith(("network.coarse.", "network.audio."))]
    assert unreached == []
    losses = train_briefly(method, split, steps=40)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@every_method
@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_are_probabilities_and_evaluation_repeats_itself(name, fields, multi_label):
    method, split = trained(name, fields, multi_label), synthetic_split(multi_label=multi_label)
    for setting, first in answers(name, fields, multi_label):
        second = run_cached(method, split, setting)
        assert torch.equal(first.scores, second.scores)
        assert first.calls.keys() == second.calls.keys()
        assert all(torch.equal(first.calls[c], second.calls[c]) for c in first.calls)
        assert first.scores.shape == split.targets.shape
        assert (first.scores >= 0).all() and (first.scores <= 1).all()
        if not multi_label:
            torch.testing.assert_close(first.scores.sum(dim=1), torch.ones(len(split.targets)))


@every_method
def test_padding_changes_nothing(name, fields):
    method, split = trained(name, fields), synthetic_split()
    longer = padded_by(split, 4)
    for setting, short in answers(name, fields)[:3]:
        long = run_cached(method, longer, setting)
        torch.testing.assert_close(short.scores, long.scores)
        assert short.detections == long.detections and (short.detections is not None) == (name in LOCALIZING)
        assert all(torch.equal(short.calls[c], long.calls[c]) for c in short.calls)


@every_trained_method
@pytest.mark.parametrize("step", [0, 9])  # some train one part first and another at the end
def test_padding_changes_no_loss(name, fields, step, monkeypatch):
    method, split = trained(name, fields), synthetic_split()
    longer, draw = padded_by(split, 4), torch.rand

    def the_same_for_more_steps(*size: Any, **options: Any) -> torch.Tensor:
        # What is drawn for all steps at once would be drawn otherwise if there are more of them.
        shape = size if all(isinstance(each, int) for each in size) else size[0]
        if len(shape) == 2 and split.mask.shape[1] <= shape[1] <= longer.mask.shape[1]:
            return draw(shape[0], longer.mask.shape[1], **options)[:, : shape[1]]
        return draw(*size, **options)

    monkeypatch.setattr(torch, "rand", the_same_for_more_steps)
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = []
    for padded in (split, longer):
        batch = Batch(padded.features, padded.mask, padded.targets, padded.video_keys)
        torch.manual_seed(0)
        losses.append(method.loss(batch, Progress(step, 10)))
    torch.testing.assert_close(losses[1].total, losses[0].total)
    assert losses[1].parts == pytest.approx(losses[0].parts, abs=1e-5)


@every_trained_method
@pytest.mark.filterwarnings(
    "ignore:Converting a tensor with requires_grad"
)  # features have no gradient otherwise
def test_padding_gets_no_gradient(name, fields):
    """Also with the noise that it usually has."""
    method, split = trained(name, fields), padded_by(synthetic_split(), 4)
    features = {source: values.requires_grad_() for source, values in split.features.items()}
    batch = Batch(features, split.mask, split.targets, split.video_keys)
    for step in (0, 9):
        method.loss(batch, Progress(step, 10)).total.backward()
    reached = [values.grad for values in features.values() if values.grad is not None]
    for gradient in reached:
        assert not gradient[~split.mask].any()
    assert any(bool(gradient[split.mask].any()) for gradient in reached) or name not in DIFFERENTIABLE


@pytest.mark.parametrize(
    ("name", "fields"), [variant for variant in VARIANTS if method_class(variant[0]).deployable]
)
def test_a_raw_video_gives_the_scores_and_calls_of_cached_features(name, fields):
    method, split = trained(name, fields), synthetic_split()
    for setting, together in answers(name, fields)[:4]:
        alone = run_one_by_one(method, split, setting)
        torch.testing.assert_close(
            together.scores, torch.cat([o.scores for o in alone]), atol=1e-5, rtol=1e-5
        )
        for i, outcome in enumerate(alone):
            calls = {c: int(n[0]) for c, n in outcome.calls.items()}
            assert {c: int(n[i]) for c, n in together.calls.items() if n[i]} == {
                c: n for c, n in calls.items() if n
            }


def test_what_needs_the_ground_truth_refuses_a_raw_video():
    undeployable = [name for name in method_names() if not method_class(name).deployable]
    assert undeployable == ["model_oracle", "oracle"]
    for name in undeployable:
        with pytest.raises(UsageError, match="needs the ground truth"):
            run_one_by_one(trained(name, {}), synthetic_split(), {})


@every_method
def test_calls_match_decisions_and_every_call_has_a_cost(name, fields):
    method, split = trained(name, fields), synthetic_split()
    costs = synthetic_costs(method)
    sources = method.sources_of(method_config(name, fields))
    assert method.reads()[0] == "none" and method.reads()[-1] in sources
    for _, outcome in answers(name, fields):
        by_hand = sum(n.double() * costs[c].macs for c, n in outcome.calls.items()) / 1e9
        torch.testing.assert_close(costs.gflops(outcome.calls), by_hand)
        for value, source in enumerate(method.reads()):
            # Whoever looked further has looked here as well, where levels stand on each other.
            if source == method.reads()[-1] or (source in sources and name in LEVELLED):
                looked = outcome.calls.get(COMPONENTS[source], torch.zeros_like(split.num_steps))
                assert torch.equal((outcome.decisions >= value).sum(dim=1), looked)
        assert int(outcome.decisions.max()) < len(method.reads())
        assert not outcome.decisions[~split.mask].any()


@every_method
def test_stop_points_equal_a_run_at_that_setting(name, fields):
    method, split = trained(name, fields), synthetic_split()
    for setting, outcome in answers(name, fields):
        for stopped, answer in method.stop_points(outcome, setting):
            direct = run_cached(method, split, stopped)
            torch.testing.assert_close(answer.scores, direct.scores)
            assert answer.detections == direct.detections
            assert torch.equal(answer.decisions[:, : direct.decisions.shape[1]], direct.decisions)
            for c in direct.calls:
                assert torch.equal(answer.calls[c], direct.calls[c]), (stopped, c)


@every_method
def test_state_survives_safetensors(name, fields):
    method, split = trained(name, fields), synthetic_split()
    # The optimizer's state, which a checkpoint keeps, is laid out as they are.
    assert all(parameter.is_contiguous() for parameter in method.parameters())
    setting, outcome = answers(name, fields)[0]
    fresh = reloaded(method, name, fields)
    assert torch.equal(outcome.scores, run_cached(fresh, split, setting).scores)


@every_method
def test_settings_start_at_the_default_one_and_name_declared_knobs(name, fields):
    method = synthetic_method(name, fields)
    declared = {knob.name: knob for knob in method.inference_knobs}
    settings = method.settings()
    assert all(set(setting) <= set(declared) for setting in settings)
    assert all(settings[0][n] == declared[n].default for n in settings[0])
    assert len({tuple(sorted(s.items())) for s in settings}) == len(settings)
    for setting in settings:
        assert all(declared[n].low <= float(value) <= declared[n].high for n, value in setting.items())


@pytest.mark.parametrize(
    "name", ["uniform", "lstm", "oracle", "early_fusion", "late_fusion", "epitoma_sampled"]
)
def test_more_frames_never_cost_less(name):
    method, split = trained(name, {}), synthetic_split()
    costs = [
        synthetic_costs(method).gflops(run_cached(method, split, {"num_frames": n}).calls)
        for n in (1, 2, 4, 8, 0)
    ]
    assert all(bool((later >= earlier).all()) for earlier, later in pairwise(costs))
    assert bool((costs[-1] > costs[0]).any())


WITH_CAP = [variant for variant in VARIANTS if has_cap(method_class(variant[0]))]
WITH_CHEAP = ("hcms", "lite_eval", "random_gate", "random_levels")


def ends(outcome: Outcome) -> torch.Tensor:
    """Why each video's reading ended."""
    assert outcome.stopped_by is not None
    return outcome.stopped_by


def curve_of(method, split):
    """Setting, recorded outcome and the run that it was read off, for every cap that a trial evaluates."""
    found = []
    for setting in method.settings():
        outcome = run_cached(method, split, setting)
        found += [(s, o, outcome) for s, o in method.stop_points(outcome, setting) if s.get("max_gflops")]
    return found


@over(WITH_CAP)
def test_no_video_passes_its_cap_and_one_run_answers_all_of_them(name, fields):
    method, split = trained(name, fields), synthetic_split()
    costs = synthetic_costs(method)
    curve = curve_of(method, split)
    assert len({setting["max_gflops"] for setting, _, _ in curve}) > 1
    assert {setting["cap_rule"] for setting, _, _ in curve} == {"stop"}
    for setting, recorded, _ in curve[:: max(1, len(curve) // 8)]:
        direct = run_cached(method, split, setting)
        assert (costs.gflops(direct.calls) <= setting["max_gflops"]).all()
        torch.testing.assert_close(recorded.scores, direct.scores)
        assert torch.equal(ends(recorded), ends(direct)), setting
        for component, count in direct.calls.items():
            assert torch.equal(recorded.calls[component], count), (setting, component)
    for setting, recorded, uncapped in curve:
        if name != "frame_exit":  # it replays another
            expensive = costs.gflops(uncapped.calls) > setting["max_gflops"]
            assert torch.equal(ends(recorded) == CAP, expensive), setting


@over(WITH_CAP)
def test_a_cap_of_the_full_cost_changes_nothing_and_one_below_is_said(name, fields):
    method, split = trained(name, fields), synthetic_split()
    costs, default = synthetic_costs(method), method.settings()[0]
    free = run_cached(method, split, default)
    spent = costs.gflops(free.calls)
    (rules,) = [knob.words for knob in method.inference_knobs if knob.name == "cap_rule"]
    assert rules == (("stop", "cheap") if name in WITH_CHEAP else ("stop",))
    assert not (ends(free) == CAP).any() and ends(free).shape == spent.shape
    cheapest = float(free.trace["cap/cheapest"]) / 1e9
    for rule in rules:
        same = run_cached(method, split, {**default, "max_gflops": float(spent.max()), "cap_rule": rule})
        assert torch.equal(ends(same), ends(free))
        assert all(torch.equal(same.calls[c], free.calls[c]) for c in free.calls)
        torch.testing.assert_close(same.scores, free.scores)
        for cap in (max(cheapest, 0.4 * float(spent.max())), cheapest):
            less = run_cached(method, split, {**default, "max_gflops": cap, "cap_rule": rule})
            refused = ends(less) == CAP
            assert (costs.gflops(less.calls) <= cap).all() and refused[spent > cap].all()
            # Whom the cap refused nothing has the answer and the cost of a run without one.
            torch.testing.assert_close(less.scores[~refused], free.scores[~refused])
            assert all(torch.equal(less.calls[c][~refused], free.calls[c][~refused]) for c in less.calls)
    with pytest.raises(UsageError, match="does not pay for one"):
        run_cached(method, split, {**default, "max_gflops": 0.99 * cheapest})


def test_what_cannot_go_on_cheaply_refuses_to_and_says_why():
    for name in {name for name, _ in WITH_CAP} - set(WITH_CHEAP):
        with pytest.raises(UsageError, match=f"cap_rule of {name} cannot be 'cheap'") as error:
            run_cached(synthetic_method(name), synthetic_split(), {"max_gflops": 1.0, "cap_rule": "cheap"})
        assert "no cheaper read" in error.value.hint


def test_what_does_not_read_by_the_step_refuses_a_cap_and_says_why():
    without = [name for name in method_names() if not has_cap(method_class(name))]
    assert {"model_selection", "top_k", "video_epitoma", "late_fusion", "oracle"} <= set(without)
    for name in without:
        method, split = synthetic_method(name), synthetic_split()
        for asked in ({"max_gflops": 1.0}, {"cap_rule": "stop"}):
            with pytest.raises(UsageError, match=f"{name} has no .*: it ") as error:
                run_settings(method, split, [asked], components=COMPONENTS, costs=synthetic_costs(method))
            assert error.value.hint
