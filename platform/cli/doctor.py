"""`paretovid doctor`: what a sweep needs from this machine, and how to repair what is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from paretovid.platform.console.shell import with_home
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import ParetovidError
from paretovid.trainables.redaction.texts import redacted

if TYPE_CHECKING:
    from paretovid.infra.nodes import NodeInfo
    from paretovid.platform.storage.home import Home

GIB = 2**30
MEMORY_GIB = 6
DISK_GIB = 5
SKEW_SECONDS = 2.0
_CORE = ("numpy", "torch", "torchvision", "av", "safetensors")
_PLATFORM = (
    "ray",
    "optuna",
    "mlflow",
    "hydra",
    "greenlet",
    "matplotlib",
    "pytorchvideo",
    "sklearn",
    "psutil",
)
_INSTALL = "pip install 'paretovid[platform]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    """`fail`: a sweep with the defaults cannot work. `warn`: it may be slow or stop half-way."""
    found: str
    repair: str = ""
    """What to do; empty if nothing."""

    def to_json(self) -> JsonObject:
        """As `doctor --json` has always had it: what to do is called `mend` there."""
        return {"name": self.name, "state": self.state, "found": self.found, "mend": self.repair}


def run_checks(home: str | None, overrides: Sequence[str] = ()) -> list[Check]:
    """All checks; none of them raises or changes anything but a probe file that it removes.

    Arguments:
        overrides: `cluster.address=…` and the like: the cluster to try. Without one, Ray is started here.
    """
    checks = [_python(), *_packages(), *_codecs(), *_ray(), *_home(home), _memory()]
    if not any(check.state == "fail" for check in checks):
        checks += _cluster(home, overrides)
    # What libraries say of a store or a cluster may hold its URL.
    return [
        replace(each, found=redacted(each.found), repair=with_home(redacted(each.repair), home))
        for each in checks
    ]


def to_document(checks: Sequence[Check]) -> JsonObject:
    """For `--json`."""
    return {"checks": [check.to_json() for check in checks]}


def to_text(checks: Sequence[Check]) -> str:
    """One line per check, and under it what to repair."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<4}  {check.name:<{width}}  {check.found}")
        if check.repair:
            lines.append(f"{'':<{width + 8}}-> {check.repair}")
    to_repair = sum(check.state == "fail" for check in checks)
    lines.append(f"{to_repair} to repair." if to_repair else "Nothing must be repaired.")
    return "\n".join(lines)


def _python() -> Check:
    return Check(name="python", state="ok", found=f"{sys.version.split()[0]} at {sys.executable}")


def _packages() -> Iterator[Check]:
    distributions = importlib.metadata.packages_distributions()
    for module in (*_CORE, *_PLATFORM):
        try:
            # Only an import finds broken pairs, such as a torchvision beside another build of torch.
            importlib.import_module(module)
        except Exception as error:
            yield Check(name=module, state="fail", found=f"{type(error).__name__}: {error}", repair=_INSTALL)
        else:
            version = importlib.metadata.version(distributions[module][0])
            yield Check(name=module, state="ok", found=version)


def _codecs() -> Iterator[Check]:
    try:
        import av
    except ImportError:
        return  # reported by _packages
    wanted: tuple[tuple[str, Literal["r", "w"]], ...]
    wanted = (("h264", "r"), ("libx264", "w"), ("aac", "r"), ("aac", "w"))
    for codec, mode in wanted:
        name = f"{'decoder' if mode == 'r' else 'encoder'} {codec}"
        try:
            av.codec.Codec(codec, mode)
        except Exception as error:
            repair = "Install PyAV's own wheel, which brings FFmpeg: pip install --force-reinstall av"
            yield Check(name=name, state="fail", found=f"{type(error).__name__}: {error}", repair=repair)
        else:
            yield Check(name=name, state="ok", found=f"av {av.__version__}")


def _ray() -> Iterator[Check]:
    address = os.environ.get("RAY_ADDRESS")
    yield Check(name="RAY_ADDRESS", state="ok", found=address or "not set")
    yield from _ray_tokens(address)
    if os.environ.get("RAY_TRAIN_V2_ENABLED") == "0":
        repair = "unset RAY_TRAIN_V2_ENABLED; trials with several workers need Ray Train's second version."
        yield Check(name="ray train", state="fail", found="RAY_TRAIN_V2_ENABLED=0", repair=repair)
    with contextlib.suppress(RuntimeError):
        user_folder = Path.home()
        is_writable = os.access(user_folder, os.W_OK)
        repair = "" if is_writable else "Ray keeps its token there: set HOME to a folder that can be written."
        yield Check(
            name="HOME",
            state="ok" if is_writable else "fail",
            found=f"{user_folder} (for Ray)",
            repair=repair,
        )
    if not address:
        yield _shared_memory()


def _ray_tokens(address: str | None) -> Iterator[Check]:
    try:
        from paretovid.infra.ray_cluster import LOCAL, check_asks_for_a_token

        check_asks_for_a_token(address or LOCAL)
    except ImportError:
        return  # reported by _packages
    except ConnectionError as error:
        found, _, repair = str(error).partition(". ")
        yield Check(name="ray tokens", state="fail", found=found, repair=f"{repair}.")


def _cluster(home: str | None, overrides: Sequence[str]) -> Iterator[Check]:
    """By trying: connects, asks every node, and says what each of them is."""
    from paretovid.infra.nodes import inspect_nodes
    from paretovid.infra.ray_cluster import connect
    from paretovid.platform.config.load import load_sweep_config
    from paretovid.platform.execution.cluster import code_to_send, probe_in, problems_of
    from paretovid.platform.storage.home import open_home
    from paretovid.trainables.plugins.catalog import plugin_modules

    started = time.perf_counter()
    try:
        cluster = load_sweep_config(overrides).cluster
        is_local = cluster.address == "local"
        with (
            connect(
                cluster.address,
                cpus=cluster.cpus,
                gpus=cluster.gpus,
                object_store_megabytes=cluster.object_store_megabytes,
                py_modules=() if is_local else code_to_send(),
            ) as connected,
            probe_in(open_home(home)) as probe,
        ):
            seconds = time.perf_counter() - started
            nodes = inspect_nodes(probe, plugins=plugin_modules())
    except (ConnectionError, OSError, ParetovidError) as error:
        yield Check(
            name="cluster", state="fail", found=str(error), repair="Is cluster.address= right, is it up?"
        )
        return
    size = f"{len(nodes)} nodes, {connected.cpus:g} CPU, {connected.gpus:g} GPU"
    yield Check(name="cluster", state="ok", found=f"{cluster.address}: {size}, connected in {seconds:.1f} s")
    for node in nodes:
        yield _node(node, problems_of(node, plugin_modules()))


def _node(node: NodeInfo, problems: Sequence[str]) -> Check:
    if problems:
        repair = "Install the driver's versions and plug-ins there, and put home= on a file system that all nodes see."
        return Check(name="node", state="fail", found="; ".join(problems), repair=repair)
    skew, free = node.clock_offset_seconds, node.free_bytes / GIB
    found = f"{node.name}: versions as here, clock {skew:+.2f} s, {free:.0f} GiB free for copies of features"
    if abs(skew) > SKEW_SECONDS:
        repair = "Set its clock (NTP): times in records and reports come from several clocks."
        return Check(name="node", state="warn", found=found, repair=repair)
    if free < DISK_GIB:
        repair = "Free space there, or name another disk: cluster.node_cache=."
        return Check(name="node", state="warn", found=found, repair=repair)
    return Check(name="node", state="ok", found=found)


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check(name="shared memory", state="warn", found="no /dev/shm: Ray uses slower files in /tmp")
    free = shutil.disk_usage(folder).free / GIB
    if free < 0.5:
        repair = "In a container: start it with --shm-size=2g."
        return Check(name="shared memory", state="warn", found=f"{free:.1f} GiB in /dev/shm", repair=repair)
    return Check(name="shared memory", state="ok", found=f"{free:.1f} GiB in /dev/shm")


def _home(override: str | None) -> Iterator[Check]:
    from paretovid.platform.storage.home import open_home

    try:
        home = open_home(override)
        with tempfile.TemporaryFile(dir=home.root):
            pass
    except (ParetovidError, OSError) as error:
        repair = getattr(error, "hint", "") or "Choose a folder that can be written: home=FOLDER."
        yield Check(name="home", state="fail", found=str(getattr(error, "message", error)), repair=repair)
        return
    found = str(home.root) if home.url is None else f"{home.url}, mirrored in {home.root}"
    yield Check(name="home", state="ok", found=found)
    free = shutil.disk_usage(home.root).free / GIB
    repair = (
        "" if free >= DISK_GIB else f"Free space until {DISK_GIB} GiB are there, or choose another home=."
    )
    yield Check(name="disk", state="warn" if repair else "ok", found=f"{free:.0f} GiB free", repair=repair)
    yield _study_store(home)
    yield _mlflow_store(home)


def _study_store(home: Home) -> Check:
    from paretovid.platform.search.location import UNDER_HOME, study_location
    from paretovid.platform.search.storage import connect_storage

    location = study_location(home, "doctor", uid="", given=None)
    if location.described == UNDER_HOME:
        return _store("optuna store", home.optuna_url)
    try:
        _, names = connect_storage(location.url)
    except ParetovidError as error:
        return Check(name="optuna store", state="fail", found=error.message, repair=error.hint)
    return Check(name="optuna store", state="ok", found=f"{location.described}, {len(names)} studies")


def _mlflow_store(home: Home) -> Check:
    from paretovid.platform.tracking.store import quiet_mlflow, store_uri

    repair = "Is MLFLOW_TRACKING_URI right, the server there, are MLFLOW_TRACKING_USERNAME and _PASSWORD?"
    try:
        uri = store_uri(home)
        if uri == home.mlflow_url:
            found = _store("mlflow store", uri)
            return found if found.state == "fail" else _moved(home) or found
        quiet_mlflow()
        import mlflow

        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except ParetovidError as error:
        return Check(name="mlflow store", state="fail", found=error.message, repair=error.hint)
    except Exception as error:  # what a store raises depends on what is behind its URI
        return Check(name="mlflow store", state="fail", found=f"{uri}: {error}", repair=repair)
    return Check(name="mlflow store", state="ok", found=uri)


def _moved(home: Home) -> Check | None:
    """What MLflow alone does not know of a home that was moved or copied."""
    from paretovid.platform.tracking.artifact_places import artifact_places

    places = artifact_places(home)
    if not places.is_moved:
        return None
    found = f"{home.mlflow_database} says that artifacts lie in {places.recorded}"
    repair = (
        "paretovid finds them here all the same; for MLflow alone, type once: paretovid relocate"
        + home.in_commands
    )
    return Check(name="mlflow store", state="warn", found=found, repair=repair)


def _store(name: str, store_url: str) -> Check:
    from paretovid.platform.storage.urls import sqlite_path

    if not store_url.startswith("sqlite:///"):
        return Check(name=name, state="ok", found=f"{store_url.partition('://')[0]} (not looked into)")
    path = sqlite_path(store_url)
    if not path.exists():
        return Check(name=name, state="ok", found="not there yet; the first sweep makes it")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        answer = str(error)
    if answer == "ok":
        return Check(name=name, state="ok", found=str(path))
    repair = f"Restore {path.name} from a backup, or move it away: the next sweep makes a new one."
    return Check(name=name, state="fail", found=f"{path}: {answer}", repair=repair)


def _memory() -> Check:
    available = available_memory_bytes(Path("/proc/meminfo"), Path("/sys/fs/cgroup")) / GIB
    threads = len(os.sched_getaffinity(0))
    found = f"{available:.1f} GiB available, {threads} processor cores"
    if available < MEMORY_GIB:
        repair = (
            f"A sweep with the defaults wants {MEMORY_GIB} GiB: end other work or give the container more."
        )
        return Check(name="memory", state="warn", found=found, repair=repair)
    return Check(name="memory", state="ok", found=found)


def available_memory_bytes(meminfo: Path, cgroup: Path) -> int:
    """What this process may still take: the machine's free memory or its container's, the smaller."""
    fields: Mapping[str, str] = dict(
        line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no such limit
        limit = int((cgroup / "memory.max").read_text())
        available = min(available, limit - int((cgroup / "memory.current").read_text()))
    return available
