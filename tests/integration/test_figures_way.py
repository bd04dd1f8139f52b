"""Figures from end to end: what real workers did stands in `guardrails status`, and a purged letter is missed."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from celery_guardrails import clock
from celery_guardrails.store import figure_query, reconcile
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.consumer import waiting
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness
from tests.waiting import wait_until

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def guarded(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, broker.url, result_backend, {})


def status(guarded: Guarded) -> dict[str, Any]:
    done = guarded.harness.run(APP, "guardrails", "status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def counted(guarded: Guarded) -> dict[str, dict[str, int]]:
    """How attempts of each task ended, as the archive has it."""
    store, now = open_store(guarded.store_url), clock.now()
    try:
        with store.read() as conn:
            return {
                task: each.outcomes for (_, task), each in figure_query.between(conn, now - HOUR, now + HOUR).items()
            }
    finally:
        store.close()


def test_what_workers_did_stands_in_status(guarded: Guarded) -> None:
    guardian = guarded.harness.guardian(APP, ready="guardian started")
    worker = guarded.worker()
    for number in range(20):
        guarded.tasks.add.delay(number, 1)
    guarded.tasks.flaky.delay("flaky", 2)
    guarded.tasks.bug.delay("bug")
    guarded.wait_for_runs("flaky", 3)
    guarded.finish()
    assert worker.stop() == 0  # sends what it has not sent yet
    wanted = {
        "guarded.add": {"succeeded": 20},
        "guarded.flaky": {"succeeded": 1, "retried": 2},
        "guarded.bug": {"dead": 1},
        "guarded.heard": {"succeeded": 1},
    }
    wait_until(lambda: counted(guarded) == wanted, 60, lambda: f"{wanted}, there is {counted(guarded)}")
    found = status(guarded)
    tasks = {task["task"]: task for task in found["tasks"]}
    flaky = tasks["guarded.flaky"]
    assert (flaky["attempts"], flaky["success_rate"], flaky["retries_average"], flaky["retries_p95"]) == (3, 1, 2, 2)
    assert flaky["time_to_succeed_p95"] > 0.1
    assert (tasks["guarded.bug"]["dead"], tasks["guarded.bug"]["success_rate"]) == (1, 0)
    wait_until(lambda: status(guarded)["dead_letters"]["undecided"] == 1, 30, "the dead letter in the archive")
    assert [each["pid"] for each in found["guardians"]] == [guardian.pid]
    assert missing(guarded) == []


def test_a_letter_that_was_purged_by_hand_is_missed_and_no_other(guarded: Guarded) -> None:
    queue = f"{guarded.prefix}.dead"
    worker = guarded.worker()
    guarded.tasks.bug.delay("purged")
    wait_until(lambda: waiting(guarded.app, [queue]) == 1, 60, "the dead letter in its queue")
    purged = guarded.letter()  # takes it out of the queue: nobody archives it
    for key in ("kept", "kept too"):
        guarded.tasks.bug.delay(key)
    wait_until(lambda: waiting(guarded.app, [queue]) == 2, 60, "two dead letters in their queue")
    assert worker.stop() == 0
    guardian = guarded.harness.guardian(APP, ready="guardian started")
    wait_until(lambda: counted(guarded).get("guarded.bug") == {"dead": 3}, 60, "three deaths counted")
    wait_until(lambda: status(guarded)["dead_letters"]["undecided"] == 2, 60, "two letters archived")
    assert guardian.stop() == 0
    assert missing(guarded) == [("guarded.bug", (purged.id,))]


def missing(guarded: Guarded) -> list[tuple[str, tuple[str, ...]]]:
    """The tasks and the ids of dead letters that are missing, once a guardian has looked for them for 10 minutes."""
    store, start = open_store(guarded.store_url), clock.now()
    try:
        with store.begin() as conn:
            for minutes in range(12):
                reconcile.look_up(conn, start + minutes * MINUTE, backlog=False)
            found = reconcile.unreconciled(conn, start + 11 * MINUTE, 10 * MINUTE)
    finally:
        store.close()
    return [(each.task, each.ids) for each in found]
