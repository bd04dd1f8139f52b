"""Publishing to a named exchange: success means that a queue has the message, also where kombu routes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from redis import Redis

from celery_guardrails.errors import PublishError
from celery_guardrails.transport import publisher as module
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from tests.conftest import Broker
from tests.integration.transport.conftest import IS_TOLD, Line

MAIL = Queue("mail", Exchange("shop"), routing_key="mail.send")
TOPIC = Queue("audit", Exchange("events", type="topic"), routing_key="order.#")
TWICE = Queue("twice", [binding(Exchange("first"), "a"), binding(Exchange("second"), "b")])
NEWS = Queue("news", Exchange("everybody", type="fanout"))


@pytest.fixture
def on_redis(redis_broker: Broker) -> Iterator[Line]:
    made = Line(redis_broker)
    yield made
    made.publisher.close()
    made.app.close()


def test_an_exchange_that_nothing_is_bound_to_is_refused(line: Line) -> None:
    line.publisher = Publisher(line.app, timedelta(seconds=IS_TOLD))
    with pytest.raises(PublishError) as caught:
        line.publisher.publish(Envelope(b"lost", "mail.send", exchange="nowhere"))
    assert caught.value.refused
    with pytest.raises(PublishError) as caught:
        line.publisher.publish(Envelope(b"lost", "mail.other", exchange="shop"), [MAIL])
    assert caught.value.refused
    line.publisher.publish(Envelope(b"kept", "mail.send", exchange="shop"), [MAIL])
    assert line.bodies("mail") == [b"kept"]


@pytest.mark.parametrize(
    ("queue", "exchange", "key"),
    [(MAIL, "shop", "mail.send"), (TOPIC, "events", "order.paid.twice"), (TWICE, "second", "b")],
)
def test_what_was_forgotten_by_the_broker_is_declared_again(
    on_redis: Line, queue: Queue, exchange: str, key: str
) -> None:
    envelope = Envelope(b"work", key, exchange=exchange)
    on_redis.publisher.publish(envelope, [queue])
    with Redis.from_url(on_redis.broker.url) as server:
        server.flushdb()
    for _ in range(2):
        on_redis.publisher.publish(envelope, [queue])
    assert on_redis.bodies(queue.name) == [b"work"] * 2
    assert len(on_redis.publisher._idle) == 1


def test_a_broadcast_may_reach_nobody(on_redis: Line) -> None:
    on_redis.publisher.publish(Envelope(b"news", "", exchange="everybody"), [NEWS])


def test_a_queue_by_its_name_costs_no_question(on_redis: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "reach", lambda *_: pytest.fail("asked in vain"))
    on_redis.publisher.publish(Envelope(b"work", "mail"), [declared_queue("mail")])
    assert on_redis.bodies("mail") == [b"work"]


def test_other_brokers_that_kombu_routes_for() -> None:
    app = Celery("x", broker="memory://", set_as_current=False)
    publisher = Publisher(app)
    with pytest.raises(PublishError, match="no queue is bound to the exchange 'nowhere'"):
        publisher.publish(Envelope(b"lost", "mail.send", exchange="nowhere"))
    publisher.publish(Envelope(b"kept", "mail.send", exchange="shop"), [MAIL])
    publisher.close()
    app.close()
