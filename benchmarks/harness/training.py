"""Trials over seeds, in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.listed import listed
from benchmarks.harness.points import Run, points_of
from paretovid.platform.preparation.prepare import Prepared
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import RESULT_FILE
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

Trials = Mapping[str, tuple[str, dict[str, Any]]]
"""A trial's name to its method and the fields of the method's configuration."""


def train_all(
    prepared: Prepared,
    folder: Path,
    trials: Trials,
    *,
    seeds: int,
    epochs: int,
    workers: int,
    training: Mapping[str, Any] | None = None,
    keeps_caps: bool = False,
) -> list[Run]:
    """Trains every trial (name to method and model) with every seed; those that are finished are not trained again.

    Arguments:
        trials: `{seed}` in a field's text is replaced by the seed.
        training: fields of TrainingConfig besides the epochs, where they are not the platform's.
        keeps_caps: whether points under a cap are among those that are returned.

    Returns the points of each seed. Trials lie at `folder/NAME-sSEED`.
    """
    configs = [
        TrialConfig(
            sweep="benchmark",
            trial=f"{name}-s{seed}",
            method=method,
            model=listed(
                method, {k: v.format(seed=seed) if isinstance(v, str) else v for k, v in fields.items()}
            ),
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
    return [
        {name: points_of(folder / f"{name}-s{seed}", keeps_caps=keeps_caps) for name in trials}
        for seed in range(seeds)
    ]


def _train(config: TrialConfig) -> str:
    if not (Path(config.output) / RESULT_FILE).exists():
        run_trial(config, LocalContext())
    return config.trial
