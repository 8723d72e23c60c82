"""How much of the counted saving shows on the clock: a LiteEval point against a baseline, on raw videos.

    python -m benchmarks realised_saving SWEEP [--point ID] [--baselines uniform] [--videos 100] [--home FOLDER]

Both run as promoted models do: video by video, decoding and computing only what they ask for, on one thread. They
take turns on every video, so that a machine that slows down slows all. Decoding is timed apart. The figures stand in
`lite_eval.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Row, Rows, Value
from benchmarks.harness.tables import Cell, PageTable, Shown
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.registry.package import backbone_folders, describe
from paretovid.platform.storage.home import Home, TrialPaths, open_home
from paretovid.trainables.data.dataset import load_dataset
from paretovid.trainables.errors import unknown_name
from paretovid.trainables.recognizer import WEIGHTS_FILE, Prediction, Recognizer, write_model_folder


def load(home: Home, point: FrontPoint, folder: Path) -> Recognizer:
    """The point as a promoted model would load it."""
    weights = TrialPaths(point.folder).model
    write_model_folder(folder, describe(home, point), weights, backbone_folders(home, point.trial))
    assert (folder / WEIGHTS_FILE).exists()
    return Recognizer.load(folder)


def chosen(front: Front, point: str | None) -> FrontPoint:
    """The point of that id, else the knee."""
    wanted = point or (front.knee_id or ("", ""))[1]
    return next(p for p in front.points if p.id == wanted)


def measure(arguments: argparse.Namespace) -> Document:
    """GFLOPs and seconds of the point and of each baseline, a row per video."""
    torch.set_num_threads(1)
    home = open_home(arguments.home)
    front = read_front([home.sweep(arguments.sweep)])
    ours = chosen(front, arguments.point)
    best = {point.name: point for point in front.best_baselines()}
    for name in arguments.baselines:
        if name not in best:
            raise unknown_name("baseline", name, best)
    dataset = load_dataset(home.data(ours.trial.data.name))
    paths = [dataset.video_path(record) for record in dataset.split("test")[: arguments.videos]]
    points = {"ours": ours, **{name: best[name] for name in arguments.baselines}}
    with tempfile.TemporaryDirectory() as folder:
        models = {model: load(home, point, Path(folder) / model) for model, point in points.items()}
        for recognizer in models.values():
            recognizer.predict(paths[:3])  # first calls make kernels and caches
        rows = []
        for video, path in enumerate(paths):
            for model, recognizer in models.items():
                (answer,) = recognizer.predict([path])
                rows.append({"model": model, "video": video, **seconds(answer)})
    return {
        "points": {
            model: {"id": point.id, "knobs": json.dumps(dict(point.record.inference_knobs))}
            for model, point in points.items()
        },
        "videos": rows,
    }


def seconds(answer: Prediction) -> dict[str, float]:
    """What one video took."""
    return {
        "gflops": answer.gflops or 0.0,
        "compute": answer.compute_seconds,
        "decode": answer.decode_seconds,
    }


def savings(results: Results) -> Rows:
    """A row per baseline: means over videos, what is saved in GFLOPs and in seconds of computing, and their ratio."""
    videos = results["videos"]

    def mean(model: Value, column: str) -> float:
        return statistics.fmean(videos.matching({"model": model}).numbers(column))

    def median_decode(model: Value) -> float:
        return 1000 * statistics.median(videos.matching({"model": model}).numbers("decode"))

    rows: list[Row] = []
    for (model,) in videos.groups(("model",)):
        if model == "ours":
            continue
        counted = 1 - mean("ours", "gflops") / mean(model, "gflops")
        realised = 1 - mean("ours", "compute") / mean(model, "compute")
        rows.append(
            {
                "against": model,
                "gflops": mean("ours", "gflops"),
                "their_gflops": mean(model, "gflops"),
                "compute_ms": 1000 * mean("ours", "compute"),
                "their_compute_ms": 1000 * mean(model, "compute"),
                "decode_ms": median_decode("ours"),
                "their_decode_ms": median_decode(model),
                "counted": counted,
                "realised": realised,
                "share": realised / counted,
            }
        )
    return Rows(tuple(rows))


CELLS = (
    Cell("gflops", "GFLOPs ours", digits=4, only_mean=True),
    Cell("their_gflops", "theirs", digits=4, only_mean=True),
    Cell("compute_ms", "compute ours, mean", digits=1, only_mean=True),
    Cell("their_compute_ms", "theirs", digits=1, only_mean=True),
    Cell("decode_ms", "decoding ours, median", digits=1, only_mean=True),
    Cell("their_decode_ms", "theirs", digits=1, only_mean=True),
    Cell("counted", "counted saving", percent=True, only_mean=True),
    Cell("realised", percent=True, only_mean=True),
    Cell("share", percent=True, only_mean=True),
)


def savings_text(results: Results) -> str:
    """A line per baseline; milliseconds per video."""
    return Shown("against", "savings", ("against",), CELLS).text(Results({}, {"savings": savings(results)}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which point, against what."""
    parser.add_argument("sweep", nargs="?", default="lite_eval-moving_digits-1")
    parser.add_argument("--point", help="its id; default: the knee of the front")
    parser.add_argument("--baselines", nargs="+", default=["uniform", "lstm+coarse"])
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--home")


MEASUREMENTS = (
    Measurement(
        name="realised_saving",
        about="how much of the counted saving shows on the clock, on raw videos",
        measure=measure,
        arguments=add_arguments,
        page="lite_eval.md",
        layouts={"points": Layout("points.*", ("model",)), "videos": Layout("videos.*", ("",))},
        shown=(savings_text,),
        page_tables=(
            PageTable(
                "| against |",
                savings,
                {
                    "uniform, every step": {"against": "uniform"},
                    "lstm+coarse, every step": {"against": "lstm+coarse"},
                },
                CELLS,
            ),
        ),
    ),
)
