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
from tests.lowest import declared, lowest

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
    names = [name for name in os.environ if not name.startswith("RAY_") or name == "RAY_AUTH_MODE"]
    variables = {name: os.environ[name] for name in names}
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


ASKED = """
import os
import subprocess
import sys
import ray
from paretovid.infra.ray_cluster import connect
with connect(cpus=1, object_store_megabytes=80):
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address"]
    ask.append(ray.get_runtime_context().gcs_address)
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    assert subprocess.run(ask, capture_output=True).returncode == 0, "its own user is let in"
    assert subprocess.run(ask, env=stranger, capture_output=True).returncode != 0, "a stranger is let in"
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_local_cluster_answers_nobody_without_its_token(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_TOKEN")}
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        env={**variables, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize(
    ("version", "address", "mode", "message"),
    [
        ("2.50.1", "local", None, "2.50.1 knows no tokens.* Install Ray 2.52 or newer, best Ray 2.59"),
        ("2.50.1", "local", "token", "knows no tokens"),
        ("2.9.3", "10.0.0.1:6379", "token", "knows no tokens"),
        (
            "2.52.0",
            "local",
            None,
            "only where it is told to.* Set RAY_AUTH_MODE=token .* or install Ray 2.59",
        ),
        ("2.58.1", "local", "", "only where it is told to"),
        ("2.58.1", "local", "token", None),
        ("2.58.1", "local", "disabled", None),
        ("2.52.0", "10.0.0.1:6379", None, None),
        ("2.59.0", "local", None, None),
        ("3.0.0.dev0", "local", None, None),
    ],
)
def test_ray_that_lets_everybody_in_is_refused_before_it_starts(
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    address: str,
    mode: str | None,
    message: str | None,
) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    monkeypatch.setattr(ray_cluster, "check_answers", lambda address: None)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if message is None:
        with connect(address):
            assert started == [address]
        return
    with pytest.raises(ConnectionError, match=message), connect(address):
        pass
    assert started == []


def test_the_oldest_ray_that_is_declared_knows_tokens() -> None:
    assert lowest(declared())["ray"] == ".".join(map(str, ray_cluster.TOKENS_SINCE))


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


def test_a_machine_that_is_too_busy_for_ray_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def times_out(**_: object) -> None:
        # As ray/_private/node.py of 2.60 raises it.
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", times_out)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConnectionError, match=r"too busy now\. The same command can be given again"):
        connect().__enter__()


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
