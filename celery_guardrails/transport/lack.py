"""The rights that guardrails needs and a RabbitMQ user lacks, for queues and exchanges that nobody has declared yet.

Owns finding a missing right before it matters. Asking declares no queue, and no message of it reaches a queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amqp import Message
from amqp.exceptions import AccessRefused
from kombu import Connection, Queue

from celery_guardrails.transport.declare import may_configure
from celery_guardrails.transport.declared import exchange_declared_with
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.right import Right, refused_right
from celery_guardrails.transport.routing import DELAY_EXCHANGE
from celery_guardrails.transport.started import mark_prefix
from celery_guardrails.transport.topology import Topology
from celery_guardrails.transport.waiting.level import LEVELS, are_there, is_queue

__all__ = ["Lack", "Subject", "declares_in_vain", "lacks", "may_read"]

_NOBODY = "guardrails.nobody"
Subject = str
"""The part of guardrails that does not work: `letters`, `figures`, `waiting`, `crashes` or `publishing`."""


@dataclass(frozen=True, slots=True)
class Lack:
    """A missing right, the part of guardrails that does not work without it, and the effect in words."""

    subject: Subject
    right: Right
    effect: str

    def __str__(self) -> str:
        return f"{self.right}: {self.effect}"


def lacks(connection: Connection, topology: Topology) -> list[Lack]:
    """The rights that this user lacks, given what is declared by now.

    Args:
        connection: an open connection to RabbitMQ; channels of its own are opened on it.
        topology: what the application needs.

    Raises:
        Exception: the connection broke; each transport has errors of its own.
    """
    asked = _asked(connection, topology)
    return [Lack(subject, right, effect) for subject, right, effect in asked if right is not None]


def may_read(connection: Connection, queue: str) -> Right | None:
    """The missing right to consume a queue; `None`: no right is missing, or the queue has messages and is not tried."""
    if depth(connection, queue) != 0:
        return None
    channel = connection.channel()
    try:
        channel.basic_get(queue)
    except AccessRefused as exc:
        return refused_right(exc)
    channel.close()  # this gives back a message that has arrived in between
    return None


def declares_in_vain(connection: Connection, queue: Queue) -> str | None:
    """What Celery declares of a queue though this user may not, such as `the exchange 'celery'`; `None`: nothing."""
    exchange = exchange_declared_with(queue)
    if exchange is not None and may_configure(connection, exchange) is not None:
        return f"the exchange {exchange!r}"
    return None if may_configure(connection, queue.name) is None else f"the queue {queue.name!r}"


def _asked(connection: Connection, topology: Topology) -> Iterator[tuple[Subject, Right | None, str]]:
    spooled = "it does not exist, so messages for it stay in the spool until somebody declares it"
    for name in topology.letters:
        if not is_queue(connection, name):
            yield "letters", may_configure(connection, name), spooled
    if not is_queue(connection, topology.figures):
        unsent = "it does not exist, so workers send no figures until somebody declares it"
        yield "figures", may_configure(connection, topology.figures), unsent
    in_memory = "retries and countdowns wait in the memory of workers"
    if are_there(connection):
        yield "waiting", _may_write(connection, LEVELS[0]), in_memory
    else:
        missing = f"RabbitMQ's delay levels do not exist, so {in_memory} until somebody declares them"
        yield "waiting", may_configure(connection, DELAY_EXCHANGE), missing
    mark = may_configure(connection, f"{mark_prefix(topology.marks)}NAME")
    yield "crashes", mark, "a task that kills its whole worker each time is not recognised, and max_crashes not kept"
    nothing = "neither dead letters nor retries can be published: they stay in the spool"
    yield "publishing", _may_write(connection, ""), nothing


def _may_write(connection: Connection, exchange: str) -> Right | None:
    """The missing right to publish to an exchange, tried with a message that no queue gets."""
    channel = connection.channel()
    try:
        channel.basic_publish(Message(b""), exchange=exchange, routing_key=_NOBODY)
        channel.flow(True)  # RabbitMQ answers this after it has refused the message
    except AccessRefused as exc:
        return refused_right(exc)
    channel.close()
    return None
