"""The front of sweeps on disk: chosen on validation, shown on test, exactly as its JSON promises."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paretovid.platform.fronts.build import baseline_name, build_front, read_front
from paretovid.platform.fronts.front import Front, FrontPoint, rounded_up
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.trial import read_sweep, read_trial
from paretovid.platform.registry.promotion import _version_tags, number_gates
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.testing.sweeps import synthetic_sweep, write_sweep, write_trial
from paretovid.platform.tracking.tags import near_front, trial_figures
from paretovid.trainables.data.dataset import Event
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError, UsageError
from paretovid.trainables.evaluation.detection import GroundTruth
from paretovid.trainables.evaluation.intervals import (
    detection_interval,
    map_interval,
    resample_weights,
    resampled_maps,
)
from paretovid.trainables.evaluation.metrics import bootstrap_map_interval, mean_average_precision
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.outcome import Detection

POINT_KEYS = (
    "id sweep trial method training_knobs inference_knobs "
    "map map_ci top1 gflops gflops_std calls on_front seeds confirmation remarks"
)


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return read_front([synthetic_sweep(tmp_path / "sweeps" / "s1")])


def edited(trial: Path, point: int, split: str, **values: Any) -> None:
    result = json.loads((trial / "result.json").read_text())
    result["points"][point][split].update(values)
    (trial / "result.json").write_text(json.dumps(result))


def two_points(tmp_path: Path) -> SweepPaths:
    """A sweep of one trial with a cheap point and an expensive one."""
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    write_trial(sweep, "t0000", [(0.3, 0.01), (0.6, 0.05)])
    return sweep


def test_json_is_as_the_design_says(front: Front) -> None:
    document = json.loads(json.dumps(front.to_json(), allow_nan=False))
    keys = ["sweeps", "split", "accounting", "hypervolume", "reference", "points", "baselines"]
    assert list(document) == keys
    assert document["reference"] == {"map": 0.0, "gflops": 0.2}
    for point in document["points"]:
        assert list(point) == POINT_KEYS.split()
        assert point["map_ci"][0] <= point["map"] <= point["map_ci"][1]
    assert {b["name"] for b in document["baselines"]} == {"uniform", "oracle"}
    assert not any(b["on_front"] for b in document["baselines"])


def test_choice_looks_at_validation_only(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    trial = sweep.trial("t0000").folder
    edited(trial, 0, "val", map=0.9)
    edited(trial, 1, "val", map=0.8)  # worse and more expensive on validation, however good on test
    edited(trial, 1, "test", map=0.99)
    front = read_front([sweep])
    assert [p.id for p in front.front] == ["t0000-p00"]
    assert choose(front, max_gflops=0.1).id == "t0000-p00"


def test_caps_of_before_there_was_a_rule_keep_their_meaning(tmp_path: Path) -> None:
    """LiteEval's cap was what is now `cheap`, HCMS's what is now `stop`; what has a rule, or no cap, is left alone."""
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    for method, setting, rule in (
        ("lite_eval", {"max_gflops": 0.03}, "cheap"),
        ("hcms", {"max_gflops": 0.03}, "stop"),
        ("lite_eval", {"max_gflops": 0.03, "cap_rule": "stop"}, "stop"),
        ("lite_eval", {"max_gflops": 0.0}, None),
    ):
        trial = write_trial(sweep, f"t{method}{len(setting)}{rule}", [(0.3, 0.01)], method=method)
        result = json.loads((trial / "result.json").read_text())
        result["points"][0]["inference_knobs"] = setting
        (trial / "result.json").write_text(json.dumps(result))
        (point,) = read_trial(trial).points
        assert point.inference_knobs.get("cap_rule") == rule


def test_shown_figures_are_those_of_the_split(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    edited(sweep.trial("t0000").folder, 0, "test", map=0.123)
    assert read_front([sweep]).front[0].shown.quality == 0.123
    assert read_front([sweep], split="val").front[0].shown.quality != 0.123


def test_budget_holds_on_both_splits(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    edited(sweep.trial("t0000").folder, 1, "test", gflops=0.07)
    assert choose(read_front([sweep]), max_gflops=0.06).id == "t0000-p00"


def test_ties_go_to_the_cheaper_then_to_the_default_point(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    trial = write_trial(sweep, "t0000", [(0.3, 0.05), (0.3, 0.01), (0.3, 0.01)])
    for point in range(3):
        edited(trial, point, "val", map=0.5)
    front = read_front([sweep])
    assert choose(front, max_gflops=1.0).id == "t0000-p01"
    assert choose(front, min_map=0.4).id == "t0000-p01"
    edited(trial, 0, "val", gflops=0.01)
    assert choose(read_front([sweep]), max_gflops=1.0).id == "t0000-p00"


def test_filters_leave_points_out(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    assert [p.id for p in read_front([sweep], max_gflops=0.02).points] == ["t0000-p00"]
    best = read_front([sweep]).front[-1].record.val.quality
    assert [p.id for p in read_front([sweep], min_map=best).points] == ["t0000-p01"]


def test_budget_below_the_cheapest_says_what_the_cheapest_is(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    write_trial(sweep, "t0000", [(0.3, 0.012345)])
    with pytest.raises(UsageError) as error:
        choose(read_front([sweep]), max_gflops=0.001)
    assert "t0000-p00" in error.value.hint and "--max-gflops 0.0124" in error.value.hint
    assert choose(read_front([sweep]), max_gflops=0.0124).id == "t0000-p00"
    assert error.value.exit_status == 2


def test_unreachable_map_says_what_the_best_is(front: Front) -> None:
    with pytest.raises(UsageError, match=r"no operating point reaches mAP 0\.999"):
        choose(front, min_map=0.999)
    with pytest.raises(UsageError) as error:
        choose(front, min_map=81)
    assert "0.81" in error.value.hint


def test_unknown_point_lists_near_ones(front: Front) -> None:
    with pytest.raises(UnknownNameError) as error:
        choose(front, point="t0001-p09")
    near, on_front = error.value.hint.split(" On the front: ")
    assert near.startswith("Near it: t0001-p00, t0001-p01, ") and near.count(",") == 4
    assert on_front == ", ".join(ids(front.front)[:8]) + "."
    assert choose(front, point="s1/t0001-p00").id == "t0001-p00"


@pytest.mark.parametrize("ways", [{}, {"at_knee": True, "min_map": 0.5}])
def test_exactly_one_way_to_choose(front: Front, ways: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        choose(front, **ways)


def test_several_sweeps_join_and_seeds_are_counted(tmp_path: Path) -> None:
    first, second = write_sweep(tmp_path / "sweeps" / "a"), write_sweep(tmp_path / "sweeps" / "b")
    write_trial(first, "t0000", [(0.3, 0.01)])
    write_trial(second, "t0000", [(0.6, 0.05)], seed=1)
    front = read_front([first, second])
    assert {p.trial.sweep for p in front.points} == {"a", "b"}
    assert {p.seeds for p in front.points} == {2}
    with pytest.raises(UsageError, match="2 sweeps have a point"):
        choose(front, point="t0000-p00")


def test_sweeps_on_other_data_do_not_join(tmp_path: Path) -> None:
    first, second = two_points(tmp_path), write_sweep(tmp_path / "sweeps" / "other")
    data = {"name": "other", "fingerprint": "0", "classes": [], "multi_label": False, "step_seconds": 0.5}
    write_trial(second, "t0000", [(0.6, 0.05)], data=data)
    with pytest.raises(UsageError, match="data set"):
        read_front([first, second])


def test_sweep_without_a_finished_trial(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s", {"state": "failed"})
    sweep.trial("t0000").folder.mkdir(parents=True)
    with pytest.raises(DataError, match="no trial of s has finished"):
        build_front([read_sweep(sweep)])


def test_missing_sweep_lists_what_there_is(tmp_path: Path) -> None:
    two_points(tmp_path)
    with pytest.raises(UnknownNameError) as error:
        read_sweep(SweepPaths(tmp_path / "sweeps" / "sx"))
    assert "Known: s." in error.value.hint


def test_damaged_results_are_named(tmp_path: Path) -> None:
    trial = two_points(tmp_path).trial("t0000").folder
    text = (trial / "result.json").read_text()
    (trial / "result.json").write_text(text[:100])
    with pytest.raises(DataError, match=r"result\.json"):
        read_trial(trial)
    (trial / "result.json").write_text(text.replace('"seed"', '"sead"'))
    with pytest.raises(DataError, match="seed"):
        read_trial(trial)
    (trial / "result.json").write_text(text)
    edited(trial, 0, "val", map=float("nan"))
    with pytest.raises(NonFiniteError, match="map is nan"):
        read_trial(trial)


def test_fast_intervals_agree_with_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(3)
    targets = np.eye(6)[generator.integers(0, 5, 80)]  # the last class is absent
    scores = generator.random((80, 6)) + targets * generator.random((80, 6))
    once = resampled_maps(scores, targets, np.ones((1, 80), np.float32))
    assert once[0] == pytest.approx(mean_average_precision(scores, targets), abs=1e-6)
    fast = map_interval(scores, targets, resample_weights(80, 2000))
    assert fast == pytest.approx(bootstrap_map_interval(scores, targets, 2000), abs=0.01)


OVERLAP = "map_iou_0.1_0.7"
Figures = tuple[float, float]
"""Objective and GFLOPs."""
VAL: tuple[Figures, ...] = ((0.10, 1.0), (0.60, 2.0), (0.65, 3.0), (0.70, 4.0))
TEST: tuple[Figures, ...] = ((0.70, 1.5), (0.75, 2.5), (0.90, 3.5), (0.80, 3.25))
"""Neither the best nor the most expensive of validation is that of test, and the bend of the front lies elsewhere."""


def measured(
    sweep: SweepPaths,
    trial: str,
    val: Sequence[Figures] = VAL,
    test: Sequence[Figures] = TEST,
    *,
    objective: str = OVERLAP,
    **fields: Any,
) -> Path:
    """A trial with exactly these figures, whose whole-video mAP says the opposite of its objective."""
    folder = write_trial(sweep, trial, [(0.3, 0.01)] * len(val), objective=objective, **fields)
    for split, figures in (("val", val), ("test", test)):
        for point, (quality, gflops) in enumerate(figures):
            edited(folder, point, split, **{"map": 1 - quality, objective: quality, "gflops": gflops})
    if objective != "map":
        add_instances(folder, len(val))
    return folder


def add_instances(trial: Path, points: int) -> None:
    """One true instance per video; the detection of point i finds every (i + 1)-th."""
    tensors = load_file(trial / "scores.safetensors")
    for split in ("val", "test"):
        videos = np.arange(len(tensors[f"{split}/targets"]), dtype=np.float64)
        rows = np.stack([videos, 0 * videos, 0 * videos, 0 * videos + 1, 0 * videos + 1], axis=1)
        tensors[f"{split}/events"] = rows
        tensors |= {f"{split}/detections/{i}": rows[:: i + 1] for i in range(points)}
    save_file(tensors, trial / "scores.safetensors")


def localization(tmp_path: Path, name: str = "s", gflops: float = 10.0) -> SweepPaths:
    """An empty sweep whose reference corner lies at this cost."""
    return write_sweep(tmp_path / "sweeps" / name, {"reference": {OVERLAP: 0.0, "gflops": gflops}})


def ids(points: Sequence[FrontPoint]) -> list[str]:
    return [p.id for p in points]


@pytest.mark.parametrize("objective", ["map", OVERLAP])
def test_the_objective_of_validation_makes_the_front(tmp_path: Path, objective: str) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000", (*VAL, (0.5, 2.5)), (*TEST, (0.99, 0.1)), objective=objective)
    for split in ("val", "test"):
        front = read_front([sweep], split=split)
        assert ids(front.front) == [f"t0000-p0{i}" for i in range(4)]
        assert front.objective == objective


@pytest.mark.parametrize("split", ["val", "test"])
def test_knee_and_bounds_are_decided_on_validation_whatever_is_shown(tmp_path: Path, split: str) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    front = read_front([sweep], split=split)
    assert choose(front, at_knee=True).id == "t0000-p01"
    assert choose(front, min_map=0.62).id == "t0000-p02"
    assert choose(front, max_gflops=4.5).id == "t0000-p03"
    assert set(ids(read_front([sweep], split=split, min_map=0.62).points)) == {"t0000-p02", "t0000-p03"}


def test_hypervolume_is_of_the_split_that_is_shown(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    on_val = 0.1 * 9 + 0.5 * 8 + 0.05 * 7 + 0.05 * 6
    on_test = 0.7 * 8.5 + 0.05 * 7.5 + 0.05 * 6.75 + 0.1 * 6.5
    assert read_front([sweep], split="val").hypervolume == pytest.approx(on_val)
    assert read_front([sweep], split="test").hypervolume == pytest.approx(on_test)


def test_the_interval_is_of_the_objective(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    folder = measured(sweep, "t0000")
    first, second = read_front([sweep]).points[:2]
    assert first.quality_ci == (1, 1)
    assert second.quality_ci is not None and 0.3 < second.quality_ci[0] < 0.5 < second.quality_ci[1] < 0.7
    tensors = load_file(folder / "scores.safetensors")
    save_file({k: v for k, v in tensors.items() if "events" not in k}, folder / "scores.safetensors")
    with pytest.raises(DataError, match="no instances"):
        read_front([sweep])


def test_the_interval_leaves_ambiguous_segments_out() -> None:
    found = (
        Detection(label=0, start_seconds=20, end_seconds=30, score=2.0),
        Detection(label=0, start_seconds=0, end_seconds=10, score=1.0),
    )
    events = (Event(label=0, start_seconds=0, end_seconds=10),)
    weights = resample_weights(4, 50)
    vague, plain = (
        detection_interval([found] * 4, GroundTruth(events=[events] * 4, ambiguous=[each] * 4), weights)
        for each in ([(29.0, 40.0)], [])
    )
    assert vague == (1, 1) and plain[1] < 0.5


def test_honest_and_published_costs_do_not_join(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    measured(sweep, "t0001", accounting="paper")
    with pytest.raises(UsageError, match="accounting"):
        read_front([sweep])


def test_an_oracle_is_never_on_a_front_of_baselines(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    better = [(quality + 0.1, gflops / 2) for quality, gflops in VAL]
    measured(sweep, "b0000", method="uniform")
    measured(sweep, "b0001", better, better, method="oracle")
    front = read_front([sweep])
    assert {p.trial.method for p in front.points} == {"uniform"} and len(front.front) == 4
    assert {p.trial.method for p in front.baselines} == {"uniform", "oracle"}


def test_the_sweep_before_a_points_id_says_whose_it_is(tmp_path: Path) -> None:
    first, second = localization(tmp_path, "a"), localization(tmp_path, "b")
    measured(first, "t0000")
    measured(second, "t0000")
    front = read_front([first, second])
    for sweep in ("a", "b"):
        assert choose(front, point=f"{sweep}/t0000-p01").trial.sweep == sweep
    with pytest.raises(UnknownNameError):
        choose(front, point="c/t0000-p01")


def test_several_sweeps_are_measured_from_the_largest_of_their_corners(tmp_path: Path) -> None:
    folders = [localization(tmp_path, "a", 5.0), localization(tmp_path, "b", 20.0)]
    for folder in folders:
        measured(folder, "t0000")
    for order in (folders, folders[::-1]):
        assert read_front(order).reference == Reference(quality=0.0, gflops=20.0)


def test_tags_and_figures_of_a_chosen_point_are_the_objective_on_test(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    for split in ("val", "test"):
        point = choose(read_front([sweep], split=split), point="t0000-p01")
        tags = _version_tags(point, [], "digest")
        assert (tags[f"paretovid.{OVERLAP}"], tags["paretovid.gflops"]) == ("0.75", "2.5")
        assert tags["paretovid.objective"] == OVERLAP and "paretovid.map" not in tags
        figures = trial_figures(point.record.val, point.record.test)
        assert (figures[OVERLAP], figures["gflops"], figures[f"val/{OVERLAP}"]) == (0.75, 2.5, 0.6)
        assert "map" not in figures


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_figure_that_is_not_finite_fails_its_gate_on_either_split(front: Front, split: str) -> None:
    point = front.front[0]
    (finite, _) = number_gates(point, None)
    assert finite.passed
    damaged = dataclasses.replace(point.record.on(split), top1=math.nan)
    record = dataclasses.replace(point.record, **{split: damaged})  # type: ignore[arg-type]
    (finite, _) = number_gates(dataclasses.replace(point, record=record), None)
    assert not finite.passed and finite.detail == f"not finite: ['{split}/top1']"


def test_what_is_near_the_front_is_near_by_the_objective_on_validation(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000", (*VAL, (0.595, 2.5), (0.5, 2.6)), (*TEST, (0.1, 2.5), (0.99, 2.6)))
    assert ids(near_front(read_front([sweep]))) == [f"t0000-p0{i}" for i in range(5)]


def test_baselines_are_called_by_their_variant(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    for trial, model, name in (
        ("b0000", {}, "uniform"),
        ("b0001", {"with_coarse": True, "with_motion": False, "frames": 3}, "uniform+coarse"),
        ("b0002", {"sampling": "random", "heavy": "motion", "flag": ""}, "uniform+motion+random"),
        ("b0003", {"selector": "sha256:0", "weights": "a/b", "heavy": "motion"}, "uniform+motion"),
        ("b0004", {"heavy": "uniform"}, "uniform"),
    ):
        folder = write_trial(sweep, trial, [(0.3, 0.01)], method="uniform", model=model)
        assert baseline_name(read_trial(folder)) == name


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_gflops", "min_map"])
def test_bounds_that_are_none_are_refused_by_name(front: Front, name: str, bound: float) -> None:
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UsageError, match=f"{option} must be a finite number above 0, not {bound}"):
        if name == "max_gflops":
            choose(front, max_gflops=bound)
        else:
            choose(front, min_map=bound)


def test_refusals_name_the_nearest_point_of_those_that_another_bound_leaves(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    front = read_front([sweep])
    with pytest.raises(UsageError, match=r"0.9 on validation\n") as error:
        choose(front, min_map=0.9)
    assert error.value.hint == "The best is t0000-p03: 0.7000 at 4 GFLOPs."
    with pytest.raises(UsageError, match=r"0.9 on validation with 3 GFLOPs") as error:
        read_front([sweep], min_map=0.9, max_gflops=3.0)
    assert error.value.hint == "The best is t0000-p01: 0.6000 at 2 GFLOPs."
    with pytest.raises(
        UsageError, match=r"costs 1.2 GFLOPs per video or less on validation and test"
    ) as error:
        choose(front, max_gflops=1.2)
    # On test it costs more.
    assert "t0000-p00 with 1.50 GFLOPs" in error.value.hint and "70.0 %" in error.value.hint
    assert error.value.hint.endswith("give at least --max-gflops 1.50.")
    with pytest.raises(UsageError, match=r"between 0 and 1, not 1.01"):
        choose(front, min_map=1.01)
    with pytest.raises(UsageError, match="1 on validation"):
        choose(front, min_map=1.0)
    for bounds in ({"max_gflops": 1.5}, {"min_map": 0.7}):  # reached is enough
        assert len(read_front([sweep], **bounds).points) == 1


def test_a_cost_that_is_shown_can_be_typed_back() -> None:
    shown = {
        1.23456: "1.24",
        0.0123: "0.0123",
        0.012301: "0.0124",
        12.31: "12.4",
        1234.0: "1240",
        100.0: "100",
    }
    assert {value: rounded_up(value) for value in shown} == shown


def test_the_best_of_each_baseline_is_that_of_validation_and_of_equals_the_cheapest(tmp_path: Path) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    measured(sweep, "b0000", ((0.5, 1.0), (0.6, 2.5), (0.6, 2.0)), TEST[:3], method="uniform")
    measured(sweep, "b0001", ((0.1, 1.0), (0.2, 2.5)), TEST[:2], method="oracle")
    front = read_front([sweep])
    assert ids(front.best_baselines()) == ["b0000-p02", "b0001-p01"]
    document: Any = front.to_json()
    assert [(b["name"], b["deployable"]) for b in document["baselines"]] == [("uniform", True)] * 3 + [
        ("oracle", False)
    ] * 2
    assert not any(b["on_front"] for b in document["baselines"])


def test_the_points_of_a_front_come_cheapest_first_as_they_are_shown_and_the_front_as_it_was_chosen(
    tmp_path: Path,
) -> None:
    sweep = localization(tmp_path)
    measured(sweep, "t0000")
    front = read_front([sweep])
    assert ids(front.points) == ["t0000-p00", "t0000-p01", "t0000-p03", "t0000-p02"]
    assert ids(front.front) == [f"t0000-p0{i}" for i in range(4)]
    assert front.sweeps == ("s",) and front.split == "test" and front.accounting == "honest"
    assert {p.name for p in front.points} == {"lite_eval"}


def test_seeds_are_counted_among_trials_of_the_same_knobs_only(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweeps" / "s")
    for trial, seed, gamma in (("t0000", 0, 0.1), ("t0001", 1, 0.1), ("t0002", 1, 0.1), ("t0003", 2, 0.2)):
        write_trial(sweep, trial, [(0.3, 0.01)], seed=seed, training_knobs={"gamma": gamma})
    seeds = {p.id: p.seeds for p in read_front([sweep]).points}
    assert seeds == {"t0000-p00": 2, "t0001-p00": 2, "t0002-p00": 2, "t0003-p00": 1}


def test_intervals_are_of_the_seed_and_as_many_resamples(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    found = {
        (seed, resamples): read_front([sweep], seed=seed, resamples=resamples).points[0].quality_ci
        for seed in (0, 1)
        for resamples in (400, 50)
    }
    assert len(set(found.values())) == 4
    assert found[0, 400] == read_front([sweep]).points[0].quality_ci


def test_of_many_videos_only_the_front_and_baselines_have_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = two_points(tmp_path)
    edited(sweep.trial("t0000").folder, 1, "val", map=0.0)  # beaten
    write_trial(sweep, "b0000", [(0.3, 0.02), (0.1, 0.03)], method="uniform")
    for most, missing in ((60, []), (59, ["t0000-p01"])):  # it has 60 videos
        monkeypatch.setattr("paretovid.platform.fronts.build.ALL_INTERVALS_UP_TO", most)
        front = read_front([sweep])
        assert [p.id for p in (*front.points, *front.baselines) if p.quality_ci is None] == missing


def test_scores_that_do_not_belong_to_the_points_are_refused(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    path = sweep.trial("t0000").result
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"points": result["points"][:1]}))
    with pytest.raises(DataError, match=r"of 2 points and 4 classes on test, result\.json has 1 and 4"):
        read_front([sweep])
