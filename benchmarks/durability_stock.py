"""The sweep of `durability.py` by the stock parts: Ray Tune, OptunaSearch, Ray's MLflow callback, `Tuner.restore`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.durability_sweeps import EPOCHS, INTERVAL, TRIALS, wait_for
from paretovid.platform.testing.sweeps import kill_with_children

STOCK = """
import os, sys, tempfile, time
from pathlib import Path
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
import optuna
home, features, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def trial(config):
    import json, torch
    from pathlib import Path
    from paretovid.trainables.training.config import TrainingConfig, TrialConfig
    from paretovid.trainables.trial import run_trial
    name = tune.get_context().get_trial_id()
    (home / "starts").mkdir(parents=True, exist_ok=True)
    with (home / "starts" / name).open("a") as file:
        file.write("start\\n")
    class Context:
        rank, world_size, device = 0, 1, torch.device("cpu")
        def heartbeat(self): return False
        def report(self, progress, checkpoint=None):
            with (home / "starts" / name).open("a") as file:
                file.write(f"epoch {progress['epoch']:.0f}\\n")
            tune.report({"map": 0.0, "gflops": 0.0, "epoch": progress["epoch"]},
                        checkpoint=tune.Checkpoint.from_directory(str(checkpoint)))
        def get_checkpoint(self):
            kept = tune.get_checkpoint()
            return Path(kept.to_directory(tempfile.mkdtemp())) if kept else None
    chosen = {"coarse": next(Path(features).glob("moving_digits/mobilenet_v2_w025*")),
              "fine": next(Path(features).glob("moving_digits/resnet8*"))}
    result = run_trial(TrialConfig(sweep="s", trial=name, method="lite_eval",
        model={"target_usage": config["gamma"], "usage_weight": config["lambda"]},
        training=TrainingConfig(epochs=%d, checkpoint_every_epochs=%d),
        dataset=str(Path(features).parent / "data" / "moving_digits"),
        features={k: str(v) for k, v in chosen.items()}, output=str(home / "out" / name)), Context())
    with (home / "starts" / name).open("a") as file:
        file.write("finish\\n")
    point = result.points[0].val
    tune.report({"map": point.quality, "gflops": point.gflops})

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
path = str(home / "ray" / "s")
(home / "began").touch()
if what == "restore":
    tuner = tune.Tuner.restore(path, trainable=trial, resume_errored=True)
else:
    storage = optuna.storages.RDBStorage(f"sqlite:///{home}/optuna.db")
    search = OptunaSearch(metric=["map", "gflops"], mode=["max", "min"], storage=storage, study_name="s",
                          sampler=optuna.samplers.RandomSampler(seed=0),
                          space={"gamma": optuna.distributions.FloatDistribution(0.01, 0.5, log=True),
                                 "lambda": optuna.distributions.FloatDistribution(0.25, 8, log=True)})
    tuner = tune.Tuner(trial, tune_config=tune.TuneConfig(search_alg=search, num_samples=%d,
        max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(name="s", storage_path=str(home / "ray"), verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{home}/mlflow.db", experiment_name="s")]))
results = tuner.fit()
(home / "tune.txt").write_text(f"{len(results)} {results.num_errors}")
""" % (EPOCHS, INTERVAL, TRIALS)  # noqa: UP031 (braces are Python's here)


def stock_killed(home: Path, source: Path, finishes: int) -> dict[str, Any]:
    """The same sweep by the stock parts, killed after so many trials and restored as their manuals say.

    Arguments:
        source: a home with features.
    """
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    process = _stock(home, source, "fit")
    alive = wait_for(lambda: _stock_counts(home)["finish"] >= finishes, process)
    time.sleep(0.3)
    kill_with_children(process.pid)
    process.wait(1800)
    began = time.perf_counter()
    status = _stock(home, source, "restore").wait(1800)
    return {
        "after_finished": finishes,
        "was_running": alive,
        "restore_status": status,
        "restore_seconds": round(time.perf_counter() - began, 1),
        **_stock_audit(home),
    }


def _stock(home: Path, source: Path, what: str) -> subprocess.Popen[bytes]:
    log = (home / "commands.log").open("ab")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-c", STOCK, str(home), str(source / "features"), what]
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _stock_counts(home: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in (home / "starts").glob("*"):
        counts += Counter(line.split()[0] for line in path.read_text().splitlines())
    return counts


def _stock_audit(home: Path) -> dict[str, Any]:
    import mlflow
    import optuna

    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{home}/optuna.db").trials
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("s")
    runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    names = Counter(run.data.tags.get("trial_name") for run in runs)
    again = 0
    for path in (home / "starts").glob("*"):
        lines = path.read_text().splitlines()
        again += "finish" in lines and "start" in lines[lines.index("finish") :]
    tune = (home / "tune.txt").read_text() if (home / "tune.txt").exists() else "did not end"
    return {
        "tune": tune,
        "finished": _stock_counts(home)["finish"],
        "starts": _stock_counts(home)["start"],
        "study": dict(Counter(trial.state.name for trial in trials)),
        "mlflow": dict(Counter(run.info.status for run in runs)),
        "mlflow_duplicates": sum(count - 1 for count in names.values()),
        "finished_again": again,
    }
