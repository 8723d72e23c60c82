"""Which plan spends a sweep's trainings best: many short ones, a few long ones, or draws over hyperparameters too.

    python -m benchmarks search_plans_lite_eval home=bench-home --seeds 5 --workers 1

A seed is a sweep: its trainings, the study that suggests them and what is drawn all take it, as `seed=` of a sweep
does. All plans spend the same number of epochs, sixteen times those of one training (`--epochs`, by default the
platform's 40). What two plans have in common is trained once. One folder with `result.json` stays of every training;
with `--resume` those that are there are not trained again, and a study goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.points import Run
from benchmarks.search_plans_shown import LAYOUTS, Trained, document_of, tables
from paretovid.platform.config.load import load_sweep_config, model_with_knobs
from paretovid.platform.records.trial import find_trial, read_trial
from paretovid.platform.search.knob_space import KnobSpace, KnobValue
from paretovid.platform.search.study import ParetoStudy
from paretovid.search_spaces.schema import KnobConfig, MethodConfig
from paretovid.trainables.context import LocalContext
from paretovid.trainables.evaluation.results import SCORES_FILE, WEIGHTS_FILE
from paretovid.trainables.training.config import TrainingConfig, TrialConfig
from paretovid.trainables.trial import run_trial

SHORT_TRAININGS = 16
"""Of the plan that searches knobs alone; every plan spends so many times the epochs of one of them."""
WORTHS = (SHORT_TRAININGS, 8, 4)
"""Of these only the first trainings of each plan, as many as fit."""
SECONDS_FILE = "cpu_seconds.json"
ORDERS: Mapping[str, Sequence[Mapping[str, KnobValue]]] = {
    "lite_eval": [{"gamma": gamma, "lambda": 2} for gamma in (0.03, 0.1, 0.01, 0.05)],
    "hcms": [
        {"skip_1": first, "skip_2": second, "lambda": 2}
        for first, second in ((0.85, 0.98), (0.6, 0.94), (0.92, 0.99), (0.3, 0.7))
    ],
    "ada_frame": [{"K": steps, "memory": 16, "reward": "margin"} for steps in (10, 5, 8, 3)],
}
"""Published settings, in the order in which plans of few trainings take them: one from the middle first, whose curve
reaches both ways."""
DRAWN = {
    "learning_rate": KnobConfig(low=1e-3, high=1e-2, log=True),
    "weight_decay": KnobConfig(low=1e-5, high=1e-2, log=True),
}
"""Fields of `TrainingConfig` that are drawn beside the knobs, three to ten times either way of the defaults and more
for what decays, which had shown more."""


@dataclass(frozen=True)
class Wanted:
    """One training of a plan."""

    knobs: Mapping[str, KnobValue]
    epochs: int
    training: Mapping[str, Any]
    """Fields of `TrainingConfig` besides the epochs, where they are not those of the study."""


@dataclass(frozen=True)
class Sweep:
    """What a plan is given."""

    study: Study
    method: MethodConfig
    seed: int

    def train(self, wanted: Wanted) -> Path:
        """The folder of this training; one that is finished is not trained again."""
        space = KnobSpace(self.method.training_knobs)
        knobs = space.typed(wanted.knobs)
        fields = {**self.study.training, **wanted.training}
        config = TrialConfig(
            sweep="benchmark",
            trial=self.method.name,
            method=self.method.name,
            model=model_with_knobs(self.method, knobs),
            training_knobs=dict(knobs),
            training=TrainingConfig(epochs=wanted.epochs, **fields),
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


def searched(sweep: Sweep, count: int = SHORT_TRAININGS) -> list[Path]:
    """The first `count` of sixteen trainings whose knobs the default study suggests, one after the other."""
    search = load_sweep_config([f"method={sweep.method.name}"]).search
    name = f"{sweep.method.name}-s{sweep.seed}"
    study = ParetoStudy(
        storage=f"journal://{sweep.study.folder / 'studies' / name}.log",
        name=name,
        knobs=sweep.method.training_knobs,
        trials=SHORT_TRAININGS,
        sampler="tpe",
        seed=sweep.seed,
        published=sweep.method.published,
        max_failures=search.max_failures,
        guided_by="point",
    )
    while study.counts().complete < count and (suggested := study.ask()) is not None:
        result = read_trial(sweep.train(Wanted(suggested.knobs, sweep.study.epochs, {})))
        study.report(suggested.trial_id, result.points[0].val, result.points)
    done = sorted(study.complete_ones(), key=lambda each: each.trial_id)[:count]
    return [sweep.train(Wanted(each.knobs, sweep.study.epochs, {})) for each in done]


Plan = Callable[[MethodConfig, int, int], Sequence[Wanted]]
"""A method, a sweep's seed, and the epochs of a short training, to what is trained, in order."""


def few(count: int, method: MethodConfig, seed: int, epochs: int) -> list[Wanted]:
    """So many published settings, each trained for an equal share of the epochs."""
    return [Wanted(each, SHORT_TRAININGS * epochs // count, {}) for each in ORDERS[method.name][:count]]


def few_drawn(count: int, method: MethodConfig, seed: int, epochs: int) -> list[Wanted]:
    """So many settings of knobs and hyperparameters that are drawn, each for an equal share of the epochs."""
    return [_drawn(method, seed, place, SHORT_TRAININGS * epochs // count) for place in range(count)]


def wide(method: MethodConfig, seed: int, epochs: int) -> list[Wanted]:
    """Knobs, hyperparameters and epochs that are drawn, half of those of a short training to four times as many,
    until all epochs are spent."""
    found: list[Wanted] = []
    least, left = max(1, epochs // 2), SHORT_TRAININGS * epochs
    lengths = KnobSpace({"epochs": KnobConfig(low=least, high=4 * epochs, log=True, whole=True)})
    while left:
        length = int(_untried(lengths, seed, len(found))["epochs"])
        length = left if left - length < least else length
        found.append(_drawn(method, seed, len(found), length))
        left -= length
    return found


def _drawn(method: MethodConfig, seed: int, place: int, epochs: int) -> Wanted:
    drawn = _untried(KnobSpace({**method.training_knobs, **DRAWN}), seed, place)
    knobs = {name: value for name, value in drawn.items() if name not in DRAWN}
    return Wanted(knobs, epochs, {name: drawn[name] for name in DRAWN})


def _untried(space: KnobSpace, seed: int, place: int) -> Mapping[str, KnobValue]:
    drawn = space.untried((), {}, _seed(seed, place))
    assert drawn is not None, "nothing counts as tried"
    return drawn


def _seed(seed: int, number: int) -> int:
    return 1000 * seed + number


KNOBS = "16 x 40 knobs"
PLANS: Mapping[str, Plan] = {
    "4 x 160": partial(few, 4),
    "wide": wide,
    "2 x 320": partial(few, 2),
    "1 x 640": partial(few, 1),
    "4 x 160 drawn": partial(few_drawn, 4),
}


def folders(sweep: Sweep, plan: str, worth: int = SHORT_TRAININGS) -> list[Path]:
    """Trains what a plan trains, unless it is there; the folders, in order.

    Arguments:
        worth: only the first trainings, as many as fit into the epochs of so many short ones.
    """
    if plan == KNOBS:
        return searched(sweep, worth)
    left, found = worth * sweep.study.epochs, []
    for each in PLANS[plan](sweep.method, sweep.seed, sweep.study.epochs):
        left -= each.epochs
        if left < 0:
            break
        found.append(sweep.train(each))
    return found


def _sweep(job: tuple[Study, MethodConfig, str, int]) -> None:
    study, method, plan, seed = job
    folders(Sweep(study, method, seed), plan)
    print(f"{method.name} seed {seed}: {plan}", flush=True)


def train(study: Study, method: str, plans: Sequence[str]) -> list[Run]:
    """Trains every plan with every seed. No runs: what is reported is of sweeps, of which each has another number of
    trainings."""
    config = load_sweep_config([f"method={method}"]).method
    # The two that matter most first, and seed by seed, so that a run that is cut off has whole pairs.
    order = [
        (plan, seed) for group in (plans[:2], plans[2:]) for seed in range(study.seeds) for plan in group
    ]
    jobs = [(study, config, plan, seed) for plan, seed in order]
    with multiprocessing.get_context("spawn").Pool(study.workers) as pool:
        pool.map(_sweep, jobs, 1)
    return []


def document(study: Study, method: str, plans: Sequence[str], levels: Sequence[float]) -> dict[str, Any]:
    """Everything that is reported."""
    config = load_sweep_config([f"method={method}"]).method
    sweeps = {
        (plan, seed): [
            Trained(read_trial(folder), json.loads((folder / SECONDS_FILE).read_text()))
            for folder in folders(Sweep(study, config, seed), plan)
        ]
        for plan in plans
        for seed in range(study.seeds)
    }
    return document_of(sweeps, study.epochs, WORTHS, levels)


def _benchmark(
    method: str, plans: Sequence[str], levels: Sequence[float], data: str = "moving_digits"
) -> Benchmark:
    suffix = "" if data == "moving_digits" else f"_{data.rpartition('_')[2]}"
    return Benchmark(
        name=f"search_plans_{method}{suffix}",
        about=f"plans of a sweep at equal epochs: {method} on {data}",
        overrides=(f"method={method}", f"data={data}"),
        train=partial(train, method=method, plans=plans),
        document=partial(document, method=method, plans=plans, levels=levels),
        page="search.md",
        layouts=LAYOUTS,
        shown=tables(f"{method}, {data}", plans[0], WORTHS, levels),
        is_verbatim=True,
    )


_ALL = (KNOBS, *PLANS)
BENCHMARKS = (
    _benchmark("lite_eval", _ALL, (0.02, 0.03, 0.05)),
    _benchmark("hcms", _ALL[:3], (0.05, 0.08, 0.15)),
    _benchmark("ada_frame", _ALL[:2], (0.025, 0.04, 0.06)),
    _benchmark("lite_eval", _ALL[:2], (0.02, 0.03, 0.05), "moving_digits_minute"),
)
