"""Extraction: videos per second against a plain loop and against decoding alone; memory against the number of videos.

    python benchmarks/extraction.py [--videos 600] [--repeats 3]

On the built-in videos with the small family (untrained: what weights hold changes no time) and, on fewer of them, with
two of the papers' backbones. Ray is connected and has workers before the clock starts, the plain loop has loaded its
backbones; all that `extract_shards` does counts, its start of a pipeline and its files included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

from paretovid.infra.ray_cluster import Cluster, connect
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.extraction import extract_shards
from paretovid.platform.storage.home import Home
from paretovid.search_spaces.schema import ExtractionConfig
from paretovid.trainables.backbones.catalog import component, family, load_backbone, save_backbone
from paretovid.trainables.backbones.weights import RANDOM, build_with_weights
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.features.extract import compute_features, read_pieces

RESULTS = Path(__file__).with_name("extraction_results.json")
PAPER = ("mobilenet_v2@112", "efficientnet_b3@224")
CORES = len(os.sched_getaffinity(0))


def make_videos(root: Path, count: int) -> Dataset:
    config = MovingDigitsConfig(videos_train=count - 20, videos_val=10, videos_test=10)
    return make_moving_digits(config, root / "data" / "moving_digits")


def make_backbones(root: Path, names: tuple[str, ...], num_classes: int) -> dict[str, Path]:
    for name in names:
        spec = component(name)
        torch.manual_seed(0)
        backbone = (
            spec.build(num_classes).eval() if spec.weights is None else build_with_weights(spec, RANDOM)[0]
        )
        save_backbone(root / "backbones" / name, name, backbone)
    return {name: root / "backbones" / name for name in names}


def some(dataset: Dataset, count: int) -> Dataset:
    return replace(dataset, records=dataset.records[:count])


def decode(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Decoding alone, for all components at once, as extraction does. Returns the number of videos."""
    torch.set_num_threads(1)
    specs = {name: component(name).input for name in names}
    for record in dataset.records:
        for _ in read_pieces(dataset.video_path(record), specs, step_seconds=dataset.step_seconds):
            pass
    return len(dataset.records)


def plain_loop(dataset: Dataset, backbones: Mapping[str, Path], threads: int) -> float:
    """Videos per second of decode-and-forward in this process."""
    torch.set_num_threads(threads)
    loaded = {name: load_backbone(folder)[0] for name, folder in backbones.items()}
    specs = {name: component(name).input for name in backbones}

    def go(of: Dataset) -> None:
        for record in of.records:
            for piece in read_pieces(of.video_path(record), specs, step_seconds=of.step_seconds):
                for name, inputs in piece.inputs.items():
                    compute_features(loaded[name], inputs)

    go(some(dataset, 4))
    began = time.perf_counter()
    go(dataset)
    return len(dataset.records) / (time.perf_counter() - began)


def plain_loops(dataset: Dataset, backbones: Mapping[str, Path]) -> float:
    """Videos per second of a plain loop in one process per core, all at once: what these cores can give."""
    parts = [replace(dataset, records=dataset.records[i::CORES]) for i in range(CORES)]
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        warm = [some(dataset, 4)] * CORES
        list(pool.map(plain_loop, warm, [dict(backbones)] * CORES, [1] * CORES))
        rates = list(pool.map(plain_loop, parts, [dict(backbones)] * CORES, [1] * CORES))
    return sum(rates)


def decode_limit(dataset: Dataset, names: tuple[str, ...]) -> float:
    """Videos per second of decoding alone, in one process per core."""
    parts = [replace(dataset, records=dataset.records[i::CORES]) for i in range(CORES)]
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        list(pool.map(decode, [some(dataset, 4)] * CORES, [names] * CORES))
        began = time.perf_counter()
        count = sum(pool.map(decode, parts, [names] * CORES))
        return count / (time.perf_counter() - began)


def extracted(
    cluster: Cluster, dataset: Dataset, backbones: Mapping[str, Path], **settings: Any
) -> tuple[float, float]:
    """Videos per second of the whole call, and seconds until the first video was there."""
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, Progress.silent().stage("features") as stage:
        advance = stage.advance

        def seen(count: int = 1, *, note: str = "") -> None:
            stamps.append(time.perf_counter())
            advance(count, note=note)

        stage.advance = seen  # type: ignore[method-assign]
        folders = {name: Path(scratch) / "features" / name for name in backbones}
        began = time.perf_counter()
        extract_shards(
            cluster,
            Home(Path(scratch)),
            dataset,
            backbones,
            folders,
            "float32",
            ExtractionConfig(**settings),
            stage,
        )
        ended = time.perf_counter()
    return len(stamps) / (ended - began), stamps[0] - began


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Peak of the proportional memory, in MB, of this process and all that it started, while the block runs."""
    found = {"mb": 0.0}
    over = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not over.wait(1.0):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            found["mb"] = max(found["mb"], total / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def rates(cluster: Cluster, dataset: Dataset, backbones: dict[str, Path], repeats: int) -> dict[str, Any]:
    names = tuple(backbones)
    measured: dict[str, list[float]] = {}
    extracted(cluster, some(dataset, 8), backbones)  # Ray's workers are up
    for _ in range(repeats):
        for threads in sorted({1, CORES}):
            rate = plain_loop(dataset, backbones, threads)
            measured.setdefault(f"plain loop, {threads} threads", []).append(rate)
        measured.setdefault("a plain loop per core, 1 thread each", []).append(
            plain_loops(dataset, backbones)
        )
        measured.setdefault("decoding alone, a process per core", []).append(decode_limit(dataset, names))
        for key, apart in (("Ray Data, one stage", False), ("Ray Data, two stages", True)):
            rate, start = extracted(cluster, dataset, backbones, separate_compute=apart)
            measured.setdefault(key, []).append(rate)
            measured.setdefault(f"{key}: seconds to the first video", []).append(start)
    return {"videos": len(dataset.records), "components": names, "measured": measured}


def memory(
    cluster: Cluster, dataset: Dataset, backbones: dict[str, Path], *, separate_compute: bool
) -> dict[str, Any]:
    """Peaks with a tenth of the videos and with all of them."""
    found: dict[str, Any] = {"peak_mb_by_videos": {}}
    extracted(cluster, some(dataset, 8), backbones)  # workers are up in both
    for count in (len(dataset.records) // 10, len(dataset.records)):
        with peak_memory() as peak:
            extracted(cluster, some(dataset, count), backbones, separate_compute=separate_compute)
        found["peak_mb_by_videos"][str(count)] = round(peak["mb"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="", help="small, paper, memory of one stage, memory of two stages")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory(prefix="extraction-") as scratch:
        root = Path(scratch)
        dataset = make_videos(root, arguments.videos)
        small = make_backbones(root, tuple(family("small").values()), len(dataset.classes))
        paper = make_backbones(root, PAPER, len(dataset.classes))
        repeats = arguments.repeats
        with connect() as cluster:
            parts: dict[str, Callable[[], dict[str, Any]]] = {
                "small": lambda: rates(cluster, some(dataset, arguments.videos // 2), small, repeats),
                "paper": lambda: rates(cluster, some(dataset, arguments.videos // 10), paper, repeats),
                "memory of one stage": lambda: memory(cluster, dataset, small, separate_compute=False),
                "memory of two stages": lambda: memory(cluster, dataset, small, separate_compute=True),
            }
            for part in arguments.parts.split(",") if arguments.parts else parts:
                results[part] = {"cores": CORES, "load": round(os.getloadavg()[0], 1), **parts[part]()}
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                show(part, results[part])


def show(part: str, found: dict[str, Any]) -> None:
    print(f"{part}:", {key: value for key, value in found.items() if key != "measured"}, flush=True)
    for key, values in found.get("measured", {}).items():
        print(f"  {key:<55} {statistics.median(values):8.2f}  {[round(v, 2) for v in values]}", flush=True)


if __name__ == "__main__":
    main()
