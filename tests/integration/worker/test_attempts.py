"""Real prefork workers: what becomes of tasks that fail."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from celery import chain, chord, group

from celery_guardrails.letters.header import HEADER
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from tests.guarded import Guarded


def test_a_transient_error_is_retried_until_it_succeeds(guarded: Guarded) -> None:
    guarded.worker()
    assert guarded.tasks.flaky.delay("f", 3).get(timeout=30) == "done after 4"
    assert [run["retries"] for run in guarded.runs("f")] == [0, 1, 2, 3]
    guarded.no_letters()


def test_an_exhausted_task_leaves_a_complete_letter(guarded: Guarded) -> None:
    guarded.break_("mail")
    guarded.worker()
    result = guarded.tasks.mail.delay(7, customer="ada", address="1 Main St", password="hunter2")
    with pytest.raises(TimeoutError):
        result.get(timeout=30)
    letter = guarded.letter()
    assert (letter.task, letter.task_id, letter.reason) == ("guarded.mail", result.id, Reason.ATTEMPTS_EXHAUSTED)
    assert (letter.failure.type, letter.failure.category) == ("TimeoutError", Category.TIMEOUT)
    assert "smtp did not answer" in letter.failure.traceback
    assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
    assert [attempt.delay for attempt in letter.attempts] == [0.1, 0.1, None]
    assert all(attempt.started_at is not None and attempt.worker.endswith("@localhost") for attempt in letter.attempts)
    assert (letter.owner, letter.runbook) == ("growth", "https://runbooks.example/mail")
    assert (letter.affected, letter.correlation) == ({"customer": "ada"}, {"order_id": "7"})
    assert letter.queue == letter.routing_key == f"{guarded.prefix}.tasks"
    assert letter.published_at is not None
    assert letter.published_at < letter.first_failed_at < letter.died_at
    assert letter.policy["max_attempts"] == 3
    for shown in (letter.preview.args, letter.preview.kwargs):
        assert "hunter2" not in shown
        assert "1 Main St" not in shown


def test_the_original_message_is_kept_byte_for_byte(guarded: Guarded) -> None:
    body = b'[[7], {"customer":   "caf\\u00e9"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    guarded.break_("mail")
    guarded.worker()
    headers = {"task": "guarded.mail", "id": "t-1", "lang": "py", "retries": 0, "root_id": "t-1", "mine": "kept"}
    queue = guarded.app.amqp.queues[f"{guarded.prefix}.tasks"]
    with guarded.app.producer_or_acquire() as producer:
        producer.publish(
            body, content_type="application/json", content_encoding="utf-8", headers=headers,
            exchange="", routing_key=queue.name, declare=[queue],
        )  # fmt: skip
    letter = guarded.letter()
    assert letter.message.body == body
    assert letter.message.headers["mine"] == "kept"
    assert letter.message.headers["retries"] == 2
    assert (letter.message.content_type, letter.message.content_encoding) == ("application/json", "utf-8")
    # published by something that knows nothing of us: its time began with its first attempt
    assert letter.published_at == letter.attempts[0].started_at


@pytest.mark.parametrize(
    ("kind", "reason"), [("permanent", Reason.PERMANENT_ERROR), ("transient", Reason.DEADLINE_EXCEEDED)]
)
def test_a_tasks_own_words_are_followed(guarded: Guarded, kind: str, reason: Reason) -> None:
    guarded.worker()
    guarded.tasks.own_words.delay("own", kind)
    assert guarded.letter().reason is reason
    assert len(guarded.runs("own")) == 1


def test_a_bug_dies_at_once(guarded: Guarded) -> None:
    guarded.worker()
    guarded.tasks.bug.delay("bug")
    letter = guarded.letter()
    assert (letter.reason, letter.failure.category) == (Reason.PERMANENT_ERROR, Category.BUG)
    assert len(guarded.runs("bug")) == 1


def test_delays_grow_with_jitter_and_are_waited_for(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.growing.delay("grow")
    letter = on_redis.letter()
    delays = [attempt.delay or 0 for attempt in letter.attempts]
    for delay, base in zip(delays, (0.1, 0.3, 0.9), strict=False):
        assert 0.749 * base <= delay <= 1.251 * base  # it was rounded on its way
    runs = [run["at"] for run in on_redis.runs("grow")]
    for before, after, delay in zip(runs, runs[1:], delays, strict=False):
        assert after - before >= delay - 0.01


def test_retry_by_hand_follows_the_policy(guarded: Guarded) -> None:
    guarded.worker()
    guarded.tasks.by_hand.delay("hand", countdown=0.3)
    letter = guarded.letter()
    assert letter.reason is Reason.ATTEMPTS_EXHAUSTED
    assert letter.failure.type == "ValueError"
    assert [attempt.delay for attempt in letter.attempts] == [0.3, 0.3, None]
    assert len(guarded.runs("hand")) == 3


def test_retry_by_hand_with_other_arguments_keeps_its_history(guarded: Guarded) -> None:
    guarded.worker()
    guarded.tasks.by_hand.apply_async(kwargs={"key": "changed", "countdown": 0.2, "changed": True})
    letter = guarded.letter()
    assert [run["countdown"] for run in guarded.runs("changed")] == [0.2, 0.05, 0.05]
    assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
    assert "0.05" in letter.preview.kwargs


def test_a_refused_retry_that_the_body_handles_is_a_success(on_redis: Guarded) -> None:
    on_redis.worker()
    assert on_redis.tasks.handled.delay("handled").get(timeout=30) == "handled it myself"
    assert len(on_redis.runs("handled")) == 2
    on_redis.no_letters()


def test_parked_work_is_neither_failed_nor_forgotten(guarded: Guarded) -> None:
    guarded.break_("parked")
    guarded.worker()
    result = guarded.tasks.parked.delay("parked")
    letter = guarded.letter()
    guarded.finish()
    assert result.state == "DEAD_LETTERED"
    assert result.info["dead_letter_id"] == letter.id


def test_expected_errors_leave_no_letter_and_a_rejected_message_does(on_redis: Guarded) -> None:
    on_redis.worker()
    expected = on_redis.tasks.expected.delay("expected")
    with pytest.raises(KeyError):
        expected.get(timeout=30)
    on_redis.tasks.signals.delay("ignored", "ignore")
    rejected = on_redis.tasks.signals.delay("rejected", "reject")
    letter = on_redis.letter()
    on_redis.finish()
    assert (letter.task_id, letter.reason.value) == (rejected.id, "rejected")
    assert len(on_redis.letters(1)) == 1
    assert len(on_redis.runs("expected")) == 1


def test_tasks_without_results_are_dead_lettered_too(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.silent.delay("silent")
    assert len(on_redis.letter().attempts) == 2


def test_pydantic_tasks(on_redis: Guarded) -> None:
    on_redis.break_("typed")
    on_redis.worker()
    on_redis.tasks.typed.delay({"id": 5}, key="typed")
    assert on_redis.letter().task == "guarded.typed"
    on_redis.repair("typed")
    assert on_redis.tasks.typed.delay({"id": 6}, key="typed").get(timeout=30) == 6
    on_redis.tasks.typed.delay({"id": "x"}, key="invalid")
    invalid = on_redis.letters(2)[1]
    assert (invalid.reason, invalid.failure.category) == (Reason.PERMANENT_ERROR, Category.VALIDATION)


def test_a_soft_time_limit_is_a_timeout(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.slow.delay("slow")
    letter = on_redis.letter()
    assert letter.failure.category is Category.TIMEOUT
    assert len(on_redis.runs("slow")) == 2


def test_canvas_goes_on_after_retries(guarded: Guarded) -> None:
    tasks = guarded.tasks
    guarded.worker()
    linked = chain(tasks.flaky.s("c1", 1), tasks.heard.s(key="chained")).apply_async()
    assert linked.get(timeout=30) == "heard"
    grouped = group(tasks.flaky.s(f"g{n}", n) for n in range(3)).apply_async()
    assert grouped.get(timeout=30) == ["done after 1", "done after 2", "done after 3"]
    body = chord([tasks.flaky.s("h1", 1), tasks.add.s(1, 2)], tasks.heard.s(key="chord")).apply_async()
    assert body.get(timeout=30) == "heard"
    assert guarded.runs("chord")[0]["args"] == ["['done after 2', 3]"]
    assert tasks.replacing.delay().get(timeout=30) == 23


def test_errbacks_run_and_the_letter_knows_its_group(guarded: Guarded) -> None:
    tasks = guarded.tasks
    guarded.worker()
    members = group(tasks.bug.s("in-group").on_error(tasks.errback.s(key="errback")), tasks.add.s(1, 1)).apply_async()
    guarded.wait_for_runs("errback", 1)
    assert guarded.letter().group_id == members.id


def test_headers_handed_on_do_not_hand_on_history(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.handing_on.delay("parent")
    letters = {letter.task: letter for letter in on_redis.letters(2)}
    assert [attempt.number for attempt in letters["guarded.failing_child"].attempts] == [1, 2]
    assert len(on_redis.runs("parent.child")) == 1


def test_tasks_come_under_guard_by_name(guarded: Guarded) -> None:
    tasks = guarded.tasks
    guarded.worker()
    tasks.vendor_plain.delay("plain")
    guarded.app.tasks["vendor.shared"].delay("shared")
    guarded.app.tasks["vendor.by_class"].delay("class")
    outside = tasks.outside.delay("outside")
    letters = {letter.task: letter for letter in guarded.letters(3)}
    assert set(letters) == {"vendor.plain", "vendor.shared", "vendor.by_class"}
    for letter, key in ((letters["vendor.plain"], "plain"), (letters["vendor.shared"], "shared")):
        assert letter.reason is Reason.ATTEMPTS_EXHAUSTED
        assert len(guarded.runs(key)) == 2
    assert len(guarded.runs("vendor-context")) == 2
    with pytest.raises(ConnectionError):
        outside.get(timeout=30)
    assert len(guarded.runs("outside")) == 1


def test_a_call_of_ones_own_is_inside_the_guard(on_redis: Guarded) -> None:
    on_redis.worker()
    on_redis.tasks.in_context.delay("inside")
    assert len(on_redis.letter().attempts) == 2
    on_redis.break_("context")
    on_redis.tasks.in_context.delay("never")
    assert "no application context" in on_redis.letters(2)[1].failure.message
    assert on_redis.runs("never") == []


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools(on_redis: Guarded, pool: str) -> None:
    on_redis.break_("mail")
    on_redis.worker(pool=pool)
    assert on_redis.tasks.flaky.delay("f", 2).get(timeout=30) == "done after 3"
    for order in range(5):
        on_redis.tasks.mail.delay(order)
    letters = on_redis.letters(5)
    assert sorted(letter.correlation["order_id"] for letter in letters) == list("01234")
    assert all(len(letter.attempts) == 3 for letter in letters)


def test_the_kill_switch_makes_tasks_plain(on_redis: Guarded) -> None:
    worker = on_redis.worker(env={"GUARDRAILS_ENABLED": "false"})
    with pytest.raises(ConnectionError):
        on_redis.tasks.flaky.delay("f", 1).get(timeout=30)
    assert len(on_redis.runs("f")) == 1
    on_redis.no_letters()
    worker.stop()


def test_many_letters_at_once_all_arrive(guarded: Guarded) -> None:
    guarded.worker()
    ids = {guarded.tasks.bug.delay("many").id for _ in range(200)}
    assert {letter.task_id for letter in guarded.letters(200, bound=60)} == ids


def test_the_header_is_there_from_the_first_publish(on_redis: Guarded) -> None:
    result = on_redis.tasks.add.delay(1, 2)
    queue = f"{on_redis.prefix}.tasks"
    with on_redis.app.connection_for_read() as connection:
        message = connection.SimpleQueue(queue).get(timeout=10)
        headers: dict[str, Any] = message.headers
    assert headers["id"] == result.id
    assert headers[HEADER]["v"] == 1
    assert headers[HEADER]["published_at"] > timedelta(days=20_000).total_seconds()
    json.dumps(headers[HEADER])
