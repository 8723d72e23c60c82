"""LiteEval's claims on the built-in videos: cost at equal quality, the gate, the synchronisation, the usage.

    python -m benchmarks lite_eval         all claims
    python -m benchmarks lite_eval_caps    caps per video, under both rules; `--resume` after the claims trains nothing

The tables are those of `lite_eval.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.caps import complete_caps, under_caps
from benchmarks.harness.document import Layout
from benchmarks.harness.points import Point, Run, cost_at_quality
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results
from benchmarks.harness.tables import Cell, Shown
from paretovid.trainables.evaluation.metrics import bootstrap_map_difference

GAMMAS = (0.05, 0.1, 0.15, 0.2, 0.3)
QUALITY_MARGIN = 0.005
"""'As good': within half a point of mAP."""
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"lite_eval-g{g}": ("lite_eval", {"target_usage": g}) for g in GAMMAS},
    **{
        f"no_sync-g{g}": ("lite_eval", {"target_usage": g, "network": {"synchronize": False}}) for g in GAMMAS
    },
    "random_gate": ("random_gate", {}),
    "uniform": ("uniform", {}),
    "uniform+coarse": ("uniform", {"with_coarse": True}),
    "lstm": ("lstm", {}),
    "lstm+coarse": ("lstm", {"with_coarse": True}),
    "lstm-all": ("lstm", {"training_frames": 0}),
    "lstm-all+coarse": ("lstm", {"training_frames": 0, "with_coarse": True}),
    "oracle": ("oracle", {}),
}
OURS = tuple(f"lite_eval-g{g}" for g in GAMMAS)
BASELINES = ("uniform", "uniform+coarse", "lstm", "lstm+coarse", "lstm-all", "lstm-all+coarse")


def default_point(points: list[Point]) -> Point:
    """The point with every inference knob at its default: the first."""
    return points[0]


def against_random(points: Run, targets: np.ndarray) -> list[dict[str, Any]]:
    """At no less cost for the random gate: LiteEval minus random, paired over test videos."""
    rows = []
    for g in GAMMAS:
        ours = default_point(points[f"lite_eval-g{g}"])
        above = [
            p
            for p in points["random_gate"]
            if not p.setting.get("online_k") and p.test.gflops >= ours.test.gflops
        ]
        rival = min(above, key=lambda p: p.test.gflops)
        mean, low, high = bootstrap_map_difference(ours.scores, rival.scores, targets)
        rows.append(
            {
                "gamma": g,
                "lite_eval_map": ours.test.qualities["map"],
                "lite_eval_gflops": ours.test.gflops,
                "random_map": rival.test.qualities["map"],
                "random_gflops": rival.test.gflops,
                "difference": mean,
                "low": low,
                "high": high,
            }
        )
    return rows


def thrifty(points: list[Point]) -> Point:
    """The point at the lowest gate offset that reads on to the end."""
    return min((p for p in points if not p.setting["online_k"]), key=lambda p: p.setting["gate_offset"])


def against_no_sync(
    points: Run, targets: np.ndarray, pick: Callable[[list[Point]], Point]
) -> list[dict[str, Any]]:
    """Same gamma, same setting: with synchronisation minus without."""
    rows = []
    for g in GAMMAS:
        ours, bare = pick(points[f"lite_eval-g{g}"]), pick(points[f"no_sync-g{g}"])
        mean, low, high = bootstrap_map_difference(ours.scores, bare.scores, targets)
        rows.append(
            {
                "gamma": g,
                "map": ours.test.qualities["map"],
                "gflops": ours.test.gflops,
                "no_sync_map": bare.test.qualities["map"],
                "no_sync_gflops": bare.test.gflops,
                "difference": mean,
                "low": low,
                "high": high,
            }
        )
    return rows


def usage(points: Run, targets: np.ndarray, num_steps: np.ndarray) -> list[dict[str, Any]]:
    """Claim (g): the share of steps looked at closely, over videos and over classes."""
    rows = []
    for g in GAMMAS:
        share = (default_point(points[f"lite_eval-g{g}"]).decisions == 2).sum(axis=1) / num_steps
        by_class = np.array([share[targets[:, c] > 0].mean() for c in range(targets.shape[1])])
        rows.append(
            {
                "gamma": g,
                "usage": float(share.mean()),
                "videos_std_over_mean": float(share.std() / share.mean()),
                "classes_std_over_mean": float(by_class.std() / by_class.mean()),
                "by_class": by_class.tolist(),
            }
        )
    return rows


def curve(points: list[Point]) -> dict[str, float]:
    """The default and the best (on validation) point of a trial, as measured on test."""
    best = max(points, key=lambda p: p.val.qualities["map"])
    return {
        "natural_map": default_point(points).test.qualities["map"],
        "natural_gflops": default_point(points).test.gflops,
        "best_map": best.test.qualities["map"],
        "best_gflops": best.test.gflops,
    }


def analyse(points: Run, targets: np.ndarray, num_steps: np.ndarray, seed: int) -> dict[str, Any]:
    """All claims for one seed.

    Arguments:
        targets: of the test videos, `[N, C]`.
        num_steps: of each of them, `[N]`.
    """
    return {
        "seed": seed,
        "against_random": against_random(points, targets),
        "against_no_sync": against_no_sync(points, targets, default_point),
        "against_no_sync_thrifty": against_no_sync(points, targets, thrifty),
        "usage": usage(points, targets, num_steps),
        "curves": {name: curve(points[name]) for name in TRIALS},
    }


def caps(study: Study) -> Document:
    """mAP and GFLOPs under each cap and rule, at the default setting of each gamma."""
    return {
        "runs": [
            {
                "seed": seed,
                "caps": {
                    str(g): {rule: under_caps(run[f"lite_eval-g{g}"], rule) for rule in ("stop", "cheap")}
                    for g in GAMMAS
                },
            }
            for seed, run in enumerate(study.runs)
        ]
    }


def caps_text(results: Results) -> str:
    """A line per cap and rule, a column per gamma."""
    rows = complete_caps(results["caps"], ("gamma", "rule"))
    shown = Shown("cap in GFLOPs, rule; gamma", "caps", ("cap", "rule"), (CAPPED,), across="gamma")
    return shown.text(Results({}, {"caps": rows}))


def document(study: Study) -> Document:
    """Everything that is reported."""
    runs = study.runs
    targets, num_steps = study.targets_and_steps("oracle")
    return {
        "cost_at_quality": {
            "all settings": cost_at_quality(runs, OURS, BASELINES, margin=QUALITY_MARGIN),
            "all, not below": cost_at_quality(runs, OURS, BASELINES, margin=0.0),
            "default settings": cost_at_quality(
                runs, OURS, BASELINES, margin=QUALITY_MARGIN, is_default=True
            ),
            "each seed alone": [
                cost_at_quality([run], OURS, BASELINES, margin=QUALITY_MARGIN)[0] for run in runs
            ],
        },
        "runs": [analyse(run, targets, num_steps, seed) for seed, run in enumerate(runs)],
    }


def paired(title: str, table: str, ours: str, theirs: str, costs: tuple[str, str]) -> Shown:
    """A row per gamma: two mAPs, their difference over test videos, and both costs."""
    cells = (
        *(Cell(column, percent=True) for column in (ours, theirs, "difference")),
        Cell(costs[0], "GFLOPs ours", only_mean=True, digits=5),
        Cell(costs[1], "theirs", only_mean=True, digits=5),
    )
    return Shown(f"{title}, gamma", table, ("gamma",), cells)


CAPPED = Cell("map", percent=True)
NO_SYNC = ("map", "no_sync_map", ("gflops", "no_sync_gflops"))
BENCHMARKS = (
    Benchmark(
        name="lite_eval",
        about="LiteEval against LSTM, averaging and a random gate; synchronisation and usage",
        overrides=(),
        trials=TRIALS,
        document=document,
        layouts={
            "cost_at_quality": Layout("cost_at_quality.*.*", ("choice", "seed")),
            "against_random": Layout("runs.*.against_random.*", ("=seed", "")),
            "against_no_sync": Layout("runs.*.against_no_sync.*", ("=seed", "")),
            "against_no_sync_thrifty": Layout("runs.*.against_no_sync_thrifty.*", ("=seed", "")),
            "usage": Layout("runs.*.usage.*", ("=seed", "")),
            "usage_by_class": Layout("runs.*.usage.*.by_class.*", ("=seed", "=gamma", "class")),
            "curves": Layout("runs.*.curves.*", ("=seed", "trial")),
        },
        shown=(
            Shown(
                "cost at quality",
                "cost_at_quality",
                ("choice",),
                (
                    Cell("baseline_map", percent=True),
                    Cell("map", "lite_eval_map", percent=True),
                    Cell("map_difference", percent=True),
                    Cell("baseline_gflops"),
                    Cell("gflops", "lite_eval_gflops"),
                    Cell("cost_ratio"),
                ),
                turned=True,
            ),
            paired(
                "random gate at no less cost",
                "against_random",
                "lite_eval_map",
                "random_map",
                ("lite_eval_gflops", "random_gflops"),
            ),
            paired("without synchronisation", "against_no_sync", *NO_SYNC),
            paired("the same at gate offset -2", "against_no_sync_thrifty", *NO_SYNC),
            Shown(
                "usage, gamma",
                "usage",
                ("gamma",),
                (
                    Cell("usage", "measured usage"),
                    Cell("videos_std_over_mean", "std/mean over videos"),
                    Cell("classes_std_over_mean", "std/mean over classes"),
                ),
            ),
            Shown(
                "method",
                "curves",
                ("trial",),
                (
                    Cell("natural_map", "test mAP, default setting", percent=True),
                    Cell("best_map", "best test mAP of its curve", percent=True),
                    Cell("best_gflops", "GFLOPs there", only_mean=True, digits=5),
                ),
            ),
        ),
        is_verbatim=True,
    ),
    Benchmark(
        name="lite_eval_caps",
        about="LiteEval under caps per video that stop, and that continue cheaply",
        overrides=(),
        trials={name: TRIALS[name] for name in OURS},
        document=caps,
        keeps_caps=True,
        folder="lite_eval",
        page="lite_eval.md",
        layouts={"caps": Layout("runs.*.caps.*.*.*", ("=seed", "gamma", "rule", ""))},
        shown=(caps_text,),
        is_verbatim=True,
    ),
)
