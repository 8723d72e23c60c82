"""Sweeps that are killed: ours, and the stock parts (Ray Tune, OptunaSearch, MLflow callback, Tuner.restore).

    python benchmarks/durability.py kills   [--kills 20]   SIGKILL of the driver and all its Ray processes, resume
    python benchmarks/durability.py chain   [--kills 20]   the same, all of them in one sweep
    python benchmarks/durability.py stock   [--kills 5]    the same for the stock parts
    python benchmarks/durability.py worker                 three trials' processes are killed
    python benchmarks/durability.py node                   one node out of three is lost
    python benchmarks/durability.py mlflow  [--seconds 60] the MLflow server is stopped in the middle
    python benchmarks/durability.py postgres [--seconds 20] the study's PostgreSQL is stopped in the middle
    python benchmarks/durability.py s3     [--rate 0.1]    a home in a bucket, whose connections are cut at a rate
    python benchmarks/durability.py pace                   trials per minute on 1, 2, 3 nodes; trials that do nothing
    python benchmarks/overhead.py                          platform seconds per trial against a bare Ray Tune loop

Each adds to benchmarks/durability_results.json. The sweeps are real and small: 12 trainings of LiteEval and a
baseline on a few videos, with a checkpoint every 5 of 30 epochs; suggestions are random by number, so that the
order in which trials come back changes nothing and the final front can be compared to an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from paretovid.infra.testing import FlakyProxy, postgres_server, s3_server
from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.front_files import DOCUMENT
from paretovid.platform.records.journal import read_journal
from paretovid.platform.search.location import STORAGE_VARIABLE
from paretovid.platform.storage.home import Home, SweepPaths, open_home
from paretovid.platform.testing.audit import audit
from paretovid.platform.testing.sweeps import kill_with_children

RESULTS = Path(__file__).with_name("durability_results.json")
TRIALS, EPOCHS, INTERVAL = 12, 30, 5
DATA = [
    "data.videos_train=16",
    "data.videos_val=8",
    "data.videos_test=8",
    "data.appearance_classes=2",
    "data.motion_classes=1",
    "data.sound_classes=0",
    "data.easy_classes=1",
    "data.max_seconds=7",
    "backbones.training.effort=0.02",
]
SWEEP = [
    *DATA,
    f"training.epochs={EPOCHS}",
    f"training.checkpoint_every_epochs={INTERVAL}",
    f"search.trials={TRIALS}",
    "search.sampler=random",
    "baselines=[{name: uniform, method: uniform}]",
    "name=s",
]
BEATS_PER_EPOCH = 2  # one step of 16 videos, and one look whether to stop


def start(*words: str, home: Path | str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """The command, as a user types it. `log`: where it writes; by default into a home that is a folder."""
    # A heartbeat at every beat, so that what is lost can be counted to the epoch.
    heartbeats = {"PARETOVID_HEARTBEAT_SECONDS": "0"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "", **heartbeats}
    command = [str(Path(sys.executable).with_name("paretovid")), *words, f"home={home}"]
    with (log or Path(home) / "commands.log").open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def run(*words: str, home: Path) -> float:
    """Seconds that the command took. Raises if it failed."""
    began = time.perf_counter()
    process = start(*words, home=home)
    if process.wait(1800) != 0:
        raise RuntimeError(f"{words}: {(home / 'commands.log').read_text()[-3000:]}")
    return time.perf_counter() - began


def prepared(folder: Path) -> Path:
    """A home with videos, backbones and features; the same for all."""
    home = folder / "prepared"
    home.mkdir(parents=True, exist_ok=True)
    if (home / "features").is_dir():
        return home
    run("extract", *DATA, home=home)
    return home


def fresh(source: Path, home: Path) -> Path:
    """A home with the same features and no sweep."""
    shutil.rmtree(home, ignore_errors=True)
    for part in ("data", "backbones", "features"):
        shutil.copytree(source / part, home / part)
    return home


def front_of(home: Path) -> Any:
    """What the sweep has found, without what differs from run to run."""
    document = json.loads((Home(home).sweep("s").folder / DOCUMENT).read_text())
    return [(p["id"], p["map"], p["gflops"], p["on_front"]) for p in document["points"]]


def lines_of(home: Path) -> int:
    """Events that the sweep has written so far."""
    return len(read_journal(Home(home).sweep("s")).entries)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """False if the process has ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def lost_epochs(home: Path, began_at: dict[str, int], leases: dict[str, str]) -> dict[str, float]:
    """Of each trial that was running when all was killed: epochs behind its last checkpoint, by its last heartbeat.

    Arguments:
        began_at: trial to the epoch that its start began at; replaced by where the next one will begin.
        leases: trial to the lease of its last start that was counted; replaced as well.
    """
    lost = {}
    for paths in Home(home).sweep("s").with_heartbeat():
        trial, kept = paths.name, sorted(paths.folder.glob("checkpoint-*[0-9]"))
        alive = heartbeat_of(paths)
        if alive is None or leases.get(trial) == alive.lease:
            continue  # it was not started again since the last kill
        leases[trial] = alive.lease
        epochs = len(json.loads((kept[-1] / "history.json").read_text())) if kept else 0
        reached = min(began_at.get(trial, 0) + alive.beats / BEATS_PER_EPOCH, EPOCHS)
        lost[trial] = max(0.0, reached - epochs)
        began_at[trial] = epochs
    return lost


def kills(folder: Path, number: int, minutes: float) -> dict[str, Any]:
    """SIGKILL at `number` moments spread over the life of a sweep, each in a sweep of its own, as many as fit."""
    source = prepared(folder)
    reference = fresh(source, folder / "reference")
    undisturbed = run("sweep", *SWEEP, home=reference)
    events, front = lines_of(reference), front_of(reference)
    found: dict[str, Any] = {"undisturbed_seconds": round(undisturbed, 1), "events": events}
    found |= {"moments_planned": number, "rows": []}
    until = time.monotonic() + 60 * minutes
    # In leaps, so that those that fit in the time are spread over the whole life.
    for index in sorted(range(number), key=lambda i: (i * 7) % number):
        if time.monotonic() > until:
            break
        after = 1 + round(index * (events - 1) / max(1, number - 1))
        delay = float(np.random.default_rng(index).uniform(0, 0.6))
        found["rows"].append(_kill_once(fresh(source, folder / f"kill{index}"), after, delay, front))
        print(json.dumps(found["rows"][-1]), flush=True)
        record("kills", found)
        shutil.rmtree(folder / f"kill{index}", ignore_errors=True)
    return found


def _kill_once(home: Path, after: int, delay: float, front: Any) -> dict[str, Any]:
    process = start("sweep", *SWEEP, home=home)
    alive = wait_for(lambda: lines_of(home) >= after, process)
    time.sleep(delay)
    killed = kill_with_children(process.pid)
    process.wait(1800)
    lost = lost_epochs(home, {}, {})
    seconds = run("resume", "s", home=home)
    found = audit(Home(home), "s")
    return {
        "after_events": after,
        "delay_seconds": round(delay, 2),
        "was_running": alive and killed > 0,
        "killed_processes": killed,
        "interrupted_trials": len(lost),
        "epochs_lost_most": max(lost.values(), default=0.0),
        "resume_seconds": round(seconds, 1),
        "same_front": front_of(home) == front,
        **asdict(found),
    }


def chain(folder: Path, number: int) -> dict[str, Any]:
    """One sweep, killed `number` times at moments of four kinds in turn, resumed each time."""
    source = prepared(folder)
    reference = fresh(source, folder / "chain-reference")
    run("sweep", *SWEEP, home=reference)
    home = fresh(source, folder / "chain")
    command, rows, began_at = ["sweep", *SWEEP], list[dict[str, Any]](), dict[str, int]()
    leases: dict[str, str] = {}
    for index in range(number):
        process = start(*command, home=home)
        alive, moment = _wait_for_moment(home, index, process)
        time.sleep(float(np.random.default_rng(index).uniform(0, 0.5)))
        killed = kill_with_children(process.pid)
        process.wait(1800)
        lost = lost_epochs(home, began_at, leases)
        rows.append(
            {
                "moment": moment,
                "was_running": alive,
                "killed_processes": killed,
                "finished": _finished(home),
                "interrupted_trials": len(lost),
                "epochs_lost_most": max(lost.values(), default=0.0),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        command = ["resume", "s"]
        if not alive:
            break
    seconds = run("resume", "s", home=home)
    return {
        "kills": len(rows),
        "rows": rows,
        "last_resume_seconds": round(seconds, 1),
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }


def _wait_for_moment(home: Path, index: int, process: subprocess.Popen[bytes]) -> tuple[bool, str]:
    """Waits for a moment in this driver's life; False if it ended before."""
    lines, finished = lines_of(home), _finished(home)
    trials = home / "sweeps" / "s" / "trials"

    def kept() -> set[str]:
        return {str(path) for path in trials.glob("*/checkpoint-*")}

    before = kept()
    if index % 4 == 0:
        found = wait_for(lambda: lines_of(home) > lines, process)
        time.sleep(float(np.random.default_rng(index).uniform(0, 8)))  # it connects, prepares, reconciles
        return found and process.poll() is None, "while it starts"
    if index % 4 == 1:
        return wait_for(lambda: lines_of(home) > lines + 1, process), "a trial has started"
    if index % 4 == 2:
        return wait_for(lambda: bool(kept() - before), process), "a checkpoint is being written"
    return wait_for(lambda: _finished(home) > finished, process), "a trial has finished"


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


def stock(folder: Path, number: int) -> dict[str, Any]:
    """The same sweep by the stock parts, killed and restored as their manuals say."""
    source = prepared(folder)
    rows = []
    for index in range(number):
        home = folder / f"stock{index}"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        finishes = 1 + index * (TRIALS - 2) // max(1, number - 1)
        process = _stock(home, source, "fit")
        alive = wait_for(lambda home=home, n=finishes: _stock_counts(home)["finish"] >= n, process)  # type: ignore[misc]
        time.sleep(0.3)
        kill_with_children(process.pid)
        process.wait(1800)
        began = time.perf_counter()
        again = _stock(home, source, "restore")
        status = again.wait(1800)
        rows.append(
            {
                "after_finished": finishes,
                "was_running": alive,
                "restore_status": status,
                "restore_seconds": round(time.perf_counter() - began, 1),
                **_stock_audit(home),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        shutil.rmtree(home, ignore_errors=True)
    return {"rows": rows}


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


@contextmanager
def cluster_of(nodes: int, cpus: float = 1) -> Iterator[Any]:
    """Real Ray nodes on this machine: a head without CPUs, and `nodes` of `cpus` each."""
    from ray.cluster_utils import Cluster

    from paretovid.infra.ray_cluster import CLUSTER_ENVIRONMENT, environment

    with environment(CLUSTER_ENVIRONMENT):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        workers = [cluster.add_node(num_cpus=cpus) for _ in range(nodes)]
        try:
            yield cluster, workers
        finally:
            cluster.shutdown()


def _trial_processes(home: Path) -> set[int]:
    """Processes that have a trial now, by its heartbeats."""
    alive = [heartbeat_of(trial) for trial in Home(home).sweep("s").with_heartbeat()]
    return {each.pid for each in alive if each is not None}


def _children(node: Any) -> set[int]:
    """Processes of a Ray node's raylet."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return {child.pid for child in raylet.children(recursive=True)}


def worker(folder: Path) -> dict[str, Any]:
    """Three trials' processes get SIGKILL while they train, one after the other."""
    source = prepared(folder)
    reference = fresh(source, folder / "worker-reference")
    run("sweep", *SWEEP, home=reference)
    home = fresh(source, folder / "worker-killed")
    process = start("sweep", *SWEEP, home=home)
    killed = 0
    for finished in (2, 5, 8):
        wait_for(lambda n=finished: _finished(home) >= n and bool(_trial_processes(home)), process)  # type: ignore[misc]
        with suppress(ProcessLookupError, KeyError):
            os.kill(_trial_processes(home).pop(), signal.SIGKILL)
            killed += 1
    status = process.wait(1800)
    faults = [
        {**e.info, "trial": e.trial}
        for e in read_journal(Home(home).sweep("s")).entries
        if e.event == "fault"
    ]
    return {
        "killed": killed,
        "status": status,
        "faults": [f"{each['trial']}: {each['reason']}" for each in faults],
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }


def node(folder: Path) -> dict[str, Any]:
    """One node out of three is killed while it trains."""
    source = prepared(folder)
    reference = fresh(source, folder / "node-reference")
    with cluster_of(3) as (cluster, workers):
        words = [*SWEEP, "cluster=address", f"cluster.address={cluster.address}"]
        words.append(f"cluster.node_cache={folder / 'node-cache'}")
        undisturbed = run("sweep", *words, home=reference)
        home = fresh(source, folder / "node-killed")
        process = start("sweep", *words, home=home)
        wait_for(lambda: _finished(home) >= 3, process)
        busy: list[Any] = []

        def find_busy() -> bool:
            busy[:] = [each for each in workers if _children(each) & _trial_processes(home)]
            return bool(busy)

        wait_for(find_busy, process)
        workers.remove(busy[0])
        cluster.remove_node(busy[0], allow_graceful=False)
        began = time.perf_counter()
        status = process.wait(1800)
    faults = [
        {**e.info, "trial": e.trial}
        for e in read_journal(Home(home).sweep("s")).entries
        if e.event == "fault"
    ]
    return {
        "undisturbed_seconds": round(undisturbed, 1),
        "status": status,
        "seconds_after_the_loss": round(time.perf_counter() - began, 1),
        "faults": [f"{each['trial']}: {each['reason']}" for each in faults],
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }


def _finished(home: Path) -> int:
    return sum(entry.event == "finish" for entry in read_journal(Home(home).sweep("s")).entries)


def mlflow_away(folder: Path, seconds: float) -> dict[str, Any]:
    """The MLflow server is stopped in the middle of a sweep, for longer than the sweep may last."""
    source = prepared(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = _serve(folder, port)
    home = fresh(source, folder / "mlflow-away")
    # Longer trainings, so that the sweep is there when the server comes back.
    words = [*SWEEP, "training.epochs=150", f"tracking.uri={uri}"]
    began = time.perf_counter()
    process = start("sweep", *words, home=home)
    wait_for(lambda: _finished(home) >= 2, process)
    kill_with_children(server.pid)
    server.wait()
    stopped, finished_before = time.perf_counter(), _finished(home)
    while time.perf_counter() - stopped < seconds:
        time.sleep(0.2)
    finished_during = _finished(home) - finished_before
    sweep_alive = process.poll() is None
    server = _serve(folder, port)
    status = process.wait(1800)
    took = time.perf_counter() - began
    behind = audit_behind(home)
    replayed = run("replay", "s", home=home) if behind else 0.0
    found = audit(Home(home), "s", uri)
    kill_with_children(server.pid)
    return {
        "seconds_away": seconds,
        "finished_while_away": finished_during,
        "sweep_was_running_when_it_came_back": sweep_alive,
        "status": status,
        "seconds": round(took, 1),
        "events_left_for_replay": behind,
        "replay_seconds": round(replayed, 1),
        **asdict(found),
    }


def postgres_away(folder: Path, seconds: float) -> dict[str, Any]:
    """The study lies in PostgreSQL, which is stopped in the middle of the sweep."""
    source = prepared(folder)
    reference = fresh(source, folder / "postgres-reference")
    home = fresh(source, folder / "postgres-away")
    with postgres_server() as server:
        os.environ["PGPASSWORD"] = server.password
        os.environ[STORAGE_VARIABLE] = server.make_database("undisturbed")
        undisturbed = run("sweep", *SWEEP, home=reference)
        os.environ[STORAGE_VARIABLE] = server.make_database("disturbed")
        began = time.perf_counter()
        process = start("sweep", *SWEEP, home=home)
        wait_for(lambda: _finished(home) >= 3, process)
        server.stop()
        time.sleep(seconds)
        running, finished_before = process.poll() is None, _finished(home)
        server.start()
        status = process.wait(1800)
        took = time.perf_counter() - began
        found = audit(Home(home), "s")
        del os.environ[STORAGE_VARIABLE]
    return {
        "seconds_away": seconds,
        "sweep_was_running_when_it_came_back": running,
        "finished_when_it_came_back": finished_before,
        "status": status,
        "undisturbed_seconds": round(undisturbed, 1),
        "seconds": round(took, 1),
        "same_front": front_of(home) == front_of(reference),
        **asdict(found),
    }


def s3_errors(folder: Path, rate: float) -> dict[str, Any]:
    """A home in a bucket; a share of the connections to it is cut in the middle of an answer."""
    rows, fronts = [], []
    settings = {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PARETOVID_CACHE": str(folder / "cache"),
    }
    os.environ.update(settings)
    with s3_server() as server:
        import boto3

        for share in (0.0, rate):
            os.environ["AWS_ENDPOINT_URL"] = server.endpoint
            boto3.client("s3").create_bucket(Bucket=f"home-{share:g}".replace(".", "-"))
            home = f"s3://home-{share:g}/home".replace(".", "-")
            with FlakyProxy(server.port, rate=share, after_bytes=20_000) as proxy:
                os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
                began = time.perf_counter()
                status = start("sweep", *SWEEP, home=home, log=folder / "s3.log").wait(1800)
                took = time.perf_counter() - began
                opened = open_home(home)
                found = audit(opened, "s")
                points = read_front([opened.sweep("s")]).points
                fronts.append([(p.id, p.shown.quality, p.shown.gflops, p.on_front) for p in points])
                row = {"rate": share, "connections": proxy.connections, "cut": proxy.cut, "status": status}
            rows.append({**row, "seconds": round(took, 1), **asdict(found)})
            print(json.dumps(rows[-1]), flush=True)
    return {"rows": rows, "same_front": fronts[0] == fronts[1]}


def audit_behind(home: Path) -> int:
    """Events that MLflow has not been sent."""
    from paretovid.platform.sweeps.status import status_of

    return status_of(Home(home), "s").untracked


def _serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    log = (folder / "mlflow-server.log").open("ab")
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    until = time.time() + 180
    while time.time() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise RuntimeError((folder / "mlflow-server.log").read_text()[-2000:])


def pace(folder: Path, trials: int) -> dict[str, Any]:
    """Trials per minute of the platform alone: trials that do nothing, on 1, 2 and 3 nodes."""
    from paretovid.infra.ray_cluster import connect
    from paretovid.platform.execution.launcher import launch_trials
    from paretovid.platform.search.study import ParetoStudy
    from paretovid.search_spaces.schema import KnobConfig
    from paretovid.trainables.evaluation.results import TrialResult
    from paretovid.trainables.testing import synthetic_result

    knobs = {"gamma": KnobConfig(field="gamma", low=0.01, high=0.5, log=True)}

    def nothing(config: Mapping[str, Any], context: Any) -> TrialResult:
        gamma = config["knobs"]["gamma"]
        return synthetic_result(config["trial"], [(gamma, gamma)])

    rows = []
    for nodes in (1, 2, 3):
        with cluster_of(nodes) as (cluster, _), connect(cluster.address):
            seconds = []
            for repeat in range(2):  # the first has the processes to start
                where = folder / f"pace{nodes}-{repeat}"
                shutil.rmtree(where, ignore_errors=True)
                storage = f"journal://{where}/optuna.journal"
                study = ParetoStudy(storage=storage, name="s", knobs=knobs, trials=trials, sampler="random")
                began = time.perf_counter()
                launch_trials(nothing, sweep=SweepPaths(where / "s"), study=study)
                seconds.append(time.perf_counter() - began)
        rows.append({"nodes": nodes, "trials": trials, "trials_per_minute": round(60 * trials / seconds[1])})
        print(json.dumps(rows[-1]), flush=True)
    return {"rows": rows}


def record(part: str, found: Mapping[str, Any]) -> None:
    """Adds to the results on disk."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    load = os.getloadavg()[0]
    known[part] = {"date": time.strftime("%Y-%m-%d %H:%M"), "load": round(load, 1), **found}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


PARTS = ("kills", "chain", "stock", "worker", "node", "mlflow", "postgres", "s3", "pace")


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60, help="of kills: none is begun after that")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=0.1, help="of connections to the bucket that are cut")
    parser.add_argument("--trials", type=int, default=60, help="of pace")
    parser.add_argument("--folder", type=Path, help="kept, with prepared features; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "kills": lambda: kills(folder, arguments.kills, arguments.minutes),
            "chain": lambda: chain(folder, arguments.kills),
            "stock": lambda: stock(folder, arguments.kills),
            "worker": lambda: worker(folder),
            "node": lambda: node(folder),
            "mlflow": lambda: mlflow_away(folder, arguments.seconds),
            "postgres": lambda: postgres_away(folder, arguments.seconds),
            "s3": lambda: s3_errors(folder, arguments.rate),
            "pace": lambda: pace(folder, arguments.trials),
        }
        found = parts[arguments.part]()
    record(arguments.part, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
