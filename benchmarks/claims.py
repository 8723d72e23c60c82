"""What the benchmarks of the methods share: trials over seeds, operating points, intervals, cost at equal quality."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.trial import read_trial
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import RESULT_FILE, SCORES_FILE, Metrics, OperatingPoint
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

Run = dict[str, list["Point"]]
"""Trial name to its operating points, of one seed."""


@dataclass(frozen=True)
class Point:
    """One operating point with what it said about every one of N test videos (C classes, T steps)."""

    trial: str
    record: OperatingPoint
    scores: np.ndarray
    """`[N, C]`"""
    gflops: np.ndarray
    """`[N]`"""
    decisions: np.ndarray
    """`[N, T]`"""

    @property
    def setting(self) -> dict[str, Any]:
        return dict(self.record.inference_knobs)

    @property
    def val(self) -> Metrics:
        return self.record.val

    @property
    def test(self) -> Metrics:
        return self.record.test


def train_all(
    prepared: Prepared,
    folder: Path,
    trials: Mapping[str, tuple[str, dict[str, Any]]],
    *,
    seeds: int,
    epochs: int,
    workers: int,
    training: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Trains every trial (name to method and model) with every seed; those that are finished are not trained again.

    Arguments:
        trials: `{seed}` in a field's text is replaced by the seed.
        training: fields of TrainingConfig besides the epochs, where they are not the platform's.

    Returns the points of each seed. Trials lie at `folder/NAME-sSEED`.
    """
    configs = [
        TrialConfig(
            sweep="benchmark",
            trial=f"{name}-s{seed}",
            method=method,
            model={k: v.format(seed=seed) if isinstance(v, str) else v for k, v in fields.items()},
            training=TrainingConfig(epochs=epochs, **(training or {})),
            seed=seed,
            dataset=str(prepared.dataset.root),
            features={source: str(path) for source, path in prepared.features.items()},
            output=str(folder / f"{name}-s{seed}"),
        )
        for seed in range(seeds)
        for name, (method, fields) in trials.items()
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, name in enumerate(pool.imap_unordered(_train, configs), start=1):
            print(f"\r{done}/{len(configs)} {name:<30}", end="", flush=True)
    print()
    return [{name: points_of(folder / f"{name}-s{seed}") for name in trials} for seed in range(seeds)]


def _train(config: TrialConfig) -> str:
    if not (Path(config.output) / RESULT_FILE).exists():
        run_trial(config, LocalContext())
    return config.trial


def points_of(folder: Path) -> list[Point]:
    """The operating points of a finished trial; the default one first.

    Those under a cap are HCMS's alone: its page has claims about them, and other pages name the settings they compare.
    """
    result = read_trial(folder)
    has_caps = result.method == "hcms"
    tensors = load_file(folder / SCORES_FILE)
    names = ("test/scores", "test/gflops", "test/decisions")
    return [
        Point(result.trial, each, *(tensors[name][each.index] for name in names))
        for each in result.points
        if has_caps or not each.inference_knobs.get("max_gflops")
    ]


def at(points: Sequence[Point], **setting: float) -> Point:
    """The point at these values of the inference knobs, whatever the others.

    A setting whose answers equal those of one before is not kept by a trial: then `KeyError`.
    """
    for point in points:
        if all(point.setting.get(name) == value for name, value in setting.items()):
            return point
    raise KeyError(f"{points[0].trial} has no point at {setting}")


def settings_of(
    runs: Sequence[Run], trials: Iterable[str], metric: str = "map"
) -> dict[tuple[str, str], tuple[float, float, list[Point]]]:
    """Settings that every seed has: mean validation quality, mean validation GFLOPs, and the point of each seed.

    A setting whose answers do not differ from another's is left out of a trial's points, and so here.
    """
    found: dict[tuple[str, str], list[Point]] = {}
    for points in runs:
        for name in trials:
            for point in points[name]:
                found.setdefault((name, json.dumps(point.setting, sort_keys=True)), []).append(point)
    return {
        key: (
            float(np.mean([p.val.numbers()[metric] for p in each])),
            float(np.mean([p.val.gflops for p in each])),
            each,
        )
        for key, each in found.items()
        if len(each) == len(runs)
    }


def cost_at_quality(
    runs: Sequence[Run],
    ours: Iterable[str],
    rivals: Iterable[str],
    *,
    margin: float,
    is_natural: bool = False,
    metric: str = "map",
) -> list[dict[str, Any]]:
    """The cheapest setting of `ours` as good as the best of `rivals`.

    Chosen by the mean over seeds on validation, measured per seed on test. With one seed (`runs` of length 1)
    it is what a single sweep would choose: the luckiest of hundreds of points on a finite split.

    Arguments:
        margin: how far below the rival a setting may be on validation.
        is_natural: only the natural setting of each trial.
        metric: of quality, `map` or `top1`.
    """
    theirs = settings_of(runs, rivals, metric)
    best = max(value for value, _, _ in theirs.values())
    # Of equally good rivals the cheapest counts: the comparison should be hard on us.
    _, _, rival = min((v for v in theirs.values() if v[0] >= best - 1e-9), key=lambda v: v[1])
    candidates = settings_of(runs, ours, metric)
    if is_natural:
        natural = {id(run[name][0]) for run in runs for name in ours}
        candidates = {key: value for key, value in candidates.items() if id(value[2][0]) in natural}
    good = [v for v in candidates.values() if v[0] >= best - margin]
    _, _, chosen = min(good, key=lambda v: v[1]) if good else max(candidates.values(), key=lambda v: v[0])
    return [
        {
            "reached_on_val": bool(good),
            "baseline": f"{them.trial} {them.setting}",
            f"baseline_{metric}": them.test.numbers()[metric],
            "baseline_gflops": them.test.gflops,
            "chosen": f"{point.trial} {point.setting}",
            metric: point.test.numbers()[metric],
            "gflops": point.test.gflops,
            f"{metric}_difference": point.test.numbers()[metric] - them.test.numbers()[metric],
            "cost_ratio": point.test.gflops / them.test.gflops,
        }
        for them, point in zip(rival, chosen, strict=True)
    ]


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of the mean over seeds (Student's t)."""
    from scipy.stats import t  # comes with scikit-learn

    array = np.array(list(values))
    half = (
        float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
        if len(array) > 1
        else 0.0
    )
    return float(array.mean()), float(array.mean() - half), float(array.mean() + half)


def span(values: Iterable[float], percent: bool = False, digits: int = 3) -> str:
    """`mean [low, high]` for a table."""
    mean, low, high = (100 * v if percent else v for v in interval(values))
    digits = 2 if percent else digits
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(title: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(title)} |", "|" + "---|" * len(title)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
