"""Whether a message reaches a queue, where kombu routes it and not the broker: on Redis and other virtual transports.

Owns the check that the mandatory flag makes on RabbitMQ: a virtual transport drops a message in silence if its named
exchange has no fitting binding. The default exchange needs no check: its messages always reach their queue.
"""
# on its own: it answers for virtual transports what the broker itself answers for AMQP

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu import Producer, Queue
from kombu.transport import virtual

from celery_guardrails.seams import REDIS_REACH, holds

__all__ = ["Unroutable", "reach", "routes_itself"]


class Unroutable(Exception):
    """No binding routes the message to a queue."""


def routes_itself(channel: Any) -> bool:
    """Whether messages on this channel are routed by kombu, not by the broker."""
    return isinstance(channel, virtual.Channel)


def reach(producer: Producer, exchange: str, routing_key: str, declare: Sequence[Queue]) -> None:
    """Make sure that a message will reach a queue; if it would not, declare its queues again.

    A connection declares a queue once, and does not notice if somebody has emptied the broker since. A fanout exchange
    is not checked: it is for whoever consumes just now, which may be nobody.

    Args:
        producer: a producer on a channel on which kombu routes.
        exchange: the name of an exchange; not the default exchange.
        routing_key: the message's.
        declare: the queues to declare for the message.

    Raises:
        Unroutable: no queue would get the message.
    """
    for queue in declare:
        producer.maybe_declare(queue)
    channel = producer.channel
    if not holds(REDIS_REACH) or _finds(channel, exchange, routing_key):
        return
    for queue in declare:
        _declare_again(channel, queue)
    if not _finds(channel, exchange, routing_key):
        raise Unroutable(f"no queue is bound to the exchange {exchange!r} for the routing key {routing_key!r}")


def _finds(channel: Any, exchange: str, routing_key: str) -> bool:
    return channel.typeof(exchange).type == "fanout" or bool(channel._lookup(exchange, routing_key))


def _declare_again(channel: Any, queue: Queue) -> None:
    """Declare a queue even if this connection has declared it before: kombu's channel skips bindings that it knows."""
    for bound in (queue, *(queue.bindings or ())):
        if bound.exchange is not None and bound.exchange.name:
            channel.state.binding_delete(queue.name, bound.exchange.name, bound.routing_key)
    queue(channel).declare()
