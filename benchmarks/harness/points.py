"""Operating points of finished trials with what they said of every test video, and choices among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from paretovid.platform.records.trial import read_trial
from paretovid.trainables.evaluation.results import SCORES_FILE, Metrics, OperatingPoint

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
    def text(self) -> str:
        """Its trial and setting, as tables name it."""
        return setting_text(self.trial, self.setting)

    @property
    def val(self) -> Metrics:
        return self.record.val

    @property
    def test(self) -> Metrics:
        return self.record.test


def setting_text(trial: str, setting: Mapping[str, Any]) -> str:
    """`TRIAL KNOB=VALUE KNOB=VALUE`, for a cell of a table."""
    return " ".join([trial, *(f"{name}={value}" for name, value in setting.items())])


def points_of(folder: Path, *, keeps_caps: bool = False) -> list[Point]:
    """The operating points of a finished trial; the default one first.

    Arguments:
        keeps_caps: those under a cap, too. Most claims name the settings that they compare, and caps are none of them.
    """
    result = read_trial(folder)
    tensors = load_file(folder / SCORES_FILE)
    names = ("test/scores", "test/gflops", "test/decisions")
    return [
        Point(result.trial, each, *(tensors[name][each.index] for name in names))
        for each in result.points
        if keeps_caps or not each.inference_knobs.get("max_gflops")
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


def best_on_validation(
    runs: Sequence[Run], trials: Iterable[str], metric: str = "map", **setting: float
) -> list[Point]:
    """The best setting by the mean over seeds on validation, a point per seed; of equally good ones the cheapest.

    Arguments:
        setting: inference knobs and their values, if only some settings count.
    """
    known = [
        each
        for each in settings_of(runs, trials, metric).values()
        if all(each[2][0].setting.get(name) == value for name, value in setting.items())
    ]
    best = max(quality for quality, _, _ in known)
    # The cheapest of them, because a rival is chosen here: the comparison should be hard on us.
    _, _, points = min((each for each in known if each[0] >= best - 1e-9), key=lambda each: each[1])
    return points


def cost_at_quality(
    runs: Sequence[Run],
    ours: Sequence[str],
    rivals: Iterable[str],
    *,
    margin: float,
    is_default: bool = False,
    metric: str = "map",
) -> list[dict[str, Any]]:
    """The cheapest setting of `ours` as good as the best of `rivals` (`cost_against`)."""
    rival = best_on_validation(runs, rivals, metric)
    return cost_against(runs, ours, rival, margin=margin, is_default=is_default, metric=metric)


def cost_against(
    runs: Sequence[Run],
    ours: Sequence[str],
    rival: Sequence[Point],
    *,
    margin: float,
    is_default: bool = False,
    metric: str = "map",
) -> list[dict[str, Any]]:
    """The cheapest setting of `ours` as good as a rival's, a row per seed; the best one if none is as good; no row if
    there is no setting that every seed has.

    Chosen by the mean over seeds on validation, measured per seed on test. With one seed (`runs` of length 1)
    it is what a single sweep would choose: the luckiest of hundreds of points on a finite split.

    Arguments:
        rival: a point per seed.
        margin: how far below the rival a setting may be on validation.
        is_default: only the default setting of each trial.
        metric: of quality, `map` or `top1`.
    """
    bar = float(np.mean([point.val.numbers()[metric] for point in rival])) - margin
    candidates = settings_of(runs, ours, metric)
    if is_default:
        defaults = {id(run[name][0]) for run in runs for name in ours}
        candidates = {key: value for key, value in candidates.items() if id(value[2][0]) in defaults}
    if not candidates:
        return []
    good = [each for each in candidates.values() if each[0] >= bar]
    _, _, chosen = (
        min(good, key=lambda each: each[1]) if good else max(candidates.values(), key=lambda each: each[0])
    )
    return [
        {
            "reached_on_val": bool(good),
            "baseline": them.text,
            f"baseline_{metric}": them.test.numbers()[metric],
            "baseline_gflops": them.test.gflops,
            "chosen": point.text,
            metric: point.test.numbers()[metric],
            "gflops": point.test.gflops,
            f"{metric}_difference": point.test.numbers()[metric] - them.test.numbers()[metric],
            "cost_ratio": point.test.gflops / them.test.gflops,
        }
        for them, point in zip(rival, chosen, strict=True)
    ]
