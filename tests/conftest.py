"""One thread per test process: sums must not depend on the machine, and idle OpenMP threads spin.

And the real servers that several suites use, each started once, when the first test asks for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from paretovid.infra.testing import PostgresServer, S3Server, postgres_programs, postgres_server, s3_server

if TYPE_CHECKING:
    from paretovid.infra.ray_cluster import Cluster

torch.set_num_threads(1)

_NUMBERS = itertools.count()

_LONGEST_FIRST = (
    "test_method_sweeps.py",
    "test_launch.py",
    "test_resume.py",
    "test_sweep.py",
    "test_shared_stores.py",
    "test_many_nodes.py",
    "test_trial.py",
    "test_paper_miniature.py",
    "test_extraction.py",
)
"""Two processes share the files (`make test`): one that takes ten minutes must not be the last to begin."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@final
class Clusters:
    """The Ray cluster that the tests of a process share. Its workers have the environment that it began with."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def shared(self) -> Cluster:
        """Of two CPUs, connected; started if it is not there."""
        import ray

        from paretovid.infra.ray_cluster import connect

        if not ray.is_initialized():
            self._open.close()
            return self._open.enter_context(connect(cpus=2))
        with connect() as there:
            return there

    def end(self) -> None:
        """For a test with a cluster of its own in this process."""
        self._open.close()


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """To be asked by fixtures of any scope."""
    made = Clusters()
    yield made
    made.end()


@pytest.fixture
def shared_cluster(clusters: Clusters) -> Cluster:
    """One Ray cluster for all tests of this process that can share it: whatever connects in the test uses it."""
    return clusters.shared()


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3 server, and credentials for it in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_process


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The URL of a new, empty bucket."""
    import boto3

    name = f"paretovid-{next(_NUMBERS)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer]:
    if postgres_programs() is None and not os.environ.get("PARETOVID_CI_RUN"):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # In CI its absence is a failure: .ci/run installs it.
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(postgres_process: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """A real PostgreSQL server, and its password in the environment."""
    monkeypatch.setenv("PGPASSWORD", PostgresServer.password)
    return postgres_process


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of a new, empty database, without the password."""
    return postgres.make_database(f"paretovid_{next(_NUMBERS)}")
