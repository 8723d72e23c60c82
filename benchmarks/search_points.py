"""Where a trial's operating points lie: settings that were listed for everybody against settings placed by cost.

    python -m benchmarks search_points home=bench-home --seeds 3

One training per method and seed; every row is the same network, measured at other settings. The tables are those of
`search.md`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout
from benchmarks.harness.kept import KeptContext
from benchmarks.harness.listed import LISTED
from benchmarks.harness.points import Point, Run, points_of
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.records.trial import read_trial
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, non_dominated
from paretovid.trainables.evaluation.results import RESULT_FILE, OperatingPoint
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

KNOBS: Mapping[str, Mapping[str, Any]] = {
    "lite_eval": {"target_usage": 0.1, "usage_weight": 2.0},
    "hcms": {"skip_1": 0.85, "skip_2": 0.98, "usage_weight": 2.0},
    "ada_frame": {"steps": 10},
}
POINTS = (24, 12, 33, 48)
LISTS = "listed"
WHOLE = Reference(gflops=0.2071)
"""Every frame of a video by both networks of LiteEval."""
STRICT = Reference(gflops=0.1, quality=0.5)


def train(study: Study) -> list[Run]:
    """Per seed: `METHOD-listed` and `METHOD-POINTS` to their points."""
    with multiprocessing.get_context("spawn").Pool(study.workers) as pool:
        pool.map(_train, [_config(study, method, seed) for method in KNOBS for seed in range(study.seeds)], 1)
    return [
        {
            name: points_of(study.folder / f"{name}-s{seed}", keeps_caps=True)
            for method in KNOBS
            for name in (f"{method}-{LISTS}", *(f"{method}-{points}" for points in POINTS))
        }
        for seed in range(study.seeds)
    ]


def _config(study: Study, method: str, seed: int) -> TrialConfig:
    model = {**load_sweep_config([f"method={method}"]).method.model, **KNOBS[method]}
    return TrialConfig(
        sweep="benchmark",
        trial=f"{method}-s{seed}",
        method=method,
        model=model,
        training=TrainingConfig(epochs=study.epochs, **study.training),
        seed=seed,
        dataset=str(study.prepared.dataset.root),
        features={source: str(path) for source, path in study.prepared.features.items()},
        output=str(study.folder / f"{method}-trained-s{seed}"),
        points=1,
    )


def _train(trained: TrialConfig) -> None:
    """Trains, then measures at each kind of settings; what is finished is left."""
    folder = Path(trained.output).parent
    context = KeptContext(folder / f"{trained.trial}-checkpoint")
    listed = {**trained.model, **LISTED[trained.method]}
    ways = [replace(trained, output=str(folder / f"{trained.method}-{LISTS}-s{trained.seed}"), model=listed)]
    ways += [
        replace(trained, output=str(folder / f"{trained.method}-{points}-s{trained.seed}"), points=points)
        for points in POINTS
    ]
    for each in (trained, *ways):
        if not (Path(each.output) / RESULT_FILE).exists():
            run_trial(each, context)


def share(points: Sequence[Point | OperatingPoint], box: Reference) -> float:
    """How much of a box the front that is chosen on validation dominates on test, in percent."""
    front = non_dominated([p.val.gflops for p in points], [p.val.quality for p in points])
    covered = hypervolume(
        [points[i].test.gflops for i in front], [points[i].test.quality for i in front], box
    )
    return 100 * covered / (box.gflops * (1 - box.quality))


def document(study: Study) -> Document:
    """Everything that is reported."""
    return {
        "runs": [
            {
                "seed": seed,
                "ways": [
                    {
                        "method": name.rpartition("-")[0],
                        "settings": name.rpartition("-")[2],
                        "points": len(points),
                        "hypervolume": share(points, WHOLE),
                        "strict": share(points, STRICT),
                        "optimism": _optimism(points),
                        "seconds": read_trial(study.folder / f"{name}-s{seed}").seconds,
                    }
                    for name, points in run.items()
                ],
            }
            for seed, run in enumerate(study.runs)
        ]
    }


def _optimism(points: Sequence[Point]) -> float:
    """By how many points of mAP the front promises more on validation than it holds on test, on average."""
    front = non_dominated([p.val.gflops for p in points], [p.val.quality for p in points])
    return 100 * sum(points[i].val.quality - points[i].test.quality for i in front) / len(front)


def _table(method: str) -> Shown:
    """A line per kind of settings; differences are from the same network at listed settings, seed by seed."""
    listed = ("settings", LISTS)
    return Shown(
        f"{method}, settings",
        "ways",
        ("settings",),
        (
            Cell("points", only_mean=True, digits=0),
            Cell("hypervolume", only_mean=True, digits=2),
            Cell("hypervolume", "minus listed", digits=2, against=listed),
            Cell("strict", only_mean=True, digits=2),
            Cell("strict", "minus listed", digits=2, against=listed),
            Cell("optimism", "validation minus test", only_mean=True, digits=2),
            Cell("seconds", "seconds to measure", only_mean=True, digits=1),
        ),
        where={"method": method},
    )


BENCHMARKS = (
    Benchmark(
        name="search_points",
        about="settings placed by cost against settings that were listed for everybody",
        overrides=(),
        train=train,
        document=document,
        keeps_caps=True,
        page="search.md",
        layouts={"ways": Layout("runs.*.ways.*", ("=seed", ""))},
        shown=tuple(_table(method) for method in KNOBS),
        is_verbatim=True,
    ),
)
