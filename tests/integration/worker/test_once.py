"""Work that takes effect once, in real workers on both brokers: duplicates, and every end that frees a key."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from celery import chain, chord, group

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.waiting import wait_until

POOLS = ["prefork", "threads", "gevent"]


@pytest.fixture
def once(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    """The application on each broker, with a ledger in Redis."""
    settings = {"idempotency": {"url": result_backend}, "dead_letter": {"queue": "filled in"}}
    del settings["dead_letter"]
    return Guarded(harness, broker.url, result_backend, settings, "once")


@pytest.fixture
def on_redis(redis_broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, redis_broker.url, result_backend, {"idempotency": {"url": result_backend}}, "once")


def letter_reasons(once: Guarded, count: int) -> list[str]:
    return sorted(letter.reason.value for letter in once.letters(count))


@pytest.mark.parametrize("pool", POOLS)
def test_a_second_message_gets_the_first_ones_result(on_redis: Guarded, pool: str) -> None:
    on_redis.worker("-c", "2", pool=pool)
    first = on_redis.tasks.charge.delay("a").get(timeout=60)
    assert on_redis.tasks.charge.delay("a").get(timeout=60) == first == {"key": "a", "run": 1}
    assert on_redis.tasks.charge.delay(key="a").get(timeout=60) == first
    assert on_redis.tasks.charge.delay("b").get(timeout=60) == {"key": "b", "run": 1}
    assert [run["fence"] for run in on_redis.runs("a")] == [1]
    on_redis.no_letters()


@pytest.mark.parametrize("pool", POOLS)
def test_a_duplicate_of_running_work_waits_though_the_lease_is_short(on_redis: Guarded, pool: str) -> None:
    worker = on_redis.worker("-c", "2", pool=pool)
    tasks = on_redis.tasks
    first = tasks.charge.delay("a", "wait")
    on_redis.wait_for_runs("a", 1)
    second = tasks.charge.delay("a", "wait")
    # longer than two leases: they are renewed while the body blocks
    wait_until(lambda: worker.log().count("waits") >= 5, 60, "the duplicate to wait")
    assert len(on_redis.runs("a")) == 1
    (on_redis.runs_folder / "a.go").touch()
    assert second.get(timeout=60) == first.get(timeout=60) == {"key": "a", "run": 1}
    assert len(on_redis.runs("a")) == 1
    on_redis.no_letters()


def test_a_duplicate_waits_on_each_broker_and_spends_no_attempt(once: Guarded) -> None:
    worker = once.worker("-c", "2")
    first = once.tasks.charge.delay("a", "wait")
    once.wait_for_runs("a", 1)
    seconds = [once.tasks.charge.delay("a", "wait") for _ in range(3)]
    wait_until(lambda: worker.log().count(" waits ") >= 6, 60, "the duplicates to wait")
    (once.runs_folder / "a.go").touch()
    assert [each.get(timeout=60) for each in (first, *seconds)] == [{"key": "a", "run": 1}] * 4
    assert len(once.runs("a")) == 1
    once.no_letters()


@pytest.mark.parametrize("end", ["retry", "by_hand"])
def test_a_retry_keeps_the_key_and_asks_nobody(once: Guarded, end: str) -> None:
    once.worker("-c", "2")
    first = once.tasks.charge.delay("a", end)
    once.wait_for_runs("a", 1)
    second = once.tasks.charge.delay("a", end)
    assert second.get(timeout=60) == first.get(timeout=60) == {"key": "a", "run": 2}
    assert [run["fence"] for run in once.runs("a")] == [1, 2]
    assert {run["id"] for run in once.runs("a")} == {first.id}
    once.no_letters()


@pytest.mark.parametrize("end", ["fail", "bug", "reject"])
def test_work_that_died_may_be_done_by_the_next_message(once: Guarded, end: str) -> None:
    once.worker("-c", "1")
    once.tasks.charge.delay("a", end)
    once.letter()
    runs = len(once.runs("a"))
    assert once.tasks.charge.delay("a").get(timeout=60) == {"key": "a", "run": runs + 1}
    assert once.runs("a")[-1]["fence"] == runs + 1


def test_a_hard_time_limit_frees_the_key_at_once(once: Guarded) -> None:
    worker = once.worker("-c", "1")
    once.tasks.slow.delay("a")
    assert letter_reasons(once, 1) == ["time_limit"]
    once.tasks.slow.delay("a")
    assert letter_reasons(once, 2) == ["time_limit", "time_limit"]
    assert " waits " not in worker.log()


def test_a_killed_child_lets_the_next_attempt_begin_at_once(once: Guarded) -> None:
    worker = once.worker("-c", "1")
    assert once.tasks.charge.delay("a", "kill").get(timeout=60) == {"key": "a", "run": 2}
    assert [run["fence"] for run in once.runs("a")] == [1, 2]
    assert " waits " not in worker.log()


def test_a_killed_workers_work_is_done_when_its_lease_is_over(once: Guarded) -> None:
    worker = once.worker("-c", "1")
    once.tasks.charge.delay("a", "wait")
    once.wait_for_runs("a", 1)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(30)
    (once.runs_folder / "a.go").touch()
    once.worker("-c", "1")
    assert once.tasks.charge.delay("a", "wait").get(timeout=90) == {"key": "a", "run": 2}


def test_a_worker_that_was_frozen_does_not_note_what_another_one_has_taken_over(on_redis: Guarded) -> None:
    frozen = on_redis.worker("-c", "1")
    first = on_redis.tasks.charge.delay("a", "wait")
    on_redis.wait_for_runs("a", 1)
    os.killpg(frozen.pid, signal.SIGSTOP)
    on_redis.worker("-c", "1")
    second = on_redis.tasks.charge.delay("a", "wait")
    on_redis.wait_for_runs("a", 2)
    (on_redis.runs_folder / "a.go").touch()
    assert second.get(timeout=60) == {"key": "a", "run": 2}
    os.killpg(frozen.pid, signal.SIGCONT)
    assert first.get(timeout=60) == {"key": "a", "run": 1}
    assert [run["fence"] for run in on_redis.runs("a")] == [1, 2]
    wait_until(lambda: "another run has taken its work over" in frozen.log(), 30, "the frozen worker to say so")
    assert on_redis.tasks.charge.delay("a", "wait").get(timeout=60) == {"key": "a", "run": 2}


def test_work_does_not_wait_past_its_deadline(once: Guarded) -> None:
    once.worker("-c", "2")
    once.tasks.brief.delay("a")
    once.wait_for_runs("a", 1)
    late = once.tasks.brief.delay("a")
    letter = once.letter()
    assert (letter.task_id, letter.reason.value) == (late.id, "deadline_exceeded")
    assert "the same work" in letter.explanation
    assert not letter.attempts
    (once.runs_folder / "a.go").touch()


def test_a_cold_shutdown_frees_the_key(once: Guarded) -> None:
    worker = once.worker("-c", "1")
    first = once.tasks.charge.delay("a", "wait")
    once.wait_for_runs("a", 1)
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait(30)
    (once.runs_folder / "a.go").touch()
    second = once.worker("-c", "1")
    assert first.get(timeout=90) == {"key": "a", "run": 2}
    assert " waits " not in second.log()


def test_a_revoked_run_frees_the_key(once: Guarded) -> None:
    once.worker("-c", "1")
    task = once.tasks.charge.delay("a", "wait")
    once.wait_for_runs("a", 1)
    once.app.control.revoke(task.id, terminate=True, signal="SIGKILL")
    assert once.tasks.charge.delay("a").get(timeout=60) == {"key": "a", "run": 2}
    once.no_letters()


def test_a_duplicate_in_a_canvas_hands_the_first_ones_result_on(on_redis: Guarded) -> None:
    on_redis.worker("-c", "2")
    tasks = on_redis.tasks
    tasks.charge.delay("a").get(timeout=60)
    assert chain(tasks.charge.si("a"), tasks.add.s("more")).apply_async().get(timeout=60) == "a+more"
    parts = group(tasks.charge.si("a"), tasks.charge.si("b"), tasks.charge.si("b"))
    assert chord(parts)(tasks.total.s()).get(timeout=60) == 3
    assert [len(on_redis.runs(key)) for key in "ab"] == [1, 1]


def test_the_senders_key_wins_and_other_arguments_under_it_are_a_mistake(once: Guarded) -> None:
    once.worker("-c", "1")
    tasks = once.tasks
    assert tasks.plain.apply_async(("a",), idempotency_key="order-1").get(timeout=60) == 0
    assert tasks.plain.apply_async(("a",), idempotency_key="order-1").get(timeout=60) == 0
    wrong = tasks.plain.apply_async(("b",), idempotency_key="order-1")
    letter = once.letter()
    assert (letter.task_id, letter.reason.value) == (wrong.id, "rejected")
    assert "'order-1' belongs to" in letter.explanation
    assert once.runs("b") == []
    assert tasks.charge.apply_async(("a",), idempotency_key="x").get(timeout=60)["run"] == 2
    assert tasks.charge.apply_async(("a",), idempotency_key="y").get(timeout=60)["run"] == 3


def test_a_key_that_cannot_be_made_is_a_dead_letter_and_the_body_does_not_run(once: Guarded) -> None:
    once.worker("-c", "1")
    once.tasks.keyless.delay("a")
    letter = once.letter()
    assert letter.reason.value == "rejected"
    assert "the function that makes the idempotency key failed: ValueError" in letter.explanation
    assert once.runs("a") == []


def test_ways_to_end_a_duplicate(on_redis: Guarded) -> None:
    on_redis.worker("-c", "2")
    tasks = on_redis.tasks
    assert tasks.ignored.delay("i").get(timeout=60) == 0
    again = tasks.ignored.delay("i")
    running = tasks.dropped.delay("d")
    on_redis.wait_for_runs("d", 1)
    assert tasks.dropped.delay("d").get(timeout=60) is None
    (on_redis.runs_folder / "d.go").touch()
    assert running.get(timeout=60) == "done"
    on_redis.finish()
    assert again.state in ("PENDING", "IGNORED")
    assert len(on_redis.runs("i")) == 1


def test_a_large_result_comes_from_the_result_backend(on_redis: Guarded) -> None:
    on_redis.worker("-c", "1")
    first = on_redis.tasks.charge.delay("a", "large").get(timeout=60)
    assert on_redis.tasks.charge.delay("a", "large").get(timeout=60) == first == "x" * 100_000


def test_a_result_that_cannot_be_stored_is_a_dead_letter_of_work_that_is_done(on_redis: Guarded) -> None:
    worker = on_redis.worker("-c", "1")
    on_redis.tasks.charge.delay("a", "unserialisable")
    assert on_redis.letter().reason.value == "result_unstorable"
    assert on_redis.tasks.charge.delay("a", "unserialisable").get(timeout=60) is None
    assert len(on_redis.runs("a")) == 1
    assert "ends without the first one's result" in worker.log()


def test_early_work_takes_effect_once_too(once: Guarded) -> None:
    once.worker("-c", "2")
    first = once.tasks.early.delay("a", "wait")
    once.wait_for_runs("a", 1)
    second = once.tasks.early.delay("a", "wait")
    (once.runs_folder / "a.go").touch()
    assert [first.get(timeout=60), second.get(timeout=60)] == ["done", "done"]
    assert len(once.runs("a")) == 1
    once.no_letters()


@pytest.mark.own_servers
def test_a_soft_time_limit_makes_no_failure_of_work_that_is_being_noted_as_done(
    rabbitmq_broker: Broker, redis_broker: Broker, harness: Harness
) -> None:
    settings: dict[str, Any] = {"idempotency": {"url": redis_broker.url}}
    once = Guarded(harness, rabbitmq_broker.url, "rpc://", settings, "once")
    worker = once.worker("-c", "1")
    task = once.tasks.soft.delay("a")
    once.wait_for_runs("a", 1)
    redis_broker.server.pause()
    (once.runs_folder / "a.go").touch()
    worker.wait_for_log("Soft time limit (3s) exceeded")
    redis_broker.server.resume()
    assert task.get(timeout=60) == "done"
    once.no_letters()
    assert len(once.runs("a")) == 1


@pytest.mark.own_servers
def test_while_the_ledger_is_away_work_waits_and_spends_no_attempt(
    rabbitmq_broker: Broker, redis_broker: Broker, harness: Harness
) -> None:
    settings: dict[str, Any] = {"idempotency": {"url": redis_broker.url}}
    once = Guarded(harness, rabbitmq_broker.url, "rpc://", settings, "once")
    worker = once.worker("-c", "1")
    redis_broker.server.stop()
    once.tasks.charge.delay("a")
    once.tasks.open_.delay("o")
    once.wait_for_runs("o", 1)
    wait_until(lambda: worker.log().count(" waits ") >= 2, 60, "the work to wait")
    assert once.runs("a") == []
    redis_broker.server.start()
    once.wait_for_runs("a", 1)
    once.no_letters()
    assert "runs unprotected" in worker.log()
