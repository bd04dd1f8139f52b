"""From exchange and routing key to the queue that a message came from, and the way back there."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding

from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.routing import address, queue_name

TOPIC, DIRECT, FANOUT = Exchange("events", "topic"), Exchange("jobs", "direct"), Exchange("all", "fanout")
QUEUES = [
    Queue("mail", TOPIC, routing_key="mail.#"),
    Queue("orders", TOPIC, routing_key="order.*.paid"),
    Queue("jobs", DIRECT, routing_key="job"),
    Queue("more", DIRECT, routing_key="other"),
    Queue("bound", bindings=[binding(TOPIC, routing_key="bound.key")]),
    Queue("everything", FANOUT),
]


@pytest.fixture
def app() -> Celery:
    made = Celery("x", broker="memory://", set_as_current=False)
    made.conf.task_queues = QUEUES
    return made


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("", "plain", "plain"),
        ("events", "mail", "mail"),
        ("events", "mail.send", "mail"),
        ("events", "mail.send.now", "mail"),
        ("events", "order.7.paid", "orders"),
        ("events", "bound.key", "bound"),
        ("jobs", "job", "jobs"),
        ("jobs", "other", "more"),
        ("all", "whatever", "everything"),
        # nothing that the application knows: the key is the best guess
        ("events", "order.7.8.paid", "order.7.8.paid"),
        ("events", "mailing", "mailing"),
        ("jobs", "nobody", "nobody"),
        ("unknown", "key", "key"),
    ],
)
def test_the_queue_that_a_message_came_from(app: Celery, exchange: str, key: str, queue: str) -> None:
    assert queue_name(app, exchange, key) == queue


def message(**fields: Any) -> ReplayMessage:
    given = {"queue": "mail", "exchange": "", "routing_key": "mail", "priority": None, **fields}
    return ReplayMessage("id", "task", b"[]", "application/json", "utf-8", {"h": 1}, **given)


def test_a_known_queue_is_declared_on_the_way(app: Celery) -> None:
    envelope, declare = address(app, message(exchange="events", routing_key="mail.send", priority=5))
    assert [queue.name for queue in declare] == ["mail"]
    assert (envelope.exchange, envelope.routing_key, envelope.priority) == ("events", "mail.send", 5)


def test_an_unknown_queue_is_not_declared(app: Celery) -> None:
    envelope, declare = address(app, message(queue="else", routing_key="else"))
    assert (envelope.exchange, envelope.routing_key, declare) == ("", "else", [])


def test_without_amqp_an_unknown_queue_is_addressed_itself(app: Celery) -> None:
    """There a named exchange without bindings drops what is sent to it."""
    envelope, declare = address(app, message(queue="else", exchange="gone", routing_key="key"))
    assert (envelope.exchange, envelope.routing_key, declare) == ("", "else", [])


def test_with_amqp_the_exchange_of_an_unknown_queue_is_addressed(app: Celery) -> None:
    app.conf.broker_url = "amqp://nobody@127.0.0.1:1//"
    envelope, declare = address(app, message(queue="else", exchange="there", routing_key="key"))
    assert (envelope.exchange, envelope.routing_key, declare) == ("there", "key", [])
