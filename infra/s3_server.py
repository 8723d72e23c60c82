"""Moto's S3 server for tests, with writes of new objects one at a time: `python -P s3_server.py PORT`.

By itself Moto looks whether an object is there and then writes it, each request in a thread of its own. Of several
writers that ask for the object to be new (`If-None-Match: *`) two may be told that it is theirs; S3 never says so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, final

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@final
class OneNewObjectAtATime:
    """A WSGI application whose conditional writes wait for each other."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" not in environ or environ["REQUEST_METHOD"] != "PUT":
            return self._application(environ, start_response)
        with self._lock:
            return self._application(environ, start_response)


def main(port: int) -> None:
    """Serves on the loopback interface until the process is ended."""
    application = OneNewObjectAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
