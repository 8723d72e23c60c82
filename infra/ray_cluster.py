"""Connecting to Ray: a cluster of this machine that lives as long as the command, or one that is there already.

Only what was started here is shut down here. `ray stop` is never used: it ends every Ray process of the machine.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import ray

from paretovid.trainables.plugins.catalog import VARIABLE

LOCAL = "local"
ANSWER_SECONDS = 5.0
BUSY = "Ray gives its processes 30 seconds: this machine may be too busy now. The same command can be given again."

TOKENS_SINCE = (2, 52)
"""The first version of Ray that can ask for a token."""
TOKENS_UNASKED_SINCE = (2, 59)
"""The first one that does so in every local cluster, also where RAY_AUTH_MODE is unset."""

CLUSTER_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker that Ray's monitor kills for memory ends the whole Tune run; one that the kernel kills is an
    # ordinary failed trial, and Ray marks workers as the kernel's first choice.
    "RAY_memory_monitor_refresh_ms": "0",
    # Relative paths in a trial mean what they mean in the command.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A nested Train run takes 17 s instead of 8 with the defaults of these.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray's processes must find in their environment. A cluster that is not started here needs it as well."""


_KEPT: ContextVar[contextlib.ExitStack | None] = ContextVar("kept", default=None)
"""Of the block of `connected_once` that is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A connected Ray cluster."""

    address: str
    cpus: float
    gpus: float
    memory_gigabytes: float


@contextlib.contextmanager
def connect(
    address: str = LOCAL,
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    object_store_megabytes: int | None = None,
    py_modules: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Ray, connected for the block.

    Arguments:
        address: `local` starts a cluster on this machine; anything else is the address of one.
        cpus, gpus: of a local cluster; None: all.
        object_store_megabytes: shared memory of a local cluster; None: enough for what it has.
        py_modules: folders of packages to send to workers that have not installed them.

    If this process is connected to Ray already, that connection is used and left as it is; inside of
    `connected_once` it lasts until that ends. Raises `ConnectionError` if Ray cannot be started or reached, or would
    run what anybody sends.
    """
    if ray.is_initialized():
        yield _describe(address)
        return
    connection = _connection(address, cpus, gpus, object_store_megabytes, py_modules)
    kept = _KEPT.get()
    if kept is not None:
        yield kept.enter_context(connection)
        return
    with connection as cluster:
        yield cluster


@contextlib.contextmanager
def connected_once() -> Iterator[None]:
    """Keeps what `connect` connects to within the block until the block ends, so that steps that follow each other
    share one cluster. If none of them needs one, none is started.
    """
    if _KEPT.get() is not None:
        yield
        return
    with contextlib.ExitStack() as stack:
        token = _KEPT.set(stack)
        try:
            yield
        finally:
            _KEPT.reset(token)


@contextlib.contextmanager
def _connection(
    address: str,
    cpus: int | None,
    gpus: int | None,
    object_store_megabytes: int | None,
    py_modules: Sequence[str],
) -> Iterator[Cluster]:
    check_asks_for_a_token(address)
    if address == LOCAL:
        _choose_token()
    else:
        check_answers(address)
    with environment(CLUSTER_ENVIRONMENT), _quiet():
        try:
            _start(address, cpus, gpus, object_store_megabytes, py_modules)
        except Exception as error:  # Ray raises no type of its own where its processes take too long to start
            busy = f" {BUSY}" if "timed out during startup" in str(error) else ""
            raise ConnectionError(f"Ray ({address}): {error}{busy}") from error
        try:
            yield _describe(address)
        finally:
            _shut_down()


def _shut_down() -> None:
    """Ends the connection. What is left of Ray's objects in cycles is collected first: another thread that did so
    meanwhile would end the process ("The core worker has already been shutdown")."""
    gc.collect()
    ray.shutdown()


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block. Those that the user has set keep their values."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def check_answers(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raises `ConnectionError` unless somebody listens at `host:port`; Ray itself tries for a minute.

    `auto` is looked up in RAY_ADDRESS; without it Ray finds its own processes of this machine, at once or not.
    """
    given = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if "://" in given:
        raise ConnectionError(
            f"Ray ({given}): the driver of a sweep must be inside of the cluster. Name the head as HOST:PORT from "
            "one of its machines, or submit the command as a job: ray job submit -- paretovid sweep cluster=address"
        )
    host, colon, port = given.rpartition(":")
    if not colon or not port.isdigit():
        if address == "auto":
            return
        raise ConnectionError(f"Ray ({address}): HOST:PORT, auto or local is expected")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError as error:
        raise ConnectionError(f"Ray ({given}): nobody answers there: {error}") from error


def check_asks_for_a_token(address: str = LOCAL) -> None:
    """Raises `ConnectionError` for a version of Ray that would let everybody in: its ports listen on all interfaces.

    Arguments:
        address: of a cluster that is there already only the version counts, as its nodes have their own RAY_AUTH_MODE.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
    danger = "whoever reaches its ports runs code on this machine"
    if version < TOKENS_SINCE:
        raise ConnectionError(
            f"Ray {ray.__version__} knows no tokens: {danger}. "
            f"Install {_written(TOKENS_SINCE)} or newer, best {_written(TOKENS_UNASKED_SINCE)}"
        )
    if address == LOCAL and version < TOKENS_UNASKED_SINCE and not os.environ.get("RAY_AUTH_MODE"):
        raise ConnectionError(
            f"Ray {ray.__version__} asks for a token only where it is told to: otherwise {danger}. "
            "Set RAY_AUTH_MODE=token in the environment before the command starts, or install "
            f"{_written(TOKENS_UNASKED_SINCE)} or newer"
        )


def _written(version: tuple[int, int]) -> str:
    return "Ray " + ".".join(map(str, version))


def _choose_token() -> None:
    """Gives this process a token for its clusters, unless the user has given one.

    Without it Ray keeps one in ~/.ray, readable for all, and fails where that cannot be written. It stays for
    the life of the process, as Ray reads it once. RAY_AUTH_MODE is left alone: where it is unset, Ray turns
    token mode on itself (`check_asks_for_a_token`), and only it can do so after it was imported.
    """
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start(
    address: str,
    cpus: int | None,
    gpus: int | None,
    object_store_megabytes: int | None,
    py_modules: Sequence[str],
) -> None:
    if address == LOCAL:
        ray.init(
            address=LOCAL,
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=(object_store_megabytes or _object_store_megabytes(gpus)) * 1024**2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": list(py_modules)} if py_modules else None,
        )
        return
    # Its processes have another environment than this one: workers get theirs with the job.
    names = [*CLUSTER_ENVIRONMENT, *([VARIABLE] if VARIABLE in os.environ else [])]
    runtime = {"env_vars": {name: os.environ[name] for name in names}}
    modules = {"py_modules": list(py_modules)} if py_modules else {}
    ray.init(
        address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={**runtime, **modules}
    )


def _object_store_megabytes(gpus: int | None) -> int:
    """Decoded video goes to GPUs through it; without them hardly anything does."""
    import psutil

    has_gpus = bool(gpus) if gpus is not None else Path("/dev/nvidiactl").exists()
    return max(200, psutil.virtual_memory().total // 2**20 // 10) if has_gpus else 200


def _describe(address: str) -> Cluster:
    resources = ray.cluster_resources()
    return Cluster(
        address=address,
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        memory_gigabytes=float(resources.get("memory", 0)) / 1024**3,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
