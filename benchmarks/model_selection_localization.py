"""Claims of Conditional Model Selection for localization on untrimmed videos: cost, random clips, labels, disparity.

`python -m benchmarks model_selection_localization` measures them; the tables are those of
`model_selection_localization.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout
from benchmarks.harness.points import Point, Run, setting_text
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results
from benchmarks.harness.tables import Cell, PageTable, Shown, interval, side_by_side, span, table
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.trial import read_scores
from paretovid.platform.registry.localization_plot import draw_timeline
from paretovid.trainables.backbones.catalog import component
from paretovid.trainables.catalog import build_method
from paretovid.trainables.cost import deterministic_eval
from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, context_labels
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.evaluation.detection import EVALUATORS, map_iou
from paretovid.trainables.evaluation.evaluate import OBJECTIVES, run_settings
from paretovid.trainables.evaluation.results import RESULT_FILE, WEIGHTS_FILE
from paretovid.trainables.features.store import FeatureStore, load_padded
from paretovid.trainables.methods.model_selection_localization import (
    ModelSelectionLocalization,
    affinity,
    disparity,
)
from paretovid.trainables.outcome import Detection
from paretovid.trainables.trial import cost_table

METHOD = "model_selection_localization"
MAP = OBJECTIVES["localization"]
BETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
HARD_BETAS = (0.2, 0.4, 0.7)
KINDS = ("action", "context", "plain")
"""Of clips: an instance; the look of one without its movement; neither."""


def selection(**fields: Any) -> tuple[str, dict[str, Any]]:
    """Model selection with these fields."""
    return METHOD, fields


TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"soft-{beta:g}": selection(beta=beta) for beta in BETAS},
    **{f"hard-{beta:g}": selection(beta=beta, affinity="hard") for beta in HARD_BETAS},
    **{f"difference-{beta:g}": selection(beta=beta, motion="difference") for beta in (0.3, 0.5)},
    "snap-0.4": selection(beta=0.4, proposals={"snap_clips": 1}),
    "appearance-only": ("appearance_only", {}),
    "motion-only": ("motion_only", {}),
    "difference-only": ("motion_only", {"motion": "difference"}),
    "two-stream": ("two_stream", {}),
    "random-clips": ("random_clips", {}),
    "random-difference": ("random_clips", {"motion": "difference"}),
}
SOFT = tuple(name for name in TRIALS if name.startswith("soft-"))


def curve(points: Sequence[Point], split: str = "test") -> tuple[list[float], list[float]]:
    """GFLOPs and quality of a trial's points, cheapest first."""
    measured = [p.record.on(split) for p in points]
    figures = sorted((each.gflops, each.qualities[MAP]) for each in measured)
    return [cost for cost, _ in figures], [quality for _, quality in figures]


def at_cost(points: Sequence[Point], gflops: float) -> float:
    """Quality of a trial at a cost, between its points."""
    return float(np.interp(gflops, *curve(points)))


def best_within(runs: Sequence[Run], names: Sequence[str], limit: float) -> list[Point]:
    """Of all settings that cost at most `limit` on validation, the best there, by the mean over seeds; one a seed."""
    found: dict[tuple[str, str], list[Point]] = {}
    for run in runs:
        for name in names:
            for point in run[name]:
                found.setdefault((name, json.dumps(point.setting, sort_keys=True)), []).append(point)
    usable = [
        each
        for each in found.values()
        if len(each) == len(runs) and np.mean([p.val.gflops for p in each]) <= limit
    ]
    return max(usable, key=lambda each: float(np.mean([p.val.qualities[MAP] for p in each])))


def against_motion(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Claim (e) and the aim: the best point at no more than a share of motion-only's cost, against motion-only."""
    rows = []
    rivals = [run["motion-only"][0] for run in runs]
    full_gflops = float(np.mean([p.val.gflops for p in rivals]))
    for share in (0.4, 0.5, 0.6, 0.7, 0.78, 1.0):
        chosen = best_within(runs, SOFT, share * full_gflops)
        rows.append(
            {
                "share": share,
                "chosen": setting_text(chosen[0].trial.rpartition("-")[0], chosen[0].setting),
                "map": [p.test.qualities[MAP] for p in chosen],
                "motion_map": [p.test.qualities[MAP] for p in rivals],
                "difference": [
                    p.test.qualities[MAP] - r.test.qualities[MAP] for p, r in zip(chosen, rivals, strict=True)
                ],
                "cost_ratio": [p.test.gflops / r.test.gflops for p, r in zip(chosen, rivals, strict=True)],
            }
        )
    return rows


def against_random(run: Run) -> list[dict[str, Any]]:
    """Selection minus random clips at equal cost, at even distances between all appearance and all motion."""
    rows = []
    for name in (*SOFT, *(n for n in TRIALS if n.startswith(("hard-", "difference-0")))):
        rival = run["random-difference" if name.startswith("difference") else "random-clips"]
        costs, _ = curve(rival)
        low, high = min(p.test.gflops for p in run[name]), costs[-1]
        for position in np.linspace(0.1, 0.9, 9):
            cost = float(low + position * (high - low))
            ours = at_cost(run[name], cost)
            rows.append(
                {
                    "trial": name,
                    "position": round(float(position), 2),
                    "gflops": cost,
                    "map": ours,
                    "random_map": at_cost(rival, cost),
                    "difference": ours - at_cost(rival, cost),
                }
            )
    return rows


def default_rows(run: Run) -> dict[str, dict[str, float]]:
    """Every trial at its default setting, and random clips at all motion."""
    rows = {name: points[0] for name, points in run.items()}
    rows["random-clips, all motion"] = max(run["random-clips"], key=lambda p: p.test.gflops)
    keys = (MAP, "map_iou_0.1", "map_iou_0.3", "map_iou_0.5", "map_iou_0.7", "map", "gflops", "usage")
    figures = {name: {**p.test.numbers(), "usage": p.test.usage or 0.0} for name, p in rows.items()}
    return {name: {key: values[key] for key in keys} for name, values in figures.items()}


def evaluators(folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """The same detections under every evaluator."""
    rows: dict[str, dict[str, float]] = {}
    for name in ("appearance-only", "motion-only", "two-stream", "soft-0.4"):
        scores = read_scores(folder / f"{name}-s{seed}", "test")
        assert scores.detections is not None and scores.ground_truth is not None
        rows[name] = {
            e: map_iou(scores.detections[0], scores.ground_truth, evaluator=e)[MAP] for e in EVALUATORS
        }
    return rows


def disparities(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """Claim (f): D of the test clips by what they show, from a trained method; and what its selector makes of them."""
    result = json.loads((folder / RESULT_FILE).read_text())
    method = trained(folder, result)
    dataset, stores = prepared.dataset, stores_of(prepared, method)
    records = list(dataset.split("test"))
    split = load_padded(stores, records, dataset)
    with deterministic_eval(method):
        rgb = method.appearance.activations(split.features["appearance"])
        motion = method.motion.activations(split.features[method.config.motion])
        apart = disparity(rgb, motion, split.targets, split.mask)
        confidence = torch.softmax(method.selector(split.features["appearance"]), dim=-1)[..., 1]
    by_kind: dict[str, dict[str, list[float]]] = {
        kind: {"disparity": [], "rgb": [], "motion": [], "asks_motion": []} for kind in KINDS
    }
    for i, record in enumerate(records):
        label = record.labels[0]
        for step, kind in enumerate(kinds_of(dataset, record, "test")):
            for name, values in (
                ("disparity", apart[i, step]),
                ("rgb", rgb[i, step, label]),
                ("motion", motion[i, step, label]),
                ("asks_motion", confidence[i, step]),
            ):
                by_kind[kind][name].append(float(values))
    means = {
        kind: {name: float(np.mean(v)) for name, v in values.items()} for kind, values in by_kind.items()
    }
    edges = np.linspace(0, 1, 21)
    histogram = {
        kind: (np.histogram(v["disparity"], edges)[0] / len(v["disparity"])).tolist()
        for kind, v in by_kind.items()
    }
    background = [*by_kind["context"]["disparity"], *by_kind["plain"]["disparity"]]
    return {"means": means, "background_disparity": float(np.mean(background)), "histogram": histogram}


def pseudo_labels(prepared: Prepared, folder: Path) -> dict[str, dict[str, float]]:
    """What share of the training clips of each kind pseudo-labels give to motion, and what the selector made of it."""
    method = trained(folder, json.loads((folder / RESULT_FILE).read_text()))
    dataset = prepared.dataset
    records = list(dataset.split("train"))
    split = load_padded(stores_of(prepared, method), records, dataset)
    seen, moved = split.features["appearance"], split.features[method.config.motion]
    with deterministic_eval(method):
        apart = disparity(
            method.appearance.activations(seen), method.motion.activations(moved), split.targets, split.mask
        )
        weights = affinity(apart, split.mask, method.config.beta, is_soft=method.config.affinity == "soft")
        confidence = torch.softmax(method.selector(seen), dim=-1)[..., 1]
    kinds = [kinds_of(dataset, record, "train") for record in records]
    rows = {}
    for kind in KINDS:
        mine = torch.zeros_like(split.mask)
        for i, each in enumerate(kinds):
            mine[i, : len(each)] = torch.tensor([found == kind for found in each])
        to_motion = (weights[..., 1] > 0)[mine].float()
        rows[kind] = {"to_motion": float(to_motion.mean()), "confidence": float(confidence[mine].mean())}
    return rows


def kinds_of(dataset: Dataset, record: VideoRecord, split: str) -> list[str]:
    """What each clip of a video shows."""
    assert record.step_labels is not None
    made = MovingDigitsConfig(**dataset.generator)
    context = context_labels(made, split, int(record.video_id.rpartition("_")[2]))
    return [
        "action" if shown >= 0 else "context" if context[step] >= 0 else "plain"
        for step, shown in enumerate(record.step_labels)
    ]


def trained(folder: Path, result: Mapping[str, Any]) -> ModelSelectionLocalization:
    """The method of a finished trial."""
    method = build_method(
        result["method"],
        result["model"],
        widths=result["widths"],
        num_classes=len(result["data"]["classes"]),
        multi_label=result["data"]["multi_label"],
    )
    method.load_state_dict(load_file(folder / WEIGHTS_FILE))
    assert isinstance(method, ModelSelectionLocalization)
    return method


def stores_of(prepared: Prepared, method: ModelSelectionLocalization) -> dict[str, FeatureStore]:
    """Its features."""
    return {s: FeatureStore.open(prepared.features[s]) for s in method.sources_of(method.config)}


def flow_seconds(prepared: Prepared) -> dict[str, float]:
    """Seconds per clip, one thread: decoding for flow, flow itself, and the two networks beside it."""
    torch.set_num_threads(1)
    spent = {"decode": 0.0, "flow": 0.0, "flow_network": 0.0, "appearance_network": 0.0}
    names = {source: prepared.backbones[source].name for source in ("appearance", "flow")}
    nets = {source: component(name).build(8).eval() for source, name in names.items()}
    clips = 0
    for record in prepared.dataset.split("test")[:12]:
        with VideoReader(
            prepared.dataset.video_path(record), step_seconds=prepared.dataset.step_seconds
        ) as reader:
            for step in range(reader.num_steps):
                read = {s: reader.read(step, component(names[s]).input) for s in names}
                for source, seen in read.items():
                    started = time.perf_counter()
                    with torch.inference_mode():
                        nets[source](seen[None])
                    spent[f"{source}_network"] += time.perf_counter() - started
                clips += 1
            spent["flow"] += reader.flow_seconds
            spent["decode"] += reader.decode_seconds
    return {name: value / clips for name, value in spent.items()}


def draw(runs: Sequence[Run], f: Sequence[Mapping[str, Any]], clips: float, folder: Path) -> None:
    """Figs. 5a, 5b and 6: disparity by kind of clip, and mAP against GFLOPs per clip."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)

    def mean_curve(axes: Any, name: str, label: str, style: str = "-", **more: Any) -> None:
        costs = np.mean([[p.test.gflops for p in run[name]] for run in _common(runs, name)], axis=0) / clips
        maps = np.mean([[p.test.qualities[MAP] for p in run[name]] for run in _common(runs, name)], axis=0)
        order = np.argsort(costs)
        axes.plot(1000 * costs[order], 100 * maps[order], style, label=label, markersize=3, **more)

    for beta in BETAS:
        mean_curve(left, f"soft-{beta:g}", f"beta {beta:g}", "-o")
    mean_curve(left, "random-clips", "random clips", "--s", color="black")
    for name, marker in (("appearance-only", "v"), ("motion-only", "^"), ("two-stream", "D")):
        mean_curve(left, name, name, marker, color="#555555")
    for beta, colour in zip(HARD_BETAS, ("#4c78a8", "#f58518", "#54a24b"), strict=True):
        mean_curve(middle, f"soft-{beta:g}", f"soft, beta {beta:g}", "-o", color=colour)
        mean_curve(middle, f"hard-{beta:g}", f"hard, beta {beta:g}", ":o", color=colour)
    mean_curve(middle, "difference-0.3", "RGB differences, beta 0.3", "-.", color="#b279a2")
    mean_curve(middle, "random-difference", "random, RGB differences", "--", color="#b279a2")
    for axes in (left, middle):
        axes.set_xlabel("MMACs per clip")
        axes.set_ylabel("test mAP@IoU 0.1:0.7 (%)")
    width = 0.05
    for kind, colour in zip(KINDS, ("#f58518", "#4c78a8", "#bbbbbb"), strict=True):
        shares = np.mean([each["histogram"][kind] for each in f], axis=0)
        middle_of = (np.arange(20) + 0.5) * width
        right.step(middle_of, 100 * shares, where="mid", label=kind, color=colour)
    right.set_xlabel("disparity D")
    right.set_ylabel("clips of a kind (%)")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(folder / "model_selection_localization.png")


def _common(runs: Sequence[Run], name: str) -> list[Run]:
    """Runs with those settings of a trial that every seed has: one whose answers equal another's is left out."""
    keys = [{json.dumps(p.setting, sort_keys=True) for p in run[name]} for run in runs]
    shared = set.intersection(*keys)
    return [
        {
            name: sorted(
                (p for p in run[name] if json.dumps(p.setting, sort_keys=True) in shared),
                key=lambda p: json.dumps(p.setting, sort_keys=True),
            )
        }
        for run in runs
    ]


def draw_example(prepared: Prepared, folder: Path, path: Path) -> None:
    """A test video's timeline with both models everywhere, the disparity, and the choice at the default theta."""
    result = json.loads((folder / RESULT_FILE).read_text())
    method = trained(folder, result)
    stores, dataset = stores_of(prepared, method), prepared.dataset
    records = dataset.split("test")

    def interest(record: VideoRecord) -> int:
        return kinds_of(dataset, record, "test").count("context") + 2 * len(record.events)

    record = max(records[:40], key=interest)
    split = load_padded(stores, [record], dataset)
    components = {source: store.component for source, store in stores.items()}
    costs = cost_table(method, components, "honest")

    def at(theta: float) -> Any:
        ((_, outcome),) = run_settings(
            method,
            split,
            [{"theta": theta}],
            components=components,
            costs=costs,
            expand=False,
            step_seconds=dataset.step_seconds,
        )
        return outcome

    chosen, everywhere = at(0.55), at(1.0)
    label = record.labels[0]
    apart = disparity(everywhere.trace["appearance"], everywhere.trace["motion"], split.targets, split.mask)
    named: list[Detection] = list(chosen.detections[0])
    prediction = {
        "step_seconds": dataset.step_seconds,
        "timeline": {
            "label": dataset.classes[label],
            "appearance": everywhere.trace["appearance"][0, :, label].tolist(),
            "motion": everywhere.trace["motion"][0, :, label].tolist(),
            "confidence": everywhere.trace["confidence"][0].tolist(),
        },
        "steps": [method.reads()[decision] for decision in chosen.decisions[0].tolist()],
        "labels": [{"label": dataset.classes[label], "score": float(chosen.scores[0, label])}],
        "gflops": float(costs.gflops(chosen.calls)[0]),
        "instances": [
            {
                "label": dataset.classes[d.label],
                "start_seconds": d.start_seconds,
                "end_seconds": d.end_seconds,
                "score": d.score,
            }
            for d in named
        ],
    }
    draw_timeline(
        dataset.video_path(record),
        prediction,
        path,
        ground_truth=record.events,
        classes=dataset.classes,
        disparity=apart[0].tolist(),
    )


def against_random_text(results: Results) -> str:
    """Points of mAP above random clips, at places between all appearance and all motion."""
    rows = results["against_random"]
    places = [place for (place,) in rows.groups(("position",))]

    def cell(trial: object, place: object) -> str:
        group = rows.matching({"trial": str(trial), "position": float(str(place))})
        mean, low, high = (100 * value for value in interval(group.numbers("difference")))
        return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"

    return table(
        ["minus random, at this place between all appearance and all motion", *map(str, places)],
        ([str(trial), *(cell(trial, place) for place in places)] for (trial,) in rows.groups(("trial",))),
    )


def disparity_text(results: Results) -> str:
    """How much larger disparity is off the action than on it."""
    by_kind = {
        kind: np.array(group.numbers("disparity"))
        for (kind,), group in results["clips"].groups(("kind",)).items()
    }
    background = np.array(results["background"].numbers("background_disparity"))
    gaps = {kind: by_kind[kind] - by_kind["action"] for kind in ("context", "plain")}
    gaps["all background"] = background - by_kind["action"]
    return "\n".join(f"disparity, {name} minus action: {span(gap)}" for name, gap in gaps.items())


def document(study: Study) -> Document:
    """Everything that is reported."""
    runs, prepared, folder = study.runs, study.prepared, study.folder
    clips = float(np.mean([record.num_steps for record in prepared.dataset.split("test")]))
    return {
        "objective": MAP,
        "clips_per_test_video": clips,
        "seconds_per_clip": flow_seconds(prepared),
        "against_motion": against_motion(runs),
        "runs": [
            {
                "seed": seed,
                "against_random": against_random(run),
                "natural": default_rows(run),
                "evaluators": evaluators(folder, seed),
                "disparity": disparities(prepared, folder / f"soft-0.4-s{seed}"),
                "pseudo_labels": {
                    name: pseudo_labels(prepared, folder / f"{name}-s{seed}")
                    for name in ("soft-0.4", "soft-0.7", "soft-0.9")
                },
            }
            for seed, run in enumerate(runs)
        ],
    }


def draw_all(study: Study, document: Document, folder: Path) -> None:
    """Curves and disparity, and an example where videos have one class each."""
    disparity_of = [run["disparity"] for run in document["runs"]]
    draw(study.runs, disparity_of, document["clips_per_test_video"], folder)
    if not study.prepared.dataset.multi_label:
        draw_example(study.prepared, study.folder / "soft-0.4-s0", folder / f"{METHOD}_timeline.png")


AGAINST_MOTION = tuple(Cell(name, percent=True) for name in ("map", "motion_map", "difference", "cost_ratio"))
QUALITIES = (MAP, "map_iou_0.1", "map_iou_0.3", "map_iou_0.5", "map_iou_0.7", "map", "usage")
DEFAULT_CELLS = tuple(Cell(name, percent=True) for name in QUALITIES)
PAGE_PLACES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLIPS = tuple(Cell(name) for name in ("disparity", "rgb", "motion", "asks_motion"))
BENCHMARKS = (
    Benchmark(
        name=METHOD,
        about="model selection per clip against one model, both, and random clips",
        overrides=(f"method={METHOD}",),
        trials=TRIALS,
        document=document,
        alone=("objective", "clips_per_test_video", "seconds_per_clip"),
        layouts={
            "against_motion": Layout("against_motion.*", ("",), unzip="seed"),
            "against_random": Layout("runs.*.against_random.*", ("=seed", "")),
            "natural": Layout("runs.*.natural.*", ("=seed", "trial")),
            "evaluators": Layout("runs.*.evaluators.*", ("=seed", "trial")),
            "clips": Layout("runs.*.disparity.means.*", ("=seed", "kind")),
            "background": Layout("runs.*.disparity", ("=seed",)),
            "disparity_histogram": Layout("runs.*.disparity.histogram.*.*", ("=seed", "kind", "bin")),
            "pseudo_labels": Layout("runs.*.pseudo_labels.*.*", ("=seed", "trial", "kind")),
        },
        shown=(
            Shown(
                "at most this share of motion-only's cost, chosen",
                "against_motion",
                ("share", "chosen"),
                AGAINST_MOTION,
            ),
            against_random_text,
            Shown(
                "trial, default setting", "natural", ("trial",), (*DEFAULT_CELLS, Cell("gflops", "GFLOPs"))
            ),
            Shown(
                "evaluator", "evaluators", ("trial",), tuple(Cell(name, percent=True) for name in EVALUATORS)
            ),
            Shown("clips", "clips", ("kind",), CLIPS),
            disparity_text,
            Shown(
                "pseudo-labels", "pseudo_labels", ("trial", "kind"), (Cell("to_motion"), Cell("confidence"))
            ),
        ),
        page_tables=(
            PageTable(
                "| at theta = 0.5 | mAP@IoU 0.1:0.7 |",
                "natural",
                {
                    "appearance only": {"trial": "appearance-only"},
                    "difference only": {"trial": "difference-only"},
                    "flow only": {"trial": "motion-only"},
                    "two streams, mean of both": {"trial": "two-stream"},
                    "random clips, half of them to flow": {"trial": "random-clips"},
                    **{f"selection, beta {b:g}": {"trial": f"soft-{b:g}"} for b in (0.4, 0.5, 0.7)},
                },
                (DEFAULT_CELLS[0], DEFAULT_CELLS[1], DEFAULT_CELLS[3], DEFAULT_CELLS[4], Cell("gflops")),
            ),
            PageTable(
                "| at most, of flow-only's cost on validation |",
                "against_motion",
                {f"{100 * share:g} %": {"share": share} for share in (0.4, 0.5, 0.6, 0.7, 0.78, 1.0)},
                (AGAINST_MOTION[0], AGAINST_MOTION[2], AGAINST_MOTION[3]),
            ),
            PageTable(
                "| clips | disparity |",
                "clips",
                {
                    "action": {"kind": "action"},
                    "context": {"kind": "context"},
                    "plain background": {"kind": "plain"},
                },
                CLIPS,
            ),
            PageTable(
                "| | 0.2 | 0.4 |",
                lambda results: side_by_side(results["against_random"], ("trial", "seed"), "position"),
                {
                    **{f"beta {beta:g}": {"trial": f"soft-{beta:g}"} for beta in BETAS},
                    "RGB differences, beta 0.3": {"trial": "difference-0.3"},
                },
                tuple(Cell(f"difference.{place:g}", percent=True) for place in PAGE_PLACES),
            ),
            PageTable(
                "| beta | of action |",
                lambda results: side_by_side(results["pseudo_labels"], ("trial", "seed"), "kind"),
                {f"{beta:g}": {"trial": f"soft-{beta:g}"} for beta in (0.4, 0.7, 0.9)},
                (
                    *(Cell(f"to_motion.{kind}", percent=True) for kind in KINDS),
                    tuple(Cell(f"confidence.{kind}") for kind in KINDS),
                ),
            ),
            PageTable(
                "| same detections, theta = 0.5 |",
                "evaluators",
                {
                    "appearance only": {"trial": "appearance-only"},
                    "flow only": {"trial": "motion-only"},
                    "two streams": {"trial": "two-stream"},
                    "selection, beta 0.4": {"trial": "soft-0.4"},
                },
                tuple(Cell(name, percent=True) for name in ("thumos", "thumos_11_point", "activitynet")),
            ),
        ),
        draw=draw_all,
    ),
)
