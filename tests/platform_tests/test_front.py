"""The front of sweeps on disk: chosen on validation, shown on test, exactly as its JSON promises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretovid.platform.front import Front, build_front, choose, read_front
from paretovid.platform.intervals import map_interval, resample_weights, resampled_maps
from paretovid.platform.results import read_sweep, read_trial
from paretovid.platform.testing import synthetic_sweep, write_sweep, write_trial
from paretovid.trainables.errors import DataError, NonFiniteError, UnknownNameError, UsageError
from paretovid.trainables.metrics import bootstrap_map_interval, mean_average_precision

POINT_KEYS = (
    "id sweep trial method training_knobs inference_knobs "
    "map map_ci top1 gflops gflops_std calls on_front seeds remarks"
)


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return read_front([synthetic_sweep(tmp_path / "sweeps" / "s1")])


def edited(trial: Path, point: int, split: str, **values: Any) -> None:
    result = json.loads((trial / "result.json").read_text())
    result["points"][point][split].update(values)
    (trial / "result.json").write_text(json.dumps(result))


def two_points(tmp_path: Path) -> Path:
    """A sweep of one trial with a cheap point and a dear one."""
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
    trial = sweep / "trials" / "t0000"
    edited(trial, 0, "val", map=0.9)
    edited(trial, 1, "val", map=0.8)  # worse and dearer on validation, however good on test
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
    edited(sweep / "trials" / "t0000", 0, "test", map=0.123)
    assert read_front([sweep]).front[0].shown.map == 0.123
    assert read_front([sweep], split="val").front[0].shown.map != 0.123


def test_budget_holds_on_both_splits(tmp_path: Path) -> None:
    sweep = two_points(tmp_path)
    edited(sweep / "trials" / "t0000", 1, "test", gflops=0.07)
    assert choose(read_front([sweep]), max_gflops=0.06).id == "t0000-p00"


def test_ties_go_to_the_cheaper_then_to_the_natural_point(tmp_path: Path) -> None:
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
    best = read_front([sweep]).front[-1].record.val.map
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
    assert "t0001-p00" in error.value.hint.split("On the front")[0]
    assert choose(front, point="s1/t0001-p00").id == "t0001-p00"


@pytest.mark.parametrize("ways", [{}, {"at_knee": True, "min_map": 0.5}])
def test_exactly_one_way_to_choose(front: Front, ways: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        choose(front, **ways)


def test_knee_is_on_the_front(front: Front) -> None:
    assert choose(front, at_knee=True).on_front


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
    (sweep / "trials" / "t0000").mkdir(parents=True)
    with pytest.raises(DataError, match="no trial of s has finished"):
        build_front([read_sweep(sweep)])


def test_missing_sweep_lists_what_there_is(tmp_path: Path) -> None:
    two_points(tmp_path)
    with pytest.raises(UnknownNameError) as error:
        read_sweep(tmp_path / "sweeps" / "sx")
    assert "Known: s." in error.value.hint


def test_damaged_results_are_named(tmp_path: Path) -> None:
    trial = two_points(tmp_path) / "trials" / "t0000"
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
