"""Results of localization go by their own objective everywhere: front, choice, report, gates, tracking, prediction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paretovid.platform.cli.prediction_text import prediction_text
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.report import front_table, write_html, write_png
from paretovid.platform.fronts.selection import choose
from paretovid.platform.records.trial import objective_text, read_scores, read_sweep
from paretovid.platform.registry import prediction
from paretovid.platform.registry import promotion as registry
from paretovid.platform.registry.card import model_card
from paretovid.platform.registry.gates import Gate, _Recorded
from paretovid.platform.registry.localization_plot import draw_timeline
from paretovid.platform.registry.pictures import draw_answers
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.sweeps import synthetic_sweep, write_sweep, write_trial
from paretovid.platform.tracking.tags import trial_figures
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.evaluation.detection import THUMOS_THRESHOLDS, map_iou
from paretovid.trainables.recognizer import Prediction

pytestmark = pytest.mark.timeout(180)
NAME = "map_iou_0.1_0.7"


@pytest.fixture(scope="module")
def home(localization_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Real untrimmed videos and trials of localization on them."""
    return localization_home_copy(tmp_path_factory.mktemp("home"))


def test_a_trial_measures_its_instances_against_the_true_ones(home: Home) -> None:
    sweep = read_sweep(home.sweep("tiny"))
    for trial in sweep.trials:
        assert trial.objective == NAME
        for split in ("val", "test"):
            scores = read_scores(sweep.folder_of(trial), split)
            assert scores.detections is not None and scores.ground_truth is not None
            assert any(scores.ground_truth.events) and len(scores.detections) == len(trial.points)
            for point in trial.points:
                measured = point.on(split)
                again = map_iou(scores.detections[point.index], scores.ground_truth)
                assert measured.overlaps == pytest.approx(again) and len(again) == 1 + len(THUMOS_THRESHOLDS)
                assert measured.quality == measured.overlaps[NAME] != measured.qualities["map"]


def test_the_front_carries_the_objective_under_its_name(home: Home) -> None:
    front = read_front([home.sweep("tiny")])
    document = json.loads(json.dumps(front.to_json(), allow_nan=False))
    assert list(document["reference"]) == [NAME, "gflops"]
    for point in (*document["points"], *document["baselines"]):
        assert "map" not in point and "map_ci" not in point
        low, high = point[f"{NAME}_ci"]
        assert 0 <= low <= high <= 1 and 0 <= point[NAME] <= 1
    best = max(front.points, key=lambda p: p.record.val.overlaps[NAME])
    assert choose(front, max_gflops=1e3).record.val.quality == best.record.val.quality
    with pytest.raises(UsageError, match=r"mAP@IoU 0\.1:0\.7"):
        choose(front, min_map=0.999)


def test_it_is_shown_as_what_it_is(home: Home, tmp_path: Path) -> None:
    front = read_front([home.sweep("tiny")])
    assert "mAP@IoU 0.1:0.7 %" in front_table(front)
    write_png(front, tmp_path / "front.png")
    write_html(front, tmp_path / "front.html")
    assert "mAP@IoU 0.1:0.7 on test (%)" in (tmp_path / "front.html").read_text()
    point = front.front[-1]
    figures = trial_figures(point.record.val, point.record.test)
    assert (
        figures[NAME] == point.record.test.quality and "map" not in figures and "test/map_iou_0.5" in figures
    )
    card = model_card(front, point, "actions", [Gate(name="finite", passed=True, detail="yes")])
    assert f"(`{NAME}`, THUMOS'14 evaluator) | {100 * point.record.test.quality:.2f} %" in card
    assert "mAP of whole videos" in card and "start_seconds" in card
    assert objective_text("map") == "mAP" and objective_text("map_iou_0.5") == "mAP@IoU 0.5"


def test_homes_that_name_no_objective_go_by_map(tmp_path: Path) -> None:
    front = read_front([synthetic_sweep(tmp_path / "s")])
    assert front.objective == "map" and all(p.shown.quality == p.shown.qualities["map"] for p in front.points)


def test_sweeps_of_different_objectives_do_not_compare(home: Home, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "other")
    mine = read_sweep(home.sweep("tiny"))
    write_trial(sweep, "t0000", [(0.3, 0.01)], data=mine.trials[0].data.to_json())
    with pytest.raises(UsageError, match="objective"):
        read_front([home.sweep("tiny"), sweep])


def test_a_result_that_lacks_its_objective_is_damaged(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.3, 0.01)], objective=NAME)
    with pytest.raises(DataError, match=f"no field '{NAME}'"):
        read_sweep(sweep)


@pytest.mark.slow
def test_promote_predict_and_draw(home: Home, tmp_path: Path) -> None:
    front = read_front([home.sweep("tiny")])
    point = next(p for p in front.points if 0 < p.record.test.calls["resnet8_w32_flow@16x48"] < 10)
    version = registry.promote(home, "tiny", name="actions", alias="champion", point=point.id)
    assert "mAP@IoU 0.1:0.7" in version.summary
    (listed,) = registry.list_models(home)
    assert listed[NAME] == point.record.test.quality and "map" not in listed
    dataset = load_dataset(home.data("moving_digits_untrimmed"))
    videos = [str(dataset.video_path(record)) for record in dataset.split("test")[:3]]
    answers = prediction.answers_of(home, "models:/actions@champion", videos)
    document = prediction.document_of("models:/actions@champion", answers)
    draw_answers(answers, tmp_path / "pictures")
    scores = read_scores(point.folder, "test")
    assert scores.detections is not None
    for answer, expected, gflops in zip(
        document["videos"],
        scores.detections[point.record.index],
        scores.gflops[point.record.index],
        strict=False,
    ):
        assert answer["gflops"] == pytest.approx(gflops)
        found = {
            (dataset.classes.index(i["label"]), i["start_seconds"], i["end_seconds"])
            for i in answer["instances"]
        }
        assert found == {(d.label, d.start_seconds, d.end_seconds) for d in expected}
    assert any(answer["instances"] for answer in document["videos"])
    assert " s: " in prediction_text(document) or not document["videos"][0]["instances"]
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(pictures) == 3
    answers = prediction.Predictor(home, "models:/actions@champion").predict(videos)
    assert [a["flow_seconds"] > 0 for a in answers] == [
        a["calls"]["resnet8_w32_flow@16x48"] > 0 for a in answers
    ]
    answer = answers[0]
    record = dataset.split("test")[0]
    path = tmp_path / "with_ground_truth.png"
    share = np.linspace(0, 1, record.num_steps).tolist()
    draw_timeline(
        videos[0], answer, path, ground_truth=record.events, classes=dataset.classes, disparity=share
    )
    with Image.open(path) as picture, Image.open(pictures[0]) as plain:
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 500
        assert picture.height > plain.height  # rows for the ground truth


def test_other_instances_than_recorded_fail_the_gate(home: Home) -> None:
    front = read_front([home.sweep("tiny")])
    point = front.front[-1]
    classes = tuple(point.trial.data.classes)
    recorded = _Recorded(point)
    scores = read_scores(point.folder, "val")
    assert scores.detections is not None
    row = next(i for i, found in enumerate(scores.detections[point.record.index]) if found)
    found = tuple(
        (classes[d.label], d.start_seconds, d.end_seconds, d.score)
        for d in scores.detections[point.record.index][row]
    )

    def fault(instances: Any) -> str | None:
        return recorded._instances_fault(row, Prediction(path="a", calls={}, instances=instances), classes)

    assert fault(found) is None and fault(found[::-1]) is None
    label, start, end, score = found[0]
    assert fault(((label, start, end + 1, score), *found[1:])) and fault(found[1:])
    assert fault(((label, start, end, score + 0.1), *found[1:]))


def test_a_set_without_events_is_refused_before_training(home: Home, tmp_path: Path) -> None:
    from paretovid.trainables.evaluation.evaluate import true_instances

    dataset = load_dataset(home.data("moving_digits_untrimmed"))
    blind = [dataclasses.replace(record, events=()) for record in dataset.split("val")]
    with pytest.raises(DataError, match="when something happens"):
        true_instances(dataset, blind)
    some = true_instances(dataset, [*dataset.split("val")[:1], *blind])
    assert some.events[0] and not any(some.events[1:])
