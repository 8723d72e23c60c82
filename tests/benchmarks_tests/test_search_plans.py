"""Plans of a sweep: what they train, what two of them share, and what is reported of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from benchmarks import search_plans
from benchmarks.harness.benchmark import Study
from benchmarks.search_plans import KNOBS, LONG, LONGER, PUBLISHED, TRIALS, Sweep, folders
from benchmarks.search_plans_shown import Trained, at_level, document_of, front

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.trial import read_trial
from paretovid.platform.storage.home import SweepPaths
from paretovid.platform.testing.sweeps import write_trial
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import RESULT_FILE, Metrics, OperatingPoint
from paretovid.trainables.training.config import TrialConfig

EPOCHS = 40


@pytest.mark.parametrize("method", list(PUBLISHED))
def test_long_trainings_take_published_settings(method: str) -> None:
    published = load_sweep_config([f"method={method}"]).method.published
    assert len(PUBLISHED[method]) == TRIALS // LONGER
    assert all(each in published for each in PUBLISHED[method])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[TrialConfig]:
    """What was trained so far, in place of training: a longer training is better, a more expensive setting too."""
    found: list[TrialConfig] = []

    def run_trial(config: TrialConfig, context: LocalContext) -> None:
        found.append(config)
        gamma = float(config.training_knobs["gamma"])
        made = write_trial(
            SweepPaths(tmp_path / "made"),
            f"t{len(found):04d}",
            [(0.2 + gamma, 0.01 + 0.1 * gamma), (0.1, 0.005)],
            training_knobs=config.training_knobs,
        )
        result = replace(read_trial(made), training_config=asdict(config.training))
        (made / RESULT_FILE).write_text(json.dumps(result.to_json()))
        made.rename(config.output)

    monkeypatch.setattr(search_plans, "run_trial", run_trial)
    return found


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    prepared = SimpleNamespace(dataset=SimpleNamespace(root=tmp_path / "data"), features={})
    study = Study(
        prepared=cast(Prepared, prepared), folder=tmp_path / "trials", seeds=1, epochs=EPOCHS, workers=1
    )
    study.folder.mkdir()
    return Sweep(study, load_sweep_config([]).method, 0)


def test_the_default_search_goes_on_where_it_was_and_trains_nothing_twice(
    sweep: Sweep, trained: list[TrialConfig]
) -> None:
    begun = folders(sweep, KNOBS, 5)
    assert len(begun) == len(trained) == 5
    whole = folders(sweep, KNOBS)
    assert whole[:5] == begun and len(set(whole)) == len(trained) == 16
    assert folders(sweep, KNOBS) == whole and len(trained) == 16
    assert [each.training.epochs for each in trained] == 16 * [EPOCHS]


def test_of_a_plan_the_first_trainings_that_fit_are_trained(sweep: Sweep, trained: list[TrialConfig]) -> None:
    assert folders(sweep, LONG, 8) == folders(sweep, LONG)[:2]
    assert [each.training_knobs["gamma"] for each in trained] == [0.03, 0.1, 0.01, 0.05]
    assert [each.training.epochs for each in trained] == 4 * [160]


def test_only_the_result_of_a_training_stays(sweep: Sweep, trained: list[TrialConfig]) -> None:
    (folder,) = folders(sweep, LONG, 4)
    assert {path.name for path in folder.iterdir()} == {"result.json", "cpu_seconds.json"}
    assert json.loads((folder / "cpu_seconds.json").read_text()) >= 0


def test_points_are_chosen_on_validation_and_shown_on_test(sweep: Sweep, trained: list[TrialConfig]) -> None:
    trainings = [Trained(read_trial(folder), 2.0) for folder in folders(sweep, LONG)]
    chosen = front(trainings)
    costs = [point.val.gflops for _, point in chosen]
    qualities = [point.val.quality for _, point in chosen]
    assert costs == sorted(costs) and qualities == sorted(qualities) and len(chosen) > 1
    points = [point for _, point in chosen]
    assert at_level(points, costs[1]) == points[1]
    assert at_level(points, costs[0] / 2) is None
    document = document_of({(LONG, 0): trainings}, EPOCHS, {LONG: (16, 8)}, (costs[1], costs[0] / 2))
    whole, half = document["sweeps"]
    assert (whole["trainings"], whole["epochs"], whole["cpu_seconds"]) == (4, 640, 8.0)
    assert (half["trainings"], half["epochs"]) == (2, 320)
    assert whole[f"map_at_{costs[1]:g}"] == points[1].test.quality != points[1].val.quality
    assert f"map_at_{costs[0] / 2:g}" not in whole


def test_costs_count_as_they_were_on_validation(tmp_path: Path) -> None:
    """The second point is cheaper on test than on validation; the third is good on test alone."""
    result = read_trial(
        write_trial(SweepPaths(tmp_path / "made"), "t0000", [(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)])
    )
    figures = [((0.5, 1.0), (0.4, 1.0)), ((0.6, 2.0), (0.3, 0.5)), ((0.55, 3.0), (0.9, 3.0))]
    points = tuple(
        replace(point, val=_measured(point, *val), test=_measured(point, *test))
        for point, (val, test) in zip(result.points, figures, strict=True)
    )
    chosen = front([Trained(replace(result, points=points), 1.0)])
    assert [point.id for _, point in chosen] == [points[0].id, points[1].id]
    assert at_level(points, 1.5) == points[0]


def _measured(point: OperatingPoint, quality: float, gflops: float) -> Metrics:
    return replace(point.val, qualities={"map": quality}, gflops=gflops)
