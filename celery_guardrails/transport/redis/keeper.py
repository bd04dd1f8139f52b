"""The thread that keeps, on Redis, what a process has taken, and gives back what nobody holds any more.

A thread, and not an event loop's timer, because a message must be kept while a solo pool's task runs, while a worker
that shuts down waits for its tasks, and while a guardian waits for its archive. It ends with the process, and sleeps
while the process is stopped, so that others then get what it held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_guardrails.transport.redis.custody import Custody

__all__ = ["Keeper"]

logger = logging.getLogger("celery_guardrails.transport")

_LONGEST_LEASE, _SHORTEST_ROUND, _LONGEST_ROUND = 30.0, 0.5, 10.0
_ANSWER = 2.0
"""Seconds for one answer of Redis: nobody waits for it, and what fails is tried again."""


class Keeper(threading.Thread):
    """Keeps what a worker holds, and gives back what nobody holds any more.

    Every third of the visibility timeout (at most every 30 s) it says of each message that the worker has taken that
    it is still held. As often, but at least every 10 s and at most every 0.5 s, it puts back what other workers have
    not said so of for the whole timeout, what was taken without an answer, and hands on what is in quarantine.

    Args:
        app: the application.
        custody: what the worker holds.
        read: the broker that is read from, where it is another one than the one that is written to.

    Attributes:
        custody: the same.
    """

    def __init__(self, app: Celery, custody: Custody, read: bool = False) -> None:
        from celery_guardrails.transport.redis.client import Line

        super().__init__(name="guardrails-redis-keeper", daemon=True)
        self.custody = custody
        self._line = Line(app, _ANSWER, read=read)
        self._ended = threading.Event()
        self._failing: set[str] = set()

    def run(self) -> None:
        """Work until the end; never raises."""
        from celery_guardrails.transport.redis import keeping

        duties: list[tuple[str, Callable[[Any, Any, Custody], None], float]] = [
            ("lease", keeping.lease, _LONGEST_LEASE),
            ("restore", keeping.restore, _LONGEST_ROUND),
        ]
        due = {name: 0.0 for name, _, _ in duties}
        while not self._ended.is_set():
            for name, duty, longest in duties:
                if time.monotonic() >= due[name]:
                    third = self._do(name, duty)
                    shortest = 0.0 if name == "lease" else _SHORTEST_ROUND
                    due[name] = time.monotonic() + max(0.1, shortest, min(third, longest))
            self._ended.wait(max(0.01, min(due.values()) - time.monotonic()))
        self._do("return", keeping.leave)
        self._line.close()

    def end(self, bound: float = 1.0) -> None:
        """Ask it to end, and wait for `bound` seconds at most."""
        self._ended.set()
        if self.is_alive():
            self.join(bound)

    def forget(self, tag: str) -> None:
        """Remove an item from the quarantine: it is safe elsewhere.

        Raises:
            redis.exceptions.RedisError: the server cannot be reached, or refuses.
        """
        from celery_guardrails.transport.redis.restore import quarantine_key

        self._line.once(lambda channel, client: client.execute_command("HDEL", quarantine_key(channel), tag))

    def _do(self, name: str, duty: Callable[[Any, Any, Custody], None]) -> float:
        """Do one thing; gives a third of the visibility timeout, or a second after a failure."""

        def act(channel: Any, client: Any) -> float:
            duty(channel, client, self.custody)
            return float(channel.visibility_timeout) / 3

        try:
            third = self._line.once(act)
        except Exception:
            if name not in self._failing:
                self._failing.add(name)
                logger.warning("Redis (%s) did not answer, and is asked again", name, exc_info=True)
            return 1.0
        self._failing.discard(name)
        return third
