"""Figures while the broker is away: they wait, bounded, and no task waits for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import Celery

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.figures.summary import Summary
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.figures import FiguresSender, declared_figures_queue, figures_queue
from celery_guardrails.worker.main.figures import _MOST_WAITING, FiguresShipping
from tests.conftest import Broker
from tests.port import reserve_port

LETTERS = "t.dead"


@pytest.fixture
def app(broker: Broker) -> Iterator[Celery]:
    made = Celery("shipping", broker=broker.url, set_as_current=False)
    made.conf.guardrails = {"environment": "test", "dead_letter": {"queue": LETTERS}}
    yield made
    made.close()


def succeed(guard: Guardrails, times: int) -> None:
    for _ in range(times):
        guard.counters.first.append(("a", clock.now().timestamp(), 0.1, None))


def received(app: Celery) -> list[Summary]:
    consumer = DeadLetterConsumer(app, [declared_figures_queue(LETTERS)])
    found: list[Summary] = []
    while batch := consumer.receive(50, 1.0):
        found += [Summary.decode(each.body) for each in batch]
        consumer.settle(batch)
    consumer.close()
    return found


def test_figures_wait_for_the_broker_and_none_is_lost(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    guard, url = Guardrails.of(app), app.conf.broker_url
    app.conf.broker_url = f"{url.partition(':')[0]}://127.0.0.1:{reserve_port()}"
    shipping = FiguresShipping(guard, "celery@a")
    now = clock.now()
    rounds = _MOST_WAITING + 4
    with caplog.at_level(logging.WARNING, "celery_guardrails.worker"):
        for number in range(rounds):
            succeed(guard, 3)
            assert shipping.run_once(now + timedelta(seconds=10 * number), flush=False) == 0
    assert len(caplog.records) == 1
    assert "wait" in caplog.text
    app.conf.broker_url = url
    shipping._sender = FiguresSender(app, LETTERS, timeout=20.0)
    succeed(guard, 1)
    assert shipping.run_once(now + timedelta(seconds=10 * rounds), flush=False) == _MOST_WAITING
    found = received(app)
    assert len(found) == _MOST_WAITING
    assert sum(each.tasks["a"].outcomes["succeeded"] for each in found) == 3 * rounds + 1
    assert len({each.id for each in found}) == _MOST_WAITING
    shipping.finish(now)


def test_a_worker_that_counts_nothing_says_each_minute_that_it_is_there(app: Celery) -> None:
    shipping, now = FiguresShipping(Guardrails.of(app), "celery@a"), clock.now()
    shipping._sender = FiguresSender(app, LETTERS, timeout=20.0)
    sent = [shipping.run_once(now + timedelta(seconds=10 * number), flush=False) for number in range(13)]
    assert sent == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert shipping.run_once(now - timedelta(hours=1), flush=False) == 1  # the clock was set back
    shipping.finish(now + timedelta(hours=1))
    found = received(app)
    assert [each.worker for each in found] == ["celery@a"] * 3
    assert all(each.is_empty for each in found)
    assert waiting(app, [figures_queue(LETTERS)]) == 0
