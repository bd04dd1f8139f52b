"""Receiving from the dead-letter queues: nothing leaves a queue before it is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from celery import Celery

from celery_guardrails.transport.consumer import ConsumerLost, DeadLetterConsumer, Delivery, waiting
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope
from tests.integration.transport.conftest import Line
from tests.waiting import wait_until

QUEUE = "t.dead"
DECLARED = [declared_queue(QUEUE)]


def fill(line: Line, count: int) -> None:
    for number in range(count):
        line.publisher.publish(Envelope(f"{number}".encode(), QUEUE, headers={"n": number}), DECLARED)


def bodies(deliveries: list[Delivery]) -> list[int]:
    return sorted(int(delivery.body) for delivery in deliveries)


def test_deliveries_say_where_they_come_from(line: Line) -> None:
    fill(line, 1)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    (delivery,) = consumer.receive(10, 2)
    assert (delivery.queue, delivery.body, delivery.headers["n"]) == (QUEUE, b"0", 0)
    consumer.settle([delivery])
    consumer.close()
    assert waiting(line.app, [QUEUE]) == 0


def test_what_is_not_acknowledged_goes_back(line: Line) -> None:
    fill(line, 5)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    received = consumer.receive(3, 5)
    assert len(received) == 3
    consumer.settle(received[:1])
    consumer.close()
    consumer.close()
    wait_until(lambda: waiting(line.app, [QUEUE]) == 4, 30, "four letters back in their queue")
    again = consumer.receive(10, 2)
    assert len(again) == 4
    consumer.settle(again)
    consumer.close()


def test_what_is_held_does_not_stand_in_the_way(line: Line) -> None:
    fill(line, 12)
    consumer = DeadLetterConsumer(line.app, DECLARED, prefetch=4)
    held: list[Delivery] = []
    for _ in range(3):
        batch = consumer.receive(4, 3)
        assert len(batch) == 4
        consumer.hold(batch)
        held += batch
    assert bodies(held) == list(range(12))
    assert consumer.receive(4, 0.2) == []
    consumer.hold([])
    consumer.close()
    wait_until(lambda: waiting(line.app, [QUEUE]) == 12, 30, "all held letters back in their queue")


def test_what_has_arrived_is_received_after_the_end_and_nothing_else(line: Line) -> None:
    fill(line, 5)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    assert consumer.waiting() == 5
    consumer.linger(0.1)  # it is not connected yet, and has nothing to keep alive
    received = consumer.receive(1, 5)
    wait_until(lambda: consumer.linger(0.1) or len(consumer._arrived) == 4, 30, "the other four")
    consumer.finish()
    line.publisher.publish(Envelope(b"5", QUEUE), DECLARED)
    received += consumer.receive(10, 0)
    assert bodies(received) == [0, 1, 2, 3, 4]
    assert consumer.receive(10, 0.3) == []
    consumer.settle(received)
    consumer.close()
    consumer.finish()
    assert waiting(line.app, [QUEUE]) == 1


@pytest.mark.own_lines
def test_a_connection_that_breaks_while_lingering_is_said(line: Line) -> None:
    fill(line, 1)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    assert len(consumer.receive(1, 5)) == 1
    line.broker.server.stop()
    try:
        with pytest.raises(ConsumerLost):
            consumer.linger(5)
    finally:
        line.broker.server.start()
    consumer.close()


def test_queues_that_do_not_exist_are_empty(line: Line) -> None:
    assert waiting(line.app, ["no.such.queue", "nor.this"]) == 0
    fill(line, 2)
    assert waiting(line.app, ["no.such.queue", QUEUE, "nor.this"]) == 2
    assert waiting(line.app, []) == 0


def test_an_empty_queue_takes_no_longer_than_asked(line: Line) -> None:
    consumer = DeadLetterConsumer(line.app, DECLARED)
    assert consumer.receive(5, 0.2) == []
    fill(line, 1)
    batch = consumer.receive(5, 5)
    assert bodies(batch) == [0]
    consumer.close()


@pytest.mark.own_lines
def test_a_broken_connection_is_said_and_mended(line: Line) -> None:
    fill(line, 3)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    batch = consumer.receive(1, 5)
    line.broker.server.stop()

    def go_on() -> None:  # one broker says it on the acknowledgement, the other when it is asked for more
        consumer.settle(batch)
        consumer.receive(5, 2)

    with pytest.raises(ConsumerLost):
        go_on()
    with pytest.raises(ConsumerLost):
        consumer.receive(5, 1)
    with pytest.raises(ConsumerLost):
        waiting(line.app, [QUEUE])
    line.broker.server.start()
    # on Redis the letter that was acknowledged into the void may or may not have been taken
    received: list[Delivery] = []
    wait_until(lambda: received.extend(consumer.receive(5, 1)) or len(received) >= 2, 30, "the letters that were left")
    consumer.settle(received)
    consumer.close()


@pytest.mark.own_lines
@pytest.mark.parametrize("action", ["receive", "close", "waiting"])
def test_a_broker_that_hangs_does_not_hang_the_consumer(line: Line, action: str) -> None:
    fill(line, 1)
    consumer = DeadLetterConsumer(line.app, DECLARED)
    assert len(consumer.receive(1, 5)) == 1
    actions: dict[str, Callable[[], object]] = {
        "receive": lambda: DeadLetterConsumer(line.app, DECLARED).receive(1, 1),
        "close": consumer.close,
        "waiting": lambda: waiting(line.app, [QUEUE]),
    }

    def work() -> None:
        try:
            actions[action]()
        except ConsumerLost:
            return

    line.broker.server.pause()
    try:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(25)
        assert not thread.is_alive()
    finally:
        line.broker.server.resume()
    consumer.close()


def test_a_broker_that_nobody_can_reach() -> None:
    for url in ("redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"):
        app = Celery("x", broker=url, set_as_current=False)
        with pytest.raises(ConsumerLost):
            waiting(app, [QUEUE])
        with pytest.raises(ConsumerLost):
            DeadLetterConsumer(app, DECLARED).receive(1, 1)
