"""Sentry's own SDK in a prefork worker: one event a dead letter, with our facts on it, and none for retries."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.letters.record import Letter
from celery_guardrails.testing.sentry import SentryStandIn
from tests.guarded import Guarded
from tests.published import Published, publish, task_message
from tests.waiting import wait_until


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


def facts_of(event: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in event.get("tags", {}).items() if name.startswith("guardrails.")}


@pytest.mark.parametrize(("task", "reason"), [("stuck", "time_limit"), ("suicide", "worker_lost")])
def test_a_hard_limit_or_a_lost_worker_is_one_event_with_our_facts(
    on_redis: Guarded, sentry: SentryStandIn, task: str, reason: str
) -> None:
    """It is told of in the main process, where no task has a scope, and its facts are on no other event.

    Billiard logs the exit of the process as an error, too: Sentry alone makes two or three events of one such death.
    """
    worker = on_redis.worker("--concurrency", "1", env={"SENTRY_DSN": sentry.dsn})
    getattr(on_redis.tasks, task).delay(task)
    letter = on_redis.letter()
    wait_until(lambda: "exited with" in worker.log(), 30, "billiard's line about the exit")
    on_redis.tasks.outside.delay("outside")
    on_redis.finish()
    worker.stop()
    events = sentry.wait_for(2)
    (event,) = [event for event in events if facts_of(event)]
    assert facts_of(event) == {
        "guardrails.task": f"guarded.{task}",
        "guardrails.reason": reason,
        "guardrails.category": letter.failure.category.value,
        "guardrails.owner": "growth",
        "guardrails.environment": letter.environment,
        "guardrails.attempts": "1",
        "guardrails.alert": alert_of(letter),
    }
    assert event["fingerprint"] == [f"guarded.{task}", letter.failure.fingerprint]
    assert event["contexts"]["guardrails"]["dead_letter_id"] == letter.id
    (other,) = [other for other in events if other is not event]
    assert other["transaction"] == "outside.plain"


def alert_of(letter: Letter) -> str:
    return AlertGroup.idle(AlertEvent.from_letter(letter)).alert_id


def test_a_process_that_ran_no_guarded_task_is_an_event_as_ever(on_redis: Guarded, sentry: SentryStandIn) -> None:
    worker = on_redis.worker("--concurrency", "1", env={"SENTRY_DSN": sentry.dsn})
    on_redis.tasks.heard.delay("heard").get(timeout=30)
    (run,) = on_redis.wait_for_runs("heard", 1)
    inspect = on_redis.app.control.inspect(timeout=2)
    wait_until(lambda: list((inspect.active() or {}).values()) == [[]], 30, "the end in the main process, too")
    os.kill(run["pid"], signal.SIGKILL)
    wait_until(lambda: "exited with" in worker.log(), 30, "billiard's line about the exit")
    worker.stop()
    (event,) = sentry.wait_for(1)
    assert event["logger"] == "multiprocessing"


UNREAD = {
    "no JSON": Published(b"{not json", {"task": "guarded.bug", "id": "u1"}),
    "misshapen": Published(b"[1]", {"task": "guarded.bug", "id": "u2"}),
    "kwargs": Published(b"[[1], 3, {}]", {"task": "guarded.bug", "id": "u3"}),
    "no task": Published(b"[[], {}, {}]", {"id": "u4"}, "application/json"),
    "foreign": Published(b"password=hunter2xyz", {}, "text/plain"),
    "unknown": task_message("gone.task", ()),
}


def test_each_message_that_is_no_task_is_one_event_with_our_facts(on_redis: Guarded, sentry: SentryStandIn) -> None:
    """Sentry alone has events without a task, a reason or a fingerprint of most of them, and none of some."""
    worker = on_redis.worker(env={"SENTRY_DSN": sentry.dsn})
    publish(on_redis.app, on_redis.app.conf.task_default_queue, [*UNREAD.values()])
    with on_redis.app.connection_for_write() as connection:
        connection.default_channel.client.lpush(on_redis.app.conf.task_default_queue, b"\x00 no message at all")
    letters = {letter.id: letter for letter in on_redis.letters(len(UNREAD) + 1)}
    on_redis.finish()
    worker.stop()
    events = sentry.wait_for(len(letters))
    assert len(events) == len(letters)
    for event in events:
        letter = letters.pop(event["contexts"]["guardrails"]["dead_letter_id"])
        tags = facts_of(event)
        assert (tags["guardrails.task"], tags["guardrails.reason"]) == (letter.task, letter.reason.value)
        assert tags["guardrails.alert"] == alert_of(letter)
        assert event["fingerprint"] == [letter.task, letter.failure.fingerprint]
        assert event["level"] in ("error", "fatal")
    assert not letters
    assert "hunter2xyz" not in str(events)
