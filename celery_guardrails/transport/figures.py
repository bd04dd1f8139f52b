"""The queue on which workers send their figures to the guardian: bounded, and what nobody reads expires.

Owns its name, its declaration, and publishing to it: without confirmation, within a second, never in a task's way.
RabbitMQ and Redis bound such a queue by themselves. On a database (SQLAlchemy's transport), which is for trying things
out, a full queue takes no more. Other brokers carry no figures. A guardian reads the queue as it reads dead letters
(`consumer.py`). It must not know what the figures say.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu import Connection, Producer, Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.connection import give_up, opened
from celery_guardrails.transport.declare import declare
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.right import refusal

__all__ = [
    "FIGURES_ARGUMENTS",
    "MOST",
    "Backlog",
    "FiguresSender",
    "carries_figures",
    "declared_figures_queue",
    "figures_queue",
]

_CARRIERS = ("amqp", "redis", "sql")
MOST, _SECONDS, _MOST_BYTES = 10_000, 3600, 64 * 2**20
_TIMEOUT = 1.0

FIGURES_ARGUMENTS = {
    "x-max-length": MOST,
    "x-max-length-bytes": _MOST_BYTES,
    "x-overflow": "drop-head",
    "x-message-ttl": _SECONDS * 1000,
}
"""The queue's arguments on RabbitMQ: the latest 10,000 messages, 64 MiB of them at most, for an hour."""


def figures_queue(dead_letter_queue: str) -> str:
    """The name of the queue for figures, from that of the application's own dead-letter queue."""
    return f"{dead_letter_queue}.figures"


def declared_figures_queue(dead_letter_queue: str) -> Queue:
    """The queue for figures, as both sides declare it.

    Read it over a connection of its own: a user without the right to this queue must still get the dead letters.
    """
    name = figures_queue(dead_letter_queue)
    return Queue(name, routing_key=name, durable=True, queue_arguments=dict(FIGURES_ARGUMENTS))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sender sees of the queue after it has sent: how many messages wait, and how many consumers it has.

    `consumers` is `None` on Redis, which does not know them.
    """

    messages: int
    consumers: int | None = None


def carries_figures(app: Celery) -> bool:
    """Whether the application's broker carries figures; `False` for a broker whose URL cannot be read."""
    try:
        with app.connection_for_write() as connection:
            return connection.get_transport_cls().driver_type in _CARRIERS
    except Exception:  # noqa: BLE001 a wrong broker URL: whoever needs the connection raises the error
        return False


class FiguresSender:
    """Publishes figures over a connection of its own. For one thread.

    Args:
        app: the application whose broker is used.
        dead_letter_queue: the application's own dead-letter queue.
        timeout: seconds to connect, and to wait for an answer.

    Attributes:
        timeout: as given; a change counts for the next connection.
        backlog: the queue after the last message was sent; `None`: the broker has not said.
    """

    def __init__(self, app: Celery, dead_letter_queue: str, timeout: float = _TIMEOUT) -> None:
        self._app = app
        self._queue = declared_figures_queue(dead_letter_queue)
        self.timeout = timeout
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._asks = True
        self.backlog: Backlog | None = None

    def send(self, body: bytes) -> bool:
        """Publish one message, without waiting for a confirmation.

        Returns:
            `False`: this broker cannot bound a queue, so nothing was published.

        Raises:
            PublishError: the broker did not take it. The connection is given up; the next call opens another.
        """
        self.backlog = None
        try:
            connection = self._connected()
            kind = connection.transport.driver_type
            if kind not in _CARRIERS:
                return False
            if kind != "sql" or not self._is_full(connection):
                self._publish(connection, body, kind)
        except Exception as exc:
            self.close()
            raise PublishError(self._queue.name, refusal(exc)) from exc
        if kind == "amqp" and self._asks:
            self._ask(connection)
        return True

    def _ask(self, connection: Connection) -> None:
        """Ask RabbitMQ for the queue's messages and consumers: one round trip on a channel of its own."""
        try:
            with connection.channel() as channel:
                found = channel.queue_declare(self._queue.name, passive=True)
                self.backlog = Backlog(int(found.message_count), int(found.consumer_count))
        except connection.channel_errors:
            self._asks = False  # this user may not ask
            self.close()
        except Exception:  # noqa: BLE001 the figures are sent; the next ones open another connection
            self.close()

    def close(self) -> None:
        """Close the connection; never raises."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            give_up(connection)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = opened(self._app, timeout=self.timeout)
        return self._connection

    def _publish(self, connection: Connection, body: bytes, kind: str) -> None:
        if self._producer is None:
            if kind == "amqp":
                declare(connection, self._queue)
            self._producer = Producer(connection.channel(), auto_declare=False)
        self._producer.publish(
            body,
            exchange="",
            routing_key=self._queue.name,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=1,
        )
        if kind == "redis":
            self.backlog = Backlog(_bound(self._producer.channel, self._queue.name))

    def _is_full(self, connection: Connection) -> bool:
        return (depth(connection, self._queue.name) or 0) >= MOST


def _bound(channel: Any, queue: str) -> int:
    """Drop the oldest messages of a list on Redis beyond the latest 10,000, and have all expire after an hour.

    Returns how many are left.

    Only EXPIRE is a command that guardrails uses nowhere else. A user who may not run it has a list without expiry.
    """
    from redis import Redis  # an extra
    from redis.exceptions import NoPermissionError

    key = f"{channel.global_keyprefix}{queue}"
    client = Redis(connection_pool=channel.pool)  # kombu's own puts the prefix before some keys only
    length = int(client.llen(key))
    if (surplus := length - MOST) > 0:
        client.rpop(key, surplus)
    with suppress(NoPermissionError):
        client.expire(key, _SECONDS)
    return min(length, MOST)
