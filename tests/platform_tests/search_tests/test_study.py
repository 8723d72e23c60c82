"""What a study asks for next, and why it ends. Of what it keeps and resumes: execution_tests/test_searcher.py."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretovid.platform.search.curves import History, Observed, TrialCurve, history_of
from paretovid.platform.search.samplers import curve_view
from paretovid.platform.search.study import ParetoStudy, Suggestion
from paretovid.search_spaces.samplers import SAMPLERS
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.evaluation.results import Metrics, TrialResult
from paretovid.trainables.testing import synthetic_metrics, synthetic_result

KNOBS = {
    "gamma": KnobConfig(field="target_usage", low=0.01, high=0.5, log=True, cheapest="low"),
    "lambda": KnobConfig(field="usage_weight", low=0.25, high=8, log=True, cheapest="high"),
}
PUBLISHED = [{"gamma": 0.1, "lambda": 2}]


def make(folder: Path, **changes: Any) -> ParetoStudy:
    arguments = {"knobs": KNOBS, "trials": 8, "published": PUBLISHED, **changes}
    return ParetoStudy(**{"storage": f"journal://{folder}/optuna.journal", "name": "sweep", **arguments})


def measured(knobs: dict[str, Any]) -> Metrics:
    gflops = 10 * knobs.get("gamma", 0.1) + 0.1 / knobs.get("lambda", 1)
    return synthetic_metrics(1 - math.exp(-gflops), gflops)


def run(study: ParetoStudy, most: int = 100) -> list[Suggestion]:
    suggestions: list[Suggestion] = []
    while len(suggestions) < most and (suggestion := study.ask()) is not None:
        suggestions.append(suggestion)
        study.report(suggestion.trial_id, measured(suggestion.knobs))
    return suggestions


def test_a_sampler_that_repeats_itself_does_not_end_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"gamma": 0.3, "lambda": 1.0}
    monkeypatch.setattr(SAMPLERS, "get", {"gp": lambda asked, seed: same}.get)
    asked = run(make(tmp_path, name="once", sampler="gp"))
    assert [each.trial_id for each in asked] == [f"t{i:04d}" for i in range(8)]
    assert asked[3].knobs == same and asked[3].origin == "gp"
    assert {each.origin for each in asked[4:]} == {"gp (repeated itself; random)"}
    assert len({json.dumps(each.knobs) for each in asked}) == 8
    # A new object per trial: as if the process were killed after each.
    again = []
    while part := run(make(tmp_path, name="killed", sampler="gp"), most=1):
        again += part
    assert again == asked
    assert make(tmp_path, name="once", sampler="gp").complete_ones()[-1].origin == asked[-1].origin


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_first_trial_after_the_published_ones_is_a_models(tmp_path: Path, sampler: str) -> None:
    guided = run(make(tmp_path, name="guided", sampler=sampler, trials=4))
    chance = run(make(tmp_path, name="chance", sampler="random", trials=4))
    assert [each.knobs for each in guided[:3]] == [each.knobs for each in chance[:3]]
    # Optuna's samplers draw during their start-up what its random one draws with the same seed.
    assert guided[3].knobs != chance[3].knobs and guided[3].origin == sampler


def test_without_results_chance_chooses_and_says_so(tmp_path: Path) -> None:
    study = make(tmp_path, published=[])
    first = study.ask()
    assert first is not None
    study.report(first.trial_id, measured(first.knobs))
    asked = [study.ask(), study.ask()]
    assert [each.origin for each in asked if each] == ["anchor: cheapest", "tpe (too few results; random)"]
    study.report("t0001", synthetic_metrics(0.1, 0.1))
    fourth = study.ask()
    assert fourth is not None and fourth.origin == "tpe", "two anchors are all that it begins with"


def test_three_results_are_enough_whatever_it_begins_with(tmp_path: Path) -> None:
    published = [*PUBLISHED, {"gamma": 0.05, "lambda": 2}, {"gamma": 0.03, "lambda": 2}]
    study = make(tmp_path, published=published, trials=9)
    asked = [study.ask() for _ in range(5)]
    origins = []
    for suggestion in asked[:3]:
        origins.append(next_origin(study))
        assert suggestion is not None
        study.report(suggestion.trial_id, measured(suggestion.knobs))
    assert [*origins, next_origin(study)] == ["tpe (too few results; random)"] * 3 + ["tpe"]


def next_origin(study: ParetoStudy) -> str:
    suggestion = study.ask()
    assert suggestion is not None
    return suggestion.origin


def test_a_failed_trial_is_no_result(tmp_path: Path) -> None:
    study = make(tmp_path, max_failures=0)
    for _ in range(3):
        suggestion = study.ask()
        assert suggestion is not None
        study.report_failure(suggestion.trial_id, "boom")
    fourth = study.ask()
    assert fourth is not None and fourth.origin == "tpe (too few results; random)"


def test_tpe_moves_about_from_the_first_result_on(tmp_path: Path) -> None:
    asked = run(make(tmp_path, trials=11))[3:]
    assert {each.origin for each in asked} == {"tpe"}
    gammas = [math.log(float(each.knobs["gamma"]) / 0.01) / math.log(50) for each in asked]
    lambdas = [math.log(float(each.knobs["lambda"]) / 0.25) / math.log(32) for each in asked]
    # In shares of the range: a sampler that stays where it is would have 0, a uniform one 0.29.
    assert statistics.pstdev(gammas) > 0.1 and statistics.pstdev(lambdas) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.01, 0.2, None])
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_two_results_are_enough_whatever_they_may_spend(
    tmp_path: Path, sampler: str, limit: float | None
) -> None:
    study = make(tmp_path, sampler=sampler, max_gflops=limit, published=[], trials=5)
    assert [each.origin for each in run(study)[2:]] == [sampler] * 3


def test_a_study_that_started_all_has_not_ended_early(tmp_path: Path) -> None:
    study = make(tmp_path)
    assert len(run(study)) == 8 and study.why_ended is None


def test_published_settings_that_leave_nothing_untried_are_left_out(tmp_path: Path) -> None:
    knobs = {
        "clips": KnobConfig(low=1, high=2, whole=True),
        "depth": KnobConfig(low=1, high=2, whole=True),
    }
    published = [{"clips": 1}, {"clips": 1, "depth": 2}, {"depth": 1}]
    study = make(tmp_path, knobs=knobs, published=published)
    asked = run(study)
    assert sorted(json.dumps(each.knobs) for each in asked) == [
        json.dumps({"clips": clips, "depth": depth}) for clips in (1, 2) for depth in (1, 2)
    ]
    assert study.why_ended == "the knobs have no more than 4 settings; all were tried"


def test_a_space_too_large_to_list_that_is_used_up_says_so(tmp_path: Path) -> None:
    narrow = {"gamma": KnobConfig(low=0.1, high=math.nextafter(0.1, 1))}
    study = make(tmp_path, knobs=narrow, published=[])
    assert len(run(study)) == 2
    assert study.why_ended == "1000 random settings of the knobs were all tried before"
    counts = make(tmp_path, knobs=narrow, published=[]).counts()
    assert (counts.complete, counts.running, counts.failed) == (2, 0, 0)


# Guided by curves


def curve_at(knobs: dict[str, Any]) -> TrialResult:
    """More gamma reaches further and costs more; so do the settings of one training."""
    most = 0.1 + 2 * knobs["gamma"] + 0.1 / knobs["lambda"]
    costs = [most * share for share in (0.6, 1.0, 0.3, 0.1)]
    return synthetic_result(points=[((1 - math.exp(-3 * cost)) * (1 - 0.1 * most), cost) for cost in costs])


def run_curves(study: ParetoStudy, most: int = 100) -> list[Suggestion]:
    suggestions: list[Suggestion] = []
    while len(suggestions) < most and (suggestion := study.ask()) is not None:
        suggestions.append(suggestion)
        result = curve_at(suggestion.knobs)
        study.report(suggestion.trial_id, result.points[0].val, result.points)
    return suggestions


def history(study: ParetoStudy, max_gflops: float | None = None) -> History:
    return history_of(study._study.get_trials(), study._space, "swept", max_gflops)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "curves"])
def test_guided_by_curves_a_killed_study_suggests_the_same(tmp_path: Path, sampler: str) -> None:
    settings = {"sampler": sampler, "guided_by": "curve", "trials": 10}
    once = run_curves(make(tmp_path, name="once", **settings))
    again = []
    while part := run_curves(make(tmp_path, name="killed", **settings), most=1):
        again += part
    assert again == once and {each.origin for each in once[3:]} == {sampler}
    by_points = run_curves(make(tmp_path, name="points", **{**settings, "guided_by": "point"}))
    is_same = [each.knobs for each in by_points[3:]] == [each.knobs for each in once[3:]]
    assert is_same == (sampler == "curves"), "which sees curves in any case"


@pytest.mark.slow
@pytest.mark.parametrize("guided_by", ["point", "curve"])
@pytest.mark.parametrize("sampler", ["tpe", "gp", "curves"])
def test_knobs_of_every_kind_are_searched(tmp_path: Path, sampler: str, guided_by: str) -> None:
    knobs = {
        **KNOBS,
        "clips": KnobConfig(low=1, high=9, whole=True),
        "head": KnobConfig(choices=["a", "b", 3], cheapest="low"),
    }
    study = make(tmp_path, knobs=knobs, sampler=sampler, guided_by=guided_by, trials=9)
    asked = run_curves(study)
    assert len(asked) == 9 and {each.origin for each in asked[3:]} == {sampler}
    assert all(each.knobs["head"] in ("a", "b", 3) and type(each.knobs["clips"]) is int for each in asked)
    assert [each.knobs for each in study.complete_ones()] == [each.knobs for each in asked]


def test_the_order_of_results_changes_no_suggestion(tmp_path: Path) -> None:
    following = []
    for order in ([0, 1, 2], [2, 0, 1]):
        study = make(tmp_path, name=f"s{order[0]}", guided_by="curve")
        asked = [study.ask() for _ in range(3)]
        for place in order:
            suggestion = asked[place]
            assert suggestion is not None
            points = curve_at(suggestion.knobs).points
            study.report(suggestion.trial_id, points[0].val, points)
        following.append(study.ask())
    assert following[0] == following[1]


def test_the_store_keeps_both_objectives_and_the_curve(tmp_path: Path) -> None:
    study = make(tmp_path, guided_by="curve")
    (first,) = run_curves(study, most=1)
    (trial,) = study._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    result = curve_at(first.knobs)
    assert trial.values == [result.points[0].val.quality, result.points[0].val.gflops]
    assert history(study).finished == (Observed(knobs=first.knobs, curve=TrialCurve.of(result.points)),)
    assert make(tmp_path, guided_by="point").counts().complete == 1


def test_the_corner_is_the_most_expensive_point_or_the_limit(tmp_path: Path) -> None:
    study = make(tmp_path)
    run_curves(study, most=3)
    most = max(each.curve.most_gflops for each in history(study).finished)
    assert history(study).reference == Reference(gflops=most)
    assert history(study, max_gflops=0.5).reference == Reference(gflops=0.5)


def test_of_an_old_study_what_it_was_notified_of_is_the_curve(tmp_path: Path) -> None:
    study = make(tmp_path)
    for reported in (True, False):
        suggestion = study.ask()
        assert suggestion is not None
        points = curve_at(suggestion.knobs).points
        study.report(suggestion.trial_id, points[0].val)
        if reported:
            study.report_all_points(suggestion.trial_id, points)
    whole, default = history(study).finished
    assert whole.curve == TrialCurve.of(curve_at(whole.knobs).points)
    reported_one = curve_at(default.knobs).points[0].val
    assert default.curve.points == ((reported_one.quality, reported_one.gflops),)
    study.ask()
    assert len(run_curves(make(tmp_path, guided_by="curve"))) == 6, "it resumes"


def test_points_beside_a_curve_count_once(tmp_path: Path) -> None:
    study = make(tmp_path)
    suggestion = study.ask()
    assert suggestion is not None
    points = curve_at(suggestion.knobs).points
    study.report(suggestion.trial_id, points[0].val, points)
    study.report_all_points(suggestion.trial_id, points)
    assert [each.curve for each in history(study).finished] == [TrialCurve.of(points)]


def test_a_resumed_trial_has_its_curve_in_its_own_place(tmp_path: Path) -> None:
    study = make(tmp_path, max_failures=0)
    first = study.ask()
    assert first is not None
    study.report_failure(first.trial_id, "boom")
    run_curves(study, most=1)
    points = curve_at(first.knobs).points
    study.report_resumed(first.trial_id, points[0].val, points)
    assert history(study).finished[0].curve == TrialCurve.of(points)
    assert len(history(study).finished) == 2


def test_a_sampler_sees_what_runs(tmp_path: Path) -> None:
    study = make(tmp_path, guided_by="curve")
    run_curves(study, most=3)
    running = study.ask()
    assert running is not None and history(study).running == (running.knobs,)
    seen, waiting = curve_view(history(study), study._space)
    states = [trial.state.name for trial in seen.get_trials()]
    assert states == ["COMPLETE"] * 3 + ["RUNNING"] * 2 and waiting.number == 4 and waiting.params == {}
    assert [trial.value for trial in seen.get_trials()[:3]] == history(study).contributions
    assert seen.get_trials()[3].params == running.knobs


@pytest.mark.parametrize("guided_by", ["point", "curve"])
@pytest.mark.parametrize("sampler", ["tpe", "gp", "curves", "random"])
def test_a_stopped_trial_is_pruned_counted_and_not_tried_again(
    tmp_path: Path, sampler: str, guided_by: str
) -> None:
    tried: list[str] = []
    while (asked := (study := make(tmp_path, sampler=sampler, guided_by=guided_by)).ask()) is not None:
        tried.append(json.dumps(asked.knobs))
        if asked.trial_id in ("t0002", "t0005"):
            assert study.report_stopped(asked.trial_id, 10, 40) == "stopped"
            assert study.report_stopped(asked.trial_id, 10, 40) == "known"
        else:
            study.report(asked.trial_id, measured(asked.knobs))
    assert len(set(tried)) == len(tried) == 8
    counts = study.counts()
    assert (counts.complete, counts.stopped, counts.failed, counts.running) == (6, 2, 0, 0)
    assert study.stopped_ones() == ("t0002", "t0005")
    assert not study.failures() and not study.interrupted_ones()
    assert [study.is_anchor(f"t{number:04d}") for number in range(3)] == [True, True, False]
