"""From exchange and routing key to the queue that a message came from, and the way back there."""

from __future__ import annotations

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.routing import (
    ROUTE,
    address,
    came_from,
    caught_elsewhere,
    consumed_from,
    delay_word,
    known_queue,
    queue_name,
    restore,
    straight,
)

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


BITS = "0." * 27 + "1."


LEVELS = ["celery_delayed_0", "celery_delayed_27", "celery_delayed_delivery", "prefix_celery_delayed_3"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("queue", ["mail", "billing.mail", "100%.a%2E", "#.*"])
def test_what_has_waited_came_from_the_queue_that_its_key_names(app: Celery, level: str, queue: str) -> None:
    key = BITS + delay_word(queue)
    assert key.count(".") == 28, "one word"
    assert came_from(app, level, key) == (queue, "", queue)
    assert queue_name(app, level, key) == queue
    route = {ROUTE: ["events", "mail.send", queue]}
    assert came_from(app, level, key, route) == (queue, "events", "mail.send")
    assert came_from(app, level, key, {ROUTE: ["events", "mail.send", "another"]}) == (queue, "", queue)
    assert came_from(app, level, key, {ROUTE: "mangled"}) == (queue, "", queue)


def test_what_celery_delayed_itself_is_traced_by_its_routing_key(app: Celery) -> None:
    found = came_from(app, "celery_delayed_0", BITS + "mail.send", queue="mail")
    assert found == ("mail", "events", "mail.send")
    assert came_from(app, "celery_delayed_0", BITS + "mail.send").queue is None, "or by the fanout exchange"
    assert came_from(app, "celery_delayed_0", BITS + "job", queue="jobs") == ("jobs", "", "jobs")
    found = came_from(app, "celery_delayed_0", BITS + "job")
    assert found == ("everything", "all", "job"), "Celery delays nothing that goes to a direct exchange"
    app.conf.task_queues = QUEUES[:3]
    app.amqp.__dict__.pop("queues")
    assert came_from(app, "celery_delayed_0", BITS + "job") == (None, "celery_delayed_delivery", "job")
    assert came_from(app, "celery_delayed_0", "job") == (None, "celery_delayed_0", "job")


def test_of_several_queues_behind_an_exchange_the_consumed_one_counts(app: Celery) -> None:
    app.conf.task_queues = [*QUEUES, Queue("audit", TOPIC, routing_key="mail.send")]
    assert came_from(app, "events", "mail.send").queue is None
    assert came_from(app, "events", "mail.send", queue="audit").queue == "audit"
    assert queue_name(app, "events", "mail.send") == "mail"
    app.amqp.queues.select(["audit", "jobs"])
    assert came_from(app, "events", "mail.send").queue == "audit"
    envelope, _ = address(app, message(queue="audit", exchange="events", routing_key="mail.send"))
    assert (envelope.exchange, envelope.routing_key) == ("", "audit")
    assert came_from(app, "", "audit", envelope.headers) == ("audit", "events", "mail.send")


def test_a_request_shows_how_its_message_was_addressed_at_first(app: Celery) -> None:
    consumer = SimpleNamespace(_active_tags={"jobs": "tag-1", "mail": "tag-2"})
    receive = MethodType(lambda self: None, consumer)
    channel = SimpleNamespace(callbacks={"tag-2": receive})
    sent = straight(Envelope(b"x", "mail.send", exchange="events"), "mail")
    came = SimpleNamespace(headers=sent.headers, delivery_info={"consumer_tag": "tag-2"}, channel=channel)
    assert consumed_from(came) == "mail"
    delivery: dict[str, Any] = {"exchange": "celery_delayed_1", "routing_key": BITS + delay_word("mail"), "priority": 3}
    restore(app, came, delivery)
    assert delivery == {"exchange": "events", "routing_key": "mail.send", "priority": 3, "queue": "mail"}
    usual: dict[str, Any] = {"exchange": "", "routing_key": "mail"}
    restore(app, SimpleNamespace(headers={}, delivery_info=None, channel=None), usual)
    assert usual == {"exchange": "", "routing_key": "mail"}
    assert consumed_from(SimpleNamespace(delivery_info=None, channel=None)) is None
    assert straight(Envelope(b"x", "mail"), "mail").headers == {}


@pytest.mark.parametrize(
    ("key", "caught"),
    [("#", True), ("*", True), ("*.*", True), ("mail.#", False), ("#.mail", False), ("guardrails", False), ("", False)],
)
def test_only_a_binding_of_wildcards_alone_catches_a_delayed_message(app: Celery, key: str, caught: bool) -> None:
    delayed = BITS + delay_word("billing.mail")
    app.amqp.queues.add(Queue("wild", TOPIC, routing_key=key))
    assert not caught_elsewhere(app, delayed), "without quorum queues Celery binds nothing"
    app.amqp.queues.add(Queue("quorum", DIRECT, routing_key="q", queue_arguments={"x-queue-type": "quorum"}))
    assert caught_elsewhere(app, delayed) is caught


def test_a_queue_is_known_by_its_name_on_the_broker(app: Celery) -> None:
    news = Broadcast("news")
    app.amqp.queues.add(news)
    assert known_queue(app, news.name) is not None
    assert known_queue(app, "jobs") is not None
    assert known_queue(app, "unheard") is None
