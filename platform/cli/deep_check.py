"""`paretovid doctor --deep`: whether what a home keeps is as it was written, read whole.

Of features and backbones by the digests that were written beside them, in a bucket by those of its manifests, whatever
the folder. A trial in a folder has no digests: its result, its scores and its weights are read, and must fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from safetensors import SafetensorError, safe_open

from paretovid.platform.cli.doctor import Check
from paretovid.platform.console.progress import Progress
from paretovid.platform.console.shell import typed, with_words
from paretovid.platform.records.trial import read_scores, read_trial
from paretovid.platform.storage.home import MODEL_FILE, Home, TrialPaths
from paretovid.trainables.backbones.catalog import load_backbone
from paretovid.trainables.documents import check_readable
from paretovid.trainables.errors import DataError, ParetovidError
from paretovid.trainables.evaluation.metrics import mean_average_precision
from paretovid.trainables.evaluation.results import MAP, SPLITS, Split, TrialResult
from paretovid.trainables.features.store import FeatureStore

_ROUNDING = 1e-5
"""Scores are kept in single precision."""
_Job = tuple[str, Callable[[], object]]


def check_deeply(home: Home, progress: Progress) -> list[Check]:
    """Reads all features, backbones and results of a home. Gives a check for each that is not as it was written, or
    one that says how many are."""
    jobs = list(_bucket_jobs(home) if home.store.is_remote else _folder_jobs(home))
    found = []
    with progress.stage("reading all that the home keeps", total=len(jobs), unit="folders") as stage:
        for name, job in jobs:
            stage.note(name)
            try:
                job()
            except (ParetovidError, OSError) as error:
                message = getattr(error, "message", "") or str(error)
                repair = with_words(getattr(error, "hint", ""), home.in_commands)
                found.append(Check(name="deep", state="fail", found=message, repair=repair))
            stage.advance(note=name)
        stage.done(f"read {len(jobs)} folders")
    return found or [Check(name="deep", state="ok", found=f"{len(jobs)} folders are as they were written")]


def _bucket_jobs(home: Home) -> Iterator[_Job]:
    for name in home.store.listing(home.root).complete:
        yield name, partial(home.store.check_digests, home.root / name)


def _folder_jobs(home: Home) -> Iterator[_Job]:
    for folder in home.feature_folders():
        yield f"features {folder.name}", partial(FeatureStore.open, folder, check_all=True)
    for folder in home.backbone_folders():
        yield f"backbone {folder.name}", partial(load_backbone, folder)
    for sweep in map(home.sweep, home.sweep_names()):
        for trial in (*sweep.with_result(), *sweep.confirmations()):
            yield f"{sweep.name}/{trial.name}", partial(_check_trial, trial)


def _check_trial(trial: TrialPaths) -> None:
    """Raises `DataError` or `NonFiniteError` for what cannot be read or does not fit together."""
    result = read_trial(trial.folder)
    for split in SPLITS:
        _check_figures(trial, result, split)
    _check_weights(trial)


def _check_figures(trial: TrialPaths, result: TrialResult, split: Split) -> None:
    """Raises `DataError` where the result says something else than what its scores give."""
    scores = read_scores(trial.folder, split, result)
    for point, answers, gflops in zip(result.points, scores.scores, scores.gflops, strict=True):
        said = point.on(split).numbers()
        measured = {MAP: mean_average_precision(answers, scores.targets), "gflops": float(gflops.mean())}
        for name, value in measured.items():
            if not np.isclose(said[name], value, rtol=_ROUNDING, atol=_ROUNDING):
                raise DataError(
                    f"{trial.result}: {point.id} has {name} {said[name]:.6g} on {split}, its scores give {value:.6g}",
                    _repair(trial),
                )


def _check_weights(trial: TrialPaths) -> None:
    path = trial.folder / MODEL_FILE
    check_readable(path)
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            bad = [name for name in names if not np.isfinite(file.get_tensor(name)).all()]
    except FileNotFoundError:
        return  # a trial may have been written without
    except SafetensorError as error:
        raise DataError(f"{path} is damaged: {error}", _repair(trial)) from error
    if bad:
        raise DataError(f"{path}: {bad[0]} is not finite", _repair(trial))


def _repair(trial: TrialPaths) -> str:
    resume = typed("paretovid", "resume", trial.sweep.name)
    return f"Remove {typed(trial.folder)}; `{resume}` runs the trial again."
