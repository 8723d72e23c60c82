"""VideoEpitoma's claims on the built-in videos: selected timesteps against sampled ones, and context in the gate.

    python -m benchmarks video_epitoma                 claims (a) to (c)
    python -m benchmarks video_epitoma_selected        a selector that was trained alone, before others (Table 2)
    python -m benchmarks video_epitoma_long_range      claim (c) where context decides, in the paper's batches

The tables are those of `video_epitoma.md`. The first two share their trials: `--resume` for the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout
from benchmarks.harness.points import Point, Run, at, cost_at_quality
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, PageTable, Shown

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
            own_map = own.qualities["map"]
            row = {"selector": ours, "k": k, "map": own_map, "gflops": own.gflops}
            for sampling in ("uniform", "random"):
                rival = at(points[f"{sampling}{suffix}"], num_frames=k).test
                row[f"minus_{sampling}"] = own_map - rival.qualities["map"]
            rows.append(row)
    return rows


def half_of_16(points: Run) -> dict[str, float]:
    """Claim (b): 8 selected of 16 against 16 uniform ones."""
    ours, rival = best_k(points["of_16"], 8).test, at(points["uniform"], num_frames=16).test
    return {
        "map": ours.qualities["map"],
        "uniform_map": rival.qualities["map"],
        "difference": ours.qualities["map"] - rival.qualities["map"],
        "cost_ratio": ours.gflops / rival.gflops,
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


def default_rows(points: Run, num_steps: np.ndarray) -> dict[str, dict[str, float]]:
    """Every trial at its default setting."""
    return {
        name: {
            "map": each[0].test.qualities["map"],
            "gflops": each[0].test.gflops,
            "selected": float(((each[0].decisions == 2).sum(axis=1) / num_steps).mean()),
        }
        for name, each in points.items()
    }


def draw(study: Study, document: Document, folder: Path) -> None:
    """mAP against T' for the samplers (Fig. 4), and selection per class with and without context (Fig. 6)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rows = [row for run in document["runs"] for row in run["by_budget"] if row["selector"] == "epitoma-0.1"]
    for label, less in (("selected", ""), ("uniform", "minus_uniform"), ("random", "minus_random")):
        means = [
            100 * float(np.mean([row["map"] - (row[less] if less else 0) for row in rows if row["k"] == k]))
            for k in BUDGETS
        ]
        left.plot(BUDGETS, means, "-o", label=label, markersize=4)
    left.set_xlabel("timesteps that the heavy network sees, T'")
    left.set_ylabel("test mAP (%)")
    left.legend(frameon=False)
    targets, num_steps = study.targets_and_steps("oracle")
    shares = {
        label: np.mean([share_by_class(run[name][0], targets, num_steps) for run in study.runs], axis=0)
        for label, name in (("in view of the video", "epitoma-0.1"), ("frame alone", "frame_gate-0.1"))
    }
    classes = study.classes
    width = 0.4
    for i, (label, share) in enumerate(shares.items()):
        right.barh(np.arange(len(classes)) + (i - 0.5) * width, 100 * share, height=width, label=label)
    right.set_yticks(range(len(classes)), classes, fontsize=8)
    right.set_xlabel("timesteps selected (%), mean over seeds")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "video_epitoma.png")


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


def document(study: Study) -> Document:
    """Everything that is reported."""
    runs = study.runs
    targets, num_steps = study.targets_and_steps("oracle")
    return {
        "cost_at_quality": {
            "within half a point": cost_at_quality(runs, OURS, SAMPLED, margin=0.005),
            "not below": cost_at_quality(runs, OURS, SAMPLED, margin=0.0),
            "default settings": cost_at_quality(runs, OURS, SAMPLED, margin=0.005, is_default=True),
        },
        "runs": [
            {
                "seed": seed,
                "by_budget": by_budget(run),
                "half_of_16": half_of_16(run),
                "context": context(run, targets, num_steps),
                "natural": default_rows(run, num_steps),
            }
            for seed, run in enumerate(runs)
        ],
    }


def long_range(study: Study) -> Document:
    """Claim (c) where context is what decides."""
    targets, num_steps = study.targets_and_steps("oracle")
    return {
        "runs": [
            {
                "seed": seed,
                "context": context(run, targets, num_steps, LONG_RANGE_WEIGHTS),
                "natural": default_rows(run, num_steps),
                "sampled": {
                    "uniform": {
                        str(k): at(run["uniform"], num_frames=k).test.qualities["map"] for k in BUDGETS
                    }
                },
            }
            for seed, run in enumerate(study.runs)
        ],
    }


def train_selected(study: Study) -> list[Run]:
    """The selector and its rivals, then what a saved selector is put before."""
    rivals = ("uniform", "random", "uniform-motion", "random-motion")
    first = study.train({name: TRIALS[name] for name in (SELECTED_FROM, *rivals)})
    saved = {"regime": "stand_alone", "selector": f"{study.folder}/{SELECTED_FROM}-s{{seed}}"}
    trials = {f"selected-{name}": epitoma(**saved, **fields) for name, fields in SELECTED.items()}
    return [{**one, **other} for one, other in zip(first, study.train(trials), strict=True)]


def selected(study: Study) -> Document:
    """Table 2: a stand-alone selector before other classifiers and another network, against sampled timesteps."""
    rows = []
    for seed, run in enumerate(study.runs):
        for name in SELECTED:
            suffix = "-motion" if name == "motion" else ""
            for k in BUDGETS:
                own = best_k(run[f"selected-{name}"], k).test
                row = {
                    "seed": seed,
                    "before": name,
                    "k": k,
                    "map": own.qualities["map"],
                    "gflops": own.gflops,
                }
                for sampling in ("uniform", "random"):
                    rival = at(run[f"{sampling}{suffix}"], num_frames=k).test
                    row[sampling] = rival.qualities["map"]
                rows.append(row)
    everything = {
        name: [at(run[name], num_frames=0).test.qualities["map"] for run in study.runs]
        for name in ("uniform", "uniform-motion")
    }
    return {"rows": rows, "all_timesteps": everything}


def draw_long_range(study: Study, document: Document, folder: Path) -> None:
    """The seed in which the gates differ most is the one worth a look; the table has all."""
    shown_run = max(document["runs"], key=lambda run: run["context"][0]["variance"])
    draw_shares(shown_run, LONG_RANGE_WEIGHTS[0], study.classes, folder / "video_epitoma_long_range.png")


CONTEXT = {
    "context": Layout("runs.*.context.*", ("=seed", "")),
    "context_by_class": Layout("runs.*.context.*.by_class.*", ("=seed", "=weight", "class")),
    "frame_by_class": Layout("runs.*.context.*.frame_by_class.*", ("=seed", "=weight", "class")),
    "context_at_budgets": Layout("runs.*.context.*.best.*", ("=seed", "=weight", "k"), unzip="gate"),
    "natural": Layout("runs.*.natural.*", ("=seed", "trial")),
}
"""`gate` of `context_at_budgets`: 0 in view of the video, 1 the frame alone."""
GATES = (
    *(Cell(name, percent=True) for name in ("map", "frame_map", "selected", "frame_selected")),
    Cell("variance", "variance over classes", digits=4),
    Cell("frame_variance", "frame gate's", digits=4),
)
SHOWN_CONTEXT = (
    Shown("lambda", "context", ("weight",), GATES),
    Shown(
        "lambda, T', gate (0: in view of the video, 1: frame alone)",
        "context_at_budgets",
        ("weight", "k", "gate"),
        (Cell("value", "mAP", percent=True),),
    ),
)
DEFAULT_ROWS = Shown(
    "trial, default setting",
    "natural",
    ("trial",),
    (Cell("map", percent=True), Cell("gflops"), Cell("selected", percent=True)),
)
BY_BUDGET = (
    *(Cell(name, percent=True) for name in ("map", "minus_uniform", "minus_random")),
    Cell("gflops", only_mean=True, digits=4),
)
BEFORE = (
    Cell("map", "selected", percent=True),
    Cell("map", "minus uniform", percent=True, minus="uniform"),
    Cell("map", "minus random", percent=True, minus="random"),
)
BENCHMARKS = (
    Benchmark(
        name="video_epitoma",
        about="VideoEpitoma against sampled timesteps; the gate in view of the video",
        overrides=("method=video_epitoma",),
        trials=TRIALS,
        document=document,
        layouts={
            "cost_at_quality": Layout("cost_at_quality.*.*", ("choice", "seed")),
            "by_budget": Layout("runs.*.by_budget.*", ("=seed", "")),
            "half_of_16": Layout("runs.*.half_of_16", ("=seed",)),
            **CONTEXT,
        },
        shown=(
            Shown(
                "cost at quality",
                "cost_at_quality",
                ("choice",),
                (
                    *(Cell(name, percent=True) for name in ("baseline_map", "map", "map_difference")),
                    *(Cell(name) for name in ("baseline_gflops", "gflops", "cost_ratio")),
                ),
                turned=True,
            ),
            Shown("selector, T'", "by_budget", ("selector", "k"), BY_BUDGET),
            Shown(
                "8 of 16",
                "half_of_16",
                (),
                tuple(
                    Cell(name, percent=True) for name in ("map", "uniform_map", "difference", "cost_ratio")
                ),
            ),
            *SHOWN_CONTEXT,
            DEFAULT_ROWS,
        ),
        page_tables=(
            PageTable(
                "| T' | selected |",
                "by_budget",
                {str(k): {"selector": "epitoma-0.1", "k": k} for k in BUDGETS},
                BY_BUDGET,
            ),
            PageTable(
                "| lambda | in view of the video: mAP |",
                "context",
                {f"{weight:g}": {"weight": weight} for weight in WEIGHTS},
                GATES,
                below="### On the default set",
            ),
        ),
        draw=draw,
    ),
    Benchmark(
        name="video_epitoma_selected",
        about="VideoEpitoma's selector, trained alone, before other classifiers",
        overrides=("method=video_epitoma",),
        train=train_selected,
        document=selected,
        folder="video_epitoma",
        page="video_epitoma.md",
        layouts={
            "before": Layout("rows.*", ("",)),
            "all_timesteps": Layout("all_timesteps.*", ("trial",), unzip="seed"),
        },
        shown=(
            Shown("before, T'", "before", ("before", "k"), BEFORE),
            Shown("all timesteps", "all_timesteps", ("trial",), (Cell("value", "mAP", percent=True),)),
        ),
        page_tables=(
            PageTable(
                "| before | T' |",
                "before",
                {
                    name if k == 1 else f"{name} {k}": {"before": before, "k": k}
                    for name, before in (
                        ("its own classifier, fine", "attention"),
                        ("mean of what each timestep says, fine", "mean"),
                        ("LSTM, fine", "lstm"),
                        ("its own classifier, motion", "motion"),
                    )
                    for k in (1, 4, 8)
                },
                (None, *BEFORE),
            ),
        ),
    ),
    Benchmark(
        name="video_epitoma_long_range",
        about="VideoEpitoma's gate where context decides",
        overrides=("method=video_epitoma", "data=moving_digits_long_range"),
        trials=LONG_RANGE,
        document=long_range,
        epochs=100,
        training=LONG_RANGE_TRAINING,
        page="video_epitoma.md",
        layouts={**CONTEXT, "sampled": Layout("runs.*.sampled.*.*", ("=seed", "trial", "k"))},
        shown=(
            *SHOWN_CONTEXT,
            DEFAULT_ROWS,
            Shown("uniform, T'", "sampled", ("k",), (Cell("value", "mAP", percent=True),)),
        ),
        page_tables=(
            PageTable(
                "| lambda | in view of the video: mAP |",
                "context",
                {f"{weight:g}": {"weight": weight} for weight in LONG_RANGE_WEIGHTS},
                GATES,
            ),
        ),
        draw=draw_long_range,
    ),
)
