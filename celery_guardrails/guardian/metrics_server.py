"""`/metrics` and `/healthz`, served by a thread of the guardian.

Owns the listening socket and what is answered. An answer never waits for the guardian's loop, and a slow client keeps
nobody else waiting.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from celery_guardrails.errors import ConfigurationError, Fault, StoreError
from celery_guardrails.guardian.metrics import GuardianMetrics, Sources
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import lease

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

__all__ = ["MetricsServer"]

_KEPT = 10.0
"""Seconds for which an answer is given again: however many scrape, the archive is read once in that time."""
_CLIENT_TIMEOUT = 10.0
_ERRORS = {
    errno.EADDRINUSE: "is in use by another process",
    errno.EACCES: "may not be used by this user",
    errno.EADDRNOTAVAIL: "cannot be used: this machine does not have the address",
}


class MetricsServer:
    """Serves metrics and the guardian's health until it is closed.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        sources: what metrics and health are read from.

    Attributes:
        port: the port on which it listens.

    Raises:
        ConfigurationError: nothing can listen there; the error says why.
    """

    def __init__(self, host: str, port: int, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry()
        self._registry.register(GuardianMetrics(sources))
        self._reading = threading.Lock()
        self._text, self._read_at = b"", -_KEPT
        self._server = _listening(host, port)
        self._server.set_app(self._answer)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="guardrails-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answers = {"/metrics": self._metrics, "/healthz": self._healthz}
        answer = answers.get(environ.get("PATH_INFO", ""))
        if answer is None:
            status, kind, body = "404 Not Found", "text/plain; charset=utf-8", b"see /metrics and /healthz\n"
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain; charset=utf-8", b"only GET and HEAD\n"
        else:
            status, kind, body = answer()
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _metrics(self) -> tuple[str, str, bytes]:
        with self._reading:
            if time.monotonic() - self._read_at >= _KEPT:
                # always in the classic format: in OpenMetrics a gauge and a counter may not share their name
                self._text = generate_latest(self._registry)
                self._read_at = time.monotonic()
            return "200 OK", CONTENT_TYPE_LATEST, self._text

    def _healthz(self) -> tuple[str, str, bytes]:
        now = self._sources.now()
        problems = self._sources.health.problems()
        try:
            with self._sources.store.read() as conn:
                lease.guardians(conn, seen_since=now)
        except StoreError as exc:
            problems["the archive"] = str(exc)
        body = {
            "status": "unwell" if problems else "well",
            "lag_seconds": round(self._sources.health.lag().total_seconds(), 1),
            "problems": {what: shown(words) for what, words in problems.items()},
        }
        status = "503 Service Unavailable" if problems else "200 OK"
        return status, "application/json", json.dumps(body).encode() + b"\n"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking for this machine's name, which may take many seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the client went away."""


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape is not worth a line."""


def _listening(host: str, port: int) -> _Server:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        kind: Callable[..., _Server] = type("_Bound", (_Server,), {"address_family": family})
        return kind(address[:2], _Handler)
    except OSError as exc:
        if isinstance(exc, socket.gaierror):
            fault = Fault("metrics.host", repr(host), "is not an address of this machine", None, 'write "127.0.0.1"')
        else:
            words = _ERRORS.get(exc.errno or 0, f"cannot be used: {exc.strerror or exc}")
            hint = "each guardian of a machine needs a port of its own; without metrics.port nothing listens"
            fault = Fault("metrics.port", str(port), f"{words} (host {host})", None, hint)
        raise ConfigurationError([fault]) from exc
