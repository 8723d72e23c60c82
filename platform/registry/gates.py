"""The last gate before promotion: the packaged model on raw videos must do what was measured on features."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from paretovid.platform.fronts.front import FrontPoint
from paretovid.platform.records.trial import read_scores
from paretovid.platform.storage.home import Home, some_of_dataset
from paretovid.trainables.data.dataset import Dataset, VideoRecord, load_dataset
from paretovid.trainables.errors import DataError
from paretovid.trainables.evaluation.results import SCORES_FILE
from paretovid.trainables.recognizer import Prediction

VIDEOS = 6
SCORE_TOLERANCE = 5e-3
"""Backbones round differently frame by frame than in batches; float16 makes it up to a few thousandths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One condition of promotion."""

    name: str
    passed: bool
    detail: str


def check_raw_videos(package: Path, home: Home, point: FrontPoint, count: int = VIDEOS) -> Gate:
    """Loads the packaged model as a consumer would and compares it with the trial's record on validation.

    Scores must agree within `SCORE_TOLERANCE`; cost per video, and so the calls, exactly; instances in class and
    interval exactly, in score within the tolerance.
    """
    import mlflow

    try:
        home.store.download(home.data(point.trial.data.name), some_of_dataset)
        dataset = load_dataset(home.data(point.trial.data.name))
    except DataError as error:
        return Gate(name="raw_video", passed=False, detail=error.message)
    if dataset.fingerprint != point.trial.data.fingerprint:
        return Gate(name="raw_video", passed=False, detail="the data set has changed since the sweep")
    chosen = _evenly(_recorded_videos(point, dataset), count)
    home.store.download(
        dataset.root, lambda names: [record.path for _, record in chosen if record.path in names]
    )
    before = list(sys.path)
    recognizer = mlflow.pyfunc.load_model(str(package)).unwrap_python_model().recognizer
    sys.path[:] = before  # MLflow adds the package's folder, which is gone when it is registered
    answers = recognizer.predict(
        [dataset.video_path(record) for _, record in chosen], ids=[record.video_id for _, record in chosen]
    )
    recorded = _Recorded(point)
    faults = [
        f"{answer.path}: {fault}"
        for (row, _), answer in zip(chosen, answers, strict=True)
        if (fault := recorded.fault(row, answer, dataset.classes, recognizer.reads))
    ]
    good = f"{len(chosen)} validation videos: scores, calls and reads as measured on features"
    return Gate(name="raw_video", passed=not faults, detail="; ".join(faults) or good)


def _recorded_videos(point: FrontPoint, dataset: Dataset) -> list[tuple[int, VideoRecord]]:
    """Row in the trial's scores and record of each validation video that was evaluated."""
    with safe_open(point.folder / SCORES_FILE, framework="np") as file:
        recorded_ids = (file.metadata() or {}).get("val")
    records = {record.video_id: record for record in dataset.split("val")}
    ids = json.loads(recorded_ids) if recorded_ids else list(records)
    return [(row, records[video_id]) for row, video_id in enumerate(ids) if video_id in records]


def _evenly(videos: list[Any], count: int) -> list[Any]:
    if not videos:
        return []
    places = np.unique(np.linspace(0, len(videos) - 1, count).round())
    return [videos[int(i)] for i in places]


class _Recorded:
    """What the trial recorded of the point on validation."""

    def __init__(self, point: FrontPoint) -> None:
        scores = read_scores(point.folder, "val", point.trial)
        self._scores = scores.scores[point.record.index]
        self._gflops = scores.gflops[point.record.index]
        self._found = None if scores.detections is None else scores.detections[point.record.index]
        with safe_open(point.folder / SCORES_FILE, framework="np") as file:
            names = set(file.keys())
            decided = file.get_tensor("val/decisions") if "val/decisions" in names else None
        if decided is not None and decided.shape[:2] != scores.gflops.shape:
            raise DataError(
                f"{point.folder / SCORES_FILE} has decisions of other points or videos than its scores",
                "Remove the trial's folder and run the sweep under another name=.",
            )
        self._decisions = None if decided is None else decided[point.record.index]

    def fault(
        self, row: int, answer: Prediction, classes: tuple[str, ...], words: tuple[str, ...]
    ) -> str | None:
        """How an answer departs from the record, or None."""
        if answer.error:
            return answer.error
        scores = dict(answer.labels)
        apart = max(abs(scores[name] - self._scores[row][c]) for c, name in enumerate(classes))
        if apart > SCORE_TOLERANCE:
            return f"a score is {apart:.2g} apart from the one measured"
        if abs(answer.gflops - self._gflops[row]) > 1e-9 * max(1.0, self._gflops[row]):
            return f"{answer.gflops:.6g} GFLOPs instead of {self._gflops[row]:.6g}"
        reads = [words.index(word) for word in answer.steps]
        if self._decisions is not None and reads != self._decisions[row][: len(reads)].tolist():
            return "it read other steps"
        return self._instances_fault(row, answer, classes)

    def _instances_fault(self, row: int, answer: Prediction, classes: tuple[str, ...]) -> str | None:
        if self._found is None:
            return None
        # Of nearly equal scores either may come first.
        recorded = sorted(
            (classes[d.label], d.start_seconds, d.end_seconds, d.score) for d in self._found[row]
        )
        found = sorted(answer.instances or ())
        same = len(found) == len(recorded) and all(
            mine[0] == theirs[0]
            and np.allclose(mine[1:3], theirs[1:3], atol=1e-6)
            and abs(mine[3] - theirs[3]) <= SCORE_TOLERANCE
            for mine, theirs in zip(found, recorded, strict=True)
        )
        return None if same else f"it found other instances: {len(found)}, not {len(recorded)} or not there"
