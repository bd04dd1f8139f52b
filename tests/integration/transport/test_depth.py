"""How many messages a queue has, and what hangs on it: with a prefix before the keys of Redis, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_guardrails.transport.connection import opened
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.started import StartedMarks, mark_name
from tests.conftest import Broker
from tests.integration.transport.conftest import Line

QUEUE = "t.dead"
MARK = mark_name(QUEUE, "an execution")


@pytest.fixture
def prefixed(redis_broker: Broker) -> Iterator[Line]:
    made = Line(redis_broker)
    made.app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    yield made
    made.publisher.close()
    made.app.close()


def fill(line: Line, count: int) -> None:
    for number in range(count):
        line.publisher.publish(Envelope(b"%d" % number, QUEUE, priority=number % 9), [declared_queue(QUEUE)])


def marks_come_and_go(line: Line) -> None:
    marks = StartedMarks(line.app, line.publisher)
    assert not marks.has(MARK)
    for _ in range(2):
        marks.put(MARK)
        assert marks.has(MARK)
        marks.remove(MARK)
        assert not marks.has(MARK)
    marks.remove(MARK)
    marks.close()


def test_marks_come_and_go(line: Line) -> None:
    marks_come_and_go(line)


def test_marks_come_and_go_behind_a_prefix(prefixed: Line) -> None:
    marks_come_and_go(prefixed)


def test_letters_behind_a_prefix_are_counted(prefixed: Line) -> None:
    fill(prefixed, 12)
    assert waiting(prefixed.app, [QUEUE, "no.such.queue"]) == 12


def test_what_a_consumer_holds_is_not_counted(line: Line) -> None:
    fill(line, 3)
    consumer = DeadLetterConsumer(line.app, [declared_queue(QUEUE)])
    held = consumer.receive(3, 5)
    assert len(held) == 3
    with opened(line.app) as connection:
        assert not depth(connection, QUEUE)
        assert depth(connection, "no.such.queue") is None
    consumer.settle(held)
    consumer.close()


def test_marks_leave_nothing_behind_in_the_publisher(line: Line) -> None:
    marks = StartedMarks(line.app, line.publisher)
    for number in range(20):
        marks.put(mark_name(QUEUE, f"execution {number}"))
    (kept,) = line.publisher._idle
    assert (len(kept.declared), len(kept.connection.declared_entities)) == (0, 0)
    marks.close()
