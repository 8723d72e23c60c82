"""Points under other seeds, as fronts show them: means without the chosen seed, spreads apart, nothing in silence."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front
from paretovid.platform.fronts.report import front_table, write_html
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.failure import record_failure
from paretovid.platform.records.trial import read_scores
from paretovid.platform.registry.card import model_card
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.testing.sweeps import write_sweep, write_trial
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.intervals import resample_weights, resampled_maps

POINTS = [(0.3, 0.01), (0.5, 0.02), (0.7, 0.04)]
SKILLS = {1: 0.6, 2: 0.4, 3: 0.7}
"""Seed to how skilled the training with it is at the second point."""


@pytest.fixture
def sweep(tmp_path: Path) -> SweepPaths:
    """Two trials on one front; of the first the second point is confirmed by three seeds, and a fourth has failed."""
    made = write_sweep(tmp_path / "s", {"confirmations": {"t0000-p01": 5}})
    write_trial(made, "t0000", POINTS)
    write_trial(made, "t0001", [(0.9, 0.09)], training_knobs={"gamma": 0.5})
    for seed, skill in SKILLS.items():
        points = [(0.3, 0.01), (skill, 0.02 * skill), (0.7, 0.04)]
        warnings = ["the gate never opens"] if seed == 2 else []
        write_trial(made, f"t0000@seed{seed}", points, seed=seed, confirms="t0000", remarks=warnings)
    record_failure(made.trial("t0000@seed4"), "loss became nan")
    return made


def point(front: Front, wanted: str) -> Any:
    return next(each for each in front.points if each.id == wanted)


def figures(sweep: SweepPaths, seed: int, split: str = "test") -> dict[str, float]:
    result = json.loads(sweep.trial(f"t0000@seed{seed}").result.read_text())
    measured: dict[str, float] = result["points"][1][split]
    return measured


@pytest.mark.parametrize("split", ["val", "test"])
def test_mean_and_spread_are_over_the_other_seeds_alone(sweep: SweepPaths, split: str) -> None:
    front = read_front([sweep], split=split)
    found = point(front, "t0000-p01").confirmation
    qualities = [figures(sweep, seed, split)["map"] for seed in SKILLS]
    costs = [figures(sweep, seed, split)["gflops"] for seed in SKILLS]
    assert found.quality == pytest.approx((statistics.mean(qualities), statistics.stdev(qualities)))
    assert found.gflops == pytest.approx((statistics.mean(costs), statistics.stdev(costs)))
    assert [each.seed for each in found.seeds] == [1, 2, 3], "and not 0, which it was chosen with"
    assert found.failed == {4: "loss became nan"} and found.to_come == (5,)
    document: Any = front.to_json()
    (entry,) = [each["confirmation"] for each in document["points"] if each["id"] == "t0000-p01"]
    assert entry["map_mean"] == pytest.approx(statistics.mean(qualities))
    assert [each["map"] for each in entry["seeds"]] == pytest.approx(qualities)
    assert [each["remarks"] for each in entry["seeds"]] == [[], ["the gate never opens"], []]
    assert entry["failed"] == {"4": "loss became nan"}
    assert next(each["confirmation"] for each in document["points"] if each["id"] == "t0001-p00") is None


def test_the_interval_over_videos_is_that_of_the_mean_over_seeds(sweep: SweepPaths) -> None:
    found = point(read_front([sweep]), "t0000-p01").confirmation
    values = []
    for seed in SKILLS:
        scores = read_scores(sweep.trial(f"t0000@seed{seed}").folder, "test")
        weights = resample_weights(len(scores.targets), 400, 0)
        values.append(resampled_maps(scores.scores[1], scores.targets, weights))
    assert found.quality_ci == pytest.approx(tuple(np.quantile(np.mean(values, axis=0), [0.025, 0.975])))


def test_one_seed_has_a_mean_and_no_spread(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"confirmations": {"t0000-p00": 1}})
    write_trial(sweep, "t0000", POINTS[:1])
    write_trial(sweep, "t0000@seed1", POINTS[:1], seed=1, confirms="t0000")
    front = read_front([sweep])
    found = point(front, "t0000-p00").confirmation
    assert found.quality[1] is None and found.to_json()["map_std_over_seeds"] is None
    assert f"{100 * found.quality[0]:.1f}  [" in front_table(front)


def test_they_are_no_points_of_the_front_and_move_neither_it_nor_its_hypervolume(sweep: SweepPaths) -> None:
    with_them = read_front([sweep])
    for training in sweep.confirmations():
        for path in training.folder.iterdir():
            path.unlink()
    without = read_front([sweep])
    assert [p.id for p in with_them.points] == [p.id for p in without.points]
    assert [p.id for p in with_them.front] == [p.id for p in without.front]
    assert with_them.hypervolume == without.hypervolume and with_them.knee_id == without.knee_id
    assert [p.seeds for p in with_them.points] == [p.seeds for p in without.points]
    with pytest.raises(UsageError, match="confirms t0000") as refused:
        choose(with_them, point="t0000@seed3-p01")
    assert "t0000-p01" in refused.value.hint


def test_table_page_and_card_name_every_seed_the_collapsed_and_the_failed_one(
    sweep: SweepPaths, tmp_path: Path
) -> None:
    front = read_front([sweep])
    found = point(front, "t0000-p01")
    table = front_table(front)
    (row,) = [
        line for line in table.splitlines() if line.split()[:1] == ["t0000-p01"] and "4: failed" in line
    ]
    mean, spread = found.confirmation.quality
    assert f"{100 * found.shown.quality:.1f}" in row and f"{100 * mean:.1f} ± {100 * spread:.1f}" in row
    for seed in SKILLS:
        assert f"{seed}: {100 * figures(sweep, seed)['map']:.1f}" in row
    assert "5: to come" in row
    assert "t0000@seed2: the gate never opens" in table
    assert "t0000@seed4 failed, and is in no mean: loss became nan" in table
    write_html(front, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert f"3 other seeds: mAP {100 * mean:.1f}" in page and "t0000@seed4 failed" in page
    card = model_card(front, found, "m", [])
    assert f"over 3 seeds: {100 * mean:.2f} ± {100 * spread:.2f} %" in card
    assert "seed 4 failed, and is in no mean: loss became nan" in card and "the gate never opens" in card
    assert "Under other seeds" not in model_card(front, point(front, "t0001-p00"), "m", [])


def test_one_that_measured_other_settings_than_the_trial_has_now_is_no_confirmation(
    sweep: SweepPaths,
) -> None:
    path = sweep.trial("t0000").result
    result = json.loads(path.read_text())
    result["points"][1]["inference_knobs"] = {"gate_offset": -0.5}
    path.write_text(json.dumps(result))
    found = point(read_front([sweep]), "t0000-p01").confirmation
    assert found.seeds == () and found.to_come == (1, 2, 3, 5)


def test_a_front_without_any_says_nothing_of_them(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", POINTS)
    assert "seeds" not in front_table(read_front([sweep]))
