"""Real and small sweeps for `durability.py`: homes, commands, what a sweep has left, clusters of simulated nodes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.records.front_files import DOCUMENT
from paretovid.platform.records.journal import read_journal
from paretovid.platform.storage.home import Home

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
SHORT_TRIALS = 6
SHORT = [*(word for word in SWEEP if not word.startswith("search.trials=")), f"search.trials={SHORT_TRIALS}"]
"""Of the faults in `durability_faults.py` and beside it, of which there are many."""
BEATS_PER_EPOCH = 2  # one step of 16 videos, and one look whether to stop


def start(
    *words: str, home: Path | str, log: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The command, as a user types it. `log`: where it writes; by default into a home that is a folder.
    `variables`: of its environment, beside those of this process."""
    # A heartbeat at every beat, so that what is lost can be counted to the epoch.
    heartbeats = {"PARETOVID_HEARTBEAT_SECONDS": "0"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "", **heartbeats}
    environment |= variables or {}
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


def finished_trials(home: Path) -> int:
    """How many trials have ended so far."""
    return sum(entry.event == "finish" for entry in read_journal(Home(home).sweep("s")).entries)


@contextmanager
def cluster_of(nodes: int, cpus: float = 1, *, shutdown_at_exit: bool = True) -> Iterator[Any]:
    """Real Ray nodes on this machine: a head without CPUs, and `nodes` of `cpus` each.

    `shutdown_at_exit`: also if this process ends before the block; Ray then adds nodes from the main thread alone.
    """
    from ray.cluster_utils import Cluster

    from paretovid.infra.ray_cluster import CLUSTER_ENVIRONMENT, environment

    with environment(CLUSTER_ENVIRONMENT):
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False},
            shutdown_at_exit=shutdown_at_exit,
        )
        workers = [cluster.add_node(num_cpus=cpus) for _ in range(nodes)]
        try:
            yield cluster, workers
        finally:
            cluster.shutdown()


def trial_processes(home: Path) -> set[int]:
    """Processes that have a trial now, by its heartbeats."""
    alive = [heartbeat_of(trial) for trial in Home(home).sweep("s").with_heartbeat()]
    return {each.pid for each in alive if each is not None}


def node_processes(node: Any) -> set[int]:
    """Processes of a Ray node's raylet."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return {child.pid for child in raylet.children(recursive=True)}


def mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server that takes connections. Raises with its log if it does not within three minutes."""
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
