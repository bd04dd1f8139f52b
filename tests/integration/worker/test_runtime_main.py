"""Ends that reach the whole worker: its death, a cold shutdown, expiry, and what comes back afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_guardrails.letters.record import Letter
from tests.guarded import Guarded
from tests.waiting import wait_until


def workers_until(losing: Guarded, done: Callable[[], bool], bound: float = 90.0) -> int:
    """Start a worker whenever the last one has died, until `done`; returns how many there were."""
    process, count = losing.worker("-c", "1"), 1

    def keep() -> bool:
        nonlocal process, count
        if done():
            return True
        if not process.is_running:
            process, count = losing.worker("-c", "1"), count + 1
        return False

    wait_until(keep, bound, lambda: f"{count} workers")
    return count


def of(losing: Guarded, task_id: str) -> list[Letter]:
    losing._receive(0.1)
    return [letter for letter in losing._letters if letter.task_id == task_id]


def test_what_kills_whole_workers_is_dead_lettered_and_its_neighbours_live(losing):
    killer = losing.tasks.late.delay("killer", "kill_main")
    others = [losing.tasks.slow.delay(f"innocent-{number}", 0.05) for number in range(6)]
    count = workers_until(losing, lambda: bool(of(losing, killer.id)))
    (letter,) = of(losing, killer.id)
    assert letter.reason.value == "worker_lost"
    assert letter.explanation == "it was running in 3 workers when they were lost; max_crashes is 3"
    assert len(losing.runs("killer")) == 3
    assert count == 4
    assert losing.app.AsyncResult(killer.id).state == "FAILURE"
    for number in range(len(others)):
        losing.wait_for_runs(f"innocent-{number}.done", 1, 60)
    losing.finish()
    losing._receive(0.3)
    assert [letter.task_id for letter in losing._letters] == [killer.id]


def test_what_may_run_once_is_not_run_again_after_a_dead_worker(losing):
    killer = losing.tasks.early.delay("once", "kill_main")
    process = losing.worker("-c", "1")
    wait_until(lambda: not process.is_running, 30, "the worker to die")
    losing.worker("-c", "1")
    losing.finish()
    assert len(losing.runs("once")) == 1
    (letter,) = losing.letters(1)  # the worker's journal was left
    assert (letter.task_id, letter.reason.value) == (killer.id, "worker_lost")
    assert "may have run already" in letter.explanation


def test_a_cold_shutdown_dead_letters_what_was_acknowledged_and_gives_back_the_rest(losing):
    process = losing.worker("-c", "2")
    gone = losing.tasks.slow_early.delay("gone", 60)
    losing.tasks.slow.delay("back", 5)
    losing.wait_for_runs("gone", 1)
    losing.wait_for_runs("back", 1)
    process.signal(signal.SIGQUIT)
    process.wait(30)
    (letter,) = losing.letters(1)
    assert (letter.task_id, letter.reason.value) == (gone.id, "cancelled")
    assert losing.app.AsyncResult(gone.id).state == "FAILURE"
    losing.worker("-c", "2")
    losing.wait_for_runs("back.done", 1, 40)
    losing.finish()
    assert len(losing.runs("gone")) == 1
    losing._receive(0.3)
    assert len(losing._letters) == 1


def test_work_that_expired_is_dead_lettered_and_can_be_put_back(losing):
    late = datetime.now(timezone.utc) - timedelta(seconds=5)
    kept = losing.tasks.late.apply_async(("kept", "bug"), expires=late)
    dropped = losing.tasks.dropped.apply_async(("dropped", "bug"), expires=late)
    losing.worker()
    losing.finish()
    (letter,) = losing.letters(1)
    assert (letter.task_id, letter.reason.value, letter.attempts) == (kept.id, "expired", ())
    assert losing.app.AsyncResult(kept.id).state == "REVOKED"
    assert of(losing, dropped.id) == []
    assert losing.runs("kept") == losing.runs("dropped") == []
    losing.tasks.heard.apply_async(kwargs={"key": "again"}, task_id=kept.id)
    losing.wait_for_runs("again", 1)


def test_what_a_person_revokes_makes_no_letter(losing):
    process = losing.worker("-c", "2")
    task = losing.tasks.slow.delay("revoked", 60)
    losing.wait_for_runs("revoked", 1)
    losing.app.control.revoke(task.id, terminate=True)
    wait_until(lambda: losing.app.AsyncResult(task.id).state == "REVOKED", 30, "it to be revoked")
    losing.no_letters()
    assert process.is_running
    assert losing.runs("revoked.done") == []


@pytest.mark.parametrize(
    ("pool", "failures"), [("prefork", 0), ("prefork", 1), ("threads", 0), ("threads", 1), ("gevent", 1)]
)
def test_a_message_that_its_task_puts_back_is_no_crash_and_runs_again(losing, pool, failures):
    """On an attempt that is not the first, copies are told apart: the one put back is none that has begun."""
    losing.worker(pool=pool)
    tasks = [losing.tasks.choosy.delay(f"choosy-{number}", 20, failures) for number in range(4)]
    for number, task in enumerate(tasks):
        runs = losing.wait_for_runs(f"choosy-{number}", 21 + failures)
        assert [run["retries"] for run in runs] == [0] * failures + [failures] * 21
        assert not any(run["redelivered"] for run in runs)
        wait_until(lambda task=task: losing.app.AsyncResult(task.id).state == "SUCCESS", 30, "it to succeed")
    losing.no_letters()


def test_a_start_that_fails_is_an_attempt(losing):
    losing.worker()
    losing.tasks.refusing.delay("later", "", 2)
    never = losing.tasks.refusing.delay("never", "", 9)
    losing.wait_for_runs("later", 1)
    (letter,) = losing.letters(1)
    assert (letter.task_id, letter.reason.value) == (never.id, "attempts_exhausted")
    assert len(letter.attempts) == 3
    assert len(losing.runs("never.before_start")) == 3
    assert losing.runs("never") == []


def test_a_result_backend_that_is_down_loses_nothing(losing, shared_redis):
    url = shared_redis.fresh_url().replace(str(shared_redis.port), "1")
    losing.worker(env={"RESULT_BACKEND": url})
    failed = losing.tasks.late.apply_async(("failed", "bug"), ignore_result=False)
    done = losing.tasks.slow.delay("done", 0)
    letters = {letter.task_id: letter for letter in losing.letters(2, 60)}
    assert letters[failed.id].reason.value == "permanent_error"
    assert letters[done.id].reason.value == "result_unstorable"
    assert "the body succeeded" in letters[done.id].explanation
    losing._receive(0.5)
    assert len(losing._letters) == 2
    assert len(losing.runs("done")) == 1


def test_the_kill_switch_leaves_celerys_behaviour(losing):
    losing.worker(env={"GUARDED_SETTINGS": '{"enabled": false}'})
    task = losing.tasks.late.delay("plain", "reject")
    losing.wait_for_runs("plain", 1)
    losing.no_letters()
    assert losing.app.AsyncResult(task.id).state in ("FAILURE", "PENDING")


POOLS = [("threads", "late"), ("threads", "early"), ("gevent", "late"), ("solo", "late")]


@pytest.mark.parametrize(("pool", "task"), POOLS)
def test_no_end_takes_another_pool_down(losing, pool, task):
    losing.process = process = losing.worker(pool=pool)
    expected = {}
    for how in ("exit", "strange", "memory", "generator", "interrupt", "reject", "unserialisable", "bug"):
        expected[getattr(losing.tasks, task).delay(how, how).id] = how
    expected[losing.tasks.raising.delay("raising", "bug").id] = "raising"
    letters = losing.letters(len(expected), 60)
    losing.finish()
    losing._receive(0.3)
    assert process.is_running
    assert sorted(expected[letter.task_id] for letter in letters) == sorted(expected.values())
    reasons = {expected[letter.task_id]: letter.reason.value for letter in letters}
    assert {how for how, reason in reasons.items() if reason == "permanent_error"} == {
        "exit", "strange", "memory", "generator", "interrupt", "bug", "raising",
    }  # fmt: skip
    assert (reasons["reject"], reasons["unserialisable"]) == ("rejected", "result_unstorable")


def test_a_hard_time_limit_of_gevent_is_met(losing):
    process: Any = losing.worker(pool="gevent")
    task = losing.tasks.limited.delay("limited", "hang")
    (letter,) = losing.letters(1)
    assert (letter.task_id, letter.reason.value) == (task.id, "time_limit")
    losing.finish()
    assert process.is_running
    assert losing.app.AsyncResult(task.id).state == "FAILURE"
