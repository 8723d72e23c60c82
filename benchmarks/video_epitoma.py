"""Measures VideoEpitoma's claims on the built-in videos, over several seeds, at measured cost.

    python benchmarks/video_epitoma.py [--seeds 5] [--workers 2] [home=...] [data...]

Trains VideoEpitoma, its ablations and the same classifier on sampled timesteps, on the same cached features; selects
on validation, measures on test and writes `benchmarks/video_epitoma_results.json` and pictures; the tables it prints
are those of `benchmarks/video_epitoma.md`. Trials that are finished already are not trained again.

    python benchmarks/video_epitoma.py --long-range [--seeds 5] data=moving_digits_long_range [...]

Measures claim (c) on the long-range variant, in the paper's batches: `video_epitoma_long_range_results.json`.

    python benchmarks/video_epitoma.py --selected [--seeds 5] [home=...] [data...]

Puts a selector that was trained stand-alone before other classifiers and the motion network (Table 2):
`video_epitoma_selected_results.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import Point, Run, at, cost_at_quality, span, table, train_all
from safetensors.numpy import load_file

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import prepare
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig

BUDGETS = (1, 2, 4, 6, 8, 12)
"""T': timesteps that the heavy network sees."""
WEIGHTS = (0.03, 0.1, 0.3, 0.5)
"""lambda of the end-to-end regime."""
STAND_ALONE_WEIGHTS = (0.01, 0.03, 0.1)
DROPOUT = 0.3


def epitoma(**fields: Any) -> tuple[str, dict[str, Any]]:
    """VideoEpitoma with these fields."""
    return "video_epitoma", {"dropout": DROPOUT, "timestep_counts": (), **fields}


def sampled(sampling: str, heavy: str = "fine") -> tuple[str, dict[str, Any]]:
    """The same classifier on sampled timesteps."""
    return "epitoma_sampled", {"dropout": DROPOUT, "sampling": sampling, "heavy": heavy}


TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"epitoma-{weight:g}": epitoma(l0_weight=weight) for weight in WEIGHTS},
    **{f"frame_gate-{weight:g}": epitoma(l0_weight=weight, context="none") for weight in WEIGHTS},
    **{
        f"stand_alone-{weight:g}": epitoma(l0_weight=weight, regime="stand_alone")
        for weight in STAND_ALONE_WEIGHTS
    },
    "no_l0": epitoma(l0_weight=0.0),
    "of_16": epitoma(timesteps=16),
    "motion": epitoma(heavy="motion"),
    **{f"{sampling}": sampled(sampling) for sampling in ("uniform", "random")},
    **{f"{sampling}-motion": sampled(sampling, "motion") for sampling in ("uniform", "random")},
    "lstm": ("lstm", {"dropout": 0.5}),
    "oracle": ("oracle", {}),
}
LONG_RANGE_WEIGHTS = (0.1, 0.3)
LONG_RANGE_TRAINING = {"batch_size": 32, "learning_rate": 1e-3}
"""And 100 epochs: the paper's, section 4."""
LONG_RANGE: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{prefix}-{weight:g}": epitoma(
            l0_weight=weight, context=kind, kernels=64, light_projection=64, gate_hidden=64, dropout=0.1
        )
        for weight in LONG_RANGE_WEIGHTS
        for prefix, kind in (("epitoma", "self_attention"), ("frame_gate", "none"))
    },
    "uniform": sampled("uniform"),
    "oracle": ("oracle", {}),
}
SELECTED_FROM = "stand_alone-0.03"
SELECTED: dict[str, dict[str, Any]] = {
    "attention": {},
    "mean": {"classifier": "mean"},
    "lstm": {"classifier": "lstm"},
    "motion": {"heavy": "motion"},
}
"""What a saved selector is put in front of: fields besides it."""
OURS = tuple(name for name in TRIALS if name.startswith("epitoma"))
SAMPLED = ("uniform", "random", "lstm")


def share_by_class(point: Point, targets: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
    """`[C]`: the mean share of a class's timesteps that are selected."""
    share = (point.decisions == 2).sum(axis=1) / num_steps
    return np.array([share[targets[:, c] > 0].mean() for c in range(targets.shape[1])])


def best_k(points: Sequence[Point], k: int) -> Point:
    """The point that looks heavily at the k best; a trial keeps one of several settings with equal answers."""
    for point in points:
        looked = (point.decisions == 2).sum(axis=1)
        there = (point.decisions > 0).sum(axis=1)
        if (looked == np.minimum(k, there)).all():
            return point
    raise KeyError(f"{points[0].trial} has no point with {k} of each video")


def by_budget(points: Run) -> list[dict[str, Any]]:
    """Claim (a): the k best of a selector against as many uniform and random timesteps, same classifier."""
    rows = []
    for ours, suffix in (("epitoma-0.1", ""), ("stand_alone-0.03", ""), ("motion", "-motion")):
        for k in BUDGETS:
            own = best_k(points[ours], k).test
            row = {"selector": ours, "k": k, "map": own["map"], "gflops": own["gflops"]}
            for sampling in ("uniform", "random"):
                rival = at(points[f"{sampling}{suffix}"], num_frames=k).test
                row[f"minus_{sampling}"] = own["map"] - rival["map"]
            rows.append(row)
    return rows


def half_of_16(points: Run) -> dict[str, float]:
    """Claim (b): 8 selected of 16 against 16 uniform ones."""
    ours, rival = best_k(points["of_16"], 8).test, at(points["uniform"], num_frames=16).test
    return {
        "map": ours["map"],
        "uniform_map": rival["map"],
        "difference": ours["map"] - rival["map"],
        "cost_ratio": ours["gflops"] / rival["gflops"],
    }


def context(
    points: Run, targets: np.ndarray, num_steps: np.ndarray, weights: Sequence[float] = WEIGHTS
) -> list[dict[str, Any]]:
    """Claim (c): the gate in view of the video against the gate that sees a frame alone."""
    rows: list[dict[str, Any]] = []
    for weight in weights:
        with_context, alone = points[f"epitoma-{weight:g}"][0], points[f"frame_gate-{weight:g}"][0]
        shares = [share_by_class(point, targets, num_steps) for point in (with_context, alone)]
        rows.append(
            {
                "weight": weight,
                "map": with_context.test.qualities["map"],
                "frame_map": alone.test.qualities["map"],
                "selected": float(shares[0].mean()),
                "frame_selected": float(shares[1].mean()),
                "variance": float(shares[0].var()),
                "frame_variance": float(shares[1].var()),
                "by_class": shares[0].tolist(),
                "frame_by_class": shares[1].tolist(),
                "map_difference": with_context.test.qualities["map"] - alone.test.qualities["map"],
                "variance_difference": float(shares[0].var() - shares[1].var()),
                "best": {
                    str(k): [
                        best_k(points[f"{gate}-{weight:g}"], k).test.qualities["map"]
                        for gate in ("epitoma", "frame_gate")
                    ]
                    for k in BUDGETS
                },
            }
        )
    return rows


def print_context(runs: Sequence[dict[str, Any]], weights: Sequence[float]) -> None:
    """Claim (c)'s tables: at the natural setting, and at equal numbers of heavy looks."""
    keys = ("map", "frame_map", "selected", "frame_selected")
    print(
        table(
            ["lambda", *keys, "variance over classes", "frame gate's"],
            (
                [
                    str(weight),
                    *(span((run["context"][i][k] for run in runs), True) for k in keys),
                    *(
                        span((run["context"][i][k] for run in runs), digits=4)
                        for k in ("variance", "frame_variance")
                    ),
                ]
                for i, weight in enumerate(weights)
            ),
        )
    )
    print()
    columns = ("in view of the video", "frame alone", "difference")
    print(
        table(
            ["lambda", "T'", *columns],
            (
                [str(weight), k, *(span(values, True) for values in (both[0], both[1], both[0] - both[1]))]
                for i, weight in enumerate(weights)
                for k in runs[0]["context"][i]["best"]
                for both in [np.array([run["context"][i]["best"][k] for run in runs]).T]
            ),
        )
    )


def natural(points: Run, num_steps: np.ndarray) -> dict[str, dict[str, float]]:
    """Every trial at its natural setting."""
    return {
        name: {
            "map": each[0].test.qualities["map"],
            "gflops": each[0].test.gflops,
            "selected": float(((each[0].decisions == 2).sum(axis=1) / num_steps).mean()),
        }
        for name, each in points.items()
    }


def print_tables(document: dict[str, Any]) -> None:
    """The tables of video_epitoma.md: mean and 95 % interval over seeds."""
    runs = document["runs"]
    keys: tuple[str, ...] = (
        "baseline_map",
        "map",
        "map_difference",
        "baseline_gflops",
        "gflops",
        "cost_ratio",
    )
    choices = document["cost_at_quality"]
    print(f"\nseeds: {len(runs)}; mAP in points\n")
    print(
        table(
            ["cost at quality", *choices],
            (
                [key, *(span((r[key] for r in rows), "map" in key) for rows in choices.values())]
                for key in keys
            ),
        )
    )
    for name, rows in choices.items():
        print(f"\n{name}: {rows[0]['chosen']} against {rows[0]['baseline']}")
    print()
    columns = ("map", "minus_uniform", "minus_random")
    print(
        table(
            ["selector", "T'", *columns, "GFLOPs"],
            (
                [
                    row["selector"],
                    str(row["k"]),
                    *(span((run["by_budget"][i][c] for run in runs), True) for c in columns),
                    f"{np.mean([run['by_budget'][i]['gflops'] for run in runs]):.4f}",
                ]
                for i, row in enumerate(runs[0]["by_budget"])
            ),
        )
    )
    print()
    half = ("map", "uniform_map", "difference", "cost_ratio")
    print(
        table(
            ["8 of 16", *half],
            [["", *(span((run["half_of_16"][k] for run in runs), True) for k in half)]],
        )
    )
    print()
    print_context(runs, WEIGHTS)
    print()
    print(
        table(
            ["trial, natural setting", "mAP", "GFLOPs", "selected"],
            (
                [
                    name,
                    span((run["natural"][name]["map"] for run in runs), True),
                    span(run["natural"][name]["gflops"] for run in runs),
                    span((run["natural"][name]["selected"] for run in runs), True),
                ]
                for name in runs[0]["natural"]
            ),
        )
    )


def draw(
    document: dict[str, Any], shares: dict[str, np.ndarray], classes: Sequence[str], folder: Path
) -> None:
    """mAP against T' for the samplers (Fig. 4), and selection per class with and without context (Fig. 6)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rows = [row for run in document["runs"] for row in run["by_budget"] if row["selector"] == "epitoma-0.1"]
    for label, value in (
        ("selected", lambda row: row["map"]),
        ("uniform", lambda row: row["map"] - row["minus_uniform"]),
        ("random", lambda row: row["map"] - row["minus_random"]),
    ):
        means = [100 * float(np.mean([value(row) for row in rows if row["k"] == k])) for k in BUDGETS]
        left.plot(BUDGETS, means, "-o", label=label, markersize=4)
    left.set_xlabel("timesteps that the heavy network sees, T'")
    left.set_ylabel("test mAP (%)")
    left.legend(frameon=False)
    width = 0.4
    for i, (label, share) in enumerate(shares.items()):
        right.barh(np.arange(len(classes)) + (i - 0.5) * width, 100 * share, height=width, label=label)
    right.set_yticks(range(len(classes)), classes, fontsize=8)
    right.set_xlabel("timesteps selected (%), mean over seeds")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "video_epitoma.png")


def long_range(arguments: argparse.Namespace) -> None:
    """Claim (c) where context is what decides."""
    prepared = prepare(load_sweep_config(["method=video_epitoma", *arguments.overrides]), Progress(3))
    folder = prepared.home.root / "benchmarks" / f"video_epitoma_long_range-e{arguments.epochs}"
    runs = train_all(
        prepared,
        folder,
        LONG_RANGE,
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        workers=arguments.workers,
        training=LONG_RANGE_TRAINING,
    )
    tensors = load_file(folder / "oracle-s0" / "scores.safetensors")
    targets, num_steps = tensors["test/targets"], tensors["test/num_steps"]
    document: dict[str, Any] = {
        "dataset": prepared.dataset.fingerprint,
        "generator": dict(prepared.dataset.generator),
        "code_version": code_version(),
        "runs": [
            {
                "seed": seed,
                "context": context(run, targets, num_steps, LONG_RANGE_WEIGHTS),
                "natural": natural(run, num_steps),
                "sampled": {
                    name: {str(k): at(run[name], num_frames=k).test.qualities["map"] for k in BUDGETS}
                    for name in ("uniform",)
                },
            }
            for seed, run in enumerate(runs)
        ],
    }
    arguments.out.write_text(json.dumps(document, indent=1, allow_nan=False))
    print_context(document["runs"], LONG_RANGE_WEIGHTS)
    # The seed in which the gates differ most is the one worth a look; the table has all.
    telling = max(document["runs"], key=lambda run: run["context"][0]["variance"])
    picture = arguments.out.parent / "video_epitoma_long_range.png"
    draw_shares(telling, LONG_RANGE_WEIGHTS[0], prepared.dataset.classes, picture)
    for name in ("uniform",):
        spans = (
            f"{k}: {span((run['sampled'][name][str(k)] for run in document['runs']), True)}" for k in BUDGETS
        )
        print(f"\n{name}: {'; '.join(spans)}")


def selected(arguments: argparse.Namespace) -> None:
    """Table 2: a stand-alone selector before other classifiers and another network, against uniform timesteps."""
    prepared = prepare(load_sweep_config(["method=video_epitoma", *arguments.overrides]), Progress(3))
    folder = prepared.home.root / "benchmarks" / f"video_epitoma-e{arguments.epochs}"
    about = {"seeds": arguments.seeds, "epochs": arguments.epochs, "workers": arguments.workers}
    rivals = ("uniform", "random", "uniform-motion", "random-motion")
    first = train_all(prepared, folder, {n: TRIALS[n] for n in (SELECTED_FROM, *rivals)}, **about)
    saved = {"regime": "stand_alone", "selector": f"{folder}/{SELECTED_FROM}-s{{seed}}"}
    trials = {f"selected-{name}": epitoma(**saved, **fields) for name, fields in SELECTED.items()}
    second = train_all(prepared, folder, trials, **about)
    rows = [
        {
            "seed": seed,
            "before": name,
            "k": k,
            "map": best_k(points[f"selected-{name}"], k).test.qualities["map"],
            "gflops": best_k(points[f"selected-{name}"], k).test.gflops,
            **{
                sampling: at(first[seed][f"{sampling}{suffix}"], num_frames=k).test.qualities["map"]
                for sampling in ("uniform", "random")
                for suffix in ["-motion" if name == "motion" else ""]
            },
        }
        for seed, points in enumerate(second)
        for name in SELECTED
        for k in BUDGETS
    ]
    everything = {
        name: [at(run[name], num_frames=0).test.qualities["map"] for run in first]
        for name in ("uniform", "uniform-motion")
    }
    document = {"code_version": code_version(), "rows": rows, "all timesteps": everything}
    arguments.out.write_text(json.dumps(document, indent=1, allow_nan=False))
    lines = []
    for name in SELECTED:
        for k in BUDGETS:
            mine = [row for row in rows if row["before"] == name and row["k"] == k]
            columns = [[row["map"] for row in mine]]
            columns += [[row["map"] - row[rival] for row in mine] for rival in ("uniform", "random")]
            lines.append([name, str(k), *(span(values, True) for values in columns)])
    print(table(["before", "T'", "selected", "minus uniform", "minus random"], lines))
    for name, values in everything.items():
        print(f"all timesteps, {name}: {span(values, True)}")


def draw_shares(run: dict[str, Any], weight: float, classes: Sequence[str], path: Path) -> None:
    """Fig. 6 of one seed: the share of timesteps that is selected per class, with and without context."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    row = next(row for row in run["context"] if row["weight"] == weight)
    for i, (label, key) in enumerate(
        (("in view of the video", "by_class"), ("frame alone", "frame_by_class"))
    ):
        places = np.arange(len(classes)) + (i - 0.5) * 0.4
        axes.barh(places, 100 * np.array(row[key]), height=0.4, label=label)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel(f"timesteps selected (%), lambda {weight:g}, seed {run['seed']}")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Trains what is missing, prints the tables, writes the results and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--long-range", action="store_true", help="claim (c) on the long-range variant")
    parser.add_argument("--selected", action="store_true", help="a saved selector before other classifiers")
    parser.add_argument("--epochs", type=int, help="default: the platform's, or 100 with --long-range")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    kind = "_long_range" if arguments.long_range else "_selected" if arguments.selected else ""
    name = f"video_epitoma{kind}"
    arguments.out = arguments.out or Path(__file__).with_name(f"{name}_results.json")
    arguments.epochs = arguments.epochs or (100 if arguments.long_range else TrainingConfig().epochs)
    if arguments.long_range:
        return long_range(arguments)
    if arguments.selected:
        return selected(arguments)
    prepared = prepare(load_sweep_config(["method=video_epitoma", *arguments.overrides]), Progress(3))
    folder = prepared.home.root / "benchmarks" / f"video_epitoma-e{arguments.epochs}"
    runs = train_all(
        prepared, folder, TRIALS, seeds=arguments.seeds, epochs=arguments.epochs, workers=arguments.workers
    )
    tensors = load_file(folder / "oracle-s0" / "scores.safetensors")
    targets, num_steps = tensors["test/targets"], tensors["test/num_steps"]
    document = {
        "dataset": prepared.dataset.fingerprint,
        "generator": dict(prepared.dataset.generator),
        "code_version": code_version(),
        "cost_at_quality": {
            "within half a point": cost_at_quality(runs, OURS, SAMPLED, margin=0.005),
            "not below": cost_at_quality(runs, OURS, SAMPLED, margin=0.0),
            "natural settings": cost_at_quality(runs, OURS, SAMPLED, margin=0.005, is_natural=True),
        },
        "runs": [
            {
                "seed": seed,
                "by_budget": by_budget(run),
                "half_of_16": half_of_16(run),
                "context": context(run, targets, num_steps),
                "natural": natural(run, num_steps),
            }
            for seed, run in enumerate(runs)
        ],
    }
    arguments.out.write_text(json.dumps(document, indent=1, allow_nan=False))
    print_tables(document)
    shares = {
        label: np.mean([share_by_class(run[name][0], targets, num_steps) for run in runs], axis=0)
        for label, name in (("in view of the video", "epitoma-0.1"), ("frame alone", "frame_gate-0.1"))
    }
    draw(document, shares, prepared.dataset.classes, arguments.out.parent)
    return None


if __name__ == "__main__":
    main()
