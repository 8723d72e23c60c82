"""Measures LiteEval's claims on the built-in videos, over several seeds, at measured cost.

    python benchmarks/lite_eval.py [--seeds 5] [--workers 2] [home=...] [data...]

Trains LiteEval and its baselines on the same cached features, selects on validation, measures on test and
writes `benchmarks/lite_eval_results.json`; the tables it prints are those of `benchmarks/lite_eval.md`.
Trials that are finished already are not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from claims import Point, settings_of, span, train_all
from safetensors.numpy import load_file

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import prepare
from paretovid.trainables.evaluation.metrics import bootstrap_map_difference
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig

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
BASELINES = ("uniform", "uniform+coarse", "lstm", "lstm+coarse", "lstm-all", "lstm-all+coarse")


def cost_at_quality(
    runs: list[dict[str, list[Point]]], margin: float = QUALITY_MARGIN, is_natural: bool = False
) -> list[dict[str, Any]]:
    """Claim (a): the cheapest LiteEval setting as good as the best uniform or LSTM baseline.

    Chosen by the mean over seeds on validation, measured per seed on test. With one seed (`runs` of length 1)
    it is what a single sweep would choose: the luckiest of hundreds of points on a finite split.

    Arguments:
        margin: how far below the baseline a setting may be on validation.
        is_natural: only settings with all inference knobs at their defaults, one per gamma.
    """
    rivals = settings_of(runs, BASELINES)
    best_map = max(value for value, _, _ in rivals.values())
    # Of equally good baselines the cheapest counts: the comparison should be hard on us.
    _, _, rival = min((v for v in rivals.values() if v[0] >= best_map - 1e-9), key=lambda v: v[1])
    ours = settings_of(runs, [f"lite_eval-g{g}" for g in GAMMAS])
    if is_natural:
        ours = {key: value for key, value in ours.items() if not any(value[2][0].setting.values())}
    good = [v for v in ours.values() if v[0] >= best_map - margin]
    _, _, chosen = min(good, key=lambda v: v[1]) if good else max(ours.values(), key=lambda v: v[0])
    return [
        {
            "reached_on_val": bool(good),
            "baseline": f"{theirs.trial} {theirs.setting}",
            "baseline_map": theirs.test.qualities["map"],
            "baseline_gflops": theirs.test.gflops,
            "lite_eval": f"{point.trial} {point.setting}",
            "lite_eval_map": point.test.qualities["map"],
            "lite_eval_gflops": point.test.gflops,
            "map_difference": point.test.qualities["map"] - theirs.test.qualities["map"],
            "cost_ratio": point.test.gflops / theirs.test.gflops,
        }
        for theirs, point in zip(rival, chosen, strict=True)
    ]


def natural(points: list[Point]) -> Point:
    """The point with every inference knob at its default: the first."""
    return points[0]


def against_random(points: dict[str, list[Point]], targets: np.ndarray) -> list[dict[str, Any]]:
    """At no less cost for the random gate: LiteEval minus random, paired over test videos."""
    rows = []
    for g in GAMMAS:
        ours = natural(points[f"lite_eval-g{g}"])
        dearer = [
            p
            for p in points["random_gate"]
            if not p.setting.get("online_k") and p.test.gflops >= ours.test.gflops
        ]
        rival = min(dearer, key=lambda p: p.test.gflops)
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
    points: dict[str, list[Point]], targets: np.ndarray, pick: Callable[[list[Point]], Point]
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


def usage(points: dict[str, list[Point]], targets: np.ndarray, num_steps: np.ndarray) -> list[dict[str, Any]]:
    """Claim (g): the share of steps looked at closely, over videos and over classes."""
    rows = []
    for g in GAMMAS:
        share = (natural(points[f"lite_eval-g{g}"]).decisions == 2).sum(axis=1) / num_steps
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


def print_tables(document: dict[str, Any]) -> None:
    """The tables of lite_eval.md: mean and interval over seeds."""
    runs = document["runs"]
    print(f"\nseeds: {len(runs)}; mAP in points; interval: 95 % of the mean over seeds\n")
    print("| cost at quality | all settings | all, not below | natural settings | each seed alone |")
    print("|---|---|---|---|---|")
    choices = (
        document["cost_at_quality"],
        document["cost_at_no_less_quality"],
        document["cost_at_quality_natural"],
        [run["cost_at_quality"] for run in runs],
    )
    for key, percent in [
        ("baseline_map", True),
        ("lite_eval_map", True),
        ("map_difference", True),
        ("baseline_gflops", False),
        ("lite_eval_gflops", False),
        ("cost_ratio", False),
    ]:
        print(
            f"| {key} | " + " | ".join(span((row[key] for row in rows), percent) for rows in choices) + " |"
        )
    for rows in choices[:3]:
        print(f"\nchosen: {rows[0]['lite_eval']}, against {rows[0]['baseline']}")
    for title, key, columns in [
        ("random gate at no less cost", "against_random", ("lite_eval_map", "random_map", "difference")),
        ("without synchronisation", "against_no_sync", ("map", "no_sync_map", "difference")),
        ("the same at gate offset -2", "against_no_sync_thrifty", ("map", "no_sync_map", "difference")),
    ]:
        header = " | ".join(columns)
        print(f"\n| {title}, gamma | {header} | GFLOPs ours | theirs |\n|---|---|---|---|---|---|")
        theirs = "random_gflops" if "random" in key else "no_sync_gflops"
        ours = "lite_eval_gflops" if "random" in key else "gflops"
        for i, g in enumerate(GAMMAS):
            rows = [run[key][i] for run in runs]
            cells = [span((row[c] for row in rows), True) for c in columns]
            cells += [f"{np.mean([row[k] for row in rows]):.5f}" for k in (ours, theirs)]
            print(f"| {g} | " + " | ".join(cells) + " |")
    print(
        "\n| usage, gamma | measured usage | std/mean over videos | std/mean over classes |\n|---|---|---|---|"
    )
    for i, g in enumerate(GAMMAS):
        rows = [run["usage"][i] for run in runs]
        keys = ("usage", "videos_std_over_mean", "classes_std_over_mean")
        print(f"| {g} | " + " | ".join(span(row[k] for row in rows) for k in keys) + " |")
    print(
        "\n| method | test mAP, natural setting | best test mAP of its curve | GFLOPs there |\n|---|---|---|---|"
    )
    for name in runs[0]["curves"]:
        curves = [run["curves"][name] for run in runs]
        print(
            f"| {name} | {span((c['natural_map'] for c in curves), True)} |"
            f" {span((c['best_map'] for c in curves), True)}"
            f" | {np.mean([c['best_gflops'] for c in curves]):.5f} |"
        )


def curve(points: list[Point]) -> dict[str, float]:
    """The natural and the best (on validation) point of a trial, as measured on test."""
    best = max(points, key=lambda p: p.val.qualities["map"])
    return {
        "natural_map": natural(points).test.qualities["map"],
        "natural_gflops": natural(points).test.gflops,
        "best_map": best.test.qualities["map"],
        "best_gflops": best.test.gflops,
    }


def analyse(points: dict[str, list[Point]], folder: Path, seed: int) -> dict[str, Any]:
    """All claims for one seed."""
    tensors = load_file(folder / f"oracle-s{seed}" / "scores.safetensors")
    targets, num_steps = tensors["test/targets"], tensors["test/num_steps"]
    return {
        "seed": seed,
        "cost_at_quality": cost_at_quality([points])[0],
        "against_random": against_random(points, targets),
        "against_no_sync": against_no_sync(points, targets, natural),
        "against_no_sync_thrifty": against_no_sync(points, targets, thrifty),
        "usage": usage(points, targets, num_steps),
        "curves": {name: curve(points[name]) for name in TRIALS},
    }


def main() -> None:
    """Trains what is missing, prints the tables, writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=TrainingConfig().epochs)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("lite_eval_results.json"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = load_sweep_config(arguments.overrides)
    prepared = prepare(config, Progress(3))
    folder = prepared.home.root / "benchmarks" / f"lite_eval-e{arguments.epochs}"
    points = train_all(
        prepared, folder, TRIALS, seeds=arguments.seeds, epochs=arguments.epochs, workers=arguments.workers
    )
    document = {
        "dataset": prepared.dataset.fingerprint,
        "generator": dict(prepared.dataset.generator),
        "code_version": code_version(),
        "cost_at_quality": cost_at_quality(points),
        "cost_at_no_less_quality": cost_at_quality(points, margin=0.0),
        "cost_at_quality_natural": cost_at_quality(points, is_natural=True),
        "runs": [analyse(each, folder, seed) for seed, each in enumerate(points)],
    }
    arguments.out.write_text(json.dumps(document, indent=1, allow_nan=False))
    print_tables(document)


if __name__ == "__main__":
    main()
