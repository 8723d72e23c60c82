"""The faults that sweeps of durability.py are given do what they say."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from benchmarks.durability_faults import OTHER_HOST, partial_files
from benchmarks.faults.answers import ANSWERS, DatabaseBefore, HttpBefore

from paretovid.platform.storage.documents import replace_text
from paretovid.trainables.data.dataset import write_json


@pytest.fixture
def behind() -> Iterator[int]:
    """A server that says what it was sent. Gives its port."""

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def post(port: int, seconds: float = 5.0) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    connection.request("POST", "/api", b"what was sent")
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("Retry-After")


@pytest.mark.parametrize("write", [write_json, replace_text])
def test_what_is_half_written_is_counted_whatever_its_writer_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    replace, seen = Path.replace, []

    def watched(path: Path, target: Path) -> Path:
        seen.append(partial_files(tmp_path) == [path])
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    write(tmp_path / "manifest.json", "x")
    assert seen == [True] and partial_files(tmp_path) == []


def test_what_answers_before_a_server_passes_on_or_answers_itself(behind: int) -> None:
    with HttpBefore(behind) as before:
        assert post(before.port) == (201, b"what was sent", None)
        before.answer = ANSWERS["HTML, status 200"]
        status, body, _ = post(before.port)
        assert status == 200 and body.startswith(b"<html>")
        before.answer = ANSWERS["429, Retry-After: 5"]
        assert post(before.port) == (429, b"", "5")
        before.answer = ANSWERS["nothing: it accepts and is silent"]
        with pytest.raises(TimeoutError):
            post(before.port, seconds=0.3)
        assert before.answered == 3
        before.answer = None
        assert post(before.port) == (201, b"what was sent", None)


@pytest.mark.parametrize(("moment", "committed"), [("before", False), ("after", True)])
def test_a_database_restarts_where_a_transaction_that_has_written_ends(moment: str, committed: bool) -> None:
    received: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        server, _ = listening.accept()
        with server:
            while chunk := server.recv(1000):
                received.append(chunk)
                server.sendall(b"done")

    threading.Thread(target=serve, daemon=True).start()
    restarts: list[float] = []
    with DatabaseBefore(listening.getsockname()[1], lambda: restarts.append(time.monotonic())) as before:
        before.moment = moment
        with socket.create_connection(("127.0.0.1", before.port), timeout=5) as client:
            for word in (b"SELECT 1", b"COMMIT", b"INSERT INTO trials"):
                client.sendall(word)
                assert client.recv(10) == b"done"
            assert restarts == [], "a transaction that has only read is left alone"
            client.sendall(b"COMMIT")
            assert client.recv(10) == b"", "no answer comes through"
        until = time.monotonic() + 5
        while before.done < 1 and time.monotonic() < until:
            time.sleep(0.01)
    assert (before.done, len(restarts), before.moment) == (1, 1, None)
    assert received.count(b"COMMIT") == 1 + committed
    listening.close()


def test_another_host_has_a_name_a_clock_and_locks_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import fcntl, socket, sys, time; file = open(sys.argv[1], 'w');"
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print(socket.gethostname(), time.time())"
    )
    variables = {"OTHER_HOST_NAME": "elsewhere", "OTHER_HOST_CLOCK_SECONDS": "-3600"}
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": str(OTHER_HOST), **variables},
            capture_output=True,
            text=True,
            check=True,
        )
    name, at = done.stdout.split()
    assert name == "elsewhere" and abs(time.time() - 3600 - float(at)) < 60
