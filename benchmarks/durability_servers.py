"""What the servers of a sweep may answer: MLflow's what proxies say for it, PostgreSQL nothing in a transaction; and
what trials may do to the processes that they run in."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.durability_faults import ended, measured, reference_front, row_of
from benchmarks.durability_parts import audit_behind
from benchmarks.durability_sweeps import (
    SHORT,
    SHORT_TRIALS,
    finished_trials,
    fresh,
    front_of,
    prepared,
    run,
    start,
    wait_for,
)
from benchmarks.faults.answers import ANSWERS, DatabaseBefore, HttpBefore
from paretovid.infra.testing import PostgresServer, mlflow_server, postgres_server
from paretovid.platform.search.location import STORAGE_VARIABLE
from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import open_store

PLUGINS = Path(__file__).parent / "faults"
"""Not imported here: a method that registers itself would be one more in every process that reads this benchmark."""
UNRULY_FOLDER = "PARETOVID_UNRULY"
UNRULY_CGROUP = "PARETOVID_UNRULY_CGROUP"


def mlflow_answers(folder: Path, seconds: float) -> dict[str, Any]:
    """An MLflow server in whose place something else answers for a while, in the middle of a sweep."""
    front, rows = reference_front(folder), []
    store, artifacts = f"sqlite:///{folder}/answers.db", folder / "answers"
    with mlflow_server(store, str(artifacts)) as uri, HttpBefore(int(uri.rpartition(":")[2])) as before:
        undisturbed = fresh(prepared(folder), folder / "answers-reference")
        run("sweep", *SHORT, f"tracking.uri=http://127.0.0.1:{before.port}", home=undisturbed)
        wanted = artifacts_of(undisturbed, "s", uri)
        for index, name in enumerate(ANSWERS):

            def row(index: int = index, name: str = name) -> dict[str, Any]:
                # All rows share the server: the runs of the sweep before are none of this row.
                _forget(undisturbed, uri)
                home = fresh(prepared(folder), folder / f"answers{index}")
                info = _answered_so(home, before, name, seconds)
                info["same_artifacts"] = artifacts_of(home, "s", uri) == wanted
                return row_of(home, front, uri, **info)

            rows.append(measured(folder, f"MLflow answers {name}", row))
    return {"rows": rows}


def _answered_so(home: Path, before: HttpBefore, name: str, seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    process = start("sweep", *SHORT, f"tracking.uri=http://127.0.0.1:{before.port}", home=home)
    wait_for(lambda: finished_trials(home) >= 1, process)
    before.answered, before.answer = 0, ANSWERS[name]
    time.sleep(seconds)
    running, finished = process.poll() is None, finished_trials(home)
    before.answer = None
    status = process.wait(1800)
    took, behind = time.perf_counter() - began, audit_behind(home)
    if behind:
        run("replay", "s", home=home)
    return {
        "seconds_away": seconds,
        "requests_answered_so": before.answered,
        "was_running_then": running,
        "finished_then": finished,
        "seconds": round(took, 1),
        "events_left_for_replay": behind,
        "statuses": str(status) + (" 0" if behind else ""),
    }


def artifacts_of(home: Path, sweep: str, uri: str) -> dict[str, list[str]]:
    """Name of a run to the files that MLflow keeps with it."""
    store = open_store(Home(home), uri)
    runs = store.client.search_runs([store.experiment_id], f"tags.`paretovid.sweep` = '{sweep}'")

    def files(run_id: str, below: str | None = None) -> Iterator[str]:
        for each in store.client.list_artifacts(run_id, below):
            if each.is_dir:
                yield from files(run_id, each.path)
            else:
                yield each.path

    return {each.data.tags.get("paretovid.trial", "sweep"): sorted(files(each.info.run_id)) for each in runs}


def _forget(home: Path, uri: str) -> None:
    """Deletes the runs of the sweep before."""
    store = open_store(Home(home), uri)
    for each in store.client.search_runs([store.experiment_id], "tags.`paretovid.sweep` = 's'"):
        store.client.delete_run(each.info.run_id)


def transaction(folder: Path) -> dict[str, Any]:
    """PostgreSQL is restarted, at once, inside of transactions of a sweep's study."""
    cases = {
        "before": "PostgreSQL restarted inside a transaction, before its COMMIT",
        "after": "PostgreSQL restarted after a COMMIT, before its answer",
    }
    with postgres_server() as server:
        os.environ["PGPASSWORD"] = server.password
        rows = [
            measured(folder, fault, partial(_restarted, folder / f"transaction-{moment}", moment, server))
            for moment, fault in cases.items()
        ]
    return {"rows": rows}


def _restarted(home: Path, moment: str, server: PostgresServer) -> dict[str, Any]:
    front = reference_front(home.parent)
    fresh(prepared(home.parent), home)

    def restart() -> None:
        server.stop()
        server.start()

    with DatabaseBefore(server.port, restart) as before:
        url = server.make_database(moment).replace(f":{server.port}/", f":{before.port}/")
        os.environ[STORAGE_VARIABLE] = url
        try:
            process = start("sweep", *SHORT, home=home)
            for finished in range(1, SHORT_TRIALS):
                wait_for(lambda n=finished: finished_trials(home) >= n, process)  # type: ignore[misc]
                before.moment = moment
                wait_for(lambda: before.moment is None, process)
            found = ended(process, home)
            before.moment = None
            return row_of(home, front, restarts=before.done, **found)
        finally:
            del os.environ[STORAGE_VARIABLE]


UNRULY = ("plugins=[unruly]", "method=unruly", "baselines=[{name: uniform, method: uniform}]")


def trials(folder: Path) -> dict[str, Any]:
    """Trials that fork, fill their standard output, or are killed for memory: those of a plug-in method."""
    cases = (
        ("fork", SHORT_TRIALS, "every trial forks, and its child outlives it"),
        ("output", SHORT_TRIALS, "every trial writes 100 MB to its standard output"),
        ("memory", 3, "three trials are killed by the kernel for memory"),
    )
    path = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))
    with memory_cgroup(64 * 2**20) as cgroup:
        variables = {"PYTHONPATH": path, UNRULY_CGROUP: str(cgroup)}
        reference = fresh(prepared(folder), folder / "unruly-reference")
        if start("sweep", *SHORT, *UNRULY, home=reference, variables=variables).wait(1800):
            raise RuntimeError((reference / "commands.log").read_text()[-3000:])
        front = front_of(reference)
        rows = [
            measured(folder, fault, partial(_unruly, folder, front, variables, act, number))
            for act, number, fault in cases
        ]
    return {"rows": rows}


def _unruly(folder: Path, front: Any, variables: Mapping[str, str], act: str, number: int) -> dict[str, Any]:
    wishes, cgroup = folder / f"unruly-{act}", Path(variables[UNRULY_CGROUP])
    for each in (wishes, folder / f"unruly-{act}-done"):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()
    for index in range(number):
        (wishes / f"{act}-{index}").touch()
    home = fresh(prepared(folder), folder / f"unruly-home-{act}")
    before, own = kills_in(cgroup), {**variables, UNRULY_FOLDER: str(wishes)}
    found = ended(start("sweep", *SHORT, *UNRULY, home=home, variables=own), home)
    time.sleep(5)  # Ray's own processes end a moment after the sweep
    children = left_behind(wishes)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    info: dict[str, Any] = {
        "acts": number - len(list(wishes.iterdir())),
        "children_left": len(children),
        "killed_by_the_kernel": kills_in(cgroup) - before,
    }
    return row_of(home, front, **info, **found)


def left_behind(wishes: Path) -> list[int]:
    """Processes that trials have forked and that live after the sweep: their environment names the folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(UNRULY_FOLDER) == str(wishes):
                found.append(process.pid)
    return found


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """A cgroup (version 1) whose processes may take so much memory from when they enter. Needs root."""
    group = Path("/sys/fs/cgroup/memory") / f"paretovid-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        _until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)


def kills_in(group: Path) -> int:
    """How many processes of a cgroup the kernel has killed for memory."""
    lines = (group / "memory.oom_control").read_text().splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])
