"""Declaring the queues that a message needs, as far as this user may: existing queues are used as they are.

RabbitMQ demands the right to configure even for the declaration of a queue that exists, and users of managed brokers
often lack that right. Owns the declaration; the caller says which queues.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from kombu import Connection, Exchange, Queue

from celery_guardrails.transport.right import Missing, Right, refused_right

__all__ = ["declare", "may_configure"]


def declare(connection: Connection, queue: Queue) -> None:
    """Declare a queue with its exchange and bindings on RabbitMQ, on channels of its own.

    Where this user may not declare the queue or the exchange, it is enough that it exists. Nobody can ask whether a
    binding exists: where this user may not make it, it is taken as made. If it is missing after all, the publish of a
    message that reaches no queue fails.

    Raises:
        Missing: the queue or the exchange does not exist, and this user may not declare it.
        PreconditionFailed: the queue or the exchange exists with other arguments.
    """
    channel = connection.channel()
    try:
        queue(channel).declare()
    except AccessRefused:
        _declare_singly(connection, queue)  # the refusal has closed the channel
    else:
        channel.close()


def may_configure(connection: Connection, queue: str) -> Right | None:
    """The missing right to declare a queue of this name; `None`: this user may declare it.

    The declaration has arguments that RabbitMQ refuses after it has checked the rights, so no queue is declared.
    """
    try:
        connection.channel().queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-length": -1})
    except AccessRefused as exc:
        return refused_right(exc) or Right("configure", "queue", queue, connection.virtual_host, str(connection.userid))
    except connection.channel_errors:
        return None
    return None


def _declare_singly(connection: Connection, queue: Queue) -> None:
    bound = [(queue.exchange, queue.routing_key, queue.binding_arguments)] if queue.exchange else []
    bound += [(each.exchange, each.routing_key, each.arguments) for each in queue.bindings or ()]
    for exchange, _, _ in bound:
        _one(connection, exchange)
    _one(connection, queue)
    for exchange, routing_key, arguments in bound:
        if not exchange.name:
            continue
        channel = connection.channel()
        try:
            channel.queue_bind(queue.name, exchange.name, routing_key or "", arguments=arguments)
        except AccessRefused:
            continue
        channel.close()


def _one(connection: Connection, entity: Queue | Exchange) -> None:
    channel = connection.channel()
    try:
        _passively(channel, entity)
    except NotFound:
        channel = connection.channel()
        try:
            bound: Any = entity(channel)
            bound.queue_declare() if isinstance(entity, Queue) else bound.declare()
        except AccessRefused as exc:
            raise Missing(exc) from exc
    channel.close()


def _passively(channel: Any, entity: Queue | Exchange) -> None:
    if isinstance(entity, Queue):
        channel.queue_declare(entity.name, passive=True)
    elif entity.name and not entity.name.startswith("amq."):
        channel.exchange_declare(entity.name, entity.type, passive=True)
