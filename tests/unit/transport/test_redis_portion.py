"""How many messages a take is for, and when it is put off for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from kombu.asynchronous import Hub, set_event_loop
from kombu.transport import virtual

from celery_guardrails.transport.redis.portion import Portion
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def loop() -> Iterator[Hub]:
    hub = Hub()
    set_event_loop(hub)
    yield hub
    hub.close()


def portion(prefetch: int, held: int, enough: int = 4) -> Portion:
    channel = SimpleNamespace(do_restore=False)
    channel.qos = virtual.QoS(channel, prefetch)
    for number in range(held):
        channel.qos.append(object(), f"tag{number}")
    return Portion(channel, lambda: enough)


@pytest.mark.parametrize(
    ("prefetch", "held", "size"), [(0, 0, 10), (0, 50, 10), (8, 0, 8), (8, 5, 3), (8, 8, 1), (40, 0, 10), (40, 35, 5)]
)
def test_a_take_is_for_what_there_is_room_for(prefetch: int, held: int, size: int) -> None:
    assert portion(prefetch, held).size() == size


def test_a_small_take_waits_for_a_moment_while_the_pool_has_enough_to_do(loop: Hub) -> None:
    taking = portion(8, 5)
    assert taking.waits()
    assert len(loop.timer.queue) == 1  # the loop asks again, whatever else happens
    wait_until(lambda: not taking.waits(), 20, "it does not wait any longer")
    assert taking.waits()  # the next take
    assert len(loop.timer.queue) == 2


@pytest.mark.parametrize(
    ("prefetch", "held", "enough"),
    [
        pytest.param(8, 4, 4, id="the pool could run out of work"),
        pytest.param(2, 1, 4, id="one message a process"),
        pytest.param(40, 30, 4, id="there is room for a whole take"),
        pytest.param(0, 500, 4, id="without bound"),
        pytest.param(8, 7, 0, id="nobody knows what keeps the pool busy"),
    ],
)
def test_a_take_does_not_wait_otherwise(prefetch: int, held: int, enough: int) -> None:
    assert not portion(prefetch, held, enough).waits()


def test_room_for_more_ends_the_wait(loop: Hub) -> None:
    taking = portion(8, 5)
    assert taking.waits()
    taking._channel.qos.ack("tag0")
    assert not taking.waits()
    assert taking.size() == 4


def test_a_consumer_that_asks_for_each_message_gets_one_at_once() -> None:
    taking = portion(8, 5)
    taking._channel.qos.can_consume = lambda: True
    assert not taking.waits()
    assert taking.size() == 1


def test_without_an_event_loop_nobody_would_ask_again() -> None:
    set_event_loop(None)
    assert not portion(8, 5).waits()
