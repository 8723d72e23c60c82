"""Extraction: videos per second against a plain loop and against decoding alone; memory against the number of videos.

    python -m benchmarks extraction_small  [--videos 300] [--repeats 3]    the small family
    python -m benchmarks extraction_paper  [--videos 60] [--repeats 3]     two of the papers' backbones
    python -m benchmarks extraction_memory [--videos 600]                  peaks, one stage and two

On the built-in videos with the small family (untrained: what weights hold changes no time) and, on fewer of them, with
two of the papers' backbones. Ray is connected and has workers before the clock starts, the plain loop has loaded its
backbones; all that `extract_shards` does counts, its start of a pipeline and its files included.
"""

from __future__ import annotations

import argparse
import os
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

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Rows
from benchmarks.harness.tables import Cell, PageTable, Shown
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

PAPER = ("mobilenet_v2@112", "efficientnet_b3@224")
CORES = len(os.sched_getaffinity(0))


LOOPS = {threads: f"plain loop, {threads} thread{'s' * (threads > 1)}" for threads in sorted({1, CORES})}
LOOP_PER_CORE = "a plain loop per core, 1 thread each"
DECODING = "decoding alone, a process per core"
STAGES = {False: "Ray Data, one stage", True: "Ray Data, two stages"}
"""By whether decoding and computing are apart."""


def make_videos(root: Path, count: int) -> Dataset:
    """The built-in videos, `count` in all."""
    config = MovingDigitsConfig(videos_train=count - 20, videos_val=10, videos_test=10)
    return make_moving_digits(config, root / "data" / "moving_digits")


def make_backbones(root: Path, names: tuple[str, ...], num_classes: int) -> dict[str, Path]:
    """Untrained backbones in folders."""
    for name in names:
        spec = component(name)
        torch.manual_seed(0)
        backbone = (
            spec.build(num_classes).eval() if spec.weights is None else build_with_weights(spec, RANDOM)[0]
        )
        save_backbone(root / "backbones" / name, name, backbone)
    return {name: root / "backbones" / name for name in names}


def some(dataset: Dataset, count: int) -> Dataset:
    """Its first videos."""
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


def rates(
    cluster: Cluster, dataset: Dataset, backbones: dict[str, Path], repeats: int
) -> list[dict[str, Any]]:
    """A row per way and repeat; ways take turns."""
    names = tuple(backbones)
    rows: list[dict[str, Any]] = []

    def add(way: str, repeat: int, rate: float, **more: float) -> None:
        rows.append({"way": way, "repeat": repeat, "videos_per_second": rate, **more})
        print(f"{way:<45} {rate:8.2f} videos per second", flush=True)

    extracted(cluster, some(dataset, 8), backbones)  # Ray's workers are up
    for repeat in range(repeats):
        for threads, way in LOOPS.items():
            add(way, repeat, plain_loop(dataset, backbones, threads))
        add(LOOP_PER_CORE, repeat, plain_loops(dataset, backbones))
        add(DECODING, repeat, decode_limit(dataset, names))
        for is_apart, way in STAGES.items():
            rate, start = extracted(cluster, dataset, backbones, separate_compute=is_apart)
            add(way, repeat, rate, seconds_to_first_video=start)
    return rows


def memory(cluster: Cluster, dataset: Dataset, backbones: dict[str, Path]) -> list[dict[str, Any]]:
    """Peaks with a tenth of the videos and with all of them, of one stage and of two."""
    rows = []
    for is_apart, way in STAGES.items():
        extracted(cluster, some(dataset, 8), backbones)  # workers are up in both
        for count in (len(dataset.records) // 10, len(dataset.records)):
            with peak_memory() as peak:
                extracted(cluster, some(dataset, count), backbones, separate_compute=is_apart)
            rows.append({"way": way, "videos": count, "peak_mb": round(peak["mb"])})
    return rows


def memory_side_by_side(results: Results) -> Rows:
    """A row per way: the peak with the fewest and with the most videos."""
    return Rows(
        tuple(
            {"way": way, "few": peaks[0], "many": peaks[-1]}
            for (way,), group in results["peaks"].groups(("way",)).items()
            for peaks in [group.numbers("peak_mb")]
        )
    )


Rated = Callable[[Cluster, Dataset, dict[str, Path]], Document]


def with_videos(count: int, names: tuple[str, ...], work: Rated) -> Document:
    """What is measured of these components on so many videos."""
    with tempfile.TemporaryDirectory(prefix="extraction-") as scratch:
        root = Path(scratch)
        dataset = make_videos(root, max(count, 40))
        backbones = make_backbones(root, names, len(dataset.classes))
        with connect() as cluster:
            return {
                "videos": count,
                "components": list(names),
                **work(cluster, some(dataset, count), backbones),
            }


def measure_rates(arguments: argparse.Namespace, names: tuple[str, ...]) -> Document:
    """Videos per second of every way."""
    return with_videos(
        arguments.videos,
        names,
        lambda cluster, dataset, backbones: {"ways": rates(cluster, dataset, backbones, arguments.repeats)},
    )


def measure_memory(arguments: argparse.Namespace) -> Document:
    """Peaks against the number of videos."""
    return with_videos(
        arguments.videos,
        tuple(family("small").values()),
        lambda cluster, dataset, backbones: {"peaks": memory(cluster, dataset, backbones)},
    )


def arguments_of(videos: int, *, repeats: bool) -> Callable[[argparse.ArgumentParser], None]:
    """How much is measured."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--videos", type=int, default=videos)
        if repeats:
            parser.add_argument("--repeats", type=int, default=3)

    return add


CELLS = (
    Cell("videos_per_second", "mean", digits=2, only_mean=True),
    Cell("seconds_to_first_video", "seconds to the first video", digits=1, only_mean=True),
)
HEADER = "| videos per second |"
LINES = {
    "plain loop of decode and forward, 1 thread": LOOPS[1],
    "the same, 2 threads": "plain loop, 2 threads",
    "a plain loop on each core at once": LOOP_PER_CORE,
    "decoding alone, a process per core": DECODING,
    "`extract_shards`, decoding and computing in one task": STAGES[False],
    "decoding and computing apart (as with GPUs)": STAGES[True],
}


def of_family(name: str, about: str, names: tuple[str, ...], videos: int, column: int) -> Measurement:
    """Videos per second with these components, which the page shows in one of its two columns."""
    cells: list[Cell | None] = [None, None]
    cells[column] = CELLS[0]
    return Measurement(
        name=f"extraction_{name}",
        about=about,
        measure=lambda arguments: measure_rates(arguments, names),
        arguments=arguments_of(videos, repeats=True),
        alone=("videos", "components"),
        page="extraction.md",
        layouts={"ways": Layout("ways.*", ("",))},
        shown=(Shown("videos per second", "ways", ("way",), CELLS),),
        page_tables=(
            PageTable(HEADER, "ways", {line: {"way": way} for line, way in LINES.items()}, tuple(cells)),
        ),
    )


MEASUREMENTS = (
    of_family(
        "small",
        "videos per second of extraction with the small family, against plain loops and decoding alone",
        tuple(family("small").values()),
        300,
        0,
    ),
    of_family("paper", "the same with two of the papers' backbones", PAPER, 60, 1),
    Measurement(
        name="extraction_memory",
        about="peak memory of extraction against the number of videos",
        measure=measure_memory,
        arguments=arguments_of(600, repeats=False),
        alone=("videos", "components"),
        page="extraction.md",
        layouts={"peaks": Layout("peaks.*", ("",))},
        shown=(
            Shown(
                "peak of everything, MB",
                "peaks",
                ("way", "videos"),
                (Cell("peak_mb", "MB", digits=0, only_mean=True),),
            ),
        ),
        page_tables=(
            PageTable(
                "| peak memory in MB |",
                memory_side_by_side,
                {way: {"way": way} for way in STAGES.values()},
                (Cell("few", digits=0), Cell("many", digits=0)),
            ),
        ),
    ),
)
