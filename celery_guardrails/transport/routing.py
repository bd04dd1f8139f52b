"""Where a message came from and how to send one there again.

Owns the step from exchange and routing key to a queue, which each transport needs in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu import Queue

from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.publisher import Envelope

__all__ = ["address", "is_amqp", "queue_name", "queues_for"]


def queue_name(app: Celery, exchange: str, routing_key: str) -> str:
    """The queue from which a message with this delivery information came, as far as the application knows."""
    if not exchange:
        return routing_key
    found = queues_for(app, exchange, routing_key)
    if not found:
        known: Mapping[str, Any] = app.amqp.queues
        found = [queue for queue in known.values() if queue.exchange is not None and queue.exchange.name == exchange]
        if len(found) != 1:
            return routing_key
    return str(found[0].name)


def queues_for(app: Celery, exchange: str, routing_key: str) -> list[Queue]:
    """The application's queues that a named exchange gives a message with this routing key to."""
    known: Mapping[str, Any] = app.amqp.queues
    return [queue for queue in known.values() if _takes(queue, exchange, routing_key)]


def _takes(queue: Queue, exchange: str, routing_key: str) -> bool:
    bound = [(queue.exchange, queue.routing_key), *((b.exchange, b.routing_key) for b in queue.bindings or ())]
    return any(
        source is not None and source.name == exchange and _matches(source.type, key or "", routing_key)
        for source, key in bound
    )


def _matches(kind: str, key: str, routing_key: str) -> bool:
    if kind == "fanout":
        return True
    if kind != "topic":
        return key == routing_key
    words = {"*": r"\.[^.]*", "#": r"(\.[^.]*)*"}
    pattern = "".join(words.get(word, re.escape(f".{word}")) for word in key.split("."))
    return re.fullmatch(pattern, f".{routing_key}") is not None


def is_amqp(app: Celery) -> bool:
    """Whether the broker speaks AMQP, so that exchanges, confirms and the mandatory flag are real."""
    with app.connection_for_write() as connection:
        return bool(connection.transport.driver_type == "amqp")


def address(app: Celery, message: ReplayMessage) -> tuple[Envelope, list[Queue]]:
    """The envelope that sends a replayed message to where the original was, and the queues to declare for it.

    A queue that the application does not know is not declared, so that it cannot be created with wrong arguments.
    Without AMQP a named exchange without bindings drops silently: there the queue itself is the address.
    """
    known: Mapping[str, Any] = app.amqp.queues
    declare = [known[message.queue]] if message.queue in known else []
    exchange, routing_key = message.exchange, message.routing_key
    if exchange and not declare and not is_amqp(app):
        exchange, routing_key = "", message.queue
    envelope = Envelope(
        body=message.body,
        exchange=exchange,
        routing_key=routing_key or message.queue,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers,
        properties=message.properties,
        priority=message.priority,
    )
    return envelope, declare
