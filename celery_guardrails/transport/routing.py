"""Where a message came from, and how to send it there again.

Owns the step from exchange and routing key to a queue, which each transport needs in its own way. A message that has
waited on RabbitMQ arrives through a delay exchange, with a delay's routing key. Only this module works out its first
exchange and routing key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.quorum_queues import detect_quorum_queues
from kombu import Queue

from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.publisher import Envelope

__all__ = [
    "DELAY_EXCHANGE",
    "ROUTE",
    "Origin",
    "address",
    "came_from",
    "caught_elsewhere",
    "consumed_from",
    "delay_word",
    "is_amqp",
    "known_queue",
    "queue_name",
    "queues_for",
    "restore",
    "straight",
]

DELAY_EXCHANGE = "celery_delayed_delivery"
"""The exchange to which RabbitMQ's delay levels pass messages that are due."""

_OURS = "guardrails="

ROUTE = "guardrails_route"
"""The header of a message that goes straight to its queue: exchange and routing key of its first publish, and queue."""

# A delivery names the last exchange that it passed: the exchange of a level, or the one behind all levels.
_LEVEL = re.compile(r"(?:.+_)?celery_delayed_(?:\d\d?|delivery)")
_DELAYED = re.compile(r"(?:[01]\.){28}(.+)", re.DOTALL)


class Origin(NamedTuple):
    """Where a message came from: its queue (`None` if it is not known), and its first exchange and routing key."""

    queue: str | None
    exchange: str
    routing_key: str


def came_from(
    app: Celery, exchange: str, routing_key: str, headers: Mapping[str, Any] | None = None, queue: str | None = None
) -> Origin:
    """Where a message with this delivery information came from.

    Args:
        app: the application that knows the queues.
        exchange: the delivery's; "" is the default exchange.
        routing_key: the delivery's.
        headers: the message's.
        queue: the queue that it was consumed from, if the worker knows it (`consumed_from`).
    """
    delayed = _DELAYED.fullmatch(routing_key) if _LEVEL.fullmatch(exchange) else None
    if delayed is not None and delayed[1].startswith(_OURS):
        exchange, routing_key = "", delayed[1][len(_OURS) :].replace("%2E", ".").replace("%25", "%")
    elif delayed is not None:
        return _delayed_by_celery(app, delayed[1], queue)
    if exchange:
        return Origin(queue or _only(app, queues_for(app, exchange, routing_key)), exchange, routing_key)
    route = (headers or {}).get(ROUTE)
    if isinstance(route, (list, tuple)) and len(route) == 3 and route[2] == routing_key:
        return Origin(routing_key, str(route[0]), str(route[1]))
    return Origin(routing_key, "", routing_key)


def delay_word(queue: str) -> str:
    """The last word of a delayed message's routing key, which stands for its queue.

    It is one word, and no other key holds it. With quorum queues, Celery binds `#.mail` to the exchange behind the
    levels for a routing key `mail`, and `#.mail.#` for `mail.#`. Either would also catch the messages for a queue
    `billing.mail`.
    """
    return _OURS + queue.replace("%", "%25").replace(".", "%2E")


def caught_elsewhere(app: Celery, delayed_key: str) -> bool:
    """Whether a binding that Celery makes for the application's own queues also takes this delayed message.

    Only a binding of nothing but wildcards does.
    """
    if not detect_quorum_queues(app, "amqp")[0]:
        return False
    known: Mapping[str, Any] = app.amqp.queues
    keys = {
        each.routing_key or ""
        for queue in known.values()
        for each in ([queue] if queue.exchange else queue.bindings or ())
        if each.exchange.type != "direct"
    }
    return any(_matches("topic", key if key.startswith("#") else f"#.{key}", delayed_key) for key in keys)


def consumed_from(message: Any) -> str | None:
    """The queue that the worker consumed a message from; `None` if the transport does not name it.

    On RabbitMQ the consumer's tag names it, on Redis our own channel notes it.
    """
    taken: str | None = getattr(message, "taken_from", None)
    if taken is not None:
        return taken
    tag = (message.delivery_info or {}).get("consumer_tag")
    consumer = getattr(getattr(message.channel, "callbacks", {}).get(tag), "__self__", None)
    tags: Mapping[str, str] = getattr(consumer, "_active_tags", {})
    return next((queue for queue, known in tags.items() if known == tag), None)


def restore(app: Celery, message: Any, delivery: MutableMapping[str, Any]) -> None:
    """Write a message's first exchange and routing key, and its queue, into the request's delivery information.

    Costs nothing for a message that came through the default exchange, as nearly all do.
    """
    exchange, headers = delivery.get("exchange") or "", message.headers or {}
    if exchange or ROUTE in headers:
        key = delivery.get("routing_key") or ""
        queue, exchange, key = came_from(app, exchange, key, headers, consumed_from(message))
        delivery.update(exchange=exchange, routing_key=key)
        if queue is not None:
            delivery["queue"] = queue


def straight(envelope: Envelope, queue: str) -> Envelope:
    """The same message to one queue only, with its first exchange and routing key in a header."""
    if not envelope.exchange:
        return envelope
    headers = {**envelope.headers, ROUTE: [envelope.exchange, envelope.routing_key, queue]}
    return replace(envelope, exchange="", routing_key=queue, headers=headers)


def queue_name(app: Celery, exchange: str, routing_key: str) -> str:
    """The queue from which a message with this delivery information came, as far as the application knows."""
    origin = came_from(app, exchange, routing_key)
    if origin.queue is not None:
        return origin.queue
    known: Mapping[str, Any] = app.amqp.queues
    found = queues_for(app, exchange, routing_key)
    if not found:
        found = [queue for queue in known.values() if queue.exchange is not None and queue.exchange.name == exchange]
        if len(found) != 1:
            return origin.routing_key
    return str(found[0].name)


def known_queue(app: Celery, name: str) -> Queue | None:
    """The application's queue with this name on the broker; the application lists a `Broadcast` under another name."""
    known: Mapping[str, Any] = app.amqp.queues
    if name in known and known[name].name == name:
        return known[name]
    return next((queue for queue in known.values() if queue.name == name), None)


def queues_for(app: Celery, exchange: str, routing_key: str) -> list[Queue]:
    """The application's queues to which a named exchange routes a message with this routing key."""
    known: Mapping[str, Any] = app.amqp.queues
    return [queue for queue in known.values() if _takes(queue, exchange, routing_key)]


def _delayed_by_celery(app: Celery, routing_key: str, queue: str | None) -> Origin:
    """Celery and kombu delay messages to topic and fanout exchanges of quorum queues, and lose the exchange's name."""
    known: Mapping[str, Any] = app.amqp.queues
    topics = [each for each in known.values() if each.exchange is not None and each.exchange.type != "direct"]
    found = [each for each in topics if _takes(each, each.exchange.name, routing_key)]
    name = queue or _only(app, found)
    exchange = next((each.exchange.name for each in found if each.name == name), None)
    if exchange is not None:
        return Origin(name, exchange, routing_key)
    return Origin(name, "", name) if name else Origin(None, DELAY_EXCHANGE, routing_key)


def _only(app: Celery, found: Iterable[Queue]) -> str | None:
    """The name of the only queue found, or of the only queue found that this worker consumes."""
    names = [str(queue.name) for queue in found]
    if len(names) > 1:
        consumed = {queue.name for queue in app.amqp.queues.consume_from.values()}
        names = [name for name in names if name in consumed]
    return names[0] if len(names) == 1 else None


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
    """The envelope that sends a replayed message to where the original went, and the queues to declare for it.

    A queue that the application does not know is not declared, so that it cannot be created with wrong arguments.
    The queue itself is the address in two cases. Without AMQP, a named exchange without bindings drops messages in
    silence. And an exchange would give the message to other queues as well, which had their copies the first time.
    """
    known: Mapping[str, Any] = app.amqp.queues
    declare = [known[message.queue]] if message.queue in known else []
    _, exchange, routing_key = came_from(
        app, message.exchange, message.routing_key, message.headers, message.queue or None
    )
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
        once=message.once,
    )
    if declare and len(queues_for(app, exchange, routing_key)) > 1:
        envelope = straight(envelope, message.queue)
    return envelope, declare
