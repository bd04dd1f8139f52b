"""A real guardian goes by what a task's own policy says about its alerts."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from celery_guardrails import clock
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.figure import count
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness
from tests.waiting import wait_until

SETTINGS = {
    "alerts": {"group_wait": "1s"},
    "policies": {
        "guarded.flaky": {"alert": {"failed_attempts": {"count": 4}, "error_rate": False}},
        "guarded.bug": {"alert": False},
    },
}


@pytest.fixture
def guarded(redis_broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, redis_broker.url, result_backend, SETTINGS)


def fail(guarded: Guarded) -> None:
    """Have the archive know that all attempts of three tasks failed."""
    store, now = open_store(guarded.store_url, app=APP).ready(), clock.now()
    tasks = {f"guarded.{name}": TaskFigures(outcomes={"retried": 30}) for name in ("flaky", "bug", "add")}
    try:
        with store.begin() as conn:
            at = now.timestamp()
            assert count(conn, [Summary(str(uuid4()), "test", "w@h", 1, at - 1, at, tasks=tasks)], now).fresh
    finally:
        store.close()


def conditions(guarded: Guarded) -> dict[str, list[str]]:
    done = guarded.harness.run(APP, "guardrails", "alerts", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {each["task"]: sorted(each["conditions"]) for each in json.loads(done.stdout)}


def test_a_real_guardian_goes_by_the_policies_of_its_tasks(guarded: Guarded) -> None:
    fail(guarded)
    guarded.harness.guardian(APP, ready="guardian started")
    wanted = {"guarded.flaky": ["failed_attempts"], "guarded.add": ["error_rate"]}
    wait_until(lambda: conditions(guarded) == wanted, 120, lambda: f"{wanted}, there is {conditions(guarded)}")
