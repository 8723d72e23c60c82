"""A server in whose place something else answers: its store cannot be opened, which is told at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from paretovid.platform.storage.home import Home
from paretovid.platform.tracking.store import StoreError, open_store

Answers = Callable[[int, Mapping[str, str], bytes], str]


@pytest.fixture
def answers() -> Iterator[Answers]:
    """Starts a server that answers every request with a status, headers and a text. Gives its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, headers: Mapping[str, str], body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _any

            def log_message(self, format: str, *arguments: object) -> None:
                return

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"Content-Type": "text/html"}, b"<html><body>The service is not available</body></html>"),
        (429, {}, b""),
        (429, {"Retry-After": "20"}, b""),
        (503, {"Retry-After": "20"}, b""),
    ],
)
def test_nobody_is_kept_waiting_by_an_answer_that_is_not_mlflows(
    answers: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
) -> None:
    """A server may say "after an hour": MLflow's client would sleep that hour, in the middle of a command."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    uri = answers(status, headers, body)
    began = time.monotonic()
    with pytest.raises(StoreError, match=f"the MLflow store at {uri} cannot be used"):
        open_store(Home(tmp_path), uri)
    assert time.monotonic() - began < 15
