"""RabbitMQ's delay levels as they are on the broker: the bindings from the levels to queues, and what the levels hold.

A binding ends with its queue. If somebody deletes a queue and declares it again, to change its type for example, the
binding is lost: waiting messages stay in the levels, retried by RabbitMQ every three minutes, until somebody binds the
new queue. So every worker binds all queues that it consumes, at each connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from celery import Celery
from kombu import Connection, Queue
from kombu.common import Broadcast
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE, calculate_routing_key, level_name

from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.routing import DELAY_EXCHANGE, came_from, caught_elsewhere, delay_word

__all__ = ["LEVELS", "Held", "Led", "are_there", "are_whole", "binding_key", "held", "is_queue", "lead", "reaches"]

LEVELS = tuple(level_name(number) for number in range(MAX_NUMBER_OF_BITS_TO_USE))
"""The names of the levels, each a queue and an exchange: the first holds a message for 1 second, the next for 2, ..."""

# An AMQP routing key has at most 255 bytes; each bit takes two bytes.
_LONGEST_WORD = 255 - 2 * MAX_NUMBER_OF_BITS_TO_USE
_BITS = "*." * MAX_NUMBER_OF_BITS_TO_USE
_MOST = 500
# A quorum queue counts how often it delivered a message; at its limit (20 in RabbitMQ 4) the message moves on early.
_GIVEN_OUT = 8


@dataclass(frozen=True, slots=True)
class Led:
    """The result of `lead`: the queues that are `bound` to the levels now, and those `refused`, with their errors."""

    bound: list[str] = field(default_factory=list)
    refused: dict[str, AccessRefused] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """The messages that wait in the levels for one queue.

    `queue` is `None` for messages that Celery delayed and for which the application knows no queue. `levels` are the
    names of the levels that hold the messages.
    """

    queue: str | None
    count: int
    levels: tuple[str, ...]


def binding_key(queue: str) -> str:
    """The routing key that binds a queue to the exchange behind the levels: any delay, then the queue's own word."""
    return f"{_BITS}{delay_word(queue)}"


def reaches(app: Celery, queue: Queue) -> bool:
    """Whether messages for a queue can wait in the levels.

    They cannot if the queue lives only as long as its consumer, if its name is longer than 188 bytes, or if a binding
    of Celery's own also catches its messages.
    """
    if isinstance(queue, Broadcast) or queue.auto_delete or queue.exclusive or not queue.name:
        return False
    word = delay_word(queue.name)
    return len(word.encode()) <= _LONGEST_WORD and not caught_elsewhere(app, calculate_routing_key(1, word))


def are_there(connection: Connection) -> bool:
    """Whether somebody has declared the levels. Asking needs no right."""
    channel = connection.channel()
    try:
        channel.exchange_declare(DELAY_EXCHANGE, "topic", passive=True)
    except NotFound:
        return False  # the error has closed the channel
    channel.close()
    return True


def are_whole(connection: Connection) -> bool:
    """Whether all levels exist, and the exchange behind them. Asking needs no right."""
    channel = connection.channel()
    try:
        for level in LEVELS:
            channel.exchange_declare(level, "topic", passive=True)
            channel.queue_declare(level, passive=True)
        channel.exchange_declare(DELAY_EXCHANGE, "topic", passive=True)
    except NotFound:
        return False
    channel.close()
    return True


def is_queue(connection: Connection, name: str) -> bool:
    """Whether the broker has a queue of this name. Asking needs no right."""
    channel = connection.channel()
    try:
        channel.queue_declare(name, passive=True)
    except NotFound:
        return False
    channel.close()
    return True


def lead(app: Celery, connection: Connection, queues: Iterable[Queue]) -> Led:
    """Bind the existing levels to these existing queues, except those that the levels cannot reach.

    Raises:
        Exception: the connection broke; each transport has errors of its own.
    """
    led = Led()
    for queue in queues:
        if not reaches(app, queue):
            continue
        channel = connection.channel()
        try:
            channel.queue_bind(queue=queue.name, exchange=DELAY_EXCHANGE, routing_key=binding_key(queue.name))
        except AccessRefused as exc:
            led.refused[queue.name] = exc
        except NotFound:
            continue  # somebody has just deleted it
        else:
            channel.close()
            led.bound.append(queue.name)
    return led


def number_in(connection: Connection) -> int:
    """How many messages are in the levels. Asking needs no right.

    Raises:
        Exception: the connection broke.
    """
    return sum(depth(connection, level) or 0 for level in LEVELS) if are_there(connection) else 0


def held(app: Celery, connection: Connection) -> list[Held]:
    """The messages that wait in the levels and are not due, by queue: at most the first 500 of each level are counted.

    The messages are taken and given back at once, in their place. A message that was due and could not be passed on
    cannot be seen: a level does not deliver it.

    Raises:
        Exception: the connection broke, or this user may not read the levels.
    """
    counts: dict[str | None, int] = {}
    levels: dict[str | None, dict[str, None]] = {}
    for level in LEVELS:
        for queue in _looked_into(app, connection, level):
            counts[queue] = counts.get(queue, 0) + 1
            levels.setdefault(queue, {})[level] = None
    return [Held(queue, count, tuple(levels[queue])) for queue, count in counts.items()]


def _looked_into(app: Celery, connection: Connection, level: str) -> list[str | None]:
    channel = connection.channel()
    try:
        left = min(_MOST, int(channel.queue_declare(level, passive=True).message_count))
    except NotFound:
        return []
    found: list[str | None] = []
    while left > 0 and (message := channel.basic_get(level)) is not None:
        headers: dict[str, Any] = message.properties.get("application_headers") or {}
        info = message.delivery_info
        found.append(came_from(app, info["exchange"], info["routing_key"], headers).queue)
        left = 0 if int(headers.get("x-delivery-count") or 0) >= _GIVEN_OUT else left - 1
    channel.close()  # this gives the messages back
    return found
