"""Whether a message reaches a queue where the client routes it itself: on Redis and all of kombu's virtual transports.

Owns what the mandatory flag does on RabbitMQ: there a named exchange without a fitting binding drops in silence. The
default exchange is no business of this module, since a message for it always reaches its queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu import Producer, Queue
from kombu.transport import virtual

from celery_guardrails.seams import REDIS_REACH, holds

__all__ = ["Unroutable", "reach", "routes_itself"]


class Unroutable(Exception):
    """No queue is bound so that it would get the message."""


def routes_itself(channel: Any) -> bool:
    """Whether messages on this channel are routed by kombu, not by the broker."""
    return isinstance(channel, virtual.Channel)


def reach(producer: Producer, exchange: str, routing_key: str, declare: Sequence[Queue]) -> None:
    """See that a message will reach a queue; what is to be declared is declared again if it would not.

    A connection declares what it needs once, and does not hear when somebody has emptied the broker since. An exchange
    of type fanout is for whoever listens just now, which may be nobody.

    Args:
        producer: on a channel that routes itself.
        exchange: a named one.
        routing_key: the message's.
        declare: the queues that are to be declared for it.

    Raises:
        Unroutable: no queue would get it.
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
    """Declare a queue whatever this connection remembers of it: kombu's channel passes over bindings that it knows."""
    for bound in (queue, *(queue.bindings or ())):
        if bound.exchange is not None and bound.exchange.name:
            channel.state.binding_delete(queue.name, bound.exchange.name, bound.routing_key)
    queue(channel).declare()
