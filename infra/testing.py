"""Real servers on this machine for tests and benchmarks: PostgreSQL, S3, MLflow, and a proxy that loses connections.

Each is a context manager, takes a free port of the loopback interface, and ends with the block.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

_POSTGRES_FOLDERS = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/pgsql")
START_SECONDS = 60.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = START_SECONDS) -> None:
    """Waits until something listens. Raises `RuntimeError` if the process ends or takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `postgres`, of the newest version; None if it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = [path for root in _POSTGRES_FOLDERS for path in Path(root).glob("*/bin/initdb")]
    return max(places).parent if places else None


@final
class PostgresServer:
    """A PostgreSQL server with a cluster folder of its own. Made by `postgres_server`."""

    user = "paretovid"
    password = "a secret of the tests"

    def __init__(self, programs: Path, folder: Path, account: str | None) -> None:
        self._programs = programs
        self._folder = folder
        self._account = account
        self.port = free_port()

    def url(self, database: str = "postgres") -> str:
        """Without the password, which goes into `PGPASSWORD`."""
        return f"postgresql+psycopg2://{self.user}@127.0.0.1:{self.port}/{database}"

    def make_cluster(self) -> None:
        """`initdb`."""
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._account is not None:
            shutil.chown(self._folder, self._account)
            shutil.chown(secret, self._account)
        self._run(
            "initdb", "-D", "data", "-U", self.user, "--pwfile=password", "-A", "scram-sha-256", "--no-sync"
        )

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "start")

    def stop(self) -> None:
        """Stops it at once, as when it is killed: open connections are cut."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def make_database(self, name: str) -> str:
        """A new database. Returns its URL."""
        environment = {**os.environ, "PGPASSWORD": self.password}
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", self.user]
        subprocess.run([self._programs / "createdb", *address, name], check=True, env=environment)
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._folder,
            user=self._account,
            stdin=subprocess.DEVNULL,
            stdout=(self._folder / "output").open("wb"),
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {(self._folder / 'output').read_text()}")


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server. Raises `FileNotFoundError` if it is not installed."""
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian and Ubuntu: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="paretovid-postgres-"))
    server = PostgresServer(programs, folder, _account())
    try:
        server.make_cluster()
        server.start()
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # a test may have stopped it
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> str | None:
    """Whom to run it as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Server:
    """An S3 server that keeps its objects in memory. It takes any credentials, unless it was set otherwise."""

    port: int

    @property
    def endpoint(self) -> str:
        """For `AWS_ENDPOINT_URL`."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Moto's S3 server, a process of its own."""
    port = free_port()
    # As a script, and -P: the modules beside it must not stand in for others of their names.
    command = [sys.executable, "-P", str(Path(__file__).with_name("s3_server.py")), str(port)]
    with _process(command, {}, port):
        yield S3Server(port=port)


@contextlib.contextmanager
def mlflow_server(
    store: str,
    artifacts: str,
    environment: Mapping[str, str] | None = None,
    *,
    port: int | None = None,
    words: Sequence[str] = (),
) -> Iterator[str]:
    """An MLflow server. Gives its URL.

    Arguments:
        store: URL of its database.
        artifacts: where it keeps artifacts; clients send them through it.
        words: further ones of its command.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    # One worker: several add 40 ms to every call (benchmarks see 15 times more).
    command += [*words, "--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _process(command, {**quiet, **(environment or {})}, port, seconds=120):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], port: int, seconds: float = START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for_port(port, process, seconds)
            yield process
        except RuntimeError as error:
            output.seek(0)
            raise RuntimeError(f"{error}\n{output.read()[-4000:].decode(errors='replace')}") from error
        finally:
            # Its workers are in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@final
class FlakyProxy:
    """Passes TCP connections on to a port of this machine, and cuts some in the middle of what comes back.

    Arguments:
        port: where to pass them on.
        rate: share of the connections that are cut.
        after_bytes: how much of an answer comes through at most before a cut.
    """

    def __init__(self, port: int, rate: float, after_bytes: int = 200_000, seed: int = 0) -> None:
        self._target = port
        self.rate = rate
        self._after_bytes = after_bytes
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.connections = 0
        self.cut = 0
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """For `AWS_ENDPOINT_URL`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FlakyProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                is_cut = self._random.random() < self.rate
                limit = self._random.randrange(self._after_bytes) if is_cut else None
            threading.Thread(target=self._serve, args=(client, limit), daemon=True).start()

    def _serve(self, client: socket.socket, limit: int | None) -> None:
        with client, contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
                passed = 0
                while chunk := server.recv(65536):
                    if limit is not None and passed + len(chunk) > limit:
                        client.sendall(chunk[: limit - passed])
                        with self._lock:
                            self.cut += 1
                        break
                    client.sendall(chunk)
                    passed += len(chunk)
            client.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
