"""What a sweep's place may do to it: features that are unmounted, clocks that are wrong, disks that are full."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.durability_sweeps import (
    SHORT,
    SHORT_TRIALS,
    cluster_of,
    finished_trials,
    fresh,
    front_of,
    prepared,
    run,
    start,
    trial_processes,
    wait_for,
)
from paretovid.platform.execution.heartbeat import heartbeat_of
from paretovid.platform.records.journal import read_journal
from paretovid.platform.storage.home import Home
from paretovid.platform.testing.audit import audit
from paretovid.platform.testing.sweeps import kill_with_children

_CLONE_NEWNS = 0x00020000
OTHER_HOST = Path(__file__).parent / "faults" / "other_host"
HOUR_SECONDS = 3600
CLOCKS = {"ahead": 1, "behind": -1}
"""Hours that they are off."""


def reference_front(folder: Path, *words: str) -> Any:
    """The front of an undisturbed sweep of the same trials, which all rows are compared to; made once a folder."""
    home = folder / "short-reference"
    if not (home / "sweeps" / "s" / "front.json").exists():
        run("sweep", *SHORT, *words, home=fresh(prepared(folder), home))
    return front_of(home)


def ended(process: subprocess.Popen[bytes], home: Path, log: Path | None = None) -> dict[str, Any]:
    """Waits for a sweep, and resumes it for as long as it ends in order without having finished, twice at most."""
    began, statuses = time.perf_counter(), [process.wait(1800)]
    while statuses[-1] and len(statuses) < 3:
        statuses.append(start("resume", "s", home=home, log=log).wait(1800))
    return {
        "statuses": " ".join(map(str, statuses)),
        "seconds_since_the_fault": round(time.perf_counter() - began, 1),
    }


def row_of(home: Path, front: Any, uri: str | None = None, **more: Any) -> dict[str, Any]:
    """What all stores say in the end, beside what was done."""
    entries = read_journal(Home(home).sweep("s")).entries
    return {
        **more,
        "asked": SHORT_TRIALS,
        "failed_starts": sum(entry.event == "fault" for entry in entries),
        "set_aside": sum(entry.event == "aside" for entry in entries),
        "same_front": front_of(home) == front,
        **asdict(audit(Home(home), "s", uri)),
    }


def measured(folder: Path, fault: str, row: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a fault; one that an earlier run has left in the folder is not measured again."""
    path = folder / "rows" / f"{re.sub('[^a-z0-9]+', '-', fault.lower())}.json"
    if not path.exists():
        found = {"fault": fault, **row()}
        print(json.dumps(found), flush=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def said(home: Path, text: str) -> bool:
    """Whether the commands of a home have written this."""
    return text in (home / "commands.log").read_text(errors="replace")


@contextmanager
def mounted_features(home: Path) -> Iterator[Callable[[bool], None]]:
    """The home's features as a mount of their own, and what mounts and unmounts them. Needs the right to mount."""
    features, store = home / "features", home.with_name(f"{home.name}-store")
    shutil.rmtree(store, ignore_errors=True)
    features.rename(store)
    features.mkdir()

    def mount(is_there: bool) -> None:
        subprocess.run(
            ["mount", "--bind", store, features] if is_there else ["umount", "-l", features], check=True
        )

    mount(True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", features], check=False, capture_output=True)


def features(folder: Path) -> dict[str, Any]:
    """Features that are unmounted while a sweep reads them."""
    cases = (
        ("the features unmounted for a second", 1, ()),
        ("the features unmounted for a minute", 60, ()),
        ("the same, with cluster.storage_wait_seconds=120", 60, ("cluster.storage_wait_seconds=120",)),
    )
    rows = [
        measured(folder, fault, partial(_features_away, folder / f"features{index}", seconds, words))
        for index, (fault, seconds, words) in enumerate(cases)
    ]
    fault = "the features unmounted on one node of three, to the end"
    rows.append(measured(folder, fault, partial(_features_of_a_node, folder / "features-node")))
    return {"rows": rows}


def _features_away(home: Path, seconds: float, words: Sequence[str]) -> dict[str, Any]:
    front = reference_front(home.parent)
    fresh(prepared(home.parent), home)
    with mounted_features(home) as mount:
        process = start("sweep", *SHORT, *words, home=home)
        wait_for(lambda: finished_trials(home) >= 2, process)
        mount(False)
        time.sleep(seconds)
        running, finished = process.poll() is None, finished_trials(home)
        mount(True)
        found = ended(process, home)
        info: dict[str, Any] = {
            "seconds_away": seconds,
            "was_running_then": running,
            "finished_then": finished,
        }
        return row_of(home, front, **info, **found)


def _features_of_a_node(home: Path) -> dict[str, Any]:
    """Three nodes of this machine, one of which has its own view of what is mounted."""
    front = reference_front(home.parent)
    fresh(prepared(home.parent), home)
    with mounted_features(home), cluster_of(2, shutdown_at_exit=False) as (cluster, _):
        own: list[Any] = []
        in_own_mounts(lambda: own.append(cluster.add_node(num_cpus=1)))
        words = ["cluster=address", f"cluster.address={cluster.address}", "cluster.node_cache=null"]
        process = start("sweep", *SHORT, *words, "cluster.storage_wait_seconds=3", home=home)
        pid = own[0].all_processes["raylet"][0].process.pid
        wait_for(lambda: finished_trials(home) >= 1 and has_trial_of(pid, home), process)
        subprocess.run(["nsenter", "-t", str(pid), "-m", "umount", "-l", home / "features"], check=True)
        running, finished = process.poll() is None, finished_trials(home)
        found = ended(process, home)
    away = [
        entry.info["away"] for entry in read_journal(Home(home).sweep("s")).entries if entry.event == "node"
    ]
    info: dict[str, Any] = {"was_running_then": running, "finished_then": finished}
    return row_of(home, front, nodes_that_took_no_more=len([*filter(None, away)]), **info, **found)


def in_own_mounts(call: Callable[[], object]) -> None:
    """Calls it in a thread whose mounts, and those of what it starts, are no longer this process's."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def has_trial_of(raylet: int, home: Path) -> bool:
    """Whether a process of this Ray node has a trial now."""
    import psutil

    here = {child.pid for child in psutil.Process(raylet).children(recursive=True)}
    return bool(here & trial_processes(home))


def clock(folder: Path) -> dict[str, Any]:
    """Hosts whose clocks are an hour off; injected in every Python process of theirs."""
    rows = [
        measured(
            folder,
            f"a driver on a host whose clock is an hour {word}, killed, and resumed here",
            partial(_driver_elsewhere, folder / f"clock-{word}", f"host-{word}", hours),
        )
        for word, hours in CLOCKS.items()
    ]
    return {"rows": rows}


def node_clock(folder: Path) -> dict[str, Any]:
    """Trials on nodes whose clocks are an hour off, injected in the same way."""
    rows = [
        measured(
            folder,
            f"all trials on a node whose clock is an hour {word}, the driver here",
            partial(_node_of_another_hour, folder / f"clock-node-{word}", f"host-{word}", hours),
        )
        for word, hours in CLOCKS.items()
    ]
    return {"rows": rows}


def _driver_elsewhere(home: Path, host: str, hours: int) -> dict[str, Any]:
    front = reference_front(home.parent)
    fresh(prepared(home.parent), home)
    first = start("sweep", *SHORT, home=home, variables=_other_host(host, hours))
    wait_for(lambda: finished_trials(home) >= 2, first)
    refused = start("resume", "s", home=home).wait(600)
    was_refused = refused == 2 and said(home, f"on {host}") and first.poll() is None
    kill_with_children(first.pid)
    first.wait(1800)
    finished = finished_trials(home)
    process = start("resume", "s", home=home)
    began = time.perf_counter()
    wait_for(lambda: _drivers(home) == 2, process)
    waited = round(time.perf_counter() - began, 1)
    found = ended(process, home)
    info: dict[str, Any] = {
        "refused_while_it_lived": was_refused,
        "finished_then": finished,
        "seconds_watched": waited,
    }
    return row_of(home, front, **info, **found)


def _node_of_another_hour(home: Path, host: str, hours: int) -> dict[str, Any]:
    front = reference_front(home.parent)
    fresh(prepared(home.parent), home)
    with cluster_of(0) as (cluster, _):
        cluster.add_node(num_cpus=2, env_vars=_other_host(host, hours))
        words = ["cluster=address", f"cluster.address={cluster.address}"]
        words.append(f"cluster.node_cache={home.parent / host}")
        process = start("sweep", *SHORT, *words, home=home)
        hours_seen: set[int] = set()

        def look() -> bool:
            for trial in Home(home).sweep("s").with_heartbeat():
                if (alive := heartbeat_of(trial)) is not None:
                    hours_seen.add(round((alive.at - time.time()) / HOUR_SECONDS))
            return False

        wait_for(look, process)
        found = ended(process, home)
    return row_of(home, front, trials_of_hours=" ".join(map(str, sorted(hours_seen))), **found)


def _other_host(name: str, hours: int) -> dict[str, str]:
    """The environment of its processes."""
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(OTHER_HOST), os.environ.get("PYTHONPATH")])),
        "OTHER_HOST_NAME": name,
        "OTHER_HOST_CLOCK_SECONDS": str(hours * HOUR_SECONDS),
    }


def _drivers(home: Path) -> int:
    return sum(entry.event == "driver" for entry in read_journal(Home(home).sweep("s")).entries)


PROMOTE = ("promote", "s", "--knee", "--as", "digits", "--alias", "champion")
STAGES = ("videos", "backbones", "features", "search", "promotion")
_DISK_BYTES = 256 * 2**20


def disk(folder: Path) -> dict[str, Any]:
    """A file system that is full in the middle of each stage: what is left is half of what the stage writes."""
    rows = [
        measured(folder, f"a disk that is full in the middle of: {stage}", partial(_full_disk, folder, index))
        for index, stage in enumerate(STAGES)
    ]
    return {"rows": rows}


def _full_disk(folder: Path, number: int) -> dict[str, Any]:
    front, grown = _undisturbed_on_a_disk(folder)
    stage, free = STAGES[number], grown[number] // 2
    words = PROMOTE if stage == "promotion" else ("sweep", *SHORT)
    # A path of its own: MLflow keeps connections by path, those to the file system before included.
    with small_disk(folder / f"disk-{stage}") as (home, log, leave):
        _copy_stages(folder, home, number)
        leave(free)
        began = time.perf_counter()
        status = start(*words, home=home, log=log).wait(1800)
        took, text = time.perf_counter() - began, log.read_text(errors="replace")
        info: dict[str, Any] = {
            "free_bytes": free,
            "status_when_full": status,
            "seconds_when_full": round(took, 1),
            "says_so": "No space left on device" in text and "paretovid: " in text,
            "tracebacks": text.count("Traceback"),
            "partial_left": len(partial_files(home)),
        }
        (folder / f"disk-{stage}.log").write_text(text)
        leave(None)
        again = start(*words, home=home, log=log).wait(1800)
        (folder / f"disk-{stage}-again.log").write_text(log.read_text(errors="replace"))
        info |= {"statuses": f"{status} {again}", "versions": _versions(home)}
        return row_of(home, front, **info)


def _undisturbed_on_a_disk(folder: Path) -> tuple[Any, list[int]]:
    """The front, and the bytes that each stage writes."""
    home = folder / "disk-reference"
    if not (home / "sweeps" / "s" / "front.json").exists():
        fresh(prepared(folder), home)
        run("sweep", *SHORT, home=home)
        shutil.copytree(home, folder / "disk-searched")
        run(*PROMOTE, home=home)
    searched = folder / "disk-searched"
    parts = [used_bytes(searched / name) for name in ("data", "backbones", "features")]
    everything = used_bytes(searched)
    return front_of(home), [*parts, everything - sum(parts), used_bytes(home) - everything]


def partial_files(home: Path) -> list[Path]:
    """What was left half written: both names that files have until they are whole."""
    return [path for pattern in ("*.partial*", "*.tmp") for path in home.rglob(pattern)]


def used_bytes(folder: Path) -> int:
    """What lies in a folder, in whole blocks."""
    return sum(4096 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


def _copy_stages(folder: Path, home: Path, number: int) -> None:
    """The first `number` stages, as they are before the next one begins."""
    if STAGES[number] == "promotion":
        shutil.copytree(folder / "disk-searched", home, dirs_exist_ok=True)
        run("relocate", home=home)
        return
    for part in ("data", "backbones", "features")[:number]:
        shutil.copytree(folder / "disk-searched" / part, home / part)


@contextmanager
def small_disk(mount: Path) -> Iterator[tuple[Path, Path, Callable[[int | None], None]]]:
    """A file system of its own: a home on it, a log beside it, and what leaves so many bytes free (None: all)."""
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", mount], check=True)
    log = mount.with_suffix(".log")
    log.write_bytes(b"")
    filler = mount / "filler"

    def leave(free: int | None) -> None:
        filler.unlink(missing_ok=True)
        if free is not None:
            taken = shutil.disk_usage(mount).free - free
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, taken)

    try:
        home = mount / "home"
        home.mkdir()
        yield home, log, leave
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def _versions(home: Path) -> int:
    """Of the promoted model, of which there should be one at most."""
    from paretovid.platform.tracking.store import open_store

    return len(open_store(Home(home)).client.search_model_versions("name='digits'"))
