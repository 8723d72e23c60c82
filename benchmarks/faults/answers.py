"""Servers before servers, for faults that come as an answer, or in the middle of a transaction."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

_PAGE = b"<html><head><title>Error</title></head><body><h1>The service is not available</h1></body></html>\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered in the place of the server's own answer."""

    status: int
    """0: nothing, ever."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = _PAGE


HTML = {"Content-Type": "text/html"}
ANSWERS: Mapping[str, Answer] = {
    "HTML, status 200": Answer(status=200, headers=HTML),
    "HTML, status 502": Answer(status=502, headers=HTML),
    "429": Answer(status=429, body=b""),
    "429, Retry-After: 5": Answer(status=429, headers={"Retry-After": "5"}, body=b""),
    "429, Retry-After: 3600": Answer(status=429, headers={"Retry-After": "3600"}, body=b""),
    "nothing: it accepts and is silent": Answer(status=0),
}


@final
class HttpBefore:
    """Passes requests on to a port of this machine; while `answer` is set, gives that.

    Attributes:
        answered: requests that got `answer`.
    """

    def __init__(self, target: int) -> None:
        self.answer: Answer | None = None
        self.answered = 0
        self._target = target
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> HttpBefore:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.answer = None
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        before = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):  # who asked has given up
                    super().handle_one_request()

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = before.answer
                if answer is None:
                    self._pass_on(body)
                    return
                before.answered += 1
                if answer.status == 0:
                    while before.answer is answer:
                        time.sleep(0.1)
                    self.close_connection = True
                    return
                self._send(answer.status, answer.headers, answer.body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any

            def _pass_on(self, body: bytes) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", before._target, timeout=120)
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body, dict(self.headers))
                    found = connection.getresponse()
                    kept = {
                        name: value
                        for name, value in found.getheaders()
                        if name.lower() not in ("transfer-encoding", "content-length", "connection")
                    }
                    self._send(found.status, kept, found.read())

            def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                return

        return Handler


@final
class DatabaseBefore:
    """Passes connections on to PostgreSQL on this machine, and lets `restart` happen inside of a transaction.

    A transaction that has written is about to end when its client sends COMMIT. With `moment` "before", the server
    restarts and never sees that COMMIT: what was written is gone. With "after" it sees it, and restarts before its
    answer comes through: what was written is there, and its writer cannot know.

    Attributes:
        moment: what is done to the next such transaction; None: nothing. None again once it is done.
        done: restarts so far.
    """

    def __init__(self, target: int, restart: Callable[[], None]) -> None:
        self.moment: str | None = None
        self.done = 0
        self._target, self._restart = target, restart
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> DatabaseBefore:
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
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server_at = ("127.0.0.1", self._target)
        with contextlib.suppress(OSError), client, socket.create_connection(server_at) as server:
            threading.Thread(target=_copy, args=(server, client), daemon=True).start()
            has_written = False
            for chunk in _chunks(client):
                has_written |= any(word in chunk for word in (b"INSERT INTO", b"UPDATE "))
                is_end = b"COMMIT" in chunk
                if is_end and has_written and (moment := self._take_moment()) is not None:
                    self._end_badly(moment, chunk, client, server)
                    return
                has_written = has_written and not is_end and b"ROLLBACK" not in chunk
                server.sendall(chunk)

    def _take_moment(self) -> str | None:
        with self._lock:
            moment, self.moment = self.moment, None
            return moment

    def _end_badly(self, moment: str, chunk: bytes, client: socket.socket, server: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)  # no answer reaches it any more
        if moment == "after":
            server.sendall(chunk)
            time.sleep(0.5)
        self._restart()
        self.done += 1


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while chunk := source.recv(65536):
        yield chunk


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for chunk in _chunks(source):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
