"""Sweeps whose trials cost nothing: a table says what each setting reaches. For tests of what a sweep does; no result
of the platform is made from them, and every file of one says that it is simulated.

Everything but the cluster, the preparation and the training is real: configuration, lock, study, reconciliation,
records, journal, tracking, signals, front. A plug-in's tests may run their own knobs and samplers through it:

    report = run_sweep(load_sweep_config([...]), Progress.silent(), backend=simulated())
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from paretovid.platform.config.resolve import PreparationPlan
from paretovid.platform.console.progress import Progress
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.judgement import is_judged_out, read_judgements
from paretovid.platform.records.learning import write_learning
from paretovid.platform.storage.home import TrialPaths, open_home
from paretovid.platform.sweeps.sweep import Backend
from paretovid.platform.sweeps.trials import finished_result
from paretovid.platform.testing.sequential import Run, SequentialLauncher
from paretovid.platform.testing.sweeps import CLASSES, write_trial
from paretovid.trainables.backbones.catalog import family
from paretovid.trainables.catalog import method_class
from paretovid.trainables.context import Learning, Rung, StoppedAtRung
from paretovid.trainables.data.dataset import Dataset, VideoRecord, save_manifest
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.training.config import TrialConfig, rung_epoch

Table = Callable[[TrialConfig], Sequence[tuple[float, float]]]
"""A trial to the (skill, mean GFLOPs) of its operating points, the default one first. Skill 0 is chance, mAP is
measured on scores that are right more often the higher it is. What it raises, the trial has failed of; `ProcessDied`,
as if its process had died."""

VIDEOS_PER_SPLIT = 24


def expensive_is_better(trial: TrialConfig) -> list[tuple[float, float]]:
    """A table for any method: higher numeric knobs see more and cost more, with diminishing returns."""
    values = [float(each) for each in trial.training_knobs.values() if not isinstance(each, str)]
    share = sum(value / (1 + value) for value in values) / max(1, len(values))
    return [(0.2 + 0.7 * (share * scale) ** 0.5, 0.01 + 0.1 * share * scale) for scale in (1.0, 0.5)]


def simulated(table: Table = expensive_is_better, *, at_once: int = 2) -> Backend:
    """A backend for `run_sweep`, `resume_sweep` and `extend_sweep`.

    Arguments:
        at_once: trials that are under way at a time, unless `search.concurrent` says less.
    """
    return Backend(
        cluster=lambda config: contextlib.nullcontext(),
        preparation=_prepare,
        launcher=SequentialLauncher(_from(table), at_once).launch,
    )


def _prepare(plan: PreparationPlan, progress: Progress) -> Prepared:
    """A manifest of videos that are empty files, and the names of features that nobody has made.

    Raises `UsageError` for a method of localization: its results hold instances, which a table does not give.
    """
    config = plan.config
    if method_class(config.method.name).task != "classification":
        raise UsageError(
            f"{config.method.name} cannot be simulated: it localizes",
            "Simulated sweeps are of classification.",
        )
    home, name = open_home(config.home), str(config.data["name"])
    records = tuple(
        VideoRecord(
            video_id=f"{split}_{number:05d}",
            path=f"videos/{split}_{number:05d}.mp4",
            split=split,
            labels=(number % len(CLASSES),),
            num_steps=4,
            duration_seconds=2.0,
        )
        for split in ("train", "val", "test")
        for number in range(VIDEOS_PER_SPLIT)
    )
    dataset = Dataset(
        name=name,
        root=home.data(name),
        classes=CLASSES,
        step_seconds=0.5,
        multi_label=False,
        records=records,
        generator={"simulated": True},
    )
    with progress.stage("simulated videos and features") as stage:
        (dataset.root / "videos").mkdir(parents=True, exist_ok=True)
        for record in records:
            (dataset.root / record.path).touch()
        save_manifest(dataset)
        stage.done(f"{len(records)} records")
    names = family(config.backbones.family)
    features = {source: home.features(name) / f"{each}@simulated" for source, each in names.items()}
    return Prepared(home=home, dataset=dataset, backbones={}, features=features)


def _from(table: Table) -> Run:
    """As there, a trial whose result is there already is not run again."""

    def run(trainable: object, config: JsonObject, poll: Callable[[], None]) -> TrialResult:
        trial = TrialConfig.from_json(config)
        result = finished_result(trial)
        if result is None:
            points = table(trial)
            _pass_rungs(trial, points, poll)
            _write(trial, points)
            result = finished_result(trial)
            assert result is not None, "what was written is found by its digest"
        return result

    return run


def _pass_rungs(trial: TrialConfig, points: Sequence[tuple[float, float]], poll: Callable[[], None]) -> None:
    """What a training says at its rungs: the skills and costs of its points as quality and GFLOPs, as if it were
    trained already. Raises `StoppedAtRung` if it is judged out."""
    paths, epochs = TrialPaths(Path(trial.output)), trial.training.epochs
    rungs: list[Rung] = []
    for share in sorted(trial.rungs):
        epoch = rung_epoch(share, epochs)
        rungs.append(Rung(share=share, epoch=epoch, points=tuple(points)))
        history = tuple({"loss": 1 / each} for each in range(1, epoch + 1))
        paths.folder.mkdir(parents=True, exist_ok=True)
        write_learning(paths, Learning(epochs=epochs, history=history, rungs=tuple(rungs)))
        poll()
        if is_judged_out(read_judgements(paths)):
            raise StoppedAtRung(epoch, epochs)


def _write(trial: TrialConfig, points: Sequence[tuple[float, float]]) -> None:
    paths = TrialPaths(Path(trial.output))
    confirming = {"confirms": trial.confirms} if trial.confirms else {}
    method = method_class(trial.method)
    write_trial(
        paths.sweep,
        trial.trial,
        points,
        method=trial.method,
        videos=VIDEOS_PER_SPLIT,
        seed=trial.seed,
        simulated=True,
        digest=trial.digest,
        code_version=trial.code_version,
        training_knobs=trial.training_knobs,
        model=trial.model,
        accounting=trial.accounting,
        is_baseline=method.is_baseline,
        deployable=method.deployable,
        training_config=asdict(trial.training),
        **confirming,
    )
