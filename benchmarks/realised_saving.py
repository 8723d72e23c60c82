"""How much of the counted saving shows on the clock: a LiteEval point against a baseline, on raw videos.

    python benchmarks/realised_saving.py SWEEP [--point ID] [--baseline uniform] [--videos 60] [--home FOLDER]

Both run as promoted models do: video by video, decoding and computing only what they ask for, on one thread. They
take turns on every video, so that a machine that slows down slows both. Decoding is timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.registry.package import backbone_folders, describe
from paretovid.platform.storage.home import Home, TrialPaths, open_home
from paretovid.trainables.data.dataset import load_dataset
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


def seconds(predictions: list[Prediction]) -> dict[str, float]:
    """Medians over videos."""
    return {
        "decode": statistics.median(p.decode_seconds for p in predictions),
        "compute": statistics.median(p.compute_seconds for p in predictions),
        "mean compute": statistics.fmean(p.compute_seconds for p in predictions),
        "gflops": statistics.fmean(p.gflops or 0.0 for p in predictions),
    }


def main() -> None:
    """Prints seconds per video of both, their ratio, and the ratio of counted GFLOPs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep")
    parser.add_argument("--point")
    parser.add_argument("--baseline", default="uniform")
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--home")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    home = open_home(arguments.home)
    front = read_front([home.sweep(arguments.sweep)])
    ours = chosen(front, arguments.point)
    theirs = next(p for p in front.best_baselines() if p.name == arguments.baseline)
    dataset = load_dataset(home.data(ours.trial.data.name))
    paths = [dataset.video_path(record) for record in dataset.split("test")[: arguments.videos]]
    with tempfile.TemporaryDirectory() as folder:
        models = {p.name: load(home, p, Path(folder) / p.name) for p in (ours, theirs)}
        said: dict[str, list[Prediction]] = {name: [] for name in models}
        for model in models.values():
            model.predict(paths[:3])  # first calls make kernels and caches
        for path in paths:
            for name, model in models.items():
                said[name] += model.predict([path])
    rows: dict[str, dict[str, Any]] = {name: seconds(predictions) for name, predictions in said.items()}
    print(f"{ours.id} {ours.record.inference_knobs} against {theirs.name} {theirs.record.inference_knobs}")
    print(f"{len(paths)} test videos, milliseconds per video\n")
    print(
        "| model | GFLOPs counted | compute, median | compute, mean | decoding, median |\n|---|---|---|---|---|"
    )
    for name, row in rows.items():
        times = " | ".join(f"{1000 * row[key]:.1f}" for key in ("compute", "mean compute", "decode"))
        print(f"| {name} | {row['gflops']:.4f} | {times} |")
    mine, other = rows[ours.name], rows[theirs.name]
    counted = 1 - mine["gflops"] / other["gflops"]
    realised = 1 - mine["mean compute"] / other["mean compute"]
    print(f"\ncounted saving {100 * counted:.1f} %, realised in compute {100 * realised:.1f} %", end="")
    print(f": {100 * realised / counted:.0f} % of what was counted")


if __name__ == "__main__":
    main()
