"""A web server on the loopback interface that keeps what it gets, and answers as it is told."""

from __future__ import annotations

import json
import threading
from typing import Any

from celery_guardrails.testing.server import Answer, LocalServer, Request

__all__ = ["Web"]


class Web(LocalServer):
    """Keeps each request; answers with `status`, or drops the connection.

    Attributes:
        requests: what has come so far.
        answer_with: how to answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.answer_with = Answer()
        self._arrived = threading.Condition()

    @property
    def apprise_url(self) -> str:
        """An apprise URL that posts JSON here, with a password in it."""
        return f"json://ada:hunter2xyz@127.0.0.1:{self.port}/t0ken"

    @property
    def posted(self) -> list[dict[str, Any]]:
        """The JSON that was posted."""
        return [json.loads(each.body) for each in self.requests if each.method == "POST"]

    def answer(self, request: Request) -> Answer:
        """Keep it."""
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
            return self.answer_with

    def wait_for(self, count: int, seconds: float) -> int:
        """How many requests there are, once there are `count`, or after `seconds`."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.requests) >= count, seconds)
            return len(self.requests)
