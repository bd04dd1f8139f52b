"""The guardian's consumer on Redis: no dead letter is ever held outside Redis, and what is no letter comes too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celery_guardrails.transport.consumer import ConsumerLost, DeadLetterConsumer, Delivery
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from tests.conftest import Broker
from tests.waiting import wait_until

QUEUE = "r.dead"


@pytest.fixture
def app(redis_broker: Broker) -> Iterator[Celery]:
    app = Celery("letters", broker=redis_broker.url, set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 2}
    yield app
    app.close()


@pytest.fixture
def consumer(app: Celery) -> Iterator[DeadLetterConsumer]:
    consumer = DeadLetterConsumer(app, [declared_queue(QUEUE)])
    yield consumer
    with contextlib.suppress(ConsumerLost):
        consumer.close()


def fill(app: Celery, count: int) -> set[bytes]:
    publisher = Publisher(app)
    bodies = {f"{number}".encode() for number in range(count)}
    for body in bodies:
        publisher.publish(Envelope(body, QUEUE), [declared_queue(QUEUE)])
    publisher.close()
    return bodies


def received(consumer: DeadLetterConsumer, wanted: int, settle: bool = True) -> list[Delivery]:
    """Wait for so many different letters; as in a guardian, what cannot be acknowledged any more comes again."""
    found: list[Delivery] = []

    def more() -> bool:
        with contextlib.suppress(ConsumerLost):
            batch = consumer.receive(100, 0.5)
            found.extend(batch)
            if settle:
                consumer.settle(batch)
        return len({delivery.body for delivery in found}) >= wanted

    wait_until(more, 30, lambda: f"{wanted} letters, there are {[delivery.body for delivery in found]}")
    return found


@pytest.mark.own_servers
def test_redis_may_die_while_the_guardian_looks_elsewhere(
    app: Celery, consumer: DeadLetterConsumer, redis_broker: Broker
) -> None:
    with redis.Redis.from_url(redis_broker.url) as client:
        client.config_set("appendfsync", "always")  # by default Redis may confirm what it has not written yet
    assert consumer.receive(1, 0.3) == []  # it has asked for letters, and waits for its archive from now on
    bodies = fill(app, 5)
    redis_broker.server.kill()
    redis_broker.server.start()
    assert {delivery.body for delivery in received(consumer, len(bodies))} == bodies


def test_another_guardian_gets_what_a_lost_one_held(app: Celery, consumer: DeadLetterConsumer) -> None:
    bodies = fill(app, 5)
    lost = DeadLetterConsumer(app, [declared_queue(QUEUE)])
    held = received(lost, len(bodies), settle=False)
    assert {delivery.body for delivery in held} == bodies
    keeper = lost._safekeeping._keeper
    assert keeper is not None
    keeper._ended.set()  # as if its process had been killed: nobody keeps its letters
    keeper._leasing.join()
    assert {delivery.body for delivery in received(consumer, len(bodies))} == bodies
    lost.close()


def test_what_a_busy_guardian_holds_stays_with_it(app: Celery, consumer: DeadLetterConsumer) -> None:
    fill(app, 3)
    held = received(consumer, 3, settle=False)
    other = DeadLetterConsumer(app, [declared_queue(QUEUE)])
    assert other.receive(10, 5) == []  # the visibility timeout is 2 s
    other.close()
    consumer.settle(held)


def test_an_item_that_is_no_message_is_received_until_it_is_settled(app: Celery, redis_broker: Broker) -> None:
    client = redis.Redis.from_url(redis_broker.url)
    client.lpush(QUEUE, b"\xff no message")
    for settle in (False, True):
        consumer = DeadLetterConsumer(app, [declared_queue(QUEUE)])
        (delivery,) = received(consumer, 1, settle)
        assert (delivery.body, delivery.queue) == (b"\xff no message", QUEUE)
        assert client.hlen("guardrails.quarantine") == (0 if settle else 1)
        consumer.close()
    client.close()


def test_an_item_of_another_queue_is_left_to_others(
    app: Celery, consumer: DeadLetterConsumer, redis_broker: Broker
) -> None:
    client = redis.Redis.from_url(redis_broker.url)
    client.hset("guardrails.quarantine", "tag", b"5:tasks<item>")
    fill(app, 1)
    assert [delivery.body for delivery in received(consumer, 1)] == [b"0"]
    assert client.hlen("guardrails.quarantine") == 1
    client.close()
