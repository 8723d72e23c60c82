"""One model for the whole front: gates that are told a budget against gates that are trained for one.

    python -m benchmarks budget_dial home=bench-home --seeds 5

Each way is one training per seed, measured at 24 settings that are placed by cost. One HCMS model at ten budgets stands
against ten that are trained for them. The tables are those of `budget_dial.md`.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout
from benchmarks.harness.kept import KeptContext
from benchmarks.harness.points import Point, Run, points_of
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, Shown
from benchmarks.search_points import STRICT, WHOLE, share
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import RESULT_FILE
from paretovid.trainables.training.config import DEFAULT_POINTS, TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

PLAIN, TARGET, PRICE = "plain", "budget", "price"
WAYS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "lite_eval": {
        PLAIN: {"target_usage": 0.1},
        TARGET: {"condition": "budget"},
        PRICE: {"condition": "budget", "condition_on": "price"},
    },
    "hcms": {PLAIN: {"skip_1": 0.85, "skip_2": 0.98}, TARGET: {"condition": "budget"}},
}
"""Method to way to fields of its configuration; lambda is 2 everywhere."""
COSTS = (0.02, 0.03, 0.05)
"""GFLOPs, at which the quality of the front is read."""
DIAL = f"hcms-{TARGET}"
BUDGETS = tuple(round(float(each), 3) for each in np.geomspace(0.05, 0.7, 10))
KINDS = ("dial", "narrow", "plain_gates")
"""At ten budgets: one model; ten that are trained in the same way for one each; ten with plain gates and penalty."""
TEN_SEEDS = 1
"""With which these are trained."""
_NARROW = 1.01
"""A range of budgets as good as one."""


def train(study: Study) -> list[Run]:
    """Per seed: `METHOD-WAY` to its points; of the first seeds also `KIND-BUDGET` of the ten."""
    names = {
        seed: [f"{method}-{way}" for method, ways in WAYS.items() for way in ways]
        + [f"{kind}-{budget:g}" for kind in KINDS for budget in BUDGETS if seed < TEN_SEEDS]
        for seed in range(study.seeds)
    }
    # Those of the dial need the model that another trial trains.
    for kinds in (tuple(WAYS), KINDS):
        configs = [
            _config(study, name, seed)
            for seed, each in names.items()
            for name in each
            if name.partition("-")[0] in kinds
        ]
        with multiprocessing.get_context("spawn").Pool(study.workers) as pool:
            pool.map(_train, configs, 1)
    return [
        {name: points_of(study.folder / f"{name}-s{seed}", keeps_caps=True) for name in each}
        for seed, each in names.items()
    ]


def _config(study: Study, name: str, seed: int) -> TrialConfig:
    kind, _, last = name.partition("-")
    method, points = "hcms", 1
    setting: dict[str, float | str] | None = None
    if kind in WAYS:
        method, points, model = kind, DEFAULT_POINTS, WAYS[kind][last]
    elif kind == "dial":
        model, setting = WAYS[method][TARGET], {"budget": float(last)}
    elif kind == "narrow":
        low, high = float(last) / _NARROW, float(last) * _NARROW
        model = {**WAYS[method][TARGET], "budget_low": low, "budget_high": high}
        setting = {"budget": float(last)}
    else:
        model = {"skip_1": 1 - float(last), "skip_2": 1 - float(last) ** 2}
    return TrialConfig(
        sweep="benchmark",
        trial=f"{name}-s{seed}",
        method=method,
        model=dict(model),
        training=TrainingConfig(epochs=study.epochs, **study.training),
        seed=seed,
        dataset=str(study.prepared.dataset.root),
        features={source: str(path) for source, path in study.prepared.features.items()},
        output=str(study.folder / f"{name}-s{seed}"),
        points=points,
        inference_setting=setting,
    )


def _train(config: TrialConfig) -> None:
    folder = Path(config.output)
    if (folder / RESULT_FILE).exists():
        return
    is_of_dial = config.trial.startswith(("dial-", DIAL))
    kept = folder.parent / f"{DIAL}-s{config.seed}-checkpoint"
    run_trial(config, KeptContext(kept) if is_of_dial else LocalContext())


def within(points: Sequence[Point], gflops: float) -> float:
    """Quality on test of the point that is best on validation among those that cost at most so much there."""
    return max((p for p in points if p.val.gflops <= gflops), key=lambda p: p.val.quality).test.quality


def document(study: Study) -> Document:
    """Everything that is reported."""
    return {
        "runs": [
            {
                "seed": seed,
                "ways": [
                    {
                        "method": name.partition("-")[0],
                        "way": name.partition("-")[2],
                        "points": len(points),
                        "hypervolume": share(points, WHOLE),
                        "strict": share(points, STRICT),
                        **{f"map_{cost:g}": within(points, cost) for cost in COSTS},
                    }
                    for name, points in run.items()
                    if name.partition("-")[0] in WAYS
                ],
                "ten": _ten(run) if seed < TEN_SEEDS else [],
                "fronts": _fronts(run) if seed < TEN_SEEDS else [],
            }
            for seed, run in enumerate(study.runs)
        ]
    }


def _at(run: Run, kind: str) -> list[Point]:
    return [run[f"{kind}-{budget:g}"][0] for budget in BUDGETS]


def _ten(run: Run) -> list[dict[str, Any]]:
    """A row per budget: what each kind spends and scores."""
    each = {kind: _at(run, kind) for kind in KINDS}
    return [
        {
            "budget": budget,
            **{f"{kind}_gflops": each[kind][place].test.gflops for kind in KINDS},
            **{f"{kind}_map": each[kind][place].test.quality for kind in KINDS},
        }
        for place, budget in enumerate(BUDGETS)
    ]


def _fronts(run: Run) -> list[dict[str, Any]]:
    """The ten points of each as a front: their share of both boxes, and how often a higher budget costs more."""
    return [
        {
            "kind": kind,
            "hypervolume": share(points, WHOLE),
            "strict": share(points, STRICT),
            "dearer": sum(a.test.gflops < b.test.gflops for a, b in itertools.pairwise(points)),
        }
        for kind, points in ((kind, _at(run, kind)) for kind in KINDS)
    ]


def _table(method: str) -> Shown:
    """A line per way; differences are from the plain training of the same seed."""
    plain = ("way", PLAIN)
    return Shown(
        f"{method}, way",
        "ways",
        ("way",),
        (
            Cell("hypervolume", only_mean=True, digits=2),
            Cell("hypervolume", "minus plain", digits=2, against=plain),
            Cell("strict", only_mean=True, digits=2),
            Cell("strict", "minus plain", digits=2, against=plain),
            *(Cell(f"map_{cost:g}", f"mAP at {cost:g}", percent=True, only_mean=True) for cost in COSTS),
        ),
        where={"method": method},
    )


BENCHMARKS = (
    Benchmark(
        name="budget_dial",
        about="one network for a range of budgets against trainings for one",
        overrides=("method=hcms",),
        train=train,
        document=document,
        keeps_caps=True,
        page="budget_dial.md",
        layouts={
            "ways": Layout("runs.*.ways.*", ("=seed", "")),
            "ten": Layout("runs.*.ten.*", ("=seed", "")),
            "fronts": Layout("runs.*.fronts.*", ("=seed", "")),
        },
        shown=(
            *(_table(method) for method in WAYS),
            Shown(
                "ten budgets of",
                "fronts",
                ("kind",),
                (
                    Cell("hypervolume", only_mean=True, digits=2),
                    Cell("strict", only_mean=True, digits=2),
                    Cell("dearer", "steps of 9 that cost more", only_mean=True, digits=1),
                ),
            ),
            Shown(
                "budget",
                "ten",
                ("budget",),
                (
                    *(
                        cell
                        for kind in KINDS
                        for cell in (
                            Cell(f"{kind}_gflops", f"{kind}: GFLOPs", only_mean=True, digits=4),
                            Cell(f"{kind}_map", "mAP", percent=True, only_mean=True),
                        )
                    ),
                ),
            ),
        ),
        is_verbatim=True,
    ),
)
