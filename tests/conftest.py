"""One thread per test process: sums must not depend on the machine, and idle OpenMP threads spin.

And the real servers that several suites use, each started once, when the first test asks for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from paretovid.infra.locks import exclusive_lock
from paretovid.infra.testing import PostgresServer, S3Server, postgres_programs, postgres_server, s3_server

if TYPE_CHECKING:
    from paretovid.infra.ray_cluster import Cluster
    from paretovid.platform.storage.home import Home

torch.set_num_threads(1)

_NUMBERS = itertools.count()

_LONGEST_FIRST = (
    "test_shared_stores.py",
    "test_plugins.py",
    "test_method_sweeps.py",
    "test_resume.py",
    "test_sweep.py",
    "test_launcher.py",
    "test_many_nodes.py",
    "test_paper_miniature.py",
    "test_extraction.py",
    "test_old_home.py",
    "test_interrupted.py",
    "test_trial.py",
    "test_method_contract.py",
)
"""Two processes share the groups (`make test`): one that takes minutes must not be the last to begin."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def group_of(test: str) -> str:
    """Which group a test is in: those of one group run in one process, after each other.

    A group is a file, with two exceptions. Tests of the methods' contract go by method, so that what one process has
    trained it uses again; sweeps of methods with videos of their own may run beside those of the others.
    """
    file, _, parameters = test.partition("::")
    method = parameters.partition("[")[2].removesuffix("]").removeprefix("True-").removeprefix("False-")
    if file.endswith("test_method_contract.py"):
        return f"{file}-{zlib.crc32(method.partition('-')[0].encode()) % 2}"
    if file.endswith("test_method_sweeps.py"):
        return f"{file}-{method if method.startswith('model_selection') else ''}"
    return file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadgroup`. The marks of pytest-xdist 3.8 group nothing with pytest 9.2, whose ids of tests it
    cannot change any more."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--beside",
        metavar="COMMAND",
        help="runs beside the tests; its output is shown above the closing line, and its failure fails the run",
    )


def pytest_configure(config: pytest.Config) -> None:
    command = config.getoption("--beside")
    if command and not os.environ.get("PYTEST_XDIST_WORKER"):
        config.pluginmanager.register(Beside(command))


@final
class Beside:
    """A command that runs while the tests do."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._output = ""
        self._process = subprocess.Popen(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._is_read = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._output = self._process.stdout.read()
        self._is_read.set()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._is_read.wait()
        if self._process.wait() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        status = self._process.returncode
        terminalreporter.section(f"{self._command}: {'FAILED' if status else 'passed'}", red=bool(status))
        terminalreporter.write_line(self._output.rstrip())

    def pytest_unconfigure(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: the path of what `make(path)` has made there, in one of the run's processes. To be copied."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent  # of all processes of this run

    def made(name: str, make: Callable[[Path], object]) -> Path:
        path, whole = root / name, root / f"{name}.whole"
        with exclusive_lock(root / f"{name}.lock"):
            if not whole.exists():
                make(path)
                whole.touch()
        return path

    return made


@pytest.fixture(scope="session")
def small_home_copy(once: Callable[..., Path]) -> Callable[[Path], Home]:
    """Makes a copy of `platform/testing/sweeps.py`'s `small_home` in an empty folder."""
    from paretovid.platform.testing.sweeps import small_home

    return lambda root: _home_copy(once("small-home", small_home), root)


@pytest.fixture(scope="session")
def localization_home_copy(once: Callable[..., Path]) -> Callable[[Path], Home]:
    """Makes a copy of its `localization_home`."""
    from paretovid.platform.testing.sweeps import localization_home

    return lambda root: _home_copy(once("localization-home", localization_home), root)


def _home_copy(made: Path, root: Path) -> Home:
    from paretovid.platform.storage.home import Home

    shutil.copytree(made, root, dirs_exist_ok=True)
    return Home(root)


@pytest.fixture(scope="session", autouse=True)
def mlflow_tables_once(once: Callable[..., Path]) -> Iterator[None]:
    """MLflow takes five seconds to make an empty store's tables. It does so once a run, and in every command that
    has a process of its own; homes of tests get a copy of that store, and make their experiment in it themselves.
    """
    from paretovid.platform.tracking import store as mlflow_store

    make = mlflow_store._make_tables

    def copied(database: Path) -> None:
        shutil.copy(once("mlflow-template.db", make), database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_store, "_make_tables", copied)
        yield


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

    def end_unless_idle(self, seconds: float = 10.0) -> None:
        """What a test that has failed has left running must not keep the next one waiting."""
        import ray

        until = time.monotonic() + seconds
        while ray.is_initialized():
            if ray.available_resources().get("CPU", 0.0) >= ray.cluster_resources().get("CPU", 0.0):
                return
            if time.monotonic() > until:
                self.end()
                return
            time.sleep(0.1)


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """To be asked by fixtures of any scope."""
    made = Clusters()
    yield made
    made.end()


@pytest.fixture
def shared_cluster(clusters: Clusters) -> Iterator[Cluster]:
    """One Ray cluster for all tests of this process that can share it: whatever connects in the test uses it."""
    yield clusters.shared()
    clusters.end_unless_idle()


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


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """The test begins and ends without plug-ins, in a folder of its own. Gives a function that forgets all that this
    process has imported since: what is called next finds what a new process does."""
    from paretovid.search_spaces.samplers import SAMPLERS
    from paretovid.trainables.backbones import catalog as backbones
    from paretovid.trainables.data.readers.catalog import READERS
    from paretovid.trainables.method import METHODS
    from paretovid.trainables.plugins import catalog as plugins

    backbones.all_components()  # what registers itself when it is imported does so once
    monkeypatch.chdir(tmp_path)
    path, modules, components = [*sys.path], set(sys.modules), dict(backbones._known)
    catalogs = (METHODS, backbones.BACKBONES, READERS, SAMPLERS)
    own = [(each, name, dict(getattr(each, name))) for each in catalogs for name in ("_entries", "_values")]

    def forget() -> None:
        # Not by `monkeypatch`, which would bring back at the end what the test itself has set.
        os.environ.pop(plugins.VARIABLE, None)
        monkeypatch.setattr(sys, "path", [*path])
        for name in ("_used", "_importing", "_registered_in"):
            monkeypatch.setattr(plugins, name, type(getattr(plugins, name))())
        for catalog, name, entries in own:
            monkeypatch.setattr(catalog, name, dict(entries))
            monkeypatch.setattr(catalog, "_has_installed", False)
        monkeypatch.setattr(backbones, "_known", dict(components))
        plugins.installed_entries.cache_clear()
        plugins.plugin_digest.cache_clear()
        for name in set(sys.modules) - modules:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[name]

    before = os.environ.get(plugins.VARIABLE)
    forget()
    yield forget
    forget()
    if before is not None:
        os.environ[plugins.VARIABLE] = before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)


def fill(disk: Path) -> Path:
    """Takes all the room that a disk has left, to be removed again."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    return filler
