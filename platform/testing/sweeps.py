"""Sweeps and homes without a search, for tests. No result of the platform is made from them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretovid.platform.storage.home import Home, SweepPaths
from paretovid.trainables.backbones.catalog import FAMILIES, component, save_backbone
from paretovid.trainables.context import LocalContext
from paretovid.trainables.data.dataset import Dataset
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.documents import save_tensors
from paretovid.trainables.evaluation.metrics import mean_average_precision, top1
from paretovid.trainables.features.extract import extract_shard, headers
from paretovid.trainables.features.store import finish
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

CLASSES = ("zero", "one", "two", "three")


def synthetic_scores(skill: float, targets: Any, seed: int) -> Any:
    """Probabilities `[N, C]` that are right more often the higher `skill` is (0: chance)."""
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    logits = noise + 4 * skill * targets
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def write_trial(
    sweep: SweepPaths,
    trial: str,
    points: Sequence[tuple[float, float]],
    *,
    method: str = "lite_eval",
    videos: int = 60,
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Writes a finished trial whose points have the given (skill, mean GFLOPs). Returns its folder.

    `fields` replace entries of `result.json`.
    """
    paths = sweep.trial(trial)
    paths.folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    entries: list[dict[str, Any]] = [
        {"id": f"{trial}-p{i:02d}", "natural": i == 0, "inference_knobs": {"gate_offset": float(-i)}}
        for i in range(len(points))
    ]
    for salt, split in enumerate(("val", "test")):
        targets = np.eye(len(CLASSES))[np.arange(videos) % len(CLASSES)]
        scores = [synthetic_scores(skill, targets, 100 * seed + salt) for skill, _ in points]
        spread = np.linspace(0.5, 1.5, videos)
        gflops = [mean * spread for _, mean in points]
        for entry, answer, cost in zip(entries, scores, gflops, strict=True):
            entry[split] = _measurement(answer, cost, targets)
        tensors |= {f"{split}/scores": scores, f"{split}/gflops": gflops, f"{split}/targets": targets}
    arrays = {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}
    save_tensors(arrays, paths.scores)
    result = {**_description(sweep.name, trial, method, seed), "points": entries, **fields}
    paths.result.write_text(json.dumps(result))
    return paths.folder


def _measurement(scores: Any, gflops: Any, targets: Any) -> dict[str, Any]:
    return {
        "map": mean_average_precision(scores, targets),
        "map_present": mean_average_precision(scores, targets, "present_only"),
        "map_interpolated": mean_average_precision(scores, targets, "activitynet"),
        "top1": top1(scores, targets),
        "gflops": float(gflops.mean()),
        "gflops_std": float(gflops.std()),
        "gflops_p95": float(np.quantile(gflops, 0.95)),
        "calls": {"fine@64": float(gflops.mean() * 100)},
        "usage_std_over_mean": 0.3,
    }


def _description(sweep: str, trial: str, method: str, seed: int) -> dict[str, Any]:
    baseline = method in ("uniform", "oracle")
    return {
        "trial": trial,
        "sweep": sweep,
        "method": method,
        "objective": "map",
        "is_baseline": baseline,
        "deployable": method != "oracle",
        "seed": seed,
        "training_knobs": {} if baseline else {"gamma": 0.1, "lambda": 2.0},
        "model": {},
        "seconds": 1.5,
        "sources": {"fine": "fine@64"},
        "widths": {"fine": 16},
        "data": {
            "name": "moving_digits",
            "fingerprint": "abcdef012345",
            "features": {"fine": "fine@64-0"},
            "classes": list(CLASSES),
            "multi_label": False,
            "step_seconds": 0.5,
        },
        "code_version": "0123456789ab",
        "costs": {"fine@64": {"macs": 10_000_000, "input": "3x64x64"}},
        "accounting": "honest",
        "training": {"history": [{"loss": 1.0}, {"loss": 0.5}]},
    }


def write_sweep(sweep: SweepPaths | Path, info: Mapping[str, Any] | None = None) -> SweepPaths:
    """Writes the `sweep.json` of an empty, finished sweep. `sweep`: of a home, or any folder."""
    paths = SweepPaths(sweep) if isinstance(sweep, Path) else sweep
    paths.folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": paths.name,
        "method": "lite_eval",
        "data": "moving_digits",
        "created": "2026-11-21T06:00:00+00:00",
        "seed": 0,
        "config": {"search": {"trials": 4}},
        "code_version": "0123456789ab",
        "knobs": ["gamma", "lambda"],
        "state": "finished",
        "reference": {"map": 0.0, "gflops": 0.2},
        **(info or {}),
    }
    paths.record.write_text(json.dumps(content))
    return paths


def synthetic_sweep(sweep: SweepPaths | Path, trials: int = 3) -> SweepPaths:
    """A sweep with some trials of a method, a uniform baseline and an oracle. `sweep`: as in `write_sweep`."""
    paths = write_sweep(sweep)
    for t in range(trials):
        points = [(0.25 + 0.07 * t + 0.04 * k, 0.012 + 0.013 * t + 0.008 * k) for k in range(4)]
        write_trial(paths, f"t{t:04d}", points, training_knobs={"gamma": 0.05 * (t + 1), "lambda": 2.0})
    curve = [(0.05 + 0.06 * k, 0.02 * (k + 1)) for k in range(8)]
    write_trial(paths, "b0000", curve, method="uniform")
    write_trial(paths, "b0001", [(skill + 0.3, cost) for skill, cost in curve[:4]], method="oracle")
    return paths


def kill_with_children(pid: int) -> int:
    """SIGKILL of a process and of all that it has started, Ray's among them, as when a machine dies.

    Returns how many processes that were.
    """
    import psutil

    try:
        driver = psutil.Process(pid)
        # None of them may act on the death of another one before its own.
        victims = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.suspend()
    victims += [child for child in _children_of(victims) if child not in victims]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims[1:], timeout=10)  # the first is for whoever started it to wait for
    return len(victims)


def _children_of(processes: Sequence[Any]) -> list[Any]:
    import psutil

    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.children()
    return found


def small_home(root: Path, sweep: str = "tiny", dtype: str = "float32") -> Home:
    """A home with a few real videos, untrained backbones, their features, and a sweep of two real trials.

    Everything is what the platform makes, only small: it takes seconds. Trial `t0000` is of `lite_eval`,
    `b0000` of `uniform`, `b0001` of `oracle`.
    """
    home = Home(root)
    made = MovingDigitsConfig(videos_train=8, videos_val=8, videos_test=8, min_seconds=2.0, max_seconds=3.0)
    components = {source: FAMILIES["small"][source] for source in ("coarse", "fine")}
    dataset, stores = _with_features(home, "moving_digits", made, components, dtype)
    write_sweep(home.sweep(sweep), {"reference": None, "config": {}})
    for trial, method in (("t0000", "lite_eval"), ("b0000", "uniform"), ("b0001", "oracle")):
        run_trial(
            TrialConfig(
                sweep=sweep,
                trial=trial,
                method=method,
                training_knobs={"gamma": 0.4} if method == "lite_eval" else {},
                model={"target_usage": 0.4} if method == "lite_eval" else {},
                training=TrainingConfig(epochs=2, batch_size=8),
                dataset=str(home.data(dataset.name)),
                features={source: str(stores[name]) for source, name in components.items()},
                output=str(home.trial(sweep, trial).folder),
            ),
            LocalContext(),
        )
    return home


def localization_home(root: Path, sweep: str = "tiny") -> Home:
    """As `small_home`, of untrimmed videos and localization: `t0000` is of `model_selection_localization`, `b0000` of
    `motion_only`, `b0001` of `random_clips`.
    """
    home = Home(root)
    made = MovingDigitsConfig(
        videos_train=12,
        videos_val=6,
        videos_test=6,
        min_seconds=4.0,
        max_seconds=5.0,
        step_seconds=1.0,
        untrimmed=True,
        action_classes=3,
        context=0.3,
        sparsity=0.3,
        appearance_classes=0,
        motion_classes=0,
        sound_classes=0,
        easy_classes=0,
    )
    components = {source: FAMILIES["localization"][source] for source in ("appearance", "flow")}
    dataset, stores = _with_features(home, "moving_digits_untrimmed", made, components, "float32")
    write_sweep(home.sweep(sweep), {"reference": None, "config": {}})
    for trial, method in (
        ("t0000", "model_selection_localization"),
        ("b0000", "motion_only"),
        ("b0001", "random_clips"),
    ):
        run_trial(
            TrialConfig(
                sweep=sweep,
                trial=trial,
                method=method,
                training_knobs={"beta": 0.5} if trial == "t0000" else {},
                model={"beta": 0.5} if trial == "t0000" else {},
                training=TrainingConfig(epochs=20, batch_size=6),
                dataset=str(home.data(dataset.name)),
                features={source: str(stores[name]) for source, name in components.items()},
                output=str(home.trial(sweep, trial).folder),
            ),
            LocalContext(),
        )
    return home


def _with_features(
    home: Home, name: str, made: MovingDigitsConfig, components: Mapping[str, str], dtype: str
) -> tuple[Dataset, dict[str, Path]]:
    """Real videos, untrained backbones and their features; component to the folder of its store."""
    dataset = make_moving_digits(made, home.data(name), name=name)
    torch.manual_seed(0)
    for each in components.values():
        backbone = component(each).build(len(dataset.classes)).eval()
        save_backbone(home.backbone(name, each), each, backbone)
    folders = {each: home.backbone(name, each) for each in components.values()}
    made_of = headers(dataset, folders, dtype)
    stores = {each: home.features(name) / f"{each}@{header.fingerprint}" for each, header in made_of.items()}
    extract_shard(dataset, dataset.records, folders, stores, 0, dtype)
    for each, header in made_of.items():
        finish(stores[each], header, 1)
    return dataset, stores
