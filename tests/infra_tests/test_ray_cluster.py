from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import ray

from paretovid.infra import ray_cluster
from paretovid.infra.ray_cluster import (
    CLUSTER_ENVIRONMENT,
    check_answers,
    connect,
    connected_once,
    environment,
)

CODE = """
import os
import ray
from paretovid.infra.ray_cluster import connect
before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
for _ in range(TIMES):
    with connect(cpus=1, object_store_megabytes=80) as cluster:
        assert cluster.cpus == 1.0, cluster
        with connect(cpus=7) as inner:
            assert inner.cpus == 1.0, inner
        assert ray.is_initialized(), "the inner block ended what it had not started"
        look = ray.remote(lambda: (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["RAY_CHDIR_TO_TRIAL_DIR"]))
        assert ray.get(look.remote()) == ("0", "0")
        assert ray.available_resources()["object_store_memory"] <= 80 * 1024**2
    assert not ray.is_initialized()
left = {name for name in os.environ if name.startswith("RAY_") and name not in before}
assert left <= {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"}, left
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("writable", "times"), [(True, 2), (False, 1)])
def test_local_cluster_is_quiet_and_needs_no_home(tmp_path: Path, writable: bool, times: int) -> None:
    home = tmp_path if writable else Path("/proc/no-such-home")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("TIMES", str(times))],
        env={**variables, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    assert not (tmp_path / ".ray").exists()


def test_an_address_where_nobody_answers_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        started = time.perf_counter()
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}.*nobody answers"):
            check_answers(f"127.0.0.1:{port}")
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(ConnectionError, match="nobody answers"):
            check_answers("auto")
        assert time.perf_counter() - started < 5
    with pytest.raises(ConnectionError, match="ray job submit"):
        check_answers("ray://head:10001")
    with pytest.raises(ConnectionError, match="HOST:PORT, auto or local is expected"):
        check_answers("head")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ray that only notes what it is called with: addresses as they are connected to, and `-` for every end."""
    calls: list[str] = []

    def is_initialized() -> bool:
        return bool(calls) and calls[-1] != "-"

    monkeypatch.setattr(ray, "is_initialized", is_initialized)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("-"))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_cluster, "_start", lambda address, *settings: calls.append(address))
    return calls


def test_steps_that_follow_each_other_share_one_cluster(started: list[str]) -> None:
    with connected_once():
        assert started == [], "nobody has asked for one"
        for _ in range(2):
            with connected_once(), connect() as cluster:
                assert cluster.cpus == 2.0
            assert started == ["local"]
    assert started == ["local", "-"]
    for _ in range(2):
        with connect():
            pass
    assert started[2:] == ["local", "-", "local", "-"]


def test_a_shared_cluster_ends_with_whatever_ends_the_block(started: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), connected_once(), connect():
        raise KeyboardInterrupt
    assert started == ["local", "-"]


def test_what_is_left_in_cycles_is_collected_before_ray_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends the process if another thread collects a handle or a reference of it while it shuts down; seen at the
    end of a sweep, whose thread for MLflow collects."""

    class Handle:
        def __init__(self) -> None:
            self.itself = self

    is_collected = []
    handle = Handle()
    watched = weakref.ref(handle)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: is_collected.append(watched() is None))
    monkeypatch.setattr(ray_cluster, "_start", lambda *_: None)
    monkeypatch.setattr(ray_cluster, "_describe", lambda _: None)
    gc.disable()
    try:
        with connect():
            del handle
    finally:
        gc.enable()
    assert is_collected == [True]


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: object) -> None:
        assert settings["address"] == "10.0.0.1:6379"
        assert settings["runtime_env"] == {"env_vars": {**CLUSTER_ENVIRONMENT}, "py_modules": ["package"]}
        raise RuntimeError("nobody answers")

    for name in CLUSTER_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(
        ray, "is_initialized", lambda: False
    )  # tests before may share a cluster of this process
    monkeypatch.setattr(ray_cluster, "check_answers", lambda address: None)
    connection = connect("10.0.0.1:6379", py_modules=["package"])
    with pytest.raises(ConnectionError, match=r"10\.0\.0\.1:6379.*nobody answers"):
        connection.__enter__()


def test_environment_is_put_back_and_the_users_values_win(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(CLUSTER_ENVIRONMENT)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(names[0], "mine")
    with environment(CLUSTER_ENVIRONMENT):
        assert os.environ[names[0]] == "mine"
        assert os.environ[names[1]] == CLUSTER_ENVIRONMENT[names[1]]
    assert os.environ[names[0]] == "mine"
    assert names[1] not in os.environ
