"""What is done to the sweeps of `durability.py`: kills, and parts that are taken away in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.durability_stock import stock_killed
from benchmarks.durability_sweeps import (
    SWEEP,
    TRIALS,
    cluster_of,
    finished_trials,
    fresh,
    front_of,
    lines_of,
    lost_epochs,
    mlflow_server,
    node_processes,
    prepared,
    run,
    start,
    trial_processes,
    wait_for,
)
from paretovid.infra.testing import FlakyProxy, postgres_server, s3_server
from paretovid.platform.fronts.build import read_front
from paretovid.platform.records.journal import read_journal
from paretovid.platform.search.location import STORAGE_VARIABLE
from paretovid.platform.storage.home import Home, SweepPaths, open_home
from paretovid.platform.testing.audit import audit
from paretovid.platform.testing.sweeps import kill_with_children


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
        shutil.rmtree(folder / f"kill{index}", ignore_errors=True)
    found["rows"].sort(key=lambda row: row["after_events"])
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
                "finished": finished_trials(home),
                "interrupted_trials": len(lost),
                "epochs_lost_most": max(lost.values(), default=0.0),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        command = ["resume", "s"]
        if not alive:
            break
    seconds = run("resume", "s", home=home)
    end = {
        "last_resume_seconds": round(seconds, 1),
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }
    return {"rows": rows, "end": end}


def stock(folder: Path, number: int) -> dict[str, Any]:
    """The same sweep by the stock parts, killed after more and more finished trials."""
    source, rows = prepared(folder), []
    for index in range(number):
        finishes = 1 + index * (TRIALS - 2) // max(1, number - 1)
        rows.append(stock_killed(folder / f"stock{index}", source, finishes))
        print(json.dumps(rows[-1]), flush=True)
        shutil.rmtree(folder / f"stock{index}", ignore_errors=True)
    return {"rows": rows}


def _wait_for_moment(home: Path, index: int, process: subprocess.Popen[bytes]) -> tuple[bool, str]:
    """Waits for a moment in this driver's life; False if it ended before."""
    lines, finished = lines_of(home), finished_trials(home)
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
    return wait_for(lambda: finished_trials(home) > finished, process), "a trial has finished"


def worker(folder: Path) -> dict[str, Any]:
    """Three trials' processes get SIGKILL while they train, one after the other."""
    source = prepared(folder)
    reference = fresh(source, folder / "worker-reference")
    run("sweep", *SWEEP, home=reference)
    home = fresh(source, folder / "worker-killed")
    process = start("sweep", *SWEEP, home=home)
    killed = 0
    for finished in (2, 5, 8):
        wait_for(lambda n=finished: finished_trials(home) >= n and bool(trial_processes(home)), process)  # type: ignore[misc]
        with suppress(ProcessLookupError, KeyError):
            os.kill(trial_processes(home).pop(), signal.SIGKILL)
            killed += 1
    status = process.wait(1800)
    end = {
        "killed": killed,
        "status": status,
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }
    return {"end": end, "faults": _faults(home)}


def _faults(home: Path) -> list[str]:
    entries = read_journal(Home(home).sweep("s")).entries
    return [f"{entry.trial}: {entry.info['reason']}" for entry in entries if entry.event == "fault"]


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
        wait_for(lambda: finished_trials(home) >= 3, process)
        busy: list[Any] = []

        def find_busy() -> bool:
            busy[:] = [each for each in workers if node_processes(each) & trial_processes(home)]
            return bool(busy)

        wait_for(find_busy, process)
        workers.remove(busy[0])
        cluster.remove_node(busy[0], allow_graceful=False)
        began = time.perf_counter()
        status = process.wait(1800)
        seconds_after_the_loss = time.perf_counter() - began
    end = {
        "undisturbed_seconds": round(undisturbed, 1),
        "status": status,
        "seconds_after_the_loss": round(seconds_after_the_loss, 1),
        "same_front": front_of(home) == front_of(reference),
        **asdict(audit(Home(home), "s")),
    }
    return {"end": end, "faults": _faults(home)}


def mlflow_away(folder: Path, seconds: float) -> dict[str, Any]:
    """The MLflow server is stopped in the middle of a sweep, for longer than the sweep may last."""
    source = prepared(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = mlflow_server(folder, port)
    home = fresh(source, folder / "mlflow-away")
    # Longer trainings, so that the sweep is there when the server comes back.
    words = [*SWEEP, "training.epochs=150", f"tracking.uri={uri}"]
    began = time.perf_counter()
    process = start("sweep", *words, home=home)
    wait_for(lambda: finished_trials(home) >= 2, process)
    kill_with_children(server.pid)
    server.wait()
    stopped, finished_before = time.perf_counter(), finished_trials(home)
    while time.perf_counter() - stopped < seconds:
        time.sleep(0.2)
    finished_during = finished_trials(home) - finished_before
    sweep_alive = process.poll() is None
    server = mlflow_server(folder, port)
    status = process.wait(1800)
    took = time.perf_counter() - began
    behind = audit_behind(home)
    replayed = run("replay", "s", home=home) if behind else 0.0
    found = audit(Home(home), "s", uri)
    kill_with_children(server.pid)
    end = {
        "seconds_away": seconds,
        "finished_while_away": finished_during,
        "sweep_was_running_when_it_came_back": sweep_alive,
        "status": status,
        "seconds": round(took, 1),
        "events_left_for_replay": behind,
        "replay_seconds": round(replayed, 1),
        **asdict(found),
    }
    return {"end": end}


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
        wait_for(lambda: finished_trials(home) >= 3, process)
        server.stop()
        time.sleep(seconds)
        running, finished_before = process.poll() is None, finished_trials(home)
        server.start()
        status = process.wait(1800)
        took = time.perf_counter() - began
        found = audit(Home(home), "s")
        del os.environ[STORAGE_VARIABLE]
    end = {
        "seconds_away": seconds,
        "sweep_was_running_when_it_came_back": running,
        "finished_when_it_came_back": finished_before,
        "status": status,
        "undisturbed_seconds": round(undisturbed, 1),
        "seconds": round(took, 1),
        "same_front": front_of(home) == front_of(reference),
        **asdict(found),
    }
    return {"end": end}


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
