"""Where a message came from and how to send one there again.

Owns the step from exchange and routing key to a queue, which each transport needs in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu import Queue

from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.publisher import Envelope

__all__ = ["address", "is_amqp", "queue_name"]


def queue_name(app: Celery, exchange: str, routing_key: str) -> str:
    """The queue from which a message with this delivery information came, as far as the application knows."""
    if not exchange:
        return routing_key
    known: Mapping[str, Any] = app.amqp.queues
    on_exchange = [queue for queue in known.values() if queue.exchange is not None and queue.exchange.name == exchange]
    for queue in on_exchange:
        if queue.routing_key == routing_key or any(b.routing_key == routing_key for b in queue.bindings or ()):
            return str(queue.name)
    return str(on_exchange[0].name) if len(on_exchange) == 1 else routing_key


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
