"""A trial on real features: the same for a seed wherever it runs, resumed from its own checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.lowest import is_pinned

from paretovid.platform.records.trial import read_scores, read_trial
from paretovid.platform.storage.home import Home
from paretovid.trainables.catalog import method_class, method_config, method_names
from paretovid.trainables.context import LocalContext, TrialStopped
from paretovid.trainables.data.dataset import load_dataset, save_manifest
from paretovid.trainables.errors import NonFiniteError, StaleFeaturesError, UsageError
from paretovid.trainables.evaluation.detection import map_iou
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.training.loop import _average_gradients
from paretovid.trainables.trial import run_trial


@pytest.fixture(scope="module")
def base(lite_eval_trial: TrialConfig) -> TrialConfig:
    return lite_eval_trial


def run(base: TrialConfig, folder: Path, context: Any = None, **changes: Any) -> dict[str, Any]:
    """The content of `result.json`."""
    config = dataclasses.replace(base, output=str(folder), **changes)
    result = run_trial(config, context or LocalContext())
    assert result == read_trial(folder), "what is handed on is what is written"
    answer: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return answer


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return all(torch.equal(a[key], b[key]) for key in a)


class Interrupted(Exception):
    """Stands for a process that is killed."""


class Keeping:
    """A context that keeps checkpoints, and may die after one."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, folder: Path, dies: bool) -> None:
        self.folder, self.dies = folder, dies

    def report(self, progress, checkpoint=None):
        if checkpoint is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(checkpoint, self.folder)
            if self.dies:
                raise Interrupted

    def get_checkpoint(self):
        return self.folder if self.folder.exists() else None

    def heartbeat(self):
        return False


class Stopping(Keeping):
    """A context that asks the trial to end after so many heartbeats."""

    def __init__(self, folder: Path, beats: int) -> None:
        super().__init__(folder, dies=False)
        self.left = beats

    def heartbeat(self):
        self.left -= 1
        return self.left < 0


def over_known_sources(base: TrialConfig, method: str) -> dict[str, Any]:
    """Fields of a method's Config with which it reads only the features that there are here."""
    reads = method_class(method).sources_of(method_config(method, {}))
    return {} if set(reads) <= set(base.features) else {"sources": list(base.features)}


CLASSIFYING = [
    name
    for name in method_names()
    if method_class(name).task == "classification"
    and "pool" not in method_class(name).Config.__dataclass_fields__
]
"""Without those that select from a pool, whose sources classify by themselves (test_model_selection.py)."""
LOCALIZING = [name for name in method_names() if method_class(name).task == "localization"]


@pytest.fixture(scope="module")
def untrimmed(
    localization_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory
) -> TrialConfig:
    """A configuration of localization over a few real videos."""
    home = localization_home_copy(tmp_path_factory.mktemp("untrimmed"))
    features = home.features("moving_digits_untrimmed")
    return TrialConfig(
        sweep="s",
        trial="t",
        method="model_selection_localization",
        training=TrainingConfig(epochs=4, batch_size=4, checkpoint_every_epochs=3),
        dataset=str(home.data("moving_digits_untrimmed")),
        features={
            "appearance": str(next(features.glob("x3d*"))),
            "flow": str(next(features.glob("resnet*"))),
        },
        output=str(tmp_path_factory.mktemp("out")),
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", LOCALIZING)
def test_localization_repeats_itself(untrimmed, tmp_path, method):
    first = run(untrimmed, tmp_path / "a", method=method)
    again = run(untrimmed, tmp_path / "b", method=method)
    assert first["points"] == again["points"] and same_weights(tmp_path / "a", tmp_path / "b")
    assert first["objective"] == "map_iou_0.1_0.7" and "map_iou_0.5" in first["points"][0]["test"]
    run(untrimmed, tmp_path / "c", method=method, seed=1)
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.skipif(not is_pinned("torch"), reason="a seed trains other weights with another torch")
def test_ambiguous_segments_of_the_manifest_reach_figures_scores_and_warnings(untrimmed, tmp_path):
    shutil.copytree(untrimmed.dataset, tmp_path / "vague")
    dataset = load_dataset(tmp_path / "vague")
    records = [dataclasses.replace(record, ambiguous=((0.0, 1e3),)) for record in dataset.records]
    save_manifest(dataclasses.replace(dataset, records=tuple(records)))
    config = dataclasses.replace(untrimmed, method="motion_only")
    plain = run(config, tmp_path / "a")["points"][0]
    vague = run(config, tmp_path / "b", dataset=str(dataset.root))["points"][0]
    for split in ("val", "test"):
        scores = read_scores(tmp_path / "b", split)
        assert scores.ground_truth is not None and scores.detections is not None
        lengths = [record.duration_seconds for record in dataset.split(split)]
        assert scores.ground_truth.ambiguous == tuple(((0.0, length),) for length in lengths)
        figures = map_iou(scores.detections[0], scores.ground_truth)
        assert {name: vague[split][name] for name in figures} == pytest.approx(figures)
        # What is wrong and ambiguous counts neither way: here all that is wrong.
        assert vague[split]["map_iou_0.1"] > plain[split]["map_iou_0.1"] > 0
        assert vague[split]["map"] == plain[split]["map"]


def test_one_setting_of_localization_alone_is_measured_like_all(untrimmed, tmp_path):
    result = run(untrimmed, tmp_path / "a", inference_setting={"theta": 1.0})
    assert [p["inference_knobs"] for p in result["points"]] == [{"theta": 1.0}]


def test_a_selection_that_is_killed_between_heads_and_selector_resumes_to_the_same_result(
    untrimmed, tmp_path
):
    whole = run(untrimmed, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(untrimmed, tmp_path / "resumed", Keeping(tmp_path / "kept", dies=True))
    history = json.loads((tmp_path / "kept" / "history.json").read_text())
    assert len(history) == 3 and history[0]["selector"] == 0 < history[-1]["selector"]
    resumed = run(untrimmed, tmp_path / "resumed", Keeping(tmp_path / "kept", dies=False))
    assert resumed["points"] == whole["points"]
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.slow
@pytest.mark.parametrize("method", CLASSIFYING)
def test_a_seed_gives_the_same_result_and_another_seed_another(base, tmp_path, method):
    changes = {"method": method, "model": over_known_sources(base, method), "training_knobs": {}}
    first = run(base, tmp_path / "a", **changes)
    again = run(base, tmp_path / "b", **changes)
    other = run(base, tmp_path / "c", seed=1, **changes)
    assert first["points"] == again["points"] and same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")
    assert first["digest"] == again["digest"] != other["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lite_eval", "lstm", "hcms", "video_epitoma"])
def test_a_trial_that_is_killed_resumes_from_its_checkpoint_to_the_same_result(base, tmp_path, method):
    changes = {"method": method, "model": over_known_sources(base, method), "training_knobs": {}}
    if method == "video_epitoma":  # of two phases, the first just over
        changes["model"] = {"regime": "stand_alone"}
    whole = run(base, tmp_path / "whole", **changes)
    with pytest.raises(Interrupted):
        run(base, tmp_path / "resumed", Keeping(tmp_path / "kept", dies=True), **changes)
    history = json.loads((tmp_path / "kept" / "history.json").read_text())
    assert len(history) == 2, "it died in the middle"
    resumed = run(base, tmp_path / "resumed", Keeping(tmp_path / "kept", dies=False), **changes)
    assert resumed["points"] == whole["points"]
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")


def test_workers_leave_alone_what_is_frozen(tmp_path):
    frozen, trained = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    frozen.requires_grad_(False)
    trained.bias.grad = torch.ones(2)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        _average_gradients(torch.nn.Sequential(frozen, trained), 2)
    finally:
        torch.distributed.destroy_process_group()
    assert frozen.weight.grad is None and frozen.bias.grad is None
    assert trained.bias.grad is not None and trained.bias.grad.tolist() == [0.5, 0.5]
    assert trained.weight.grad is not None and not trained.weight.grad.any()


@pytest.mark.slow
def test_a_trial_whose_gates_collapse_says_so_in_its_result(base, tmp_path):
    changes = {
        "method": "video_epitoma",
        "training_knobs": {},
        "training": dataclasses.replace(base.training, epochs=20, learning_rate=0.05),
    }
    assert run(base, tmp_path / "other")["remarks"] == []
    run(base, tmp_path / "closed", model={"l0_weight": 1000.0}, **changes)
    result = json.loads((tmp_path / "closed" / "result.json").read_text())
    collapsed, placed = result["remarks"]
    assert "one timestep, or none" in collapsed and "decides alike at every step" in placed
    assert len(result["points"]) == 1
    # A study's own setting says nothing about the gate: this one looks at everything, whatever the gate says.
    setting = {"gate_threshold": 0.0, "top_k": 0, "timesteps": 0}
    given = run(base, tmp_path / "study", model={"l0_weight": 1000.0}, inference_setting=setting, **changes)
    assert given["points"][0]["inference_knobs"] == setting
    assert len(given["points"]) == 1 and given["remarks"] == [collapsed]


def test_a_selector_trained_by_itself_is_left_beside_the_result_for_other_trials(base, tmp_path):
    changes = {"method": "video_epitoma", "training_knobs": {}}
    run(base, tmp_path / "first", model={"regime": "stand_alone"}, **changes)
    meta = json.loads((tmp_path / "first" / "selector" / "selector.json").read_text())
    assert meta["about"]["data"]["features"]["coarse"] == Path(base.features["coarse"]).name
    model = {"regime": "stand_alone", "selector": str(tmp_path / "first"), "classifier": "mean"}
    result = run(base, tmp_path / "second", model=model, **changes)
    assert result["model"]["selector"] == f"sha256:{meta['sha256']}"
    assert str(tmp_path) not in (tmp_path / "second" / "result.json").read_text()
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    frozen = [name for name in first if name.startswith("selector.")]
    assert frozen and all(torch.equal(first[name], second[name]) for name in frozen)
    config = dataclasses.replace(base, model=model, **changes)
    moved = shutil.copytree(tmp_path / "first", tmp_path / "moved")
    same = dataclasses.replace(config, model={**model, "selector": str(moved)})
    assert config.digest == same.digest
    run(base, moved, model={"regime": "stand_alone"}, seed=1, **changes)
    assert config.digest != same.digest
    other = {**base.features, "coarse": shutil.copytree(base.features["coarse"], tmp_path / "other@1")}
    with pytest.raises(UsageError, match="trained on the features"):
        run(base, tmp_path / "third", model=model, features={k: str(v) for k, v in other.items()}, **changes)


def test_a_result_says_where_it_comes_from_and_what_it_cost(base, tmp_path):
    result = run(base, tmp_path / "a")
    assert result == json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["training_knobs"] == {"gamma": 0.4} and result["seed"] == 0
    assert result["data"]["fingerprint"] and result["code_version"] and result["accounting"] == "honest"
    assert len(result["training"]["history"]) == 4
    first = result["points"][0]
    assert first["natural"] and first["inference_knobs"] == {"gate_offset": 0.0, "online_k": 0}
    for point in result["points"]:
        for split in ("val", "test"):
            figures = point[split]
            counted = sum(n * result["costs"][c]["macs"] for c, n in figures["calls"].items()) / 1e9
            assert counted == pytest.approx(figures["gflops"])
            assert 0 <= figures["map"] <= 1 and figures["gflops_p95"] >= figures["gflops"] > 0


def test_scores_on_disk_give_the_figures_of_the_result(base, tmp_path):
    from paretovid.trainables.evaluation.metrics import mean_average_precision

    result = run(base, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "scores.safetensors")
    for i, point in enumerate(result["points"]):
        scores = tensors["test/scores"][i].double().numpy()
        assert (
            mean_average_precision(scores, tensors["test/targets"].double().numpy()) == point["test"]["map"]
        )
        assert float(tensors["test/gflops"][i].mean()) == pytest.approx(point["test"]["gflops"])


def test_one_setting_only_if_the_study_searches_them(base, tmp_path):
    result = run(base, tmp_path / "a", inference_setting={"gate_offset": 1.0, "online_k": 2})
    assert [p["inference_knobs"] for p in result["points"]] == [{"gate_offset": 1.0, "online_k": 2}]


def test_a_trial_has_as_many_points_as_asked_for_placed_on_validation_alone(base, tmp_path):
    result = run(base, tmp_path / "a", points=9)
    knobs = [point["inference_knobs"] for point in result["points"]]
    assert 4 < len(knobs) <= 9 and result["points"][0]["natural"]
    assert [point["inference_knobs"] for point in run(base, tmp_path / "b", points=9)["points"]] == knobs
    # Videos of test have no part in it, nor has what is true of any video.
    moved = shutil.copytree(base.dataset, tmp_path / "moved")
    dataset = load_dataset(moved)
    records = [record for record in dataset.records if record.split != "test"]
    records += dataset.split("test")[:2]
    records = [
        dataclasses.replace(record, labels=(0,)) if record.split == "val" else record for record in records
    ]
    save_manifest(dataclasses.replace(dataset, records=tuple(records)))
    other = run(base, tmp_path / "c", points=9, dataset=str(moved))
    # Two videos tell fewer settings apart.
    assert {str(point["inference_knobs"]) for point in other["points"]} <= {str(each) for each in knobs}
    assert other["points"][0]["val"]["map"] != result["points"][0]["val"]["map"]
    assert len(run(base, tmp_path / "one", points=1)["points"]) == 1


def test_points_are_part_of_the_digest_but_for_the_number_that_there_always_was(base):
    assert dataclasses.replace(base, points=23).digest != base.digest
    sent = {name: value for name, value in base.to_json().items() if name != "points"}
    assert TrialConfig.from_json(sent).digest == base.digest == dataclasses.replace(base, points=24).digest
    before_there_was_a_choice = TrialConfig(
        sweep="s",
        trial="t0000",
        method="lite_eval",
        model={"target_usage": 0.1},
        training_knobs={"gamma": 0.1},
        dataset="d",
        features={"fine": "f@1"},
        output="o",
    )
    assert before_there_was_a_choice.digest_by("0123456789ab") == "1fd141d3ca32"
    with pytest.raises(UsageError, match="points must be 1 or more"):
        dataclasses.replace(base, points=0)


def confirming(base: TrialConfig, folder: Path, result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A training that measures a result's points again, as a worker is told of it."""
    settings = tuple(point["inference_knobs"] for point in result["points"])
    sent = dataclasses.replace(
        base, trial=f"{base.trial}@seed", confirms=base.trial, settings=settings, **changes
    )
    return run(TrialConfig.from_json(json.loads(json.dumps(sent.to_json()))), folder)


def called(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures of a point without the components that it does not call, which a run for many points lists as well."""
    return {**figures, "calls": {name: count for name, count in figures["calls"].items() if count}}


@pytest.mark.slow
@pytest.mark.parametrize("method", CLASSIFYING)
def test_points_are_confirmed_at_the_settings_that_they_were_measured_at(base, tmp_path, method):
    changes = {"method": method, "model": over_known_sources(base, method), "training_knobs": {}}
    first = run(base, tmp_path / "a", **changes)
    # With the same seed it is the same training, and so has to come to the same figures at every point.
    again = confirming(base, tmp_path / "b", first, **changes)
    for point, before in zip(again["points"], first["points"], strict=True):
        assert point["id"] == before["id"].replace("t-", "t@seed-")
        assert point["natural"] == before["natural"]
        assert point["inference_knobs"] == before["inference_knobs"]
        for split in ("val", "test"):
            assert called(point[split]) == called(before[split])
    assert again["confirms"] == "t" and "confirms" not in first
    assert again["digest"] != first["digest"], "whoever looks for the one never takes the other for it"


def test_points_that_another_seed_does_not_tell_apart_are_all_kept(base, tmp_path, monkeypatch):
    first = run(base, tmp_path / "a")

    def without_a_gate(method, *_):
        with torch.no_grad():
            method.gate.weight.zero_()
            method.gate.bias.zero_()
        return []

    monkeypatch.setattr("paretovid.trainables.trial._train", without_a_gate)
    collapsed = confirming(base, tmp_path / "b", first, seed=7)
    settings = [[point["inference_knobs"] for point in each["points"]] for each in (collapsed, first)]
    assert settings[0] == settings[1] and len(settings[0]) > 5
    figures = {str(point["val"]) for point in collapsed["points"]}
    assert len(figures) < len(settings[0]), "a gate that decides nothing answers alike at several of them"


def test_a_gate_that_decides_nothing_gives_one_point_and_is_said(base, tmp_path, monkeypatch):
    def without_a_gate(method, *_):
        with torch.no_grad():
            method.gate.weight.zero_()
        return []

    monkeypatch.setattr("paretovid.trainables.trial._train", without_a_gate)
    result = run(base, tmp_path / "a")
    assert len(result["points"]) == 1 and result["points"][0]["natural"]
    assert [text for text in result["remarks"] if text.startswith("gate_offset: ")]


def test_lists_of_a_configuration_are_measured_whatever_the_number_of_points(base, tmp_path):
    lists = {"gate_offsets": [0.0, -0.5, 0.5], "online_ks": [1], "caps": [1.0, 4.0]}
    result = run(base, tmp_path / "a", model={**base.model, **lists}, points=2)
    assert len(result["points"]) > 2
    assert {p["inference_knobs"]["gate_offset"] for p in result["points"]} <= {0.0, -0.5, 0.5}


def test_a_trial_measures_a_curve_of_caps_behind_its_other_points(base, tmp_path):
    points = run(base, tmp_path / "a")["points"]
    has_cap = ["max_gflops" in point["inference_knobs"] for point in points]
    assert has_cap == sorted(has_cap) and not has_cap[0] and has_cap[-1]
    assert points[0]["test"]["stopped_by"] == {"end": 1.0, "method": 0.0, "cap": 0.0}
    check_capped(points[has_cap.index(True) :])


def test_caps_that_continue_cheaply_are_measured_at_the_default_setting(base, tmp_path):
    # It looks closely at half of the steps, whatever it has learned; a gate may close so early in its training.
    points = run(base, tmp_path / "a", method="random_gate", model={})["points"]
    rules = [point["inference_knobs"].get("cap_rule", "") for point in points]
    assert rules == sorted(rules, key=["", "stop", "cheap"].index) and "cheap" in rules
    cheap = points[rules.index("cheap") :]
    check_capped(points[rules.index("stop") :])
    default = points[0]["inference_knobs"]
    assert all(point["inference_knobs"].items() >= default.items() for point in cheap)
    stops = [point for point in points if point["inference_knobs"].get("cap_rule") == "stop"]
    for point in cheap:
        # It continues where the other rule ends: never for less.
        cap = point["inference_knobs"]["max_gflops"]
        ended = [
            p for p in stops if p["inference_knobs"] == {**default, "max_gflops": cap, "cap_rule": "stop"}
        ]
        assert all(point["test"]["gflops"] >= other["test"]["gflops"] for other in ended)


def check_capped(points: list[dict[str, Any]]) -> None:
    """No video passes its cap; one that had refused nothing would be another's equal, and not be kept."""
    for point in points:
        assert point["test"]["gflops_p95"] <= point["inference_knobs"]["max_gflops"]
        assert max(point[split]["stopped_by"]["cap"] for split in ("val", "test")) > 0


def test_a_study_may_search_the_rule_and_a_cap_that_a_method_cannot_have_is_refused_first(base, tmp_path):
    for rule in ("stop", "cheap"):
        asked = {"gate_offset": 100.0, "max_gflops": 0.002, "cap_rule": rule}
        (point,) = run(base, tmp_path / rule, inference_setting=asked)["points"]
        assert point["inference_knobs"].items() >= asked.items() and point["test"]["stopped_by"]["cap"] > 0
    with pytest.raises(UsageError, match="top_k has no max_gflops"):
        run(base, tmp_path / "none", method="top_k", model={}, inference_setting={"max_gflops": 1.0})
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_paper_accounting_counts_less_of_the_recurrent_part(base, tmp_path):
    honest, paper = run(base, tmp_path / "a"), run(base, tmp_path / "b", accounting="paper")
    assert paper["accounting"] == "paper"
    assert 0 < paper["points"][0]["test"]["gflops"] < honest["points"][0]["test"]["gflops"]
    assert paper["points"][0]["test"]["map"] == honest["points"][0]["test"]["map"]


@pytest.mark.slow
def test_a_trial_that_is_asked_to_end_resumes_as_if_it_never_had(base, tmp_path):
    whole = run(base, tmp_path / "whole")
    kept = tmp_path / "kept"
    stops = 0
    for beats in (0, 3, 0, 0):  # after epoch 1, after epoch 3, after the last, while it is evaluated
        with contextlib.suppress(TrialStopped):
            run(base, tmp_path / "parts", Stopping(kept, beats))
            break
        stops += 1
        assert not (tmp_path / "parts" / "result.json").exists()
    assert stops == 4
    parts = run(base, tmp_path / "parts", Keeping(kept, dies=False))
    assert parts["points"] == whole["points"] and same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_reason(base, tmp_path):
    training = TrainingConfig(epochs=4, batch_size=4, learning_rate=1e30)
    with pytest.raises(NonFiniteError, match="the loss became"):
        run(base, tmp_path / "a", training=training)
    assert not (tmp_path / "a" / "result.json").exists()


def test_features_that_are_gone_are_reported_with_the_command_that_repairs_it(base, tmp_path):
    with pytest.raises(StaleFeaturesError) as error:
        run(base, tmp_path / "a", features={**base.features, "fine": str(tmp_path / "nothing")})
    assert "paretovid extract" in error.value.hint


def launch(base: TrialConfig, storage: Path, workers: int) -> Path:
    from paretovid.infra.placement import TrialResources
    from paretovid.platform.execution.launcher import launch_trials
    from paretovid.platform.execution.outcome import FixedTrial
    from paretovid.platform.storage.home import SweepPaths
    from paretovid.platform.sweeps.trials import trainable_on
    from paretovid.trainables.provenance import code_version

    trial = dataclasses.asdict(dataclasses.replace(base, output=str(storage / "trials" / "t")))
    summary = launch_trials(
        trainable_on(None, code_version()),
        sweep=SweepPaths(storage),
        fixed=[FixedTrial(trial_id="t", config=trial)],
        resources=TrialResources(workers=workers, cpus=1),
    )
    assert summary.failed == 0, summary.reasons
    return storage / "trials" / "t"


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_the_tune_process_gives_the_same_as_no_ray_at_all(shared_cluster, base, tmp_path):
    run(base, tmp_path / "plain")
    launched = launch(base, tmp_path / "tune", workers=1)
    assert same_weights(tmp_path / "plain", launched)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_gloo_workers_train_one_model(shared_cluster, base, tmp_path):
    launched = launch(dataclasses.replace(base, model={}), tmp_path, workers=2)
    result = json.loads((launched / "result.json").read_text())
    assert len(result["training"]["history"]) == 4 and result["points"]


@pytest.mark.slow
def test_averaged_gradients_are_those_of_the_whole_batch(base, tmp_path):
    """Without a gate's noise, two workers' mean gradient is that of both shares together."""
    import torch.multiprocessing as multiprocessing

    multiprocessing.spawn(_average_in_two, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert torch.equal(first["gradient"], second["gradient"])
    torch.testing.assert_close(first["gradient"], first["whole"], atol=1e-6, rtol=1e-5)


def _average_in_two(rank: int, rendezvous: str, folder: str) -> None:
    from safetensors.torch import save_file

    from paretovid.trainables.outcome import Batch, Progress
    from paretovid.trainables.testing import synthetic_method, synthetic_split
    from paretovid.trainables.training.loop import _average_gradients

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    split = synthetic_split(num_videos=8)

    def gradient(rows: slice, average: bool) -> torch.Tensor:
        method = synthetic_method("uniform")
        features = {source: values[rows] for source, values in split.features.items()}
        batch = Batch(features, split.mask[rows], split.targets[rows], split.video_keys[rows])
        method.loss(batch, Progress(0, 1)).total.backward()
        if average:
            _average_gradients(method, 2)
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])

    tensors = {"gradient": gradient(slice(rank, None, 2), True), "whole": gradient(slice(None), False)}
    save_file(tensors, Path(folder) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
