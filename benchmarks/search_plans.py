"""Which plan spends a sweep's epochs better: many short trainings whose knobs TPE or a Gaussian process searches, or a
few long ones.

    python -m benchmarks search_plans_lite_eval home=bench-home --seeds 5 --workers 1

A seed is a sweep: its trainings and the study that suggests them take it, as `seed=` of a sweep does. Both plans spend
the same number of epochs. Only `result.json` and the seconds stay of a training; with `--resume` what is there is not
trained again, and a study goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.points import Run
from benchmarks.harness.reported import Document
from benchmarks.search_plans_shown import LAYOUTS, Trained, Worths, document_of, tables
from paretovid.platform.config.load import load_sweep_config, model_with_knobs
from paretovid.platform.records.trial import find_trial, read_trial
from paretovid.platform.search.knob_space import KnobSpace, KnobValue
from paretovid.platform.search.study import ParetoStudy
from paretovid.search_spaces.schema import MethodConfig
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import SCORES_FILE, WEIGHTS_FILE
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

KNOBS, LONG, GP = "knobs", "long", "knobs by gp"
SAMPLERS = {KNOBS: "tpe", GP: "gp"}
"""Of the plans whose knobs a study suggests."""
TRIALS = 16
"""Of the plan `knobs`; a worth is a number of its trainings, and so of epochs."""
LONGER = 4
"""Times the epochs of a short training that a long one takes."""
SECONDS_FILE = "cpu_seconds.json"
PUBLISHED: Mapping[str, Sequence[Mapping[str, KnobValue]]] = {
    "lite_eval": [{"gamma": gamma, "lambda": 2} for gamma in (0.03, 0.1, 0.01, 0.05)],
    "hcms": [
        {"skip_1": first, "skip_2": second, "lambda": 2}
        for first, second in ((0.85, 0.98), (0.6, 0.94), (0.92, 0.99), (0.3, 0.7))
    ],
}
"""Published settings of each method, in the order in which long trainings take them: from the middle first, whose curve
reaches both ways."""


@dataclass(frozen=True)
class Sweep:
    """What a plan is given."""

    study: Study
    method: MethodConfig
    seed: int

    def train(self, knobs: Mapping[str, KnobValue], epochs: int) -> Path:
        """The folder of a training; one that is finished is not trained again."""
        # As the study has them, so that 2 and 2.0 are one setting.
        typed = KnobSpace(self.method.training_knobs).typed(knobs)
        config = TrialConfig(
            sweep="benchmark",
            trial=self.method.name,
            method=self.method.name,
            model=model_with_knobs(self.method, typed),
            training_knobs=dict(typed),
            training=TrainingConfig(epochs=epochs, **self.study.training),
            seed=self.seed,
            dataset=str(self.study.prepared.dataset.root),
            features={source: str(path) for source, path in self.study.prepared.features.items()},
            output="",
        )
        # By what is trained, not by what trained it: a comment that changes in the code is no other training.
        folder = self.study.folder / f"{self.method.name}-s{self.seed}-{config.digest_by('')}"
        if find_trial(folder) is None:
            started = time.process_time()
            run_trial(replace(config, output=str(folder)), LocalContext())
            (folder / SECONDS_FILE).write_text(json.dumps(time.process_time() - started))
        for large in (SCORES_FILE, WEIGHTS_FILE):
            (folder / large).unlink(missing_ok=True)
        return folder


def folders(sweep: Sweep, plan: str, worth: int = TRIALS) -> list[Path]:
    """Trains what a plan trains, unless it is there; the folders, in order.

    Arguments:
        worth: only the first trainings, as many as fit into the epochs of so many short ones.
    """
    if plan in SAMPLERS:
        return _searched(sweep, worth, SAMPLERS[plan])
    settings = PUBLISHED[sweep.method.name][: worth // LONGER]
    return [sweep.train(knobs, LONGER * sweep.study.epochs) for knobs in settings]


def _searched(sweep: Sweep, count: int, sampler: str) -> list[Path]:
    """The first `count` of the trainings whose knobs a study suggests, one after the other. Anchors and published ones
    are the same of all samplers, and trained once."""
    name = f"{sweep.method.name}-s{sweep.seed}" + ("" if sampler == "tpe" else f"-{sampler}")
    study = ParetoStudy(
        storage=f"journal://{sweep.study.folder / 'studies' / name}.log",
        name=name,
        knobs=sweep.method.training_knobs,
        trials=TRIALS,
        sampler=sampler,
        seed=sweep.seed,
        published=sweep.method.published,
        guided_by="point",
    )
    while study.counts().complete < count and (suggested := study.ask()) is not None:
        result = read_trial(sweep.train(suggested.knobs, sweep.study.epochs))
        study.report(suggested.trial_id, result.points[0].val, result.points)
    done = sorted(study.complete_ones(), key=lambda each: each.trial_id)[:count]
    return [sweep.train(each.knobs, sweep.study.epochs) for each in done]


def _sweep(job: tuple[Study, MethodConfig, str, int, int]) -> None:
    study, method, plan, worth, seed = job
    folders(Sweep(study, method, seed), plan, worth)
    print(f"{method.name} seed {seed}: {plan}", flush=True)


def train(study: Study, method: str, worths: Worths) -> list[Run]:
    """Trains both plans with every seed, seed by seed, so that one that is cut off has whole pairs. No runs: what is
    reported is of sweeps, of which each has another number of trainings."""
    config = load_sweep_config([f"method={method}"]).method
    jobs = [(study, config, plan, max(worths[plan]), seed) for seed in range(study.seeds) for plan in worths]
    with multiprocessing.get_context("spawn").Pool(study.workers) as pool:
        pool.map(_sweep, jobs, 1)
    return []


def document(study: Study, method: str, worths: Worths, levels: Sequence[float]) -> Document:
    """Everything that is reported."""
    config = load_sweep_config([f"method={method}"]).method
    sweeps = {
        (plan, seed): [
            Trained(read_trial(folder), float(json.loads((folder / SECONDS_FILE).read_text())))
            for folder in folders(Sweep(study, config, seed), plan, max(worths[plan]))
        ]
        for plan in worths
        for seed in range(study.seeds)
    }
    return document_of(sweeps, study.epochs, worths, levels)


def _benchmark(method: str, worths: Worths, levels: Sequence[float]) -> Benchmark:
    return Benchmark(
        name=f"search_plans_{method}",
        about=f"{method}: many short trainings whose knobs are searched against a few long ones",
        overrides=(f"method={method}",),
        train=partial(train, method=method, worths=worths),
        document=partial(document, method=method, worths=worths, levels=levels),
        page="search.md",
        layouts=LAYOUTS,
        shown=tables(method, f"{KNOBS}, {max(worths[KNOBS])}", levels),
        is_verbatim=True,
    )


BENCHMARKS = (
    _benchmark("lite_eval", {KNOBS: (16, 8, 4), GP: (16,), LONG: (16, 8, 4)}, (0.02, 0.03, 0.05)),
    _benchmark("hcms", {KNOBS: (16, 8, 4), LONG: (8, 4)}, (0.05, 0.08, 0.15)),
)
