"""Waiting on RabbitMQ: in kombu's 28 delay levels, queues that hold a message for 1, 2, 4, ... seconds each.

Owns the way there and the way back: the levels are declared once a process, the destination queue is bound to the
exchange behind them, and each publish is confirmed. It must not know what is in a message.

A routing key in the levels is the delay's 28 bits and one word that stands for the queue (`routing.delay_word`). The
queue is bound with the same word, and with `*` for each bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from amqp.exceptions import AccessRefused, PreconditionFailed
from celery import Celery
from kombu import Queue
from kombu.transport.native_delayed_delivery import (
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.connection import opened
from celery_guardrails.transport.declare import declare
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.right import refusal
from celery_guardrails.transport.routing import (
    DELAY_EXCHANGE,
    came_from,
    delay_word,
    known_queue,
    queues_for,
    straight,
)
from celery_guardrails.transport.waiting.level import are_whole, binding_key, number_in, reaches
from celery_guardrails.transport.waiting.unlisted import Unlisted

__all__ = ["NativeDelay"]

logger = logging.getLogger("celery_guardrails.transport")

_LONGEST = 2**MAX_NUMBER_OF_BITS_TO_USE - 1
# Somebody may delete a queue and declare it again, without our binding: the binding is renewed after so many seconds.
_TRUSTED = 30.0
_REFUSED_FOR = 300.0
# A message is better late by so many seconds than most of a second in a worker's memory.
_LATE = 0.05
_ANSWER = 2.0


class NativeDelay(Unlisted):
    """Publishes to the delay levels. A message waits there for whole seconds, and in a worker for the last fraction.

    The levels cannot reach every queue: not a queue that lives only as long as its consumer (`Broadcast`,
    `auto_delete`, `exclusive`), not a queue whose name is longer than 188 bytes, and not an exchange of which the
    application knows no queue. A message for these is published to its queue at once, and waits by its `eta`. All
    messages do so if this user may not declare the levels, or if one of several quorum queues takes everything from its
    topic exchange (`#`): Celery binds that to the levels.

    Args:
        app: the application whose queues are known.
        publisher: how to publish.
    """

    name = "RabbitMQ's delayed-delivery levels"
    outside = True

    def __init__(self, app: Celery, publisher: Publisher) -> None:
        self._app = app
        self._publisher = publisher
        # the brokers that have the levels; and for each channel, when it has last bound which queue
        self._brokers: set[str] = set()
        self._ready: MutableMapping[Any, dict[str, float]] = WeakKeyDictionary()
        self._refused_until = 0.0

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Publish, so that it reaches its queue `delay` seconds from now: 28 bits of seconds (8.5 years) at most.

        If several queues are behind one exchange, each gets a message of its own.

        Raises:
            PublishError: the broker did not confirm the message in time, or does not have the queue (`.refused`).
        """
        seconds = min(int(delay + _LATE), _LONGEST)
        queues = self._destinations(envelope, declare) if seconds >= 1 else []
        if not queues or time.monotonic() < self._refused_until:
            self._publisher.publish(envelope, declare)
            return
        for queue in queues:
            self._delay(straight(envelope, queue.name), queue, seconds)

    def count(self) -> int:
        """How many messages are in the levels: those of other applications on this virtual host, too.

        Raises:
            PublishError: the broker cannot be reached.
        """
        try:
            with opened(self._app, timeout=_ANSWER) as connection:
                return number_in(connection)
        except Exception as exc:
            raise PublishError("the delay levels", refusal(exc)) from exc

    def prepare(self, channel: Any, queue: Queue, afresh: bool) -> None:
        """Make sure that the levels exist and that the queue is bound to them.

        Args:
            channel: a channel of the connection for the publish.
            queue: the destination. A queue that the application does not declare must exist already.
            afresh: whether to declare and bind again, because a publish failed.
        """
        client = channel.connection.client
        broker = f"{client.host}/{client.virtual_host}"
        if afresh or broker not in self._brokers:
            self._declare_levels(client)
            self._brokers.add(broker)
        ready = self._ready.setdefault(channel, {})
        if afresh or time.monotonic() - ready.get(queue.name, -_TRUSTED) >= _TRUSTED:
            if known_queue(self._app, queue.name) is None:
                channel.queue_declare(queue=queue.name, passive=True)
            else:
                declare(client, queue)
            try:
                channel.queue_bind(queue=queue.name, exchange=DELAY_EXCHANGE, routing_key=binding_key(queue.name))
            except AccessRefused as exc:
                raise _LevelsRefused(str(exc)) from exc
            ready[queue.name] = time.monotonic()

    def _delay(self, envelope: Envelope, queue: Queue, seconds: int) -> None:
        key = calculate_routing_key(seconds, delay_word(queue.name))
        # At the level of the highest bit: above it the broker would only walk through exchanges, at some cost.
        delayed = replace(envelope, exchange=level_name(seconds.bit_length() - 1), routing_key=key)
        try:
            self._publisher.publish(delayed, [_Prepared(self, queue)])
        except PublishError as lost:
            if not isinstance(lost.__cause__, _LevelsRefused):
                raise PublishError(queue.name, lost.reason, lost.refused, lost.unsure) from lost
            logger.warning("retries wait in the memory of workers for now: %s", lost.reason)
            self._refused_until = time.monotonic() + _REFUSED_FOR
            self._publisher.publish(envelope, [queue] if known_queue(self._app, queue.name) else [])

    def _declare_levels(self, client: Any) -> None:
        """Declare all levels as configured, or with the other queue type; existing levels may be used as they are."""
        configured = self._app.conf.get("broker_native_delayed_delivery_queue_type")
        first = configured if configured in ("classic", "quorum") else "quorum"
        refused: Exception | None = None
        for kind in (first, "classic" if first == "quorum" else "quorum"):
            channel = client.channel()
            try:
                declare_native_delayed_delivery_exchanges_and_queues(SimpleNamespace(channel=lambda c=channel: c), kind)
            except PreconditionFailed as exc:
                refused = exc  # the error has closed the channel
            except AccessRefused as exc:
                if are_whole(client):
                    return
                refused = exc
            else:
                channel.close()
                return
        raise _LevelsRefused(str(refused)) from refused

    def _destinations(self, envelope: Envelope, declare: Sequence[Queue]) -> list[Queue]:
        """The queues behind an envelope's address; an empty list if the levels cannot reach one of them."""
        origin = came_from(self._app, envelope.exchange, envelope.routing_key)
        if origin.queue is not None and not origin.exchange:
            name = origin.queue
            given = next((queue for queue in declare if isinstance(queue, Queue) and queue.name == name), None)
            found = [given or known_queue(self._app, name) or Queue(name)]
        else:
            found = queues_for(self._app, origin.exchange, origin.routing_key)
        return found if all(reaches(self._app, queue) for queue in found) else []


class _LevelsRefused(PreconditionFailed):  # type: ignore[misc]
    """RabbitMQ refuses the declaration of the levels in both queue types. Final for the publisher, like its base."""


class _Prepared:
    """What a delayed message needs, in the form of a queue that a producer declares before it publishes."""

    is_bound = True
    can_cache_declaration = False

    def __init__(self, waiting: NativeDelay, queue: Queue) -> None:
        self.name = queue.name
        self._waiting, self._queue = waiting, queue
        self._tries = 0

    def declare(self, channel: Any = None, **_: Any) -> None:
        """Called by the producer, again after each try that failed."""
        self._tries += 1
        self._waiting.prepare(channel, self._queue, afresh=self._tries > 1)
