"""Declaring what a message needs, as far as this user may: what is there is used as it is.

RabbitMQ asks for the right to configure even from who declares a queue that exists, and users of managed brokers often
have no such right. Owns that step; what is declared is the business of others.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from kombu import Connection, Exchange, Queue

from celery_guardrails.transport.right import Missing, Right, refused_right

__all__ = ["declare", "may_configure"]


def declare(connection: Connection, queue: Queue) -> None:
    """Declare a queue with its exchange and bindings on RabbitMQ, on channels of its own.

    Where this user may not declare one of them, it is looked for. A binding cannot be looked for: where it may not be
    made, somebody else is taken to have made it, and a message that reaches no queue says so when it is published.

    Raises:
        Missing: one does not exist, and may not be declared.
        PreconditionFailed: one exists with other arguments.
    """
    channel = connection.channel()
    try:
        queue(channel).declare()
    except AccessRefused:
        _declare_singly(connection, queue)  # the refusal has closed the channel
    else:
        channel.close()


def may_configure(connection: Connection, queue: str) -> Right | None:
    """The right that is missing to declare a queue of this name; `None`: it could be declared.

    It asks for arguments that RabbitMQ refuses once it has looked at the rights, so nothing is declared.
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
