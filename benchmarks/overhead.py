"""What the platform adds to a trial: search, tracking and front, against a bare Ray Tune loop in the same run.

    python -m benchmarks overhead [--trials 40] [--repeats 3]

Both run the same number of trials that do nothing, two at a time, in reused processes on one local Ray cluster,
in turn. Ours asks Optuna, writes each trial's result to disk, keeps a journal that MLflow is notified from (runs and
operating points), and builds front, table, PNG and HTML at the end. The aim is at most 0.3 s more per trial. The
figures stand in `durability.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.tables import Cell, PageTable, Shown
from paretovid.infra.ray_cluster import connect
from paretovid.platform.config.load import load_sweep_config, searched_knobs
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution.launcher import launch_trials
from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.report import front_table, write_html, write_png
from paretovid.platform.records.journal import SweepJournal
from paretovid.platform.records.sweep import write_record
from paretovid.platform.records.trial import read_trial
from paretovid.platform.search.study import ParetoStudy, Suggestion
from paretovid.platform.storage.home import Home, SweepPaths, open_home
from paretovid.platform.sweeps.events import SweepDriver
from paretovid.platform.sweeps.naming import started_record
from paretovid.platform.sweeps.reached import LiveStatus
from paretovid.platform.testing.sweeps import write_trial
from paretovid.platform.tracking.exporter import TrackingSender
from paretovid.trainables.evaluation.results import RESULT_FILE, TrialResult

CONCURRENT = 2


def no_op(config: dict[str, Any], context: Any) -> TrialResult:
    """A trial that trains nothing: its result is a copy of one made before."""
    folder = Path(config["output"])
    shutil.copytree(config["template"], folder, dirs_exist_ok=True)
    made, trial = read_trial(folder), config["trial"]
    points = tuple(replace(point, id=trial + point.id[-4:]) for point in made.points)
    result = replace(made, trial=trial, training_knobs=config["knobs"], points=points)
    (folder / RESULT_FILE).write_text(json.dumps(result.to_json()))
    return result


def ours(home: Home, name: str, trials: int, template: Path) -> float:
    """Seconds of a sweep of trials that do nothing, from the first suggestion to the last picture."""
    config = load_sweep_config([])
    sweep = home.sweep(name)
    record = started_record(config, name, None)
    started = time.perf_counter()
    write_record(sweep, record)
    study = ParetoStudy(storage=home.optuna_url, name=name, knobs=searched_knobs(config), trials=trials)
    sender = TrackingSender(home, name, None, print)
    journal = SweepJournal(sweep)
    driver = SweepDriver(home, name, journal, sender, Progress.silent(), LiveStatus(()))
    sender.start()
    driver.record("driver", cpus=1, gpus=0)

    def configure(suggestion: Suggestion) -> Mapping[str, Any]:
        trial = suggestion.trial_id
        return {
            "trial": trial,
            "knobs": suggestion.knobs,
            "output": str(home.trial(name, trial).folder),
            "template": str(template),
        }

    launch_trials(
        no_op, sweep=sweep, study=study, configure=configure, callback=driver, concurrent=CONCURRENT
    )
    write_record(sweep, replace(record, state="finished"))
    front = read_front([sweep])
    front_table(front)
    write_png(front, sweep.folder / "front.png")
    write_html(front, sweep.folder / "front.html")
    driver.record("state", state="finished")
    left = sender.close(front)
    assert left == 0, f"MLflow has not taken {left} events"
    return time.perf_counter() - started


def bare(trials: int, storage: Path) -> float:
    """Seconds of Tune's own loop: random search, reused processes, nothing recorded by us."""
    started = time.perf_counter()
    tune.Tuner(
        lambda config: {"map": config["gamma"], "gflops": config["lambda"]},
        param_space={"gamma": tune.loguniform(0.01, 0.5), "lambda": tune.loguniform(0.25, 8)},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=CONCURRENT, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(storage), verbose=0),
    ).fit()
    return time.perf_counter() - started


def measure(arguments: argparse.Namespace) -> Document:
    """Seconds per trial of both, in turns."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder, connect():
        home = open_home(str(Path(folder) / "home"))
        template = write_trial(
            SweepPaths(Path(folder) / "template"), "t0000", [(0.2 + 0.02 * i, 0.1 + i) for i in range(20)]
        )
        bare(4, Path(folder) / "warm")  # imports and the first worker processes
        ours(home, "warm", 4, template)
        for repeat in range(arguments.repeats):
            base = bare(arguments.trials, Path(folder) / f"bare{repeat}") / arguments.trials
            whole = ours(home, f"sweep{repeat}", arguments.trials, template) / arguments.trials
            pairs.append({"ours": whole, "bare": base, "difference": whole - base})
    return {"trials": arguments.trials, "concurrent": CONCURRENT, "pairs": pairs}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)


CELLS = (Cell("ours", "with paretovid"), Cell("bare", "bare Ray Tune loop"), Cell("difference"))
MEASUREMENTS = (
    Measurement(
        name="overhead",
        about="what the platform adds to a trial, against a bare Ray Tune loop",
        measure=measure,
        arguments=add_arguments,
        alone=("trials", "concurrent"),
        page="durability.md",
        layouts={"pairs": Layout("pairs.*", ("repeat",))},
        shown=(Shown("seconds per trial, pair", "pairs", ("repeat",), CELLS),),
        page_tables=(PageTable("| seconds per trial |", "pairs", {"mean of the pairs": {}}, CELLS),),
    ),
)
