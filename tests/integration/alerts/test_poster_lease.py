"""One poster of several guardians, on every kind of store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from celery_guardrails.alerts.lease import StoreLease
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.errors import Trouble, Undelivered


@pytest.fixture
def store(any_store):
    return any_store


def header(message):
    return message.blocks[0]["text"]["text"]


class Lease:
    """A lease whose fence the test sets."""

    held = None

    def __init__(self, fence):
        self.fence = fence

    def hold(self, now):
        return self.fence


def test_who_does_not_hold_the_lease_posts_nothing(drive, slack):
    driver = drive(lease=Lease(None))
    driver.die()
    report = driver.run(flush=True)
    assert report.queued == 1
    assert not report.delivery.leading
    assert slack.calls == []


def test_a_poster_that_was_overtaken_while_posting_writes_nothing(drive, slack, monkeypatch):
    old, new = drive(lease=Lease(1)), drive(lease=Lease(2))
    sink = old.service.poster.sinks.default
    real = sink.post

    def slow(message, *, channel=None):
        posted = real(message, channel=channel)
        new.run()  # takes over while the old one waits for Slack
        return posted

    monkeypatch.setattr(sink, "post", slow)
    old.die()
    report = old.run(flush=True)
    assert report.delivery.sent == 0
    new.settle()
    assert len(slack.in_channel("#alerts")) == 1
    assert new.statuses() == {"sent": 1}


def test_an_overtaken_poster_cannot_claim(store, drive):
    driver = drive(sink=MemorySink(), lease=Lease(2))
    driver.service.poster.sinks.default.trouble = [Undelivered(Trouble.RATE_LIMITED, "slow down", 10)]
    driver.die()
    driver.run(flush=True)
    old = drive(sink=MemorySink(), lease=Lease(1))
    old.run(3600)
    assert old.service.poster.sinks.default.messages == {}


def test_one_of_two_guardians_posts_and_the_other_takes_over(drive, store, slack):
    first, second = (drive(lease=StoreLease(store, name)) for name in ("one", "two"))
    first.die()
    assert first.run(flush=True).delivery.leading
    assert not second.run(1).delivery.leading
    first.run(9)  # young enough: not even renewed
    first.run(11)
    second.now = first.now
    assert not second.run(15).delivery.leading
    first.service.close(second.now)
    assert second.run().delivery.leading
    first.now = second.now
    assert not first.run().delivery.leading
    first.service.close(first.now)
    assert second.run(31).delivery.leading  # expired, and nobody took it since
    assert len(slack.in_channel()) == 1


def test_who_lost_the_lease_without_knowing_sends_nothing(drive, store):
    sinks = MemorySink(), MemorySink()
    old, new = (drive(sink=sink, lease=StoreLease(store, name)) for sink, name in zip(sinks, "ab", strict=True))
    old.run()
    new.now = old.now + timedelta(seconds=31)
    new.run()  # its clock is ahead
    old.die()
    old.run(1, flush=True)
    assert sinks[0].messages == {}
    new.run(1)
    assert len(sinks[1].messages) == 1


@pytest.mark.parametrize("attempt", range(20))
def test_many_posters_at_once_post_once(drive, store, slack, attempt):
    drivers = [drive(lease=StoreLease(store, f"guardian-{number}")) for number in range(3)]
    drivers[0].die(5)
    barrier = threading.Barrier(len(drivers))

    def work(driver):
        barrier.wait()
        for _ in range(3):
            driver.run(1, flush=True)

    threads = [threading.Thread(target=work, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.events for driver in drivers for report in driver.reports) == 5
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 5 dead letters (production)"
