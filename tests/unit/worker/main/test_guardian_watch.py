"""When a worker says that no guardian takes its figures, on Redis (no consumers known) and on RabbitMQ."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

import pytest

from celery_guardrails.transport.figures import MOST, Backlog
from celery_guardrails.worker.main.guardian_watch import GuardianWatch

T0 = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


class Looking:
    """A worker that sends each 10 seconds, and the seconds at which it noticed something."""

    def __init__(self, consumers: int | None) -> None:
        self.watch, self.now, self.consumers = GuardianWatch("t.figures"), T0, consumers

    def see(self, counts: Iterable[int]) -> list[int]:
        """The number of messages after each send; returns after how many seconds something was noticed."""
        found = []
        for count in counts:
            if self.watch.look(Backlog(count, self.consumers), self.now):
                found.append(int((self.now - T0).total_seconds()))
            self.now += timedelta(seconds=10)
        return found


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "celery_guardrails.worker")


@pytest.mark.parametrize(
    ("consumers", "counts"),
    [
        (None, range(1, 61)),
        (None, range(501, 561)),  # there was a backlog at its start
        (None, range(3, 303, 5)),  # other workers send, too
        (None, [*range(MOST - 10, MOST), *([MOST] * 50)]),  # the queue is full
        (0, range(2, 62)),
        (0, [700] * 60),  # RabbitMQ lets them expire as fast as they come
        (0, range(700, 640, -1)),
    ],
)
def test_nobody_takes_figures(consumers, counts, caplog):
    assert Looking(consumers).see(counts) == [300]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no guardian has taken figures from t.figures for 5 min" in record.getMessage()
    assert "celery -A PROJ guardian" in record.getMessage()


@pytest.mark.parametrize(
    ("consumers", "counts"),
    [
        (None, [1] * 200),  # in step with the guardian, that takes all between two looks
        (None, [2] * 200),  # another worker sends just before
        (None, [1000, 1, 2, 3] * 50),
        (None, [60 - step % 50 for step in range(200)]),
        (1, range(1, 200)),  # it is slow, but it is there
        (0, [*range(1, 20), 1] * 10),  # `guardian --once` comes every few minutes
        (0, [1] * 200),
    ],
)
def test_somebody_takes_figures(consumers, counts, caplog):
    assert Looking(consumers).see(counts) == []
    assert caplog.records == []


@pytest.mark.parametrize("consumers", [None, 0])
def test_it_is_over_and_comes_back(consumers, caplog):
    looking = Looking(consumers)
    assert looking.see(range(2, 52)) == [300]
    looking.consumers = None if consumers is None else 1
    assert looking.see([1, 1]) == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    looking.consumers = consumers
    assert len(looking.see(range(2, 52))) == 1
    assert len(caplog.records) == 3


def test_while_the_broker_is_away_the_time_does_not_run():
    looking = Looking(None)
    assert looking.see(range(1, 29)) == []
    looking.watch.forget()
    looking.now += timedelta(hours=1)
    assert looking.see(range(29, 59)) == []


def test_a_broker_that_says_nothing_and_a_clock_that_was_set_back():
    looking = Looking(0)
    assert not looking.watch.look(None, T0)
    assert looking.see(range(2, 22)) == []
    looking.now = T0 - timedelta(hours=1)
    assert looking.see(range(22, 50)) == []
    assert looking.see(range(50, 54)) == [-3300]
