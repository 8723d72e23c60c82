"""HCMS's claims on the built-in videos: cost at equal quality, what sound adds, skips, caps, classes, orders.

`python -m benchmarks hcms` measures them; the tables are those of `hcms.md`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.caps import complete_caps, under_caps
from benchmarks.harness.document import Layout
from benchmarks.harness.points import Point, Run, best_on_validation, cost_against
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Rows
from benchmarks.harness.tables import Cell, PageTable, Shown
from paretovid.platform.preparation.prepare import Prepared
from paretovid.trainables.catalog import build_method
from paretovid.trainables.cost import CostTable
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.evaluation.evaluate import Measured, measure, run_settings
from paretovid.trainables.evaluation.metrics import (
    average_precision_paper,
    bootstrap_map_difference,
    mean_average_precision,
)
from paretovid.trainables.evaluation.results import RESULT_FILE, SCORES_FILE, WEIGHTS_FILE
from paretovid.trainables.features.store import FeatureSplit, FeatureStore, load_padded
from paretovid.trainables.methods.hcms import Hcms
from paretovid.trainables.outcome import Batch
from paretovid.trainables.outcome import Progress as TrainingProgress

ORDER = ("audio", "fine", "motion")
LETTERS = {"audio": "A", "fine": "I", "motion": "M"}
"""The paper's: audio, image (appearance), motion."""
FIGURE_7 = ((0.3, 0.7), (0.6, 0.8), (0.92, 0.99))
SKIPS = (FIGURE_7[0], FIGURE_7[1], (0.6, 0.94), (0.85, 0.98), FIGURE_7[2])
ORDERS = (ORDER, ("fine", "audio", "motion"), ("audio", "motion", "fine"), ("motion", "fine", "audio"))
ORDER_SKIPS = (0.6, 0.94)
"""The constraint that all orders of Table 6 are trained under."""
FUSIONS = (
    ("audio",),
    ("fine",),
    ("motion",),
    ("audio", "fine"),
    ("audio", "motion"),
    ("fine", "motion"),
    ORDER,
)
VIEWS = (10, 0)
"""Of Table 1: ten, and every step."""
QUALITY_MARGIN = 0.005
AUDIO_SENSITIVE_AP = 0.7
"""A class is recognized by sound if audio alone has this AP on validation; the paper's Table 4 lists 72 % and more."""


def letters(sources: Iterable[str]) -> str:
    """`A+I+M` for sources."""
    return "+".join(LETTERS[source] for source in sources)


def hcms_name(skips: Sequence[float], order: Sequence[str] = ORDER) -> str:
    """The trial's name for skip ratios, and for an order other than the default."""
    suffix = "" if tuple(order) == ORDER else "-" + "".join(LETTERS[source] for source in order)
    return f"hcms-{skips[0]:g}-{skips[1]:g}{suffix}"


def _hcms(skips: Sequence[float], order: Sequence[str] = ORDER) -> dict[str, Any]:
    return {"skip_1": skips[0], "skip_2": skips[1], "sources": list(order)}


TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    **{hcms_name(skips): ("hcms", _hcms(skips)) for skips in SKIPS},
    **{
        f"{hcms_name(skips)}-l8": ("hcms", _hcms(skips) | {"usage_weight": 8.0})
        for skips in ((0.6, 0.94), FIGURE_7[1], FIGURE_7[2])
    },
    **{hcms_name(ORDER_SKIPS, order): ("hcms", _hcms(ORDER_SKIPS, order)) for order in ORDERS},
    **{
        f"early-{letters(sources)}-{views or 'all'}": (
            "early_fusion",
            {"sources": list(sources), "training_frames": views},
        )
        for sources in FUSIONS
        for views in VIEWS
    },
    f"early-{letters(ORDER)}": ("early_fusion", {"sources": list(ORDER)}),
    **{f"late-{letters(s)}": ("late_fusion", {"sources": list(s)}) for s in (("fine",), ("motion",), ORDER)},
    "random_levels": ("random_levels", {}),
}
OURS = tuple(hcms_name(skips) for skips in SKIPS)
FULL_FUSIONS = (
    *(f"early-{letters(ORDER)}-{views or 'all'}" for views in VIEWS),
    f"early-{letters(ORDER)}",
)

Runs = Sequence[Run]
"""Per seed: trial to its operating points."""


# Claims


def with_views(points: list[Point], views: int) -> Point:
    """The point of a fusion at a number of views. Settings that change no answer are left out of a trial."""
    known = [p for p in points if p.setting["num_frames"] == views]
    return known[0] if known else points[0]


def fusions(runs: Runs) -> list[dict[str, Any]]:
    """Table 1: every source and combination at 10 views and at all steps."""
    return [
        {
            "sources": letters(sources),
            "views": views or "all",
            "map": [point.test.qualities["map"] for point in chosen],
            "gflops": [point.test.gflops for point in chosen],
        }
        for sources in FUSIONS
        for views in VIEWS
        for chosen in [[with_views(run[f"early-{letters(sources)}-{views or 'all'}"], views) for run in runs]]
    ]


def gains_of_audio(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Claim (b): what adding audio to I, M and I+M gains, per seed."""
    maps = {(row["sources"], row["views"]): np.array(row["map"]) for row in table}
    return [
        {"to": rest, "views": views, "gain": (maps[f"A+{rest}", views] - maps[rest, views]).tolist()}
        for rest in ("I", "M", "I+M")
        for views in (10, "all")
    ]


def shares_skipped(point: Point, num_steps: np.ndarray) -> list[float]:
    """The share of steps at which each gated level was skipped, mean over test videos."""
    return [
        float(1 - ((point.decisions > level).sum(axis=1) / num_steps).mean())
        for level in range(1, len(ORDER))
    ]


def default_row(points: list[Point], num_steps: np.ndarray) -> dict[str, Any]:
    """Test figures of a trial's default setting: claims (c) and (f), Tables 1 and 6."""
    point = points[0]
    skips = shares_skipped(point, num_steps)
    return {
        "map": point.test.qualities["map"],
        "gflops": point.test.gflops,
        "skip_1": skips[0],
        "skip_2": skips[1],
    }


def cost_by_class(point: Point, targets: np.ndarray) -> np.ndarray:
    """`[C]` mean GFLOPs of each class's test videos."""
    return np.array([point.gflops[targets[:, c] > 0].mean() for c in range(targets.shape[1])])


def audio_sensitive(folder: Path, seed: int) -> np.ndarray:
    """`[C]` bool: classes that audio alone recognizes, by its AP on validation (Table 4)."""
    tensors = load_file(folder / f"early-A-all-s{seed}" / SCORES_FILE)
    scores, targets = tensors["val/scores"][0].astype(np.float64), tensors["val/targets"]
    return average_precision_paper(scores, targets.astype(np.float64)) >= AUDIO_SENSITIVE_AP


def costs_of_classes(
    point: Point, targets: np.ndarray, sensitive: np.ndarray, dataset: Dataset
) -> dict[str, Any]:
    """Claim (e): what classes cost relative to the mean over videos."""
    each = cost_by_class(point, targets)
    groups = np.array([dataset.class_groups.get(name, "") for name in dataset.classes])
    mean = float(point.gflops.mean())
    relative = {group: float(each[groups == group].mean() / mean) for group in sorted(set(groups)) if group}
    return {
        "mean_gflops": mean,
        "by_group": relative,
        "by_class": dict(zip(dataset.classes, (each / mean).tolist(), strict=True)),
        "audio_sensitive": [
            name for name, is_sensitive in zip(dataset.classes, sensitive, strict=True) if bool(is_sensitive)
        ],
        "audio_sensitive_all_below_mean": bool(sensitive.any() and (each[sensitive] < mean).all()),
    }


def at_matched_usage(
    prepared: Prepared, folder: Path, seed: int, points: Run, targets: np.ndarray
) -> list[dict[str, Any]]:
    """HCMS minus random levels that run with the same probabilities on test, paired over videos."""
    trial = folder / f"random_levels-s{seed}"
    result = json.loads((trial / RESULT_FILE).read_text())
    method = build_method(
        "random_levels",
        result["model"],
        widths=result["widths"],
        num_classes=len(prepared.dataset.classes),
        multi_label=prepared.dataset.multi_label,
    )
    method.load_state_dict(load_tensors(trial / WEIGHTS_FILE))
    split = test_split(prepared)
    num_steps = split.num_steps.numpy()
    rows = []
    for skips in SKIPS:
        ours = points[hcms_name(skips)][0]
        measured = shares_skipped(ours, num_steps)
        setting = {f"usage_{level}": 1 - skip for level, skip in enumerate(measured, start=1)}
        rival = evaluated(method, split, setting, result)
        mean, low, high = bootstrap_map_difference(ours.scores, rival.scores.astype(np.float64), targets)
        rows.append(
            {
                "skips": hcms_name(skips),
                "hcms_map": ours.test.qualities["map"],
                "hcms_gflops": ours.test.gflops,
                "random_map": mean_average_precision(rival.scores.astype(np.float64), targets),
                "random_gflops": float(rival.gflops.mean()),
                "difference": mean,
                "low": low,
                "high": high,
            }
        )
    return rows


def test_split(prepared: Prepared) -> FeatureSplit:
    """Features of the test videos, in the trials' order."""
    stores = {source: FeatureStore.open(prepared.features[source]) for source in ORDER}
    records = [r for r in prepared.dataset.split("test") if r.video_id in stores[ORDER[0]]]
    return load_padded(stores, records, prepared.dataset)


def evaluated(
    method: Any, split: FeatureSplit, setting: dict[str, float], result: Mapping[str, Any]
) -> Measured:
    """One setting of a trained method on a split."""
    costs = CostTable.from_json(result["costs"])
    answered = run_settings(method, split, [setting], components=result["sources"], costs=costs, expand=False)
    (measured,) = measure([(split, answered)], costs, split.mask.shape[1])
    return measured


def step_seconds(widths: Mapping[str, int], num_classes: int, repeats: int = 30) -> dict[str, float]:
    """Median seconds of a training step (loss and gradients) of HCMS, and of `nn.LSTM`s of the same sizes.

    64 videos of 16 steps, one thread, the two in turns. The LSTMs read the same projected inputs, whole
    sequences at a time, without gates or copying: what a level could cost at best.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = build_method("hcms", {}, widths=widths, num_classes=num_classes, multi_label=False)
    assert isinstance(method, Hcms)
    sizes, seen = method.network.sizes, 0
    lstms = []
    for size in sizes:
        seen += size.projection
        lstms.append(torch.nn.LSTM(seen, size.hidden, batch_first=True))
    features = {source: torch.randn(64, 16, width) for source, width in widths.items()}
    targets = torch.eye(num_classes)[torch.arange(64) % num_classes]
    batch = Batch(features, torch.ones(64, 16, dtype=torch.bool), targets, torch.arange(64))

    def plain() -> torch.Tensor:
        inputs, total = [], torch.zeros(())
        for level, lstm in zip(method.network.levels, lstms, strict=True):
            inputs.append(level.project(features[level.source]))
            hidden, _ = lstm(torch.cat(inputs, dim=-1))
            total = total + hidden[:, -1].square().mean()
        return total

    times: dict[str, list[float]] = {"hcms": [], "nn.LSTM": []}
    for _ in range(repeats):
        for name, loss in (
            ("hcms", lambda: method.loss(batch, TrainingProgress(0, 1)).total),
            ("nn.LSTM", plain),
        ):
            began = time.perf_counter()
            loss().backward()  # type: ignore[no-untyped-call]
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return medians | {"ratio": medians["hcms"] / medians["nn.LSTM"]}


# Pictures


def picture_of_steps(point: Point, folder: Path, dataset: Dataset, path: Path, per_class: int = 2) -> None:
    """Figs. 5 and 6: the most expensive source used at each step of some test videos, and how often by class.

    Left: videos in rows; a dot where the class's evidence is. Right: the share of a class's videos that used
    the most expensive source, by place in the video.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    ids = _video_ids(folder / point.trial)
    records = {record.video_id: record for record in dataset.split("test")}
    rows = [
        i
        for c in range(len(dataset.classes))
        for i in [i for i, v in enumerate(ids) if records[v].labels[0] == c][:per_class]
    ]
    figure = Figure(figsize=(13, 0.26 * len(rows) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = np.full((len(rows), point.decisions.shape[1]), np.nan)
    for row, i in enumerate(rows):
        record = records[ids[i]]
        shown[row, : record.num_steps] = point.decisions[i, : record.num_steps]
        evidence = [t for t, label in enumerate(record.step_labels or ()) if label == record.labels[0]]
        left.plot(evidence, [row] * len(evidence), "o", color="black", markersize=3)
    colours = ListedColormap(["white", "gold", "mediumseagreen", "rebeccapurple"])
    image = left.imshow(shown, cmap=colours, vmin=-0.5, vmax=3.5, aspect="auto", interpolation="none")
    bar = figure.colorbar(image, ax=left, ticks=range(len(ORDER) + 1))
    bar.ax.set_yticklabels(["none", *ORDER])
    names = [dataset.classes[records[ids[i]].labels[0]] for i in rows]
    left.set(
        xlabel="step",
        xticks=range(0, shown.shape[1], 2),
        title="most expensive source used (dots: where the evidence is)",
    )
    left.set_yticks(range(len(rows)), names, fontsize=7)
    share = np.zeros((len(dataset.classes), 10))
    for c in range(len(dataset.classes)):
        members = [i for i, v in enumerate(ids) if records[v].labels[0] == c]
        for place in range(10):
            steps = [int((place + 0.5) / 10 * records[ids[i]].num_steps) for i in members]
            used = [point.decisions[i, t] == len(ORDER) for i, t in zip(members, steps, strict=True)]
            share[c, place] = np.mean(used)
    heat = right.imshow(
        share, cmap="Blues", vmin=0, vmax=max(share.max(), 0.01), aspect="auto", interpolation="none"
    )
    figure.colorbar(heat, ax=right)
    right.set(xlabel="tenth of the video", title=f"share of videos that use {ORDER[-1]} there")
    right.set_yticks(range(len(dataset.classes)), dataset.classes, fontsize=7)
    figure.savefig(path, dpi=110)


def picture_of_usage(
    point: Point, num_steps: np.ndarray, targets: np.ndarray, classes: Sequence[str], path: Path
) -> None:
    """Fig. 4: the share of steps at which each gated source was used, over the test videos of each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for level, axis in enumerate(figure.subplots(1, 2), start=1):
        used = (point.decisions > level).sum(axis=1) / num_steps
        each = [used[targets[:, c] > 0] for c in range(len(classes))]
        order = np.argsort([values.mean() for values in each])
        axis.boxplot([each[c] for c in order], showmeans=True, widths=0.6, orientation="horizontal")
        axis.set_yticks(range(1, len(classes) + 1), [classes[c] for c in order], fontsize=8)
        axis.set(xlabel="share of steps", title=f"use of {ORDER[level]}", xlim=(0, None))
    figure.savefig(path, dpi=110)


def picture_of_training(folder: Path, seed: int, path: Path) -> None:
    """Fig. 7: classification loss, and skip ratios against their targets, by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    first, *others = figure.subplots(1, 3)
    for number, skips in enumerate(FIGURE_7):
        result = json.loads((folder / f"{hcms_name(skips)}-s{seed}" / RESULT_FILE).read_text())
        history, colour = result["training"]["history"], f"C{number}"
        first.plot([epoch["classification"] for epoch in history], color=colour, label=str(skips))
        for level, (axis, target) in enumerate(zip(others, skips, strict=True), start=1):
            axis.plot([epoch[f"skip_{level}"] for epoch in history], color=colour)
            axis.axhline(target, color=colour, linestyle="--", linewidth=1)
    first.set(xlabel="epoch", title="classification loss in training")
    first.legend(title="skip targets")
    for level, axis in enumerate(others, start=1):
        axis.set(xlabel="epoch", ylim=(0, 1.02), title=f"skip ratio of {ORDER[level]} (dashed: target)")
    figure.savefig(path, dpi=110)


def _video_ids(trial: Path) -> list[str]:
    with safe_open(trial / SCORES_FILE, framework="np") as file:
        ids: list[str] = json.loads((file.metadata() or {})["test"])
    return ids


# All together


def analyse(prepared: Prepared, folder: Path, seed: int, points: Run) -> dict[str, Any]:
    """What is measured per seed."""
    tensors = load_file(folder / f"random_levels-s{seed}" / SCORES_FILE)
    targets, num_steps = tensors["test/targets"], tensors["test/num_steps"]
    sensitive = audio_sensitive(folder, seed)
    return {
        "seed": seed,
        "skips": {hcms_name(s): default_row(points[hcms_name(s)], num_steps) for s in SKIPS},
        "orders": {
            "".join(LETTERS[s] for s in order): default_row(points[hcms_name(ORDER_SKIPS, order)], num_steps)
            for order in ORDERS
        },
        "caps": {hcms_name(s): under_caps(points[hcms_name(s)]) for s in SKIPS},
        "classes": {
            hcms_name(s): costs_of_classes(points[hcms_name(s)][0], targets, sensitive, prepared.dataset)
            for s in SKIPS
        },
        "matched": at_matched_usage(prepared, folder, seed, points, targets),
        "late": {
            name: [
                {"views": p.setting["num_frames"], "map": p.test.qualities["map"], "gflops": p.test.gflops}
                for p in points[name]
            ]
            for name in TRIALS
            if name.startswith("late")
        },
    }


def caps_side_by_side(results: Results) -> Rows:
    """Claim (d): a row per cap and seed with the mAP of each trial as a column."""
    return Rows(
        tuple(
            {"cap": cap, "seed": seed, **{str(row["trial"]): row["map"] for row in group.rows}}
            for (cap, seed), group in complete_caps(results["caps"]).groups(("cap", "seed")).items()
        )
    )


def caps_text(results: Results) -> str:
    """Claim (d): a line per trial and cap."""
    rows = complete_caps(results["caps"])
    shown = Shown("(d) cap", "caps", ("trial", "cap"), (Cell("map", "mAP", percent=True), Cell("gflops")))
    return shown.text(Results({}, {"caps": rows}))


def document(study: Study) -> Document:
    """Everything that is reported."""
    points, prepared = study.runs, study.prepared
    every_fusion = fusions(points)
    rivals = {
        "10 views": best_on_validation(points, FULL_FUSIONS, num_frames=10),
        "the best number of views": best_on_validation(points, FULL_FUSIONS),
    }
    widths = {source: FeatureStore.open(prepared.features[source]).width for source in ORDER}
    return {
        "cost_at_quality": {
            f"against {name}, {kind}, {margin_name}": cost_against(
                points, OURS, rival, margin=margin, is_default=kind == "default settings"
            )
            for name, rival in rivals.items()
            for kind in ("all settings", "default settings")
            for margin_name, margin in (("within half a point", QUALITY_MARGIN), ("not below", 0.0))
        },
        "fusions": every_fusion,
        "gains_of_audio": gains_of_audio(every_fusion),
        "runs": [analyse(prepared, study.folder, seed, each) for seed, each in enumerate(points)],
        "step_seconds": step_seconds(widths, len(prepared.dataset.classes)),
    }


def draw(study: Study, _: Document, pictures: Path) -> None:
    """The pictures of the first seed."""
    targets, num_steps = study.targets_and_steps("random_levels")
    point = study.runs[0][hcms_name(ORDER_SKIPS)][0]
    picture_of_steps(point, study.folder, study.prepared.dataset, pictures / "hcms_steps.png")
    picture_of_usage(point, num_steps, targets, study.classes, pictures / "hcms_usage.png")
    picture_of_training(study.folder, 0, pictures / "hcms_training.png")


RATES = (Cell("map", percent=True), Cell("gflops"), Cell("skip_1"), Cell("skip_2"))
BENCHMARKS = (
    Benchmark(
        name="hcms",
        about="HCMS against fusions of all sources; sound, skips, caps, classes, orders",
        overrides=("method=hcms",),
        trials=TRIALS,
        document=document,
        keeps_caps=True,
        alone=("step_seconds",),
        layouts={
            "cost_at_quality": Layout("cost_at_quality.*.*", ("choice", "seed")),
            "fusions": Layout("fusions.*", ("",), unzip="seed"),
            "gains_of_audio": Layout("gains_of_audio.*", ("",), unzip="seed"),
            "skips": Layout("runs.*.skips.*", ("=seed", "trial")),
            "orders": Layout("runs.*.orders.*", ("=seed", "order")),
            "caps": Layout("runs.*.caps.*.*", ("=seed", "trial", "")),
            "classes": Layout("runs.*.classes.*", ("=seed", "trial")),
            "cost_of_groups": Layout("runs.*.classes.*.by_group.*", ("=seed", "trial", "group")),
            "cost_of_classes": Layout("runs.*.classes.*.by_class.*", ("=seed", "trial", "class")),
            "audio_sensitive": Layout("runs.*.classes.*.audio_sensitive.*", ("=seed", "trial", "")),
            "matched": Layout("runs.*.matched.*", ("=seed", "")),
            "late": Layout("runs.*.late.*.*", ("=seed", "trial", "")),
        },
        shown=(
            Shown(
                "(a) cost at quality",
                "cost_at_quality",
                ("choice",),
                (
                    Cell("baseline_map", "full fusion mAP", percent=True),
                    Cell("map", "HCMS mAP", percent=True),
                    Cell("map_difference", "difference", percent=True),
                    Cell("baseline_gflops", "GFLOPs"),
                    Cell("gflops", "HCMS"),
                    Cell("cost_ratio", "ratio"),
                ),
            ),
            Shown("early fusion, views", "fusions", ("sources", "views"), RATES[:2]),
            Shown(
                "(b) audio added to, views", "gains_of_audio", ("to", "views"), (Cell("gain", percent=True),)
            ),
            Shown("(c) skip targets", "skips", ("trial",), RATES),
            Shown("(f) order", "orders", ("order",), RATES),
            caps_text,
            Shown("(e) cost relative to the mean", "cost_of_groups", ("trial", "group"), (Cell("value"),)),
            Shown(
                "random levels at matched usage",
                "matched",
                ("skips",),
                (
                    *(Cell(name, percent=True) for name in ("hcms_map", "random_map", "difference")),
                    *(Cell(name) for name in ("hcms_gflops", "random_gflops")),
                ),
            ),
        ),
        page_tables=(
            PageTable(
                "| HCMS against early fusion A+I+M |",
                "cost_at_quality",
                {
                    f"over {page}": {"choice": f"against {choice}"}
                    for page, choice in (
                        ("10 views, cheapest setting not below it", "10 views, all settings, not below"),
                        ("10 views, default settings only", "10 views, default settings, not below"),
                        (
                            "the best number of views (16), within half a point",
                            "the best number of views, all settings, within half a point",
                        ),
                        (
                            "the best number of views, not below it",
                            "the best number of views, all settings, not below",
                        ),
                        (
                            "the best number of views, default settings",
                            "the best number of views, default settings, not below",
                        ),
                    )
                },
                (
                    *(Cell(name, percent=True) for name in ("baseline_map", "map", "map_difference")),
                    *(Cell(name) for name in ("baseline_gflops", "gflops")),
                    Cell("cost_ratio", percent=True),
                ),
            ),
            PageTable(
                "| sound added to |",
                "gains_of_audio",
                {
                    f"{to}, {page}": {"to": to, "views": views}
                    for to in ("I", "M", "I+M")
                    for page, views in (("10 views", 10), ("every step", "all"))
                    if (to, views) != ("M", 10)
                },
                (Cell("gain", percent=True),),
            ),
            PageTable(
                "| targets (skip 1, skip 2), lambda 2 |",
                "skips",
                {f"({a:g}, {b:g})": {"trial": hcms_name((a, b))} for a, b in SKIPS},
                (*RATES[:2], None),
            ),
            PageTable(
                "| cap in GFLOPs |",
                caps_side_by_side,
                {
                    f"{cap:g}" if cap else "none": {"cap": cap or "none"}
                    for cap in (0.0152, 0.0304, 0.0608, 0.122, 0.243, 0)
                },
                tuple(
                    Cell(hcms_name(skips), percent=True) for skips in (FIGURE_7[0], ORDER_SKIPS, FIGURE_7[2])
                ),
            ),
            PageTable(
                "| order |",
                "orders",
                {
                    ", ".join(LETTERS[s] for s in order): {"order": "".join(LETTERS[s] for s in order)}
                    for order in ORDERS
                },
                RATES[:2],
            ),
        ),
        draw=draw,
    ),
)
