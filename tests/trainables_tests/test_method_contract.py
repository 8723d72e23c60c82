"""Every registered method and baseline, in several variants, through the suite that plug-ins' tests inherit; and what
is promised of ours besides.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from benchmarks.harness.listed import LISTED

from paretovid.trainables.catalog import method_class, method_config, method_names
from paretovid.trainables.contracts.methods import MethodContract
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.evaluate import run_settings
from paretovid.trainables.layers.caps import CAP, has_cap
from paretovid.trainables.outcome import Batch, Outcome, Progress
from paretovid.trainables.testing import (
    COMPONENTS,
    padded_by,
    run_cached,
    run_one_by_one,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
)

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in method_names()] + [
    ("lite_eval", {"network": {"cell": "gru"}}),
    ("lite_eval", {"network": {"synchronize": False}}),
    ("lite_eval", {"usage_reduction": "video"}),
    ("lite_eval", {"condition": "budget"}),
    ("lite_eval", {"condition": "budget", "condition_on": "price", "network": {"cell": "gru"}}),
    ("hcms", {"condition": "budget"}),
    ("hcms", {"condition": "budget", "condition_on": "price", "gate_offsets": [1.0]}),
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
    *((name, dict(fields)) for name, fields in LISTED.items()),
]
LEVELLED = ("hcms", "lite_eval", "random_gate", "random_levels")
DIFFERENTIABLE = ("lite_eval", "hcms", "uniform", "lstm", "early_fusion", "late_fusion", "frame_exit")
"""Of some that a gradient must reach the features of."""
UNTRAINED = ("single_model", "random_model", "model_cascade", "model_ensemble", "model_oracle")
"""They have no parameters."""


def ids_of(variants: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{name}-{'-'.join(map(str, fields)) or 'default'}" for name, fields in variants]


def over(variants: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    """Runs a test over variants."""
    return pytest.mark.parametrize(
        ("name", "fields"),
        [pytest.param(*variant, marks=marks_of(variant)) for variant in variants],
        ids=ids_of(variants),
    )


def marks_of(variant: tuple[str, dict[str, Any]]) -> list[pytest.MarkDecorator]:
    """Every method is checked quickly; its other variants together take a minute."""
    return [pytest.mark.slow] if variant[1] else []


every_method = over(VARIANTS)
every_trained_method = over([variant for variant in VARIANTS if variant[0] not in UNTRAINED])
UNSYNCHRONIZED = ("network.coarse.", "network.audio.")
"""What the first network remembers is of no use where it does not give it to the second."""


def contract(name: str, fields: dict[str, Any], multi_label: bool = False) -> MethodContract:
    """The suite of a variant. What it has trained once is shared by all tests."""
    suite = MethodContract()
    of_variant(suite, name, fields)
    vars(suite)["multi_label"] = multi_label
    return suite


def of_variant(suite: MethodContract, name: str, fields: dict[str, Any]) -> None:
    unreached = UNSYNCHRONIZED if fields == {"network": {"synchronize": False}} else ()
    vars(suite).update(name=name, fields=fields, unreached=unreached)


class TestEveryMethod(MethodContract):
    """The public suite, of each variant."""

    @pytest.fixture(
        autouse=True,
        params=[pytest.param(variant, marks=marks_of(variant)) for variant in VARIANTS],
        ids=ids_of(VARIANTS),
    )
    def variant(self, request: pytest.FixtureRequest) -> None:
        of_variant(self, *request.param)


@every_method
def test_scores_of_several_labels_are_probabilities(name, fields):
    contract(name, fields, multi_label=True).test_scores_are_probabilities_and_a_run_repeats_itself()


def trained(name: str, fields: dict[str, Any]):
    return contract(name, fields).trained()[0]


def answers(name: str, fields: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Each of the trained variant's settings with its outcome on the split; for reading only."""
    return contract(name, fields).answers()


def test_what_is_not_trained_has_no_parameters():
    assert not any(list(synthetic_method(name).parameters()) for name in UNTRAINED)


def test_a_selector_that_was_trained_before_is_frozen():
    selected = [(name, fields) for name, fields in VARIANTS if fields.get("selector")]
    assert selected
    for name, fields in selected:
        of_selector = [
            p for n, p in synthetic_method(name, fields).named_parameters() if n.startswith("selector.")
        ]
        assert of_selector and not any(p.requires_grad for p in of_selector)


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


@over([variant for variant in VARIANTS if variant[0] in DIFFERENTIABLE])
def test_the_loss_has_a_gradient_with_respect_to_features(name, fields):
    """Else that padding gets none would hold for nothing."""
    method, split = trained(name, fields), synthetic_split()
    features = {source: values.requires_grad_() for source, values in split.features.items()}
    method.loss(
        Batch(features, split.mask, split.targets, split.video_keys), Progress(0, 10)
    ).total.backward()
    reached = [values.grad[split.mask] for values in features.values() if values.grad is not None]
    assert any(bool(gradient.any()) for gradient in reached)


def test_what_needs_the_ground_truth_refuses_a_raw_video():
    undeployable = [name for name in method_names() if not method_class(name).deployable]
    assert undeployable == ["model_oracle", "oracle"]
    for name in undeployable:
        with pytest.raises(UsageError, match="needs the ground truth"):
            run_one_by_one(trained(name, {}), synthetic_split(), {})


@every_method
def test_calls_match_decisions_and_cost_what_they_add_up_to(name, fields):
    method, split = trained(name, fields), synthetic_split()
    costs = contract(name, fields).costs()
    sources = method.sources_of(method_config(name, fields))
    for _, outcome in answers(name, fields):
        by_hand = sum(n.double() * costs[c].macs for c, n in outcome.calls.items()) / 1e9
        torch.testing.assert_close(costs.gflops(outcome.calls), by_hand)
        for value, source in enumerate(method.reads()):
            # Whoever looked further has looked here as well, where levels stand on each other.
            if source == method.reads()[-1] or (source in sources and name in LEVELLED):
                looked = outcome.calls.get(COMPONENTS[source], torch.zeros_like(split.num_steps))
                assert torch.equal((outcome.decisions >= value).sum(dim=1), looked)


@pytest.mark.parametrize(
    "name", ["uniform", "lstm", "oracle", "early_fusion", "late_fusion", "epitoma_sampled"]
)
def test_more_frames_never_cost_less(name):
    suite = contract(name, {})
    costs = [suite.costs().gflops(suite.answer({"num_frames": n}).calls) for n in (1, 2, 4, 8, 0)]
    assert all(bool((later >= earlier).all()) for earlier, later in pairwise(costs))
    assert bool((costs[-1] > costs[0]).any())


WITH_CAP = [variant for variant in VARIANTS if has_cap(method_class(variant[0]))]
CAPS = [0.5, 1.0, 2.0, 4.0, 8.0]
WITH_CHEAP = ("hcms", "lite_eval", "random_gate", "random_levels")


def ends(outcome: Outcome) -> torch.Tensor:
    """Why each video's reading ended."""
    assert outcome.stopped_by is not None
    return outcome.stopped_by


def curve_of(suite):
    """Setting, recorded outcome and the run that it was read off, for every cap that its configuration lists."""
    found, (method, _) = [], suite.trained()
    for setting, outcome in suite.answers():
        found += [(s, o, outcome) for s, o in method.stop_points(outcome, setting) if s.get("max_gflops")]
    return found


@over(WITH_CAP)
def test_no_video_passes_its_cap_and_one_run_answers_all_of_them(name, fields):
    suite = contract(name, {"caps": CAPS, **fields})
    costs, curve = suite.costs(), curve_of(suite)
    assert len({setting["max_gflops"] for setting, _, _ in curve}) > 1
    assert {setting["cap_rule"] for setting, _, _ in curve} == {"stop"}
    for setting, recorded, _ in curve[:: max(1, len(curve) // 8)]:
        direct = suite.answer(setting)
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
    suite = contract(name, fields)
    method, split = suite.trained()
    costs, (default, free) = suite.costs(), suite.answers()[0]
    spent = costs.gflops(free.calls)
    (rules,) = [knob.words for knob in method.inference_knobs if knob.name == "cap_rule"]
    assert rules == (("stop", "cheap") if name in WITH_CHEAP else ("stop",))
    assert not (ends(free) == CAP).any() and ends(free).shape == spent.shape
    cheapest = float(free.trace["cap/cheapest"]) / 1e9
    for rule in rules:
        same = suite.answer({**default, "max_gflops": float(spent.max()), "cap_rule": rule})
        assert torch.equal(ends(same), ends(free))
        assert all(torch.equal(same.calls[c], free.calls[c]) for c in free.calls)
        torch.testing.assert_close(same.scores, free.scores)
        for cap in (max(cheapest, 0.4 * float(spent.max())), cheapest):
            less = suite.answer({**default, "max_gflops": cap, "cap_rule": rule})
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
