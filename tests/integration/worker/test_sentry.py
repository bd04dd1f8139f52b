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


@pytest.mark.parametrize("given", [None, "00000000000000000000000000000001"])
def test_all_attempts_are_one_trace(on_redis: Guarded, sentry: SentryStandIn, given: str | None) -> None:
    """The publisher has no Sentry; or one, whose trace the message carries as its patch writes it."""
    on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    headers: dict[str, object] = {"mine": "kept"}
    if given:
        trace = {"sentry-trace": f"{given}-0000000000000001-1", "baggage": f"sentry-trace_id={given},theirs=1"}
        headers = {**headers, **trace, "headers": {**headers, **trace}}
    on_redis.tasks.traced.apply_async(("traced",), headers=headers)
    runs = on_redis.wait_for_runs("traced", 3)
    letter = on_redis.letter()
    assert len({run["trace"] for run in runs}) == 1
    assert runs[0]["trace"] not in {"", "None"}
    assert given is None or runs[0]["trace"] == given
    assert {run["mine"] for run in runs} == {"kept"}
    assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
    for found in (letter.message.headers, letter.message.headers["headers"]):
        assert found["sentry-trace"].startswith(runs[0]["trace"])
        assert found["guardrails"]["history"][-1]["n"] == 2
        assert "theirs=1" in found["baggage"] if given else f"sentry-trace_id={runs[0]['trace']}" in found["baggage"]


def test_without_sentry_a_retry_gets_no_trace(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.traced.delay("untraced")
    letter = on_redis.letter()
    assert not {"sentry-trace", "baggage", "headers"} & set(letter.message.headers)


def test_a_hard_limit_is_one_event_with_our_facts(on_redis: Guarded, sentry: SentryStandIn) -> None:
    """It is told of in the main process, where no task has a scope, and its facts are on no other event."""
    worker = on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    on_redis.tasks.stuck.delay("stuck")
    letter = on_redis.letter()
    on_redis.tasks.outside.delay("outside")
    on_redis.finish()
    worker.stop()
    events = sentry.wait_for(2)
    (event,) = [event for event in events if "Hard time limit" in str(event.get("logentry"))]
    assert event["tags"]["guardrails.task"] == "guarded.stuck"
    assert event["tags"]["guardrails.reason"] == "time_limit"
    assert event["tags"]["guardrails.owner"] == "growth"
    assert event["fingerprint"] == ["guarded.stuck", letter.failure.fingerprint]
    assert event["contexts"]["guardrails"]["dead_letter_id"] == letter.id
    others = [other for other in events if other is not event]
    assert not any(name.startswith("guardrails.") for other in others for name in other.get("tags", {}))
