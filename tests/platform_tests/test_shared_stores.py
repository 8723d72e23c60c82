"""Real sweeps on shared stores: a home in a bucket, studies in PostgreSQL, an MLflow server on both."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.capture import CaptureResult
from ray.cluster_utils import Cluster
from tests.conftest import Clusters
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.infra.object_store import ObjectStore
from paretovid.infra.ray_cluster import CLUSTER_ENVIRONMENT, environment
from paretovid.infra.testing import FlakyProxy, PostgresServer, S3Server, mlflow_server
from paretovid.platform.cli.main import main
from paretovid.platform.search.location import STORAGE_VARIABLE
from paretovid.platform.storage.home import open_home
from paretovid.platform.sweeps import lock
from paretovid.platform.testing.audit import Audit, audit
from paretovid.platform.testing.sweeps import kill_with_children

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SETTINGS = [
    *SMALL_DATA,
    "training.epochs=60",
    "training.checkpoint_every_epochs=5",
    "search.trials=3",
    "baselines=[{name: uniform, method: uniform}]",
    "cluster.cpus=1",
]
"""One trial at a time: what a second process of trials takes to start is more than all of them take to train."""


def start(*words: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("paretovid")), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def here(clusters: Clusters, capfd: pytest.CaptureFixture[str], *words: str) -> CaptureResult[str]:
    """What a command and whatever it starts print, run in this process: one that imports everything anew takes
    seconds. If it needs a cluster, that is its own: the workers of the shared one know nothing of this bucket."""
    clusters.end()
    capfd.readouterr()
    found, said = main(words), capfd.readouterr()
    assert found == 0, said.err
    return said


def as_a_machine(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOVID_HOME", url)
    monkeypatch.setenv("PARETOVID_CACHE", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def prepared(
    prepared_home: Path, s3_process: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A home in a bucket with videos, backbones and features, sent there as the platform sends them. How they are
    made for a home in a bucket: the last test."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", s3_process.endpoint)
        boto3.client("s3").create_bucket(Bucket="prepared-home")
        as_a_machine("s3://prepared-home/home", tmp_path_factory.mktemp("made"), patch)
        home = open_home()
        copied(prepared_home, home.root)
        home.store.upload(home.data("moving_digits"))
        for part in ("backbones", "features"):
            for folder in (home.root / part / "moving_digits").glob("[!.]*"):
                home.store.upload(folder)
    yield "s3://prepared-home/home"


@pytest.fixture
def home(prepared: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a prepared home, and a machine that has seen nothing of it yet."""
    as_a_machine(prepared, tmp_path / "first", monkeypatch)
    yield prepared


@contextlib.contextmanager
def restarted_when(server: PostgresServer, is_time: Callable[[], bool]) -> Iterator[None]:
    """Beside the block: once it is time, the server goes away for eight seconds. Fails if it never was."""
    is_over, has_gone = threading.Event(), threading.Event()

    def watch() -> None:
        while not is_over.wait(0.3):
            if is_time():
                server.stop()
                has_gone.set()
                time.sleep(8.0)
                server.start()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    assert has_gone.is_set()


def audited(sweep: str) -> Audit:
    return audit(open_home(), sweep)


def test_killed_here_and_gone_on_with_elsewhere_while_connections_are_lost(
    home: str,
    s3: S3Server,
    clusters: Clusters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Long enough that the third trial is seen while it trains.
    process = start("sweep", *SETTINGS, "training.epochs=120", "name=s")
    store = ObjectStore(home)
    until = time.time() + 300
    # Two trials are done, and another one has a checkpoint in the bucket.
    while True:
        names = store.names("sweeps/s/trials")
        done = [name for name in names if name.count("/") == 1 and name.endswith("/whole.json")]
        if len(done) >= 2 and any("/checkpoint-" in name and name.endswith("whole.json") for name in names):
            break
        assert process.poll() is None, process.communicate()
        assert time.time() < until, names
        time.sleep(0.2)
    assert kill_with_children(process.pid) > 3
    process.communicate()
    driver = json.loads(store.read("sweeps/s/driver.json") or b"{}")
    # Injected: another machine's name, and its clock an hour ahead. That it is dead is learned from its silence only.
    gone = {**driver, "host": "gone", "heartbeat": time.time() + 3600}
    store.write("sweeps/s/driver.json", json.dumps(gone).encode())
    monkeypatch.setattr(lock, "SILENT_SECONDS", 3.0)
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "second"))
    with FlakyProxy(s3.port, rate=0.1, after_bytes=20_000) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        here(clusters, capfd, "resume", "s")
        assert proxy.cut > 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    found = audited("s")
    assert found.searched_with_result == 3 and found.baselines_with_result == 1
    assert found.study == {"COMPLETE": 3}
    assert (found.zombies, found.repeated, found.finished_again) == (0, 0, 0)
    monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "third"))
    assert len(json.loads(here(clusters, capfd, "front", "s", "--json").out)["points"]) > 0
    (listed,) = json.loads(here(clusters, capfd, "sweeps", "--json").out)["sweeps"]
    assert (listed["name"], listed["state"], listed["trials"]) == ("s", "finished", 4)
    assert "Front of s" in here(clusters, capfd, "resume", "s").out


def test_database_server_and_bucket_from_search_to_prediction(
    home: str,
    postgres: PostgresServer,
    clusters: Clusters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    studies, runs, users = (postgres.make_database(name) for name in ("studies", "runs", "users"))
    users_file = tmp_path / "auth.ini"
    shipped = (ROOT / "infra" / "container" / "mlflow-auth.ini").read_text()
    users_file.write_text(re.sub("(?m)^database_uri = .*$", f"database_uri = {users}", shipped))
    monkeypatch.setenv(STORAGE_VARIABLE, studies)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-password-of-the-tests")
    bucket = home.rpartition("/")[0]
    guard = {
        "MLFLOW_AUTH_CONFIG_PATH": str(users_file),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-password-of-the-tests",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
    }
    with mlflow_server(runs, f"{bucket}/mlflow", guard, words=("--app-name", "basic-auth")) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        store = ObjectStore(home)
        with restarted_when(
            postgres,
            lambda: any(name.endswith("t0000/whole.json") for name in store.names("sweeps/d/trials")),
        ):
            out, err = here(clusters, capfd, "sweep", *SETTINGS, "name=d")
        found = audited("d")
        assert found.study == {"COMPLETE": 3}
        assert found.mlflow == {"FINISHED": 4} and found.parent == "FINISHED"
        assert (found.mlflow_duplicates, found.zombies, found.repeated, found.finished_again) == (0, 0, 0, 0)
        for secret in (PostgresServer.password, "a-password-of-the-tests", "a-secret-of-the-tests"):
            assert secret not in out + err
            for name in store.names("sweeps/d"):
                if name.endswith((".json", ".jsonl", ".txt")):
                    assert secret.encode() not in (store.read(f"sweeps/d/{name}") or b""), name
        # Another machine, which has the same settings and nothing else.
        monkeypatch.setenv("PARETOVID_CACHE", str(tmp_path / "second"))
        promote = ("promote", "d", "--knee", "--as", "digits", "--alias", "champion")
        for _ in range(2):
            here(clusters, capfd, *promote)
        assert "champion" in here(clusters, capfd, "rollback", "digits", "--alias", "champion").out
        listed = json.loads(here(clusters, capfd, "models", "--json").out)["models"]
        assert [(each["version"], each["aliases"]) for each in listed] == [(2, []), (1, ["champion"])]
        assert any(name.endswith("MLmodel") for name in ObjectStore(f"{bucket}/mlflow").names(""))
        video = next((tmp_path / "first").rglob("test_00000.mp4"))
        said = here(clusters, capfd, "predict", "models:/digits@champion", str(video), "--json")
        (answer,) = json.loads(said.out)["videos"]
        assert answer["error"] is None and answer["gflops"] > 0
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another-one")
        assert main(["models"]) == 1
        assert "another-one" not in capfd.readouterr().err


def test_nodes_without_a_common_disk(
    bucket: str,
    clusters: Clusters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Videos, backbones, features and trials where no node sees another one's files."""
    as_a_machine(f"{bucket}/home", tmp_path / "driver", monkeypatch)
    clusters.end()
    with environment(CLUSTER_ENVIRONMENT):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            caches = [tmp_path / f"node{number}" for number in range(2)]
            for cache in caches:
                cluster.add_node(num_cpus=1, env_vars={"PARETOVID_NODE_CACHE": str(cache)})
            # Long enough that one node cannot have trained all of them before the other has begun.
            settings = [
                *(word for word in SETTINGS if not word.startswith("cluster.")),
                "training.epochs=1000",
                "training.checkpoint_every_epochs=100",
            ]
            here(
                clusters,
                capfd,
                "sweep",
                *settings,
                "name=s",
                "cluster=address",
                f"cluster.address={cluster.address}",
            )
        finally:
            cluster.shutdown()
    found = audited("s")
    assert found.searched_with_result == 3 and found.study == {"COMPLETE": 3} and found.zombies == 0
    trained = [
        {path.parent.name for path in cache.glob("user-*/*/sweeps/s/trials/*/result.json")}
        for cache in caches
    ]
    assert trained[0] and trained[1] and not trained[0] & trained[1]
    for cache in caches:
        assert list(cache.glob("user-*/*/features/*/*/index.json")), "the features of a trial are on its node"
