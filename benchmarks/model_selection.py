"""Claims of Conditional Model Selection on the built-in videos, one benchmark each.

    model_selection_claims    claims (a) to (c), labels, what the selector learns from, which model for which class
    model_selection_mixed     a 2-D and a 3-D network instead of four sizes
    model_selection_tags      several labels a video, members that learn the label of each step
    model_selection_tags_video_labels    the same with members that learn the labels of videos
    model_selection_harder    digits down to smaller and fainter ones
    model_selection_seen      a pool that has seen every training video
    model_selection_few       a pool that was trained on few of them
    model_selection_bank      many alphas in one training against one training each
    model_selection_latency   seconds per raw video, with the pool in memory and on demand; after the claims

The pool is trained once; selectors are trained with every seed on its cached outputs. Those that change videos or the
pool need a home of their own. The tables are those of `model_selection.md`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout
from benchmarks.harness.points import Point, Run, cost_at_quality
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Row, Rows, Value
from benchmarks.harness.tables import Cell, PageTable, Shown, side_by_side, span, table
from benchmarks.harness.training import Trials
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.trial import read_trial
from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.context import LocalContext
from paretovid.trainables.data.dataset import is_for_backbones
from paretovid.trainables.evaluation.metrics import mean_average_precision, top1
from paretovid.trainables.evaluation.results import SCORES_FILE
from paretovid.trainables.features.store import FeatureStore, load_padded
from paretovid.trainables.layers.model_pool import Clips, ModelPool, member_losses
from paretovid.trainables.methods.model_selection import OWN_ALPHA
from paretovid.trainables.model_description import ModelDescription
from paretovid.trainables.recognizer import BackbonesOnDemand, Recognizer, write_model_folder
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

POOL = ("xs", "s", "m", "l")
MIXED = ("b0", "m")
OWN = 0.5
"""Of `alpha`; the others are trained beside it."""
ALPHAS = (0.0, 5e-5, 5e-4, 5e-3, 0.05, 0.2, 1.0, 2.0)
CLIPS = 3
RESAMPLES = 2000
MAP_RESAMPLES = 400


def selection(pool: Sequence[str] = POOL, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Model selection at all alphas."""
    return "model_selection", {"pool": list(pool), "alpha": OWN, "alphas": list(ALPHAS), **fields}


def baselines(pool: Sequence[str]) -> Trials:
    """The baselines over a pool."""
    methods = ("single_model", "random_model", "model_cascade", "model_ensemble", "model_oracle")
    return {name: (name, {"pool": list(pool)}) for name in methods}


AT_3: dict[str, Any] = {"clip_counts": [CLIPS]}
CLAIMS: Trials = {
    "select-xs": selection(),
    **{f"select-{source}": selection(selector_source=source, **AT_3) for source in POOL[1:]},
    "agree": selection(label_rule="agree_then_cheapest", **AT_3),
    "soft": selection(label_form="soft", **AT_3),
    "all-videos": selection(selector_videos="all", **AT_3),
    **baselines(POOL),
}
MIXED_TRIALS: Trials = {"select-b0": selection(MIXED), **baselines(MIXED)}
TAGS: Trials = {"select-xs": selection(), **baselines(POOL)}
SEEN: Trials = {"all-videos": selection(selector_videos="all", **AT_3), **baselines(POOL)}
FEW: Trials = {"select-xs": selection(**AT_3), **SEEN}
TAGGED = ("data.multi_label=true", "data.name=moving_digits_tags")


class LabelledVideos:
    """Test targets `[N, C]` and what follows from them."""

    def __init__(self, folder: Path) -> None:
        tensors = load_file(folder / SCORES_FILE)
        self.targets = tensors["test/targets"]
        self.labels = self.targets.argmax(axis=1)
        self.draws = np.random.default_rng(0).integers(0, len(self.targets), (RESAMPLES, len(self.targets)))

    def right(self, point: Point) -> np.ndarray:
        """`[N]`: 1 where the best class is one of the video's."""
        hits: np.ndarray = self.targets[np.arange(len(self.labels)), point.scores.argmax(axis=1)]
        return hits


def with_alpha(points: Sequence[Point], alpha: float, clips: int = CLIPS) -> dict[float, Point]:
    """Theta to point, of the selector trained for `alpha`. A trial keeps one of several with equal answers."""
    trained = OWN_ALPHA if alpha == OWN else alpha
    found = {
        p.setting["theta"]: p
        for p in points
        if p.setting["clips"] == clips
        and p.setting["trained_alpha"] == trained
        and not p.setting.get("ensemble")
    }
    return dict(sorted(found.items(), reverse=True))


def selected(points: Sequence[Point]) -> list[Point]:
    """All points but the ensembles."""
    return [point for point in points if not point.setting.get("ensemble")]


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The upper concave hull of (cost, quality), from the cheapest to the best: what coins between points reach."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if kept and y <= kept[-1][1]:
            continue
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (x - kept[-2][0]) <= (y - kept[-2][1]) * (
            kept[-1][0] - kept[-2][0]
        ):
            kept.pop()
        kept.append((x, y))
    return kept


def on(curve: Sequence[tuple[float, float]], cost: float) -> float:
    """Quality of a curve at a cost; below its cheapest end that of the end."""
    costs, qualities = zip(*curve, strict=True)
    return float(np.interp(cost, costs, qualities))


def singles(points: Sequence[Point], metric: str, clips: int | None = CLIPS) -> list[tuple[float, float]]:
    """(test GFLOPs, test quality) of every member; `clips` None: at every number of them."""
    return [
        (p.test.gflops, p.test.numbers()[metric])
        for p in points
        if clips is None or p.setting["clips"] == clips
    ]


def mixture(run: Run, metric: str, clips: int | None = CLIPS) -> list[tuple[float, float]]:
    """Random mixtures of members at their best on test. For top-1 a mixture lies on the line between two members
    exactly; mAP is not linear, and measured mixtures join the members.

    Arguments:
        clips: of every member; None: members at 1 to 10 clips are mixed, which a pool at one number cannot do.
    """
    points = singles(run["single_model"], metric, clips)
    if metric != "top1":
        points += singles(run["random_model"], metric, clips)
    return hull(points)


def against_random(
    run: Run, trial: str, metric: str, clips: int = CLIPS, rival_clips: int | None = CLIPS
) -> list[dict[str, float]]:
    """Claim (a): every theta of every alpha against the best random mixture at its cost."""
    rivals = mixture(run, metric, rival_clips)
    # In a pool that has hardly learned the cheapest member may be the best: then there is no way to go.
    reach = rivals[-1][0] - rivals[0][0]
    rows = []
    for alpha in (*ALPHAS, OWN):
        for theta, point in with_alpha(run[trial], alpha, clips).items():
            cost = point.test.gflops
            rows.append(
                {
                    "alpha": alpha,
                    "theta": theta,
                    "gflops": cost,
                    "quality": point.test.numbers()[metric],
                    "random": on(rivals, cost),
                    "share": (cost - rivals[0][0]) / reach if reach else 0.0,
                }
            )
    return rows


def best_at(points: Sequence[Point], cost: float, metric: str) -> Point:
    """The point that is best on validation among those that cost at most so much there; else the cheapest."""
    good = [p for p in points if p.val.gflops <= cost] or [min(points, key=lambda p: p.val.gflops)]
    return max(good, key=lambda p: (p.val.numbers()[metric], -p.val.gflops))


BUDGETS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def at_budgets(run: Run, trial: str, metric: str, clips: int | None = CLIPS) -> list[dict[str, Any]]:
    """What a budget buys, everything chosen on validation within it: ours, one member, coins, cascade, all, oracle.

    Arguments:
        clips: of everything; None: 1 to 10, as whoever has a budget would choose. Budgets are shares of what the
            most expensive member costs at 3 clips.
    """
    full_gflops = max(cost for cost, _ in singles(run["single_model"], metric))
    names = (trial, "single_model", "random_model", "model_cascade", "model_ensemble", "model_oracle")
    rows = []
    for share in BUDGETS:
        row: dict[str, Any] = {"share": share}
        for name in names:
            within = [
                p
                for p in selected(run[name])
                if (clips is None or p.setting["clips"] == clips) and p.val.gflops <= share * full_gflops
            ]
            if within:
                point = best_at(within, share * full_gflops, metric)
                shown = "selected" if name == trial else name
                row |= {shown: point.test.numbers()[metric], f"{shown}_gflops": point.test.gflops}
        rows.append(row)
    return rows


def by_reader(run: Run, metric: str) -> list[dict[str, Any]]:
    """Claim (c): selectors that read another member, against the one that reads the cheapest, at equal cost."""
    curves = {
        source: hull([(p.test.gflops, p.test.numbers()[metric]) for p in at_three(run[f"select-{source}"])])
        for source in POOL
    }
    alone = dict(zip(POOL, sorted(singles(run["single_model"], metric)), strict=True))
    rows = []
    for source in POOL[1:]:
        curve = curves[source]
        costs = np.linspace(curve[0][0], curve[-1][0], 11)
        gaps = [on(curve, cost) - on(curves["xs"], cost) for cost in costs]
        rows.append(
            {
                "reads": source,
                "own_cost": alone[source][0],
                "least_cost": min(p.test.gflops for p in at_three(run[f"select-{source}"])),
                "at_its_start": gaps[0],
                "mean_gap": float(np.mean(gaps)),
                "at_its_end": gaps[-1],
                "best": max(p.test.numbers()[metric] for p in at_three(run[f"select-{source}"])),
            }
        )
    return rows


def at_three(points: Sequence[Point]) -> list[Point]:
    """Selections at 3 clips."""
    return [p for p in selected(points) if p.setting["clips"] == CLIPS]


def fields_of(run: Run, trials: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """Labels and videos to learn from: the mean over alphas of what is gained over random mixtures."""
    rows = []
    for name in trials:
        gains = [row["quality"] - row["random"] for row in against_random(run, name, metric)]
        rows.append({"trial": name, "gain": float(np.mean(gains)), "best_gain": float(np.max(gains))})
    return rows


def label_shares(folder: Path) -> dict[str, float]:
    """Share of the labels that each member gets at the trial's own alpha."""
    last = read_trial(folder).history[-1]
    return {name.removeprefix("labels_"): value for name, value in last.items() if name.startswith("labels_")}


def shares_of_cost(folder: Path, pool: Sequence[str]) -> torch.Tensor:
    """`[K]`: each member's share of what all of them cost, from the trial of single models."""
    result = read_trial(folder / "single_model-s0")
    macs = torch.tensor([float(result.costs[result.sources[source]].macs) for source in pool])
    return macs / macs.sum()


def pool_losses(prepared: Prepared, pool: Sequence[str], cost_shares: torch.Tensor) -> dict[str, Any]:
    """Mean loss and accuracy of each member on training videos that it has seen and has not, on test, at 3 clips; and
    the share of videos for which Eq. 2 names each member at alpha 0.5."""
    stores = {source: FeatureStore.open(prepared.features[source]) for source in pool}
    share = max(store.header.video_share for store in stores.values())
    dataset = prepared.dataset
    num_classes = len(dataset.classes)
    members = ModelPool(
        pool,
        widths=dict.fromkeys(pool, num_classes),
        num_classes=num_classes,
        multi_label=dataset.multi_label,
    )
    found: dict[str, Any] = {}
    for name in ("train", "test"):
        split = load_padded(stores, dataset.split(name), dataset)
        scores = members.of_features(split.features, Clips.of(split.num_steps, CLIPS))
        losses = member_losses(scores, split.targets, dataset.multi_label)
        hits = split.targets[torch.arange(len(split.targets)), scores.argmax(dim=-1)]
        seen = is_for_backbones(split.video_keys, share)
        parts = {"seen": seen, "unseen": ~seen} if name == "train" else {"test": torch.ones_like(seen)}
        for part, chosen in parts.items():
            if not bool(chosen.any()):
                continue
            best = (losses + OWN * cost_shares[:, None])[:, chosen].argmin(dim=0)
            found[part] = {
                "videos": int(chosen.sum()),
                "loss": losses[:, chosen].mean(dim=1).tolist(),
                "top1": hits[:, chosen].mean(dim=1).tolist(),
                "labels": [float((best == k).float().mean()) for k in range(len(pool))],
            }
    return found


def members_by_class(point: Point, num_classes: int, labels: np.ndarray, members: int) -> np.ndarray:
    """`[C, K]`: share of each class's videos that each member answers, of a selector that reads the cheapest."""
    chosen = point.decisions.max(axis=1) - 1
    return np.array([[(chosen[labels == c] == k).mean() for k in range(members)] for c in range(num_classes)])


def class_cost(point: Point, labelled: LabelledVideos) -> list[dict[str, float]]:
    """Fig. 3c: mean GFLOPs and accuracy of each class."""
    right = labelled.right(point)
    return [
        {
            "gflops": float(point.gflops[labelled.labels == c].mean()),
            "top1": float(right[labelled.labels == c].mean()),
        }
        for c in range(labelled.targets.shape[1])
    ]


def paired(
    chosen: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
    trial: str,
    labelled: LabelledVideos,
    metric: str,
) -> dict[str, float]:
    """95 % interval of the difference to the single member, over seeds and resampled videos, both drawn.

    Arguments:
        chosen: of each seed, as `cost_at_quality` gives it.
    """
    generator = np.random.default_rng(0)
    own = [_point(run[trial], row["chosen"]) for run, row in zip(runs, chosen, strict=True)]
    rival = _point(runs[0]["single_model"], chosen[0]["baseline"])
    drawn = []
    for videos in labelled.draws[: RESAMPLES if metric == "top1" else MAP_RESAMPLES]:
        targets = labelled.targets[videos]
        gains = [
            _quality(own[seed].scores[videos], targets, metric)
            for seed in generator.integers(0, len(own), len(own))
        ]
        drawn.append(np.mean(gains) - _quality(rival.scores[videos], targets, metric))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _quality(scores: np.ndarray, targets: np.ndarray, metric: str) -> float:
    precise = scores.astype(np.float64)
    return top1(precise, targets) if metric == "top1" else mean_average_precision(precise, targets, "paper")


def _point(points: Sequence[Point], chosen: str) -> Point:
    """The one that `cost_at_quality` names."""
    return next(point for point in points if point.text == chosen)


def train(study: Study, trials: Trials) -> list[Run]:
    """Every trial with every seed. Methods without parameters are the same with all of them: measured once."""
    trained = {key: value for key, value in trials.items() if value[0] == "model_selection"}
    (once,) = study.train({key: value for key, value in trials.items() if key not in trained}, seeds=1)
    return [{**once, **run} for run in study.train(trained)]


def quality_at_cost(
    runs: Sequence[Run], trial: str, metric: str, labelled: LabelledVideos
) -> dict[str, list[dict[str, Any]]]:
    """Claim (b) and the aim: against the best single member, chosen on validation."""

    def only(keep: Any) -> list[Run]:
        return [{name: [p for p in points if keep(p)] for name, points in run.items()} for run in runs]

    at_clips = only(lambda p: p.setting["clips"] == CLIPS and not p.setting.get("ensemble"))
    every = only(lambda p: not p.setting.get("ensemble"))
    found = {
        "3 clips, not below": cost_at_quality(at_clips, [trial], ["single_model"], margin=0.0, metric=metric),
        "3 clips, within half a point": cost_at_quality(
            at_clips, [trial], ["single_model"], margin=0.005, metric=metric
        ),
        "any clips, within half a point": cost_at_quality(
            every, [trial], ["single_model"], margin=0.005, metric=metric
        ),
        "any clips, not below": cost_at_quality(every, [trial], ["single_model"], margin=0.0, metric=metric),
    }
    rival = found["any clips, not below"][0]["baseline_gflops"]
    cheap = only(
        lambda p: not p.setting.get("ensemble") and (p.val.gflops <= 0.6 * rival or "member" in p.setting)
    )
    found["any clips, at 60 % of its cost"] = cost_at_quality(
        cheap, [trial], ["single_model"], margin=-1.0, metric=metric
    )
    # In a small trial nothing may be so cheap.
    found = {choice: rows for choice, rows in found.items() if rows}
    for rows in found.values():
        rows[0]["over_seeds_and_videos"] = paired(rows, runs, trial, labelled, metric)
    return found


def curves(runs: Sequence[Run], trial: str, metric: str) -> dict[str, Any]:
    """Claim (a) and the budgets, at 3 clips and with the number of clips left open."""
    return {
        "against_random": [against_random(run, trial, metric) for run in runs],
        "against_random_of_any_clips": [
            [row for n in range(1, 11) for row in against_random(run, trial, metric, n, None)] for run in runs
        ],
        "at_budgets": [at_budgets(run, trial, metric) for run in runs],
        "at_budgets_any_clips": [at_budgets(run, trial, metric, None) for run in runs],
    }


def claims(study: Study) -> Document:
    """Everything about the pool of four sizes."""
    runs, folder, classes = study.runs, study.folder, study.classes
    labelled = LabelledVideos(folder / "single_model-s0")
    shown = [with_alpha(run["select-xs"], OWN)[0.5] for run in runs]
    document = {
        "pool": list(POOL),
        "members": [
            {**p.setting, "gflops": p.test.gflops, "top1": p.test.top1, "map": p.test.qualities["map"]}
            for p in runs[0]["single_model"]
        ],
        "ensemble": [
            {**p.setting, "gflops": p.test.gflops, "top1": p.test.top1} for p in runs[0]["model_ensemble"]
        ],
        "quality_at_cost": quality_at_cost(runs, "select-xs", "top1", labelled),
        "quality_at_cost_map": quality_at_cost(runs, "select-xs", "map", labelled),
        **curves(runs, "select-xs", "top1"),
        "against_random_map": [against_random(run, "select-xs", "map") for run in runs],
        "by_reader": [by_reader(run, "top1") for run in runs],
        "fields": [fields_of(run, ("select-xs", "agree", "soft", "all-videos"), "top1") for run in runs],
        "losses": pool_losses(study.prepared, POOL, shares_of_cost(folder, POOL)),
        "label_shares": {
            name: [label_shares(folder / f"{name}-s{seed}") for seed in range(study.seeds)]
            for name in ("select-xs", "all-videos")
        },
        "class_cost": dict(
            zip(
                classes,
                map(list, zip(*(class_cost(point, labelled) for point in shown), strict=True)),
                strict=True,
            )
        ),
        "members_by_class": np.mean(
            [members_by_class(p, len(classes), labelled.labels, len(POOL)) for p in shown], axis=0
        ).tolist(),
        "classes": list(classes),
    }
    return dict(rounded(document))


def brief(study: Study, trials: Trials) -> Document:
    """Claims (a) and (b) for another pool or set."""
    runs, folder = study.runs, study.folder
    pool = tuple(trials["single_model"][1]["pool"])
    trial, *others = (key for key, value in trials.items() if value[0] == "model_selection")
    metric = "map" if study.prepared.dataset.multi_label else "top1"
    document = {
        "metric": metric,
        "pool": list(pool),
        "members": [
            {**p.setting, "gflops": p.test.gflops, "top1": p.test.top1, "map": p.test.qualities["map"]}
            for p in runs[0]["single_model"]
        ],
        "quality_at_cost": quality_at_cost(runs, trial, metric, LabelledVideos(folder / "single_model-s0")),
        **curves(runs, trial, metric),
        "losses": pool_losses(study.prepared, pool, shares_of_cost(folder, pool)),
        "label_shares": {
            each: [label_shares(folder / f"{each}-s{seed}") for seed in range(study.seeds)]
            for each in (trial, *others)
        },
        "others": {each: [against_random(run, each, metric) for run in runs] for each in others},
        "selectors": [trial, *others],
    }
    return dict(rounded(document))


def bank(study: Study, repeats: int = 3) -> Document:
    """Seconds of one trial with nine alphas, and of nine trials with one each, in turns in one process."""
    seconds: dict[str, list[float]] = {"one training": [], "one training each": []}
    short = {"clip_counts": [CLIPS], "thetas": [0.5, 0.25]}

    def timed(folder: Path, **fields: Any) -> float:
        method, model = selection(**{**short, **fields})
        began = time.perf_counter()
        run_trial(
            TrialConfig(
                sweep="bank",
                trial="t",
                method=method,
                model=model,
                training=TrainingConfig(epochs=study.epochs),
                dataset=str(study.prepared.dataset.root),
                features={source: str(path) for source, path in study.prepared.features.items()},
                output=str(folder),
            ),
            LocalContext(),
        )
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as scratch:
        timed(Path(scratch) / "warm")
        for _ in range(repeats):
            seconds["one training"].append(timed(Path(scratch) / "together"))
            seconds["one training each"].append(
                sum(timed(Path(scratch) / "alone", alpha=alpha, alphas=[]) for alpha in (*ALPHAS, OWN))
            )
    ratios = [one / each for one, each in zip(*seconds.values(), strict=True)]
    return dict(rounded({"seconds": seconds, "alphas": len(ALPHAS) + 1, "ratio": ratios}))


def recognizer(prepared: Prepared, trial: Path, folder: Path, *, on_demand: bool) -> Recognizer:
    """A finished trial as a promoted model would be loaded."""
    result = read_trial(trial)
    if not folder.exists():
        description = ModelDescription(
            method=result.method,
            config=result.model,
            sources=result.sources,
            widths=result.widths,
            costs=result.costs,
            classes=result.data.classes,
            multi_label=result.data.multi_label,
            step_seconds=result.data.step_seconds,
            setting={},
        )
        backbones = {source: prepared.backbones[source] for source in result.sources}
        write_model_folder(folder, description, TrialPaths(trial).model, backbones)
    return Recognizer.load(folder, on_demand=on_demand)


def latency(study: Study, videos: int = 60) -> Document:
    """Fig. 4b: seconds per raw video, all on every video in turn.

    Members alone and selections with the pool in memory; selections whose backbones are read for every video anew.
    """
    torch.set_num_threads(1)
    prepared, root = study.prepared, study.folder
    records = prepared.dataset.split("test")[:videos]
    paths = [prepared.dataset.video_path(record) for record in records]
    targets = np.array([record.labels[0] for record in records])
    chosen = ((0.2, 0.3), (1.0, 0.5), (1.0, 0.25), (OWN_ALPHA, 0.0))  # alpha and theta, most expensive first
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        single = recognizer(prepared, root / "single_model-s0", Path(scratch) / "single", on_demand=False)
        kept = recognizer(prepared, root / "select-xs-s0", Path(scratch) / "select", on_demand=False)
        asked = recognizer(prepared, root / "select-xs-s0", Path(scratch) / "select", on_demand=True)
        single_asked = recognizer(
            prepared, root / "single_model-s0", Path(scratch) / "single", on_demand=True
        )
        ways: dict[str, tuple[Recognizer, dict[str, float]]] = {
            f"{POOL[k]} alone": (single, {"member": k}) for k in range(len(POOL))
        }
        ways["l alone, on demand"] = (single_asked, {"member": len(POOL) - 1})
        for alpha, theta in chosen:
            label = "theta 0" if theta == 0 else f"alpha {alpha:g}, theta {theta:g}"
            ways[f"selected, {label}, in memory"] = (kept, {"theta": theta, "trained_alpha": alpha})
            ways[f"selected, {label}, on demand"] = (asked, {"theta": theta, "trained_alpha": alpha})
        for model, setting in ways.values():
            model.predict(paths[:2], setting)  # first calls make kernels and caches
        for path, target in zip(paths, targets, strict=True):
            for name, (model, setting) in ways.items():
                if isinstance(model.backbones, BackbonesOnDemand):
                    model.backbones.unload()
                (answer,) = model.predict([path], setting)
                row = rows.setdefault(name, {"decode": [], "compute": [], "gflops": [], "right": []})
                row["decode"].append(answer.decode_seconds)
                row["compute"].append(answer.compute_seconds)
                row["gflops"].append(answer.gflops)
                row["right"].append(float(answer.labels[0][0] == prepared.dataset.classes[target]))
    ways_measured = {
        name: {
            "compute": statistics.fmean(row["compute"]),
            "decode": statistics.fmean(row["decode"]),
            "median_compute": statistics.median(row["compute"]),
            "gflops": statistics.fmean(row["gflops"]),
            "top1": statistics.fmean(row["right"]),
            "videos": len(paths),
        }
        for name, row in rows.items()
    }
    return dict(rounded({"ways": ways_measured}))


# Tables


def percent(values: Any) -> str:
    """Mean and interval of fractions, in points."""
    return span(values, percent=True)


def members_text(results: Results) -> str:
    """Members at some numbers of clips."""
    counts = MEMBER_CLIPS
    lines = []
    for k, source in enumerate(results.about["pool"]):
        own = results["members"].where(member=k)
        at_counts = [own.where(clips=n) for n in counts]
        lines.append(
            [
                source,
                f"{own.where(clips=1).numbers('gflops')[0]:.4f}",
                *(f"{100 * r.numbers('top1')[0]:.1f} ({100 * r.numbers('map')[0]:.1f})" for r in at_counts),
            ]
        )
    return table(["member", "GFLOPs per clip", *(f"top-1 (mAP) at {n}" for n in counts)], lines)


def gains(rows: Rows) -> Rows:
    """Claim (a), a row per alpha and seed: what thetas together gain over mixtures, and the worst of them.

    Where a choice remains: 5 to 95 % of the way to the most expensive member.
    """
    found: list[Row] = []
    for (alpha, seed), group in rows.groups(("alpha", "seed")).items():
        left = Rows(tuple(row for row in group.rows if 0.05 < float(row["share"]) < 0.95))
        if left.rows:
            over = [a - b for a, b in zip(left.numbers("quality"), left.numbers("random"), strict=True)]
            found.append({"alpha": alpha, "seed": seed, "mean": float(np.mean(over)), "least": min(over)})
    return Rows(tuple(found))


def gains_text(rows: Rows, title: str) -> str:
    """The same as a table, with the costs that thetas reach."""
    lines = []
    of_alpha = gains(rows).groups(("alpha",))
    for alpha in sorted({float(row["alpha"]) for row in rows.rows}):
        each = of_alpha.get((alpha,), Rows(()))
        if len(each.rows) < 2:
            lines.append([f"{alpha:g}", "no mixture: ends of the curve only", "", ""])
            continue
        costs = [
            float(row["gflops"])
            for row in rows.rows
            if row["alpha"] == alpha and 0.05 < float(row["share"]) < 0.95
        ]
        spread = f"{min(costs):.4f} to {max(costs):.4f}"
        lines.append([f"{alpha:g}", percent(each.numbers("mean")), percent(each.numbers("least")), spread])
    return f"{title}\n\n" + table(["alpha", "mean over theta", "least over theta", "GFLOPs"], lines)


def against_random_text(results: Results) -> str:
    """Claim (a), of every selector and quality that was measured."""
    titles = {
        "against_random": "claim (a), at 3 clips",
        "against_random_map": "claim (a), at 3 clips, mAP",
        "against_random_of_any_clips": "claim (a), any clips against mixtures of members at any clips",
    }
    texts = [gains_text(results[name], title) for name, title in titles.items() if name in results.tables]
    if "others" in results.tables:
        others = results["others"].groups(("trial",))
        texts += [gains_text(rows, f"claim (a), {trial}") for (trial,), rows in others.items()]
    return "\n\n".join(texts)


def quality_shown(metric: str, name: str = "quality_at_cost") -> Shown:
    """Claim (b)."""
    cells = (
        *(Cell(column, percent=True) for column in (f"baseline_{metric}", metric, f"{metric}_difference")),
        *(Cell(column) for column in ("baseline_gflops", "gflops", "cost_ratio")),
    )
    return Shown(f"chosen on validation, {metric}", name, ("choice",), cells)


def budgets_shown(name: str) -> Shown:
    """What shares of the most expensive member's cost buy; empty where nothing fits."""
    rivals = ("single_model", "random_model", "model_cascade", "model_ensemble", "model_oracle")
    cells = tuple(Cell(column, percent=True) for column in ("selected", *rivals))
    return Shown(f"at most, {name}", name, ("share",), cells)


def losses_text(results: Results) -> str:
    """What Eq. 2 sees on seen and unseen videos."""
    pool = results.about["pool"]
    lines = []
    for (part,), group in results["losses"].groups(("part",)).items():
        pairs = zip(group.numbers("loss"), group.numbers("top1"), strict=True)
        lines.append(
            [
                f"{part} ({group.rows[0]['videos']})",
                *(f"{loss:.3f}, {100 * right:.1f}" for loss, right in pairs),
                " / ".join(f"{100 * share:.0f}" for share in group.numbers("labels")),
            ]
        )
    return table(["videos", *(f"{s}: loss, top-1" for s in pool), f"labels at alpha {OWN:g}"], lines)


def label_shares_text(results: Results) -> str:
    """What selectors were taught."""
    lines = []
    for (trial,), group in results["label_shares"].groups(("trial",)).items():
        shares = {s: round(100 * float(np.mean(group.numbers(s))), 1) for s in results.about["pool"]}
        lines.append(f"labels learned, {trial}: {shares}")
    return "\n".join(lines)


def latency_text(results: Results) -> str:
    """Ratios to the most expensive member."""
    rows = {str(row["way"]): row for row in results["ways"].rows}
    whole = {key: float(value) for key, value in rows["l alone"].items() if key != "way"}
    lines = []
    for name, texts in rows.items():
        row = {key: float(value) for key, value in texts.items() if key != "way"}
        with_decoding = (row["compute"] + row["decode"]) / (whole["compute"] + whole["decode"])
        lines.append(
            [
                name,
                f"{100 * row['top1']:.0f}",
                f"{row['gflops'] / whole['gflops']:.3f}",
                f"{row['compute'] / whole['compute']:.3f}",
                f"{with_decoding:.3f}",
                f"{1000 * row['compute']:.1f}",
            ]
        )
    title = ["way", "top-1", "GFLOPs / l", "compute / l", "compute + decoding / l", "compute, ms"]
    return table(title, lines)


# Pictures


def figure(width: float, height: float, columns: int) -> tuple[Any, list[Any]]:
    """An empty figure with axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(made)
    axes = list(np.atleast_1d(made.subplots(1, columns)))
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return made, axes


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Fig. 3a: single members, mixtures, theta curves per alpha. Fig. 4a: selectors that read other members."""
    made, (left, right) = figure(13, 4.8, 2)
    for axes in (left, right):
        line = np.array(mixture(runs[0], "top1"))
        axes.plot(*line.T * [[1], [100]], "--", color="0.6", label="random mixtures")
        dots = np.array(sorted(singles(runs[0]["single_model"], "top1")))
        axes.plot(dots[:, 0], 100 * dots[:, 1], "s", color="0.3", label="single models")
        for (x, y), source in zip(dots, POOL, strict=True):
            axes.annotate(source, (x, 100 * y), textcoords="offset points", xytext=(5, -12))
        axes.set_xlabel("GFLOPs per video, 3 clips")
        axes.set_ylabel("test top-1 (%), mean over seeds")
    for alpha in (5e-4, 0.05, 0.2, OWN, 1.0, 2.0):
        curve = mean_curve([with_alpha(run["select-xs"], alpha) for run in runs])
        left.plot(*curve, "-o", markersize=3, label=f"alpha {alpha:g}")
    cascade = [p for p in runs[0]["model_cascade"] if p.setting["clips"] == CLIPS]
    dots = np.array(sorted((p.test.gflops, 100 * p.test.top1) for p in cascade))
    left.plot(*dots.T, ":", color="tab:gray", label="cascade")
    for source in POOL:
        points = [p for run in runs for p in at_three(run[f"select-{source}"])]
        dots = np.array([(p.test.gflops, 100 * p.test.top1) for p in points])
        right.plot(*dots.T, ".", markersize=3, label=f"selector reads {source}")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    made.savefig(path)


def mean_curve(seeds: Sequence[Mapping[float, Point]]) -> tuple[list[float], list[float]]:
    """Mean GFLOPs and top-1 (%) at the thetas that every seed has, in order of cost."""
    shared = set.intersection(*(set(each) for each in seeds))
    dots = sorted(
        (
            float(np.mean([each[theta].test.gflops for each in seeds])),
            100 * float(np.mean([each[theta].test.top1 for each in seeds])),
        )
        for theta in shared
    )
    return [x for x, _ in dots], [y for _, y in dots]


def draw_classes(document: Mapping[str, Any], path: Path) -> None:
    """Fig. 3c: cost per class; and which member answers which class."""
    made, (left, right) = figure(13, 4.8, 2)
    classes = document["classes"]
    dots = {
        name: tuple(
            float(np.mean([r[key] for r in document["class_cost"][name]])) for key in ("gflops", "top1")
        )
        for name in classes
    }
    # Neighbours have their names on different sides.
    for place, name in enumerate(sorted(classes, key=lambda name: (-round(dots[name][1], 3), dots[name][0]))):
        x, y = dots[name]
        left.plot(x, 100 * y, "o", color="tab:blue")
        up = (4, -14)[place % 2]
        left.annotate(name, (x, 100 * y), textcoords="offset points", xytext=(5, up), fontsize=8)
    left.set_xlabel("GFLOPs per video")
    left.set_ylabel("test top-1 (%)")
    shares = np.array(document["members_by_class"])
    start = np.zeros(len(classes))
    for k, source in enumerate(POOL):
        right.barh(range(len(classes)), 100 * shares[:, k], left=start, label=source)
        start += 100 * shares[:, k]
    right.set_yticks(range(len(classes)), classes, fontsize=8)
    right.set_xlabel("videos answered by each member (%)")
    right.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.1))
    made.savefig(path)


def draw_latency(rows: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Fig. 4b: accuracy against seconds."""
    made, (axes,) = figure(7, 4.4, 1)
    kinds = {
        "alone, in memory": ("s", "0.3"),
        "alone, on demand": ("^", "0.6"),
        "selected, in memory": ("o", "black"),
        "selected, on demand": ("^", "tab:green"),
    }
    for kind, (marker, colour) in kinds.items():
        what, where = kind.split(", ")
        dots = [
            (1000 * r["compute"], 100 * r["top1"])
            for name, r in rows.items()
            if what in name and name.endswith("on demand") == (where == "on demand")
        ]
        line = "-" if what == "selected" else ""
        axes.plot(*zip(*dots, strict=True), marker, color=colour, label=kind, linestyle=line)
    axes.set_xlabel("compute, ms per video (decoding apart)")
    axes.set_ylabel("top-1 (%)")
    axes.legend(frameon=False)
    made.savefig(path)


def draw_claims(study: Study, document: Document, folder: Path) -> None:
    """Curves, and classes."""
    draw_curves(study.runs, folder / "model_selection.png")
    draw_classes(document, folder / "model_selection_classes.png")


def draw_ways(_: Study, document: Document, folder: Path) -> None:
    """Accuracy against seconds."""
    draw_latency(document["ways"], folder / "model_selection_latency.png")


def rounded(value: Any) -> Any:
    """Five digits: there are thousands of figures."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


# Declarations

POOL_LAYOUTS = {
    "members": Layout("members.*", ("",)),
    "quality_at_cost": Layout("quality_at_cost.*.*", ("choice", "seed")),
    "against_random": Layout("against_random.*.*", ("seed", "")),
    "against_random_of_any_clips": Layout("against_random_of_any_clips.*.*", ("seed", "")),
    "at_budgets": Layout("at_budgets.*.*", ("seed", "")),
    "at_budgets_any_clips": Layout("at_budgets_any_clips.*.*", ("seed", "")),
    "losses": Layout("losses.*", ("part",), unzip="member"),
    "label_shares": Layout("label_shares.*.*", ("trial", "seed")),
    "others": Layout("others.*.*.*", ("trial", "seed", "")),
}
CLAIMS_LAYOUTS = {
    **POOL_LAYOUTS,
    "ensemble": Layout("ensemble.*", ("",)),
    "quality_at_cost_map": Layout("quality_at_cost_map.*.*", ("choice", "seed")),
    "against_random_map": Layout("against_random_map.*.*", ("seed", "")),
    "by_reader": Layout("by_reader.*.*", ("seed", "")),
    "fields": Layout("fields.*.*", ("seed", "")),
    "class_cost": Layout("class_cost.*.*", ("class", "seed")),
    "members_by_class": Layout("members_by_class.*", ("class",), unzip="member"),
}
MEMBER_CLIPS = (1, 2, 3, 5, 10)
"""At which members are shown."""
ALPHA_ROWS: dict[str, dict[str, Any]] = {
    f"{alpha:g}": {"alpha": alpha} for alpha in (0.0, 5e-4, 5e-3, 0.05, 0.2, OWN, 1.0, 2.0)
}
GAINS = (Cell("mean", percent=True), Cell("least", percent=True))
PAGE_B = {
    **{
        f"top-1, {choice}": ("quality_at_cost", {"choice": choice})
        for choice in ("3 clips, not below", "any clips, not below", "any clips, within half a point")
    },
    **{
        f"mAP, {choice}": ("quality_at_cost_map", {"choice": choice})
        for choice in ("3 clips, not below", "any clips, not below")
    },
    "mAP, any clips, at 60 % (the best there)": (
        "quality_at_cost_map",
        {"choice": "any clips, at 60 % of its cost"},
    ),
}
"""Line of the page to its table and rows."""


def page_b(name: str, metric: str) -> PageTable:
    """The lines of one quality in the page's table of claim (b)."""
    cells = [Cell(column, percent=True) for column in (f"baseline_{metric}", metric, f"{metric}_difference")]
    return PageTable(
        "| chosen on validation | best single | selected | difference |",
        name,
        {line: row for line, (other, row) in PAGE_B.items() if other == name},
        (*cells, None, Cell("cost_ratio", percent=True)),
        elsewhere=tuple(line for line, (other, _) in PAGE_B.items() if other != name),
    )


PAGE_TAGS = (
    "the label of each step (`backbones.training.labels=trimmed`)",
    "their videos' labels (`labels=video`)",
)
"""Line of the page, of each way to train members where a video has several labels."""


def page_tags(number: int) -> PageTable:
    """The line of one of `PAGE_TAGS`."""
    members = [tuple(Cell(f"map.{clips}.{k}", percent=True) for k in range(4)) for clips in (3, 10)]
    return PageTable(
        "| members learn from |",
        _members_and_choice,
        {PAGE_TAGS[number]: {}},
        (*members, None, Cell("map", percent=True)),
        elsewhere=(PAGE_TAGS[1 - number],),
    )


def _members_and_choice(results: Results) -> Rows:
    """Every member at every number of clips, as one row; and what is chosen with any clips, a row per seed."""
    of_member = side_by_side(results["members"], ("member",), "clips")
    rows = [{"pool": "", **row} for row in of_member.rows]
    chosen = results["quality_at_cost"].where(choice="any clips, not below")
    return Rows((*side_by_side(Rows(tuple(rows)), ("pool",), "member").rows, *chosen.rows))


def shares_of_largest(results: Results) -> Rows:
    """Seconds and GFLOPs of every way as shares of those of `l` in memory; on demand is beside the same in memory."""
    rows: dict[str, dict[str, Value]] = {}
    (largest,) = results["ways"].where(way="l alone").rows
    for row in results["ways"].rows:
        way, _, where = str(row["way"]).rpartition(", ")
        way, where = (way, where) if where in ("in memory", "on demand") else (str(row["way"]), "in memory")
        mine = rows.setdefault(way, {"way": way})
        mine["gflops"] = float(row["gflops"]) / float(largest["gflops"])
        mine[f"compute {where}"] = float(row["compute"]) / float(largest["compute"])
        mine[f"decoded {where}"] = _seconds(row) / _seconds(largest)
    return Rows(tuple(rows.values()))


def _seconds(row: Row) -> float:
    return float(row["compute"]) + float(row["decode"])


def of_pool(
    name: str, about: str, trials: Trials, *overrides: str, metric: str = "top1", **more: Any
) -> Benchmark:
    """Claims (a) and (b) for another pool or set."""
    return Benchmark(
        name=f"model_selection_{name}",
        about=about,
        overrides=("method=model_selection", *overrides),
        train=lambda study: train(study, trials),
        document=lambda study: brief(study, trials),
        alone=("metric", "pool", "selectors"),
        page="model_selection.md",
        layouts=POOL_LAYOUTS,
        shown=(
            members_text,
            against_random_text,
            quality_shown(metric),
            budgets_shown("at_budgets"),
            budgets_shown("at_budgets_any_clips"),
            losses_text,
            label_shares_text,
        ),
        **more,
    )


BENCHMARKS = (
    Benchmark(
        name="model_selection_claims",
        about="model selection against single models, mixtures and a cascade",
        overrides=("method=model_selection",),
        train=lambda study: train(study, CLAIMS),
        document=claims,
        alone=("pool", "classes"),
        folder="model_selection",
        page="model_selection.md",
        layouts=CLAIMS_LAYOUTS,
        shown=(
            members_text,
            against_random_text,
            quality_shown("top1"),
            quality_shown("map", "quality_at_cost_map"),
            budgets_shown("at_budgets"),
            budgets_shown("at_budgets_any_clips"),
            Shown(
                "(c) reads",
                "by_reader",
                ("reads",),
                (
                    *(Cell(name, digits=4) for name in ("own_cost", "least_cost")),
                    *(
                        Cell(name, percent=True)
                        for name in ("at_its_start", "mean_gap", "at_its_end", "best")
                    ),
                ),
            ),
            Shown(
                "trial, gain over random",
                "fields",
                ("trial",),
                (Cell("gain", "mean", percent=True), Cell("best_gain", "best", percent=True)),
            ),
            losses_text,
            label_shares_text,
        ),
        page_tables=(
            PageTable(
                "| member | GFLOPs per clip |",
                lambda results: side_by_side(results["members"], ("member",), "clips"),
                {name: {"member": k} for k, name in enumerate(("xs", "s", "m", "l"))},
                (
                    Cell("gflops.1"),
                    *(
                        tuple(Cell(f"{metric}.{clips}", percent=True) for metric in ("top1", "map"))
                        for clips in MEMBER_CLIPS
                    ),
                ),
            ),
            PageTable(
                "| alpha | top-1: mean over theta |",
                lambda results: gains(results["against_random"]),
                ALPHA_ROWS,
                (*GAINS, None, None, None),
            ),
            PageTable(
                "| alpha | top-1: mean over theta |",
                lambda results: gains(results["against_random_map"]),
                ALPHA_ROWS,
                (None, None, *GAINS, None),
            ),
            PageTable(
                "| at most, of `l` at 3 clips |",
                "at_budgets_any_clips",
                {f"{100 * share:.0f} %": {"share": share} for share in BUDGETS},
                tuple(
                    Cell(name, percent=True)
                    for name in ("selected", "single_model", "random_model", "model_cascade", "model_oracle")
                ),
            ),
            page_b("quality_at_cost", "top1"),
            page_b("quality_at_cost_map", "map"),
        ),
        draw=draw_claims,
    ),
    of_pool(
        "mixed",
        "model selection from a 2-D and a 3-D network",
        MIXED_TRIALS,
        "backbones=mixed_pool",
        page_tables=(
            PageTable(
                "| chosen on validation | best single | selected, top-1 |",
                "quality_at_cost",
                {
                    page: {"choice": choice}
                    for page, choice in (
                        ("any clips, at 60 % of its cost", "any clips, at 60 % of its cost"),
                        ("any clips, not below on validation", "any clips, not below"),
                        ("3 clips, not below", "3 clips, not below"),
                        ("3 clips, within half a point", "3 clips, within half a point"),
                    )
                },
                (
                    *(Cell(name, percent=True) for name in ("baseline_top1", "top1", "top1_difference")),
                    None,
                    Cell("cost_ratio", percent=True),
                ),
            ),
        ),
    ),
    of_pool(
        "tags",
        "model selection with several labels a video; members learn the label of each step",
        TAGS,
        *TAGGED,
        "backbones.training.labels=trimmed",
        metric="map",
        page_tables=(page_tags(0),),
    ),
    of_pool(
        "tags_video_labels",
        "the same; members learn their videos' labels",
        TAGS,
        *TAGGED,
        "backbones.training.labels=video",
        metric="map",
        page_tables=(page_tags(1),),
    ),
    of_pool("harder", "model selection on smaller and fainter digits", TAGS, "data.spread=1.0"),
    of_pool("seen", "a pool that has seen every training video", SEEN, "backbones.training.video_share=1.0"),
    of_pool("few", "a pool trained on few videos", FEW, "backbones.training.video_share=0.15"),
    Benchmark(
        name="model_selection_bank",
        about="seconds of many alphas in one training, and of a training each",
        overrides=("method=model_selection",),
        document=bank,
        alone=("alphas",),
        page="model_selection.md",
        layouts={
            "seconds": Layout("seconds.*", ("trained",), unzip="repeat"),
            "ratio": Layout("ratio.*", ("repeat",)),
        },
        shown=(
            Shown("trained", "seconds", ("trained",), (Cell("value", "seconds"),)),
            Shown("one training over one each", "ratio", (), (Cell("value", "ratio"),)),
        ),
    ),
    Benchmark(
        name="model_selection_latency",
        about="seconds per raw video; --resume after model_selection_claims",
        overrides=("method=model_selection",),
        document=latency,
        folder="model_selection",
        page="model_selection.md",
        layouts={"ways": Layout("ways.*", ("way",))},
        shown=(latency_text,),
        page_tables=(
            PageTable(
                "| | GFLOPs | computing, in memory |",
                shares_of_largest,
                {
                    **{f"{name} alone": {"way": f"{name} alone"} for name in ("xs", "m", "l")},
                    **{
                        way: {"way": way}
                        for way in (
                            "selected, alpha 0.2, theta 0.3",
                            "selected, alpha 1, theta 0.5",
                            "selected, alpha 1, theta 0.25",
                        )
                    },
                },
                (
                    Cell("gflops", percent=True),
                    *(
                        Cell(f"{what} {where}", percent=True)
                        for where in ("in memory", "on demand")
                        for what in ("compute", "decoded")
                    ),
                ),
            ),
        ),
        draw=draw_ways,
    ),
)
