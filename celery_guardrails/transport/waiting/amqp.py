"""Waiting on RabbitMQ: in kombu's 28 delay levels, queues that hold a message for 1, 2, 4, ... seconds each.

Owns the way there and the way back: the levels are declared once a process, the destination queue is bound to where
they end, and what is published is confirmed. It must not know what a message says.

A routing key there is the delay's 28 bits and one word that stands for the queue (`routing.delay_word`); the queue is
bound by exactly that, with `*` for the bits.
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
from celery_guardrails.transport.declare import declare
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.routing import (
    DELAY_EXCHANGE,
    came_from,
    delay_word,
    known_queue,
    queues_for,
    straight,
)
from celery_guardrails.transport.waiting.level import are_whole, binding_key, reaches
from celery_guardrails.transport.waiting.unlisted import Unlisted

__all__ = ["NativeDelay"]

logger = logging.getLogger("celery_guardrails.transport")

_LONGEST = 2**MAX_NUMBER_OF_BITS_TO_USE - 1
# Somebody may delete a queue and declare it anew, without our binding: it is seen to again after so many seconds.
_TRUSTED = 30.0
_REFUSED_FOR = 300.0
# Better so many seconds late than most of a second in a worker's memory.
_LATE = 0.05


class NativeDelay(Unlisted):
    """Publishes to the delay levels; whole seconds are spent there, and a worker sees to the rest of the last one.

    A message for a queue that cannot be reached so goes there at once and waits by its `eta`: a queue that lives only
    as long as its consumer (`Broadcast`, `auto_delete`, `exclusive`), one whose name is longer than 188 bytes, and an
    exchange of which the application knows no queue. The same goes for all where this user may not declare the levels,
    and where one of several quorum queues takes all of its topic exchange (`#`): Celery binds that to the levels.

    Args:
        app: the application whose queues are known.
        publisher: how to publish.
    """

    name = "RabbitMQ's delayed-delivery levels"
    outside = True

    def __init__(self, app: Celery, publisher: Publisher) -> None:
        self._app = app
        self._publisher = publisher
        # which brokers have the levels, and since when which channel has seen to which queue
        self._brokers: set[str] = set()
        self._ready: MutableMapping[Any, dict[str, float]] = WeakKeyDictionary()
        self._refused_until = 0.0

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Publish, so that it reaches its queue `delay` seconds from now: 28 bits of seconds (8.5 years) at most.

        To several queues behind one exchange it goes one by one.

        Raises:
            PublishError: the broker did not confirm it in time, or has not got the queue (`.refused`).
        """
        seconds = min(int(delay + _LATE), _LONGEST)
        queues = self._destinations(envelope, declare) if seconds >= 1 else []
        if not queues or time.monotonic() < self._refused_until:
            self._publisher.publish(envelope, declare)
            return
        for queue in queues:
            self._delay(straight(envelope, queue.name), queue, seconds)

    def prepare(self, channel: Any, queue: Queue, afresh: bool) -> None:
        """See that the levels are there and lead to a queue.

        Args:
            channel: a channel of the connection on which will be published.
            queue: the destination; one without a declaration of the application's is only looked for.
            afresh: whatever was seen to before is not to be trusted, since a publish failed.
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
        """Declare all levels as configured; those that exist, and may not be declared so, are used as they are."""
        configured = self._app.conf.get("broker_native_delayed_delivery_queue_type")
        first = configured if configured in ("classic", "quorum") else "quorum"
        refused: Exception | None = None
        for kind in (first, "classic" if first == "quorum" else "quorum"):
            channel = client.channel()
            try:
                declare_native_delayed_delivery_exchanges_and_queues(SimpleNamespace(channel=lambda c=channel: c), kind)
            except PreconditionFailed as exc:
                refused = exc  # which has closed the channel
            except AccessRefused as exc:
                if are_whole(client):
                    return
                refused = exc
            else:
                channel.close()
                return
        raise _LevelsRefused(str(refused)) from refused

    def _destinations(self, envelope: Envelope, declare: Sequence[Queue]) -> list[Queue]:
        """The queues behind an envelope's address; none where one of them cannot be reached by the levels."""
        origin = came_from(self._app, envelope.exchange, envelope.routing_key)
        if origin.queue is not None and not origin.exchange:
            name = origin.queue
            given = next((queue for queue in declare if isinstance(queue, Queue) and queue.name == name), None)
            found = [given or known_queue(self._app, name) or Queue(name)]
        else:
            found = queues_for(self._app, origin.exchange, origin.routing_key)
        return found if all(reaches(self._app, queue) for queue in found) else []


class _LevelsRefused(PreconditionFailed):  # type: ignore[misc]
    """RabbitMQ will not have the levels declared, in neither queue type. Final for the publisher, like its base."""


class _Prepared:
    """What a delayed message needs, in the form of what a producer declares before it publishes."""

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
