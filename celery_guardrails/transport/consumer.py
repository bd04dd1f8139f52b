"""The dead-letter queues as the guardian sees them: batches of deliveries, acknowledged when the archive has them.

Owns consuming and acknowledging; the guardian decides what a delivery means. On Redis, `redis/letter_consumer.py` makes
sure that a letter never exists outside Redis alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AccessRefused, NotAllowed
from celery import Celery
from kombu import Connection, Consumer, Message, Queue

from celery_guardrails.errors import GuardrailsError
from celery_guardrails.transport.body import as_published
from celery_guardrails.transport.connection import connection_errors, opened
from celery_guardrails.transport.declare import declare
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.redis.letter_consumer import Safekeeping
from celery_guardrails.transport.right import refusal
from celery_guardrails.transport.routing import consumed_from

__all__ = ["ConsumerLost", "ConsumerRefused", "DeadLetterConsumer", "Delivery", "waiting"]


_REFUSALS = (AccessRefused, NotAllowed)
"""RabbitMQ's errors for a user without a right, or without a login."""


class ConsumerLost(GuardrailsError):
    """The connection to the broker broke; the broker delivers unacknowledged messages again."""


class ConsumerRefused(ConsumerLost):
    """The broker refuses this user a right that it needs; a further try succeeds once somebody has given the right."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message from a queue, not yet acknowledged. `body` is what was published, decompressed."""

    queue: str
    body: bytes
    content_type: str | None
    headers: Mapping[str, Any]
    message: Message | _Item

    def ack(self) -> None:
        """Acknowledge the message, so that it leaves the queue: call this only when the archive has it."""
        self.message.ack()


@dataclass(frozen=True, slots=True)
class _Item:
    """Stands for an item of a queue that is not a message."""

    ack: Callable[[], None]


class DeadLetterConsumer:
    """Receives batches from the dead-letter queues over one connection.

    Args:
        app: the application whose broker is used.
        queues: the queues to consume; they are declared.
        prefetch: how many deliveries may be unacknowledged at once. It grows by the deliveries given to `hold`.
    """

    def __init__(self, app: Celery, queues: Sequence[Queue], prefetch: int = 200) -> None:
        self._app = app
        self._queues = list(queues)
        self._prefetch = prefetch
        self._arrived: deque[Delivery] = deque()
        self._connection: Connection | None = None
        self._consumer: Consumer | None = None
        self._held = 0
        self._safekeeping = Safekeeping(app, [queue.name for queue in queues], self._set_aside)

    def receive(self, most: int, wait: float) -> list[Delivery]:
        """Up to `most` deliveries: whatever arrives within `wait` seconds, at once when enough is there.

        Raises:
            ConsumerLost: the broker cannot be reached.
        """
        with self._lost_if_broken():
            self._drain(self._connected(), time.monotonic() + wait, most)
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    def linger(self, seconds: float) -> None:
        """Keep the connection alive for a while: a broker closes a connection whose messages nobody reads.

        The next `receive` returns what arrives meanwhile, `prefetch` deliveries at most.

        Raises:
            ConsumerLost: the connection broke.
        """
        if self._connection is not None:
            with self._lost_if_broken():
                self._drain(self._connection, time.monotonic() + seconds, None)

    def finish(self) -> None:
        """Stop consuming; `receive` still returns what has arrived, without waiting.

        Raises:
            ConsumerLost: the connection broke.
        """
        if self._consumer is not None:
            with self._lost_if_broken():
                self._consumer.cancel()

    def waiting(self) -> int:
        """How many messages wait in the queues, without those that a consumer holds.

        Raises:
            ConsumerLost: the broker cannot be reached.
        """
        return waiting(self._app, [queue.name for queue in self._queues])

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries that the archive has.

        Raises:
            ConsumerLost: the connection broke before; the broker delivers them again, and the archive recognises them.
        """
        with self._lost_if_broken():
            for delivery in deliveries:
                delivery.ack()

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Keep deliveries unacknowledged until this consumer ends, and receive further ones.

        Raises:
            ConsumerLost: the connection broke.
        """
        self._held += len(deliveries)
        if self._consumer is None or not deliveries:
            return
        with self._lost_if_broken():
            # A consumer on RabbitMQ keeps the limit that its channel had when the consumer started, so start it again.
            # (A limit for the whole channel could be changed, but quorum queues do not support it.)
            self._consumer.cancel()
            self._consumer.qos(prefetch_count=self._prefetch + self._held)
            self._consumer.consume()

    def close(self) -> None:
        """Close the connection: unacknowledged messages go back to their queues."""
        self._drop()
        self._safekeeping.end()

    @contextmanager
    def _lost_if_broken(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            if not isinstance(exc, (*connection_errors(self._connection), *_REFUSALS)):
                raise
            self._drop()
            raise _lost(exc) from exc

    def _drain(self, connection: Connection, until: float, most: int | None) -> None:
        """Let messages arrive until an instant, or until so many have arrived."""
        while (left := until - time.monotonic()) > 0 and (most is None or len(self._arrived) < most):
            try:
                connection.drain_events(timeout=left)
            except TimeoutError:
                return

    def _drop(self) -> None:
        connection, self._connection, self._consumer = self._connection, None, None
        self._arrived.clear()
        self._safekeeping.forget()
        self._held = 0
        if connection is not None:
            try:
                connection.release()
            except Exception:  # noqa: BLE001 the connection is given up, even if its close fails
                return

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._connection = opened(self._app, prepare=self._safekeeping.prepare)
            on_rabbitmq = connection.transport.driver_type == "amqp"
            for queue in self._queues if on_rabbitmq else ():
                declare(connection, queue)
            channel = connection.channel()
            if on_rabbitmq:
                channel.auto_decode = False  # a body stays the bytes that were published, whatever encoding it claims
            consumer = Consumer(
                channel,
                self._queues,
                accept=None,
                on_message=self._arrive,
                # Without it kombu raises an error for a bad message: it would come again, and end us each time.
                on_decode_error=lambda message, exc: self._arrive(message),
                auto_declare=not on_rabbitmq,
            )
            consumer.qos(prefetch_count=self._prefetch)
            consumer.consume()
            self._consumer = consumer
        return self._connection

    def _set_aside(self, item: bytes, queue: str, forget: Callable[[], None]) -> None:
        self._arrived.append(Delivery(queue, item, None, {}, _Item(forget)))

    def _arrive(self, message: Message) -> None:
        """Note a message, whatever is in it: over a virtual transport any of its fields may hold anything."""
        if not isinstance(message.delivery_info, Mapping):
            message.delivery_info = {}  # its acknowledgement looks into it
        taken_from = consumed_from(message)
        self._arrived.append(
            Delivery(
                queue=taken_from or str(message.delivery_info.get("routing_key") or ""),
                body=as_published(message.body, message.content_encoding),
                content_type=message.content_type if isinstance(message.content_type, str) else None,
                headers=message.headers if isinstance(message.headers, Mapping) else {},
                message=message,
            )
        )


def _lost(exc: BaseException) -> ConsumerLost:
    return ConsumerRefused(refusal(exc)) if isinstance(exc, _REFUSALS) else ConsumerLost(refusal(exc))


def waiting(app: Celery, queues: Sequence[str]) -> int:
    """How many messages wait in these queues; a queue that does not exist counts as empty.

    Raises:
        ConsumerLost: the broker cannot be reached.
    """
    total = 0
    connection: Connection | None = None
    try:
        connection = opened(app, timeout=2.0)
        for name in queues:
            try:
                total += depth(connection, name) or 0
            except connection.channel_errors:
                continue  # this user may not read the queue
    except (*connection_errors(connection), *_REFUSALS) as exc:
        raise _lost(exc) from exc
    finally:
        if connection is not None:
            connection.release()
    return total
