"""Sentry's own SDK in a prefork worker: one event a dead letter, with our facts on it, and none for retries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_guardrails.testing.sentry import SentryStandIn
from tests.guarded import Guarded


@pytest.fixture
def sentry() -> Iterator[SentryStandIn]:
    with SentryStandIn() as stand_in:
        yield stand_in


def test_the_final_failure_is_one_event_with_our_facts(on_redis: Guarded, sentry: SentryStandIn) -> None:
    on_redis.break_("mail")
    worker = on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    on_redis.tasks.mail.delay(7)
    letter = on_redis.letter()
    on_redis.tasks.expected.delay("expected")
    on_redis.finish()
    assert on_redis.tasks.flaky.delay("flaky", 2).get(timeout=30) == "done after 3"
    worker.stop()  # flushes what was still to be sent
    (event,) = sentry.wait_for(1)
    assert event["exception"]["values"][-1]["type"] == "TimeoutError"
    tags = event["tags"]
    assert tags["guardrails.task"] == "guarded.mail"
    assert tags["guardrails.reason"] == "attempts_exhausted"
    assert tags["guardrails.category"] == "timeout"
    assert tags["guardrails.owner"] == "growth"
    assert tags["guardrails.attempts"] == "3"
    assert event["fingerprint"] == ["guarded.mail", letter.failure.fingerprint]
    assert event["contexts"]["guardrails"]["dead_letter_id"] == letter.id
    assert event["contexts"]["guardrails"]["policy"]["max_attempts"] == 3


def test_parked_work_is_reported_though_sentry_cannot_see_it(on_redis: Guarded, sentry: SentryStandIn) -> None:
    on_redis.break_("parked")
    worker = on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    on_redis.tasks.parked.delay("parked")
    on_redis.letter()
    on_redis.finish()
    worker.stop()
    (event,) = sentry.wait_for(1)
    assert event["tags"]["guardrails.task"] == "guarded.parked"


def test_facts_of_one_task_are_not_on_the_next_ones_event(on_redis: Guarded, sentry: SentryStandIn) -> None:
    worker = on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    on_redis.tasks.bug.delay("bug")
    on_redis.letter()
    on_redis.tasks.outside.delay("outside")
    on_redis.finish()
    worker.stop()
    events = sentry.wait_for(2)
    (outside,) = [event for event in events if event["transaction"] == "outside.plain"]
    assert not any(name.startswith("guardrails.") for name in outside.get("tags", {}))
    assert "guardrails" not in outside["contexts"]


def test_history_survives_sentrys_patches(on_redis: Guarded, sentry: SentryStandIn) -> None:
    on_redis.break_("mail")
    on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    for _ in on_redis.tasks.handing_on.delay("traced"), on_redis.tasks.mail.delay(1):
        pass
    letters = on_redis.letters(3)
    by_task = {letter.task: [attempt.number for attempt in letter.attempts] for letter in letters}
    assert by_task == {"guarded.handing_on": [1, 2], "guarded.mail": [1, 2, 3], "guarded.failing_child": [1, 2]}
