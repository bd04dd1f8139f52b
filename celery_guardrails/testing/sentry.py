"""A local stand-in for Sentry's envelope endpoint: keeps the events that an SDK sends."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from typing import Any

from celery_guardrails.testing.server import Answer, LocalServer, Request

__all__ = ["SentryStandIn"]


class SentryStandIn(LocalServer):
    """Sentry on 127.0.0.1, as a context manager. Initialise the SDK with its `dsn`.

    Args:
        port: where to listen; 0 takes a free one.

    Attributes:
        events: the error events, oldest first.
        envelopes: every item that arrived, as its type and its content, oldest first.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.events: list[dict[str, Any]] = []
        self.envelopes: list[tuple[str, Any]] = []
        self._arrived = threading.Condition()

    @property
    def dsn(self) -> str:
        """What to give to `sentry_sdk.init`."""
        return f"http://public@127.0.0.1:{self.port}/1"

    def wait_for(self, count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
        """The events, once there are at least `count`, or after `timeout` seconds however many there are."""
        end = time.monotonic() + timeout
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.events) >= count, max(0.0, end - time.monotonic()))
            return list(self.events)

    def answer(self, request: Request) -> Answer:
        """Take an envelope."""
        if request.method == "GET":
            with self._arrived:
                return Answer(body=list(self.events))
        try:
            items = parse_envelope(_decoded(request))
        except (ValueError, OSError, zlib.error) as error:
            return Answer(400, {"detail": f"bad envelope: {error}"})
        with self._arrived:
            self.envelopes += items
            self.events += [content for kind, content in items if kind == "event"]
            self._arrived.notify_all()
        return Answer(body={"id": "standin"})


def parse_envelope(data: bytes) -> list[tuple[str, Any]]:
    """The items of an envelope: their type, and their content (JSON where it is JSON, else bytes).

    Raises:
        ValueError: it is not an envelope.
    """
    _, _, rest = data.partition(b"\n")
    json.loads(data.partition(b"\n")[0])
    items: list[tuple[str, Any]] = []
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        if not line.strip():
            continue
        header = json.loads(line)
        # Without a length the content ends with its line.
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        content, rest = rest[:length], rest[length:]
        try:
            items.append((str(header.get("type")), json.loads(content)))
        except ValueError:
            items.append((str(header.get("type")), content))
    return items


def _decoded(request: Request) -> bytes:
    encoding = request.headers.get("content-encoding", "")
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "deflate":
        return zlib.decompress(request.body)
    if encoding:
        raise ValueError(f"unsupported encoding {encoding}")
    return request.body
