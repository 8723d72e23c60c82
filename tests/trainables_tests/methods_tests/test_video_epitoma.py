"""VideoEpitoma's own mathematics; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.harness.listed import LISTED

from paretovid.trainables.catalog import method_config
from paretovid.trainables.cost import deterministic_eval, measure_macs
from paretovid.trainables.errors import NonFiniteError, UsageError, VersionError
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.layers.frame_sampling import without_some
from paretovid.trainables.layers.temporal_attention import SelfAttention, VideoClassifier
from paretovid.trainables.layers.timestep_selector import (
    TimestepSelector,
    best_open,
    clipped_sigmoid,
    l0_penalty,
    logistic_noise,
    step_open,
)
from paretovid.trainables.methods.video_epitoma import VideoEpitoma
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import (
    COMPONENTS,
    reloaded,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_metrics,
    synthetic_split,
    train_briefly,
)

EVERYTHING = {"gate_threshold": 0.0, "top_k": 0, "timesteps": 0}


def epitoma(**fields: object) -> VideoEpitoma:
    method = synthetic_method("video_epitoma", fields)
    assert isinstance(method, VideoEpitoma)
    return method


def batch_of(split: FeatureSplit) -> Batch:
    return Batch(split.features, split.mask, split.targets, split.video_keys)


def classifier() -> VideoClassifier:
    torch.manual_seed(0)
    return VideoClassifier(width=6, projection=8, hidden=8, dropout=0.0, num_classes=3, prefix="x")


def with_alpha(method: VideoEpitoma, value: float) -> VideoEpitoma:
    """A selector that gives every timestep the same logit."""
    with torch.no_grad():
        method.selector.gate.get_parameter("2.weight").zero_()
        method.selector.gate.get_parameter("2.bias").fill_(value)
    return method


def test_the_clipped_sigmoid_is_figure_3s():
    alpha = torch.tensor([-3.0, -0.01, 0.0, 1.0, 9.0], requires_grad=True)
    gates = clipped_sigmoid(alpha)
    expected = [0, 0, 0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-9))]
    torch.testing.assert_close(gates, torch.tensor(expected))
    gates.sum().backward()
    slopes = [0, 0, *(e * (1 - e) for e in expected[2:])]
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad, torch.tensor(slopes))


def test_the_l0_penalty_is_the_expected_share_of_open_gates():
    alpha = torch.tensor([[0.0, math.log(3), 50.0], [-math.log(3), 7.0, 7.0], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    by_hand = ((0.5 + 0.75 + 1) / 3 + 0.25) / 2  # the third video has no timestep
    assert float(l0_penalty(alpha, valid, "open_probability")) == pytest.approx(by_hand)
    # Louizos et al., Eq. 12: sigmoid(alpha - beta log(-gamma / zeta)), gamma -0.1, zeta 1.1, beta 2/3.
    shift = -2 / 3 * math.log(0.1 / 1.1)
    assert shift == pytest.approx(1.5986, abs=1e-4)
    one = l0_penalty(torch.tensor([[0.4]]), torch.tensor([[True]]), "hard_concrete")
    assert float(one) == pytest.approx(1 / (1 + math.exp(-0.4 - shift)))


def test_noise_opens_a_gate_as_often_as_the_penalty_says():
    torch.manual_seed(0)
    alpha = torch.full((200_000,), -0.8)
    opened = (clipped_sigmoid((alpha + logistic_noise(alpha)) / 0.3) > 0).float().mean()
    assert float(opened) == pytest.approx(float(torch.sigmoid(alpha[0])), abs=5e-3)


def test_a_closed_timestep_changes_nothing():
    head, features = classifier(), torch.randn(2, 5, 8)
    gates = torch.tensor([[1.0, 0, 0.7, 0, 1], [0, 0, 0, 0.6, 0]])
    logits = head(features, gates)
    other = torch.where(gates[..., None] > 0, features, 100 * torch.randn(2, 5, 8))
    torch.testing.assert_close(head(other, gates), logits)
    kept = torch.tensor([0, 2, 4])
    torch.testing.assert_close(head(features[:1, kept], gates[:1, kept]), logits[:1])  # as if it were absent
    attention = SelfAttention(8, 4)
    is_open = gates > 0
    assert torch.equal(attention(other, is_open)[is_open], attention(features * 1, is_open)[is_open])


def test_the_gates_importance_reaches_the_classifier():
    head, features = classifier(), torch.randn(1, 3, 8)
    assert not torch.allclose(
        head(features, torch.tensor([[1.0, 0.5, 1.0]])), head(features, torch.ones(1, 3))
    )


def test_a_video_without_any_timestep_makes_no_nan():
    head, features = classifier(), torch.randn(1, 3, 8, requires_grad=True)
    head(features, torch.zeros(1, 3)).sum().backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()
    assert not best_open(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), 2).any()


def test_the_classification_alone_moves_the_selector_end_to_end():
    method, split = epitoma(l0_weight=0.0), synthetic_split()
    method.loss(batch_of(split), Progress(0, 1)).total.backward()
    for name, parameter in method.selector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_the_l0_weight_closes_gates():
    split = synthetic_split(num_videos=48, seed=1)
    shares = []
    for weight in (0.0, 3.0):
        method = epitoma(l0_weight=weight)
        train_briefly(method, split, steps=60)
        torch.manual_seed(0)
        shares.append(method.loss(batch_of(split), Progress(0, 1)).parts["selected"])
    assert shares[1] < shares[0] - 0.2


def test_a_selector_alone_trains_first_and_is_then_frozen():
    method, split = epitoma(regime="stand_alone"), synthetic_split(num_videos=12)
    batch = batch_of(split)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2, weight_decay=0.1)

    def step(at: int) -> dict[str, torch.Tensor]:
        loss = method.loss(batch, Progress(at, 11))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        return {name: value.clone() for name, value in method.state_dict().items()}

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
        return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}

    states = [step(at) for at in (0, 1, 4, 5, 10)]
    changes = [moved(*pair) for pair in itertools.pairwise(states)]
    light, heavy = {"selector", "light_classifier"}, {"classifier"}
    assert changes == [light, light, heavy, heavy]
    assert method.selector.kernels.requires_grad is False
    step(0)
    assert method.selector.kernels.requires_grad is True


def test_parts_have_the_same_names_in_both_phases():
    method, split = epitoma(regime="stand_alone"), synthetic_split()
    parts = [method.loss(batch_of(split), Progress(step, 2)).parts for step in (0, 1)]
    assert parts[0].keys() == parts[1].keys() == {"classification", "l0", "selected"}


def test_frozen_gates_are_those_of_evaluation():
    method = epitoma(regime="stand_alone", step_dropout=0.0, dropout=0.6)
    split = synthetic_split(num_videos=12)
    train_briefly(method, split, steps=10)
    looked = run_cached(method, split, {}).decisions == 2
    share = float(looked.sum() / split.mask.sum())
    assert method.loss(batch_of(split), Progress(1, 2)).parts["selected"] == pytest.approx(share)


def test_none_selected_takes_the_best_one():
    method, split = with_alpha(epitoma(), -30.0), synthetic_split(num_videos=8)
    outcome = run_cached(method, split, {})
    assert ((outcome.decisions == 2).sum(dim=1) == 1).all()
    assert outcome.decisions[:, 0].tolist() == [2] * 8  # of equals the earliest
    torch.manual_seed(0)
    alpha = torch.tensor([[-9.0, -3.0, -5.0, 4.0]])
    valid = torch.tensor([[True, True, True, False]])
    assert step_open(alpha, valid, 0.5).tolist() == [[False, True, False, False]]


def test_gates_that_noise_closes_leave_one_with_a_gradient():
    selector = epitoma().selector
    alpha = torch.tensor([[-40.0, -20.0, -40.0], [-40.0, -40.0, 50.0]], requires_grad=True)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    torch.manual_seed(0)
    gates = selector.gates(alpha, valid, 1.0)
    assert (gates > 0).sum(dim=1).tolist() == [1, 1]
    assert 0 < float(gates[0, 1].detach()) < 0.5 and float(gates[1, 2].detach()) == 0
    gates.sum().backward()
    assert alpha.grad is not None and alpha.grad[0, 1] > 0 and alpha.grad[1, 2] == 0


@pytest.mark.parametrize("top_k", [1, 2, 5, 100])
def test_top_k_is_exact(top_k):
    method, split = epitoma(), synthetic_split(num_videos=12)
    train_briefly(method, split, steps=5)
    outcome = run_cached(method, split, {"top_k": top_k})
    expected = split.num_steps.clamp(max=top_k)
    assert torch.equal((outcome.decisions == 2).sum(dim=1), expected)
    assert torch.equal(outcome.calls[COMPONENTS["fine"]], expected)
    alpha = outcome.trace["alpha"].masked_fill(~split.mask, -torch.inf)
    for row, decided, count in zip(alpha, outcome.decisions, expected, strict=True):
        assert set(torch.nonzero(decided == 2).flatten().tolist()) == set(
            row.topk(int(count)).indices.tolist()
        )


def test_a_higher_threshold_never_costs_more():
    method, split = epitoma(), synthetic_split(num_videos=24)
    train_briefly(method, split, steps=10)
    costs = synthetic_costs(method)
    spent = [costs.gflops(run_cached(method, split, {"gate_threshold": t}).calls) for t in (0, 0.4, 0.6, 1)]
    assert all(bool((later <= earlier).all()) for earlier, later in itertools.pairwise(spent))
    assert bool((spent[-1] < spent[0]).any())


def test_threshold_0_looks_at_everything_and_answers_all_others():
    method, split = epitoma(**LISTED["video_epitoma"]), synthetic_split()
    train_briefly(method, split)
    everything = run_cached(method, split, EVERYTHING)
    assert torch.equal(everything.calls[COMPONENTS["fine"]], split.num_steps)
    assert method.stop_points(run_cached(method, split, method.settings()[0]), method.settings()[0]) == []
    answered = method.stop_points(everything, EVERYTHING)
    lists = LISTED["video_epitoma"]
    assert len(answered) == len(lists["gate_thresholds"]) - 1 + len(lists["top_ks"])
    assert method.settings()[0] not in [setting for setting, _ in answered]


def test_fewer_timesteps_at_inference_are_those_of_a_training_with_as_many():
    method = epitoma(**{**LISTED["video_epitoma"], "timestep_counts": (4, 2)})
    split = synthetic_split(num_videos=12)
    train_briefly(method, split)
    few = {**EVERYTHING, "timesteps": 4}
    assert [setting["timesteps"] for setting in method.settings()] == [0, 0, 4, 2]
    fewer = synthetic_method("video_epitoma", {"timesteps": 4})
    fewer.load_state_dict(method.state_dict())
    answered = {str(s): o for s, o in method.stop_points(run_cached(method, split, few), few)}
    for knobs in ({"gate_threshold": 0.4}, {"top_k": 2}, {"top_k": 6}):
        setting = {**method.settings()[0], **knobs, "timesteps": 4}
        expected = run_cached(fewer, split, {**setting, "timesteps": 0})
        for outcome in (answered[str(setting)], run_cached(method, split, setting)):
            torch.testing.assert_close(outcome.scores, expected.scores)
            assert all(torch.equal(outcome.calls[name], expected.calls[name]) for name in expected.calls)
            assert torch.equal(outcome.decisions, expected.decisions)
    assert int((answered[str(setting)].decisions > 0).sum(dim=1).max()) == 4


@pytest.mark.parametrize("kind", ["mean", "lstm"])
def test_other_classifiers_see_open_timesteps_alone_and_cost_what_they_compute(kind):
    method = epitoma(classifier=kind)
    projected, gates = torch.randn(2, 5, 64), torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    changed = projected + 3 * torch.randn(2, 5, 64) * (gates == 0)[..., None]
    torch.testing.assert_close(method.classifier(projected, gates), method.classifier(changed, gates))
    only = method.classifier(projected[:1, [0, 2]], torch.ones(1, 2))
    torch.testing.assert_close(method.classifier(projected[:1], gates[:1]), only)
    if kind == "mean":
        each = method.classifier(projected[:1, [0, 2]].transpose(0, 1), torch.ones(2, 1)).softmax(dim=1)
        torch.testing.assert_close(only.softmax(dim=1)[0], each.mean(dim=0), atol=1e-4, rtol=1e-4)

    class Answer(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = method.classifier(method.classifier.project(features), torch.ones(1, 3))
            return answer

    costs, calls = method.component_costs(), method.classifier.calls(torch.ones(1, 3, dtype=torch.bool))
    counted = sum(int(count) * costs[name].macs for name, count in calls.items())
    assert counted == measure_macs(Answer(), torch.randn(1, 3, 16))


def saved(folder: Path, **fields: Any) -> VideoEpitoma:
    """A trained stand-alone method whose selector is in `folder`."""
    method = epitoma(regime="stand_alone", kernels=5, **fields)
    train_briefly(method, synthetic_split(seed=2))
    method.export(folder, {"data": {"features": {"coarse": "light@1"}}})
    return method


@pytest.mark.slow
def test_a_saved_selector_selects_the_same_before_other_classifiers_and_stays_as_it_is(tmp_path):
    trained, split = saved(tmp_path, context="none"), synthetic_split(num_videos=12)
    expected = run_cached(trained, split, {}).decisions
    fields = {"regime": "stand_alone", "selector": str(tmp_path)}
    for more in ({}, {"heavy": "motion"}, {"classifier": "mean"}, {"classifier": "lstm"}):
        method = epitoma(**fields, **more)
        before = method.classifier.project.state_dict()["layers.0.weight"].clone()
        train_briefly(method, split, steps=10)
        assert not torch.equal(before, method.classifier.project.state_dict()["layers.0.weight"])
        assert torch.equal(run_cached(method, split, {}).decisions, expected)
        described = method.portable({**fields, **more})
        assert str(described["selector"]).startswith("sha256:") and str(tmp_path) not in str(described)
        elsewhere = reloaded(method, "video_epitoma", described)
        assert torch.equal(run_cached(elsewhere, split, {}).scores, run_cached(method, split, {}).scores)
    assert not (tmp_path / "other").exists()
    epitoma().export(tmp_path / "other", {})
    assert not (tmp_path / "other").exists()  # a selector trained with its classifier is not for others


def test_each_phase_of_stand_alone_leaves_the_other_phases_part_alone():
    method, split = epitoma(regime="stand_alone", selector_share=0.5), synthetic_split(num_videos=8)
    batch = batch_of(split)
    for step, moving in ((0, {"selector", "light_classifier"}), (9, {"classifier"})):
        method.loss(batch, Progress(step, 10)).total.backward()
        assert {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad} == moving


def test_a_selector_of_other_features_or_none_is_refused(tmp_path):
    saved(tmp_path)
    fields = {"regime": "stand_alone", "selector": str(tmp_path / "selector")}
    method = epitoma(**fields)
    method.check_features({"coarse": "light@1", "fine": "any"})
    with pytest.raises(UsageError, match="trained on the features light@1, not on light@2"):
        method.check_features({"coarse": "light@2", "fine": "any"})
    with pytest.raises(UsageError, match="reads 8 coarse features a step, not 16 fine ones"):
        epitoma(**fields, light="fine", heavy="motion")
    with pytest.raises(UsageError, match="with a selector that was trained before"):
        epitoma(selector=str(tmp_path))
    described = tmp_path / "selector" / "selector.json"
    written = json.loads(described.read_text())
    described.write_text(json.dumps({**written, "version": 2}))
    with pytest.raises(VersionError, match=r"selector\.json is of version 2"):
        epitoma(**fields)
    described.write_text(json.dumps({**written, "width": "8"}))
    with pytest.raises(UsageError, match=r"no timestep selector in .*width must be a whole number"):
        epitoma(**fields)
    del written["version"]  # as earlier versions wrote it
    described.write_text(json.dumps(written))
    assert epitoma(**fields).name == "video_epitoma"
    weights = tmp_path / "selector" / "selector.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UsageError, match="not those that its JSON names"):
        epitoma(**fields)
    with pytest.raises(UsageError, match="no timestep selector in"):
        epitoma(regime="stand_alone", selector=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("timesteps", [1, 3, 9, 50])
def test_timesteps_may_be_more_or_fewer_than_the_videos_steps(timesteps):
    method, split = epitoma(timesteps=timesteps), synthetic_split(num_videos=12)
    train_briefly(method, split, steps=3)
    outcome = run_cached(method, split, EVERYTHING)
    assert torch.equal((outcome.decisions > 0).sum(dim=1), split.num_steps.clamp(max=timesteps))
    if timesteps >= 9:
        every = synthetic_method("video_epitoma", {"timesteps": 0})
        every.load_state_dict(method.state_dict())
        torch.testing.assert_close(run_cached(every, split, EVERYTHING).scores, outcome.scores)
    if timesteps == 1:  # the middle, not the first
        assert int(torch.nonzero(outcome.decisions[0]).flatten()) == 4


def test_context_sees_the_other_timesteps_and_frame_gating_does_not():
    for context in (True, False):
        torch.manual_seed(0)
        selector = TimestepSelector(
            width=5, projection=8, kernels=4, hidden=4, dropout=0.0, has_context=context, prefix="x"
        )
        features, valid = torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool)
        changed = features.clone()
        changed[:, 3] += 3 * torch.randn(5)
        same = torch.allclose(selector(features, valid)[:, :3], selector(changed, valid)[:, :3])
        assert same is not context
        valid[:, 3] = False  # a timestep that a video lacks is no context
        torch.testing.assert_close(selector(features, valid)[:, :3], selector(changed, valid)[:, :3])


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_calls_times_cost_is_what_an_answer_over_so_many_timesteps_computes(count):
    method = epitoma()
    costs = method.component_costs()
    is_open = torch.ones(1, count, dtype=torch.bool)

    def counted(calls: dict[str, torch.Tensor]) -> int:
        return sum(int(n) * costs[name].macs for name, n in calls.items())

    selected = measure_macs(method.selector, torch.randn(1, count, 8), is_open)
    assert counted(method.selector.calls(is_open)) == selected

    class Answer(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = method.classifier(
                method.classifier.project(features), torch.ones(1, count)
            )
            return answer

    assert counted(method.classifier.calls(is_open)) == measure_macs(Answer(), torch.randn(1, count, 16))


def test_leaving_out_steps_leaves_one_at_least():
    torch.manual_seed(0)
    valid = torch.arange(6) < torch.tensor([[6], [1], [0]])
    kept = torch.stack([without_some(valid, 0.9) for _ in range(50)])
    assert kept[:, 0].any(dim=1).all() and kept[:, 1, 0].all() and not kept[:, 2].any()
    assert not kept[..., 1:][:, 1].any() and kept[:, 0].float().mean() < 0.6


def test_what_is_selected_says_nothing_about_the_batch():
    method, split = epitoma(), synthetic_split(num_videos=10)
    train_briefly(method, split, steps=10)
    together = run_cached(method, split, {}).trace["alpha"]
    with deterministic_eval(method):
        for i in range(10):
            alone = method.selector(split.features["coarse"][i : i + 1], split.mask[i : i + 1])[0]
            torch.testing.assert_close(together[i][split.mask[i]], alone[split.mask[i]], atol=1e-5, rtol=1e-5)


def test_a_collapsed_selector_is_reported():
    method, split = epitoma(), synthetic_split(num_videos=12)

    def warnings() -> list[str]:
        calls = run_cached(method, split, {}).calls
        return method.warnings(
            synthetic_metrics(calls={name: float(n.float().mean()) for name, n in calls.items()})
        )

    with_alpha(method, 30.0)
    assert "opens nearly every timestep" in warnings()[0] and "raise l0_weight" in warnings()[0]
    with_alpha(method, -30.0)
    assert "one timestep, or none" in warnings()[0] and "lower l0_weight" in warnings()[0]
    few = epitoma(timesteps=1)
    once = {few.selector.step_component: 1.0, few.classifier.step_component: 1.0}
    assert few.warnings(synthetic_metrics(calls=once)) == []
    healthy = epitoma()
    with torch.no_grad():  # opens what is unlike the others
        alpha = run_cached(healthy, split, {}).trace["alpha"]
        healthy.selector.gate.get_parameter("2.bias").sub_(alpha[split.mask].median())
    method = healthy
    assert warnings() == []


def test_gates_that_are_not_finite_are_reported():
    method, split = with_alpha(epitoma(), float("nan")), synthetic_split()
    with pytest.raises(NonFiniteError, match="gates are not finite"):
        run_cached(method, split, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heavy": "audio"}, "Allowed: fine, motion"),
        ({"light": "fine"}, "light and heavy are both"),
        ({"regime": "both"}, "Allowed: end_to_end, stand_alone"),
        ({"selector_share": 1.0}, "selector_share must be in"),
        ({"timesteps": -1}, "timesteps must be in"),
        ({"l0_weight": -0.1}, "l0_weight must be in"),
        ({"l0_weight": float("nan")}, "l0_weight must be in"),
        ({"context": "some"}, "Allowed: self_attention, none"),
        ({"l0_form": "l1"}, "Allowed: open_probability, hard_concrete"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"kernels": 0}, "kernels must be in"),
        ({"step_dropout": 1.0}, "step_dropout must be"),
        ({"gate_thresholds": [0.5, 1.5]}, r"gate_thresholds\[1\] must be in"),
        ({"top_ks": [0]}, r"top_ks\[0\] must be in"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("video_epitoma", fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": "learned"}, "Allowed: uniform, random"),
        ({"training_frames": -2}, "training_frames must be"),
        ({"frame_counts": []}, "frame_counts cannot be"),
    ],
)
def test_a_bad_configuration_of_the_sampled_baseline_too(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("epitoma_sampled", fields)


@pytest.mark.slow
def test_the_selector_finds_the_evidence():
    """The cheap source says where it is but not what: selection must beat chance clearly."""
    method = epitoma(l0_weight=0.3, dropout=0.2)
    train_briefly(method, synthetic_split(num_videos=128, max_steps=12, seed=3), steps=80)
    test = synthetic_split(num_videos=64, max_steps=12, seed=4)
    needles = (test.features["coarse"].mean(dim=-1) > 0.5) & test.mask
    looked = run_cached(method, test, {"top_k": 2}).decisions == 2
    share = float((looked & needles).sum() / looked.sum())
    assert share > float(needles.sum() / test.mask.sum()) + 0.2
