"""A small threaded HTTP server on the loopback interface, for stand-ins. Knows nothing of what they stand for."""

from __future__ import annotations

import json
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["Answer", "LocalServer", "Request"]

_LONGEST_BODY = 50 * 1024 * 1024
_S = TypeVar("_S", bound="LocalServer")


@dataclass(frozen=True)
class Request:
    """One request as it came in; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to answer. `drop` closes the connection without a word instead; `after` seconds pass before either."""

    status: int = 200
    body: bytes | str | dict[str, Any] | list[Any] = ""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    after: float = 0.0


class LocalServer:
    """Answer HTTP requests on 127.0.0.1 from a thread of its own; a context manager that stops it.

    Args:
        port: where to listen; 0 takes a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._stopping = threading.Event()
        self._server = _Server(self, port)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name=type(self).__name__, daemon=True
        )

    def answer(self, request: Request) -> Answer:
        """What to answer to one request; called from many threads at once."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self: _S) -> _S:
        """Listen."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and let the requests under way end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self: _S) -> _S:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    # Joined by server_close(), so that no test leaves a thread or a socket behind.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, owner: LocalServer, port: int) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is what these servers are for.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), _LONGEST_BODY)
        self._respond(self.rfile.read(length))

    def do_GET(self) -> None:
        self._respond(b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _respond(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.answer(Request(self.command, self.path, headers, body))
        if answer.after:
            self.server.owner._stopping.wait(answer.after)
        self.close_connection = True
        if answer.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content, kind = answer.body, "text/html"
        if isinstance(content, (dict, list)):
            content, kind = json.dumps(content), "application/json; charset=utf-8"
        data = content.encode() if isinstance(content, str) else content
        self.send_response(answer.status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
