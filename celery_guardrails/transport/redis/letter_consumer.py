"""Taking letters from Redis for our own consumer: by script, and with a keeper that keeps them.

Owns the keeper's life, and which items of the quarantine belong to this consumer: it passes on the items that are not
messages. On other brokers it does nothing. It must not know what is consumed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from celery import Celery
from kombu import Connection

from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.install import take_safely
from celery_guardrails.transport.redis.keeper import Keeper

__all__ = ["Safekeeping", "Unreadable"]

Unreadable = Callable[[bytes, str, Callable[[], None]], None]
"""Called, from any thread, with an item that is not a message, its queue, and a function that removes the item. Call
that function only once the item is safe elsewhere."""


class Safekeeping:
    """What a consumer holds on Redis.

    Args:
        app: the application.
        queues: the names of the queues that it consumes.
        unreadable: takes items of these queues that are not messages; each item once between two calls of `forget`.
    """

    def __init__(self, app: Celery, queues: Iterable[str], unreadable: Unreadable) -> None:
        self._app = app
        self._queues = frozenset(queues)
        self._unreadable = unreadable
        self._custody = Custody(self._pass_on, who="this guardian")
        self._keeper: Keeper | None = None
        self._handed_on: set[str] = set()
        self._lock = threading.Lock()

    def prepare(self, connection: Connection) -> None:
        """Let a connection take by script if its broker is Redis; call it before the connection is open."""
        if take_safely(connection, self._custody) and self._keeper is None:
            self._keeper = Keeper(self._app, self._custody)
            self._keeper.start()

    def forget(self) -> None:
        """Pass the items that are still in the quarantine on once more."""
        with self._lock:
            self._handed_on.clear()

    def end(self) -> None:
        """End the keeper; the next connection starts another."""
        keeper, self._keeper = self._keeper, None
        self.forget()
        if keeper is not None:
            keeper.end()

    def _pass_on(self, item: bytes, queue: str, tag: str) -> bool:
        if queue not in self._queues:
            return False  # it belongs to a worker
        with self._lock:
            if tag in self._handed_on:
                return False
            self._handed_on.add(tag)
        self._unreadable(item, queue, lambda: self._remove(tag))
        return False

    def _remove(self, tag: str) -> None:
        if self._keeper is not None:
            self._keeper.forget(tag)
