"""Marks in the broker that say: this suspect began to run. A redelivered message with a mark has lost its worker.

A mark is a queue of its own with one small message: every broker keeps that, it outlives the worker, and other machines
can see it. Only work that is suspected of killing its worker gets a mark, while it runs. Owns the marks' names and
life; it must not know tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID, uuid5

from celery import Celery
from kombu import Connection, Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.connection import give_up, opened
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.publisher import Envelope, Publisher

__all__ = ["StartedMarks", "mark_name", "mark_prefix"]

_T = TypeVar("_T")

_NAMESPACE = UUID("2f1c2c1e-54a5-5a5f-9d1c-0c6b0a4f7d52")
# RabbitMQ removes the mark of a lost worker after a week; on other brokers the mark stays: one small key.
_EXPIRES = 7 * 24 * 3600


class _Mark(Queue):  # type: ignore[misc]
    """A queue that is used once. Each has a name of its own: a connection that remembered them would only grow."""

    can_cache_declaration = False


def mark_name(queue: str, execution: str) -> str:
    """The name of the mark of one execution; it begins with the name of the dead-letter queue, `queue`."""
    return f"{mark_prefix(queue)}{uuid5(_NAMESPACE, execution)}"


def mark_prefix(queue: str) -> str:
    """The beginning of the names of all marks; `queue` is the dead-letter queue."""
    return f"{queue}.started."


class StartedMarks:
    """Sets, finds and removes marks. Safe between threads.

    Args:
        app: whose broker.
        publisher: publishes them, confirmed.
        timeout: seconds for each answer of the broker.
    """

    def __init__(self, app: Celery, publisher: Publisher, timeout: float = 4.0) -> None:
        self._app = app
        self._publisher = publisher
        self._timeout = timeout
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def put(self, name: str) -> None:
        """Set a mark.

        Raises:
            PublishError: the broker did not confirm it.
        """
        self._publisher.publish(Envelope(b"1", name), [_Mark(name, routing_key=name, durable=True, expires=_EXPIRES)])

    def has(self, name: str) -> bool:
        """Whether the mark exists.

        Raises:
            PublishError: the broker does not answer.
        """

        return self._ask(name, lambda connection: depth(connection, name) is not None)

    def remove(self, name: str) -> None:
        """Remove the mark, if it exists.

        Raises:
            PublishError: the broker did not remove it.
        """

        def delete(connection: Connection) -> None:
            with connection.channel() as channel:
                if connection.transport.driver_type == "amqp":
                    channel.queue_delete(name)
                else:
                    channel.queue_purge(name)  # kombu's own transports only delete what this connection has bound

        self._ask(name, delete)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _ask(self, name: str, question: Callable[[Connection], _T]) -> _T:
        with self._lock:
            while True:
                reused = self._connection is not None
                try:
                    if self._connection is None:
                        self._connection = opened(self._app, timeout=self._timeout)
                    return question(self._connection)
                except Exception as exc:
                    self._drop()
                    if not reused:  # the broker may only have closed an older connection
                        raise PublishError(name, f"{type(exc).__name__}: {exc}") from exc

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            give_up(connection)
