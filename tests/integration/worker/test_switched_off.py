"""Work that was put back and ends under the kill switch: its letter hears of it, and nothing else is different."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from celery_guardrails.letters.header import HEADER, Header
from celery_guardrails.transport.dead_letter import declared_queue
from tests.guarded import Guarded
from tests.waiting import wait_until

OFF = json.dumps({"enabled": False})
TOKEN = "7" * 48
NOW = datetime.now(timezone.utc)


def put_back(losing: Guarded, task: Any, *args: Any, **options: Any) -> str:
    """Send a task as a requeue does; the id of its letter."""
    letter = str(uuid4())
    header = Header(NOW, NOW, dead_letter_id=letter, generation=1, work=letter, claim_token=TOKEN)
    losing.app.send_task(task.name, args, headers={HEADER: header.encode()}, **options)
    return letter


def recoveries(losing: Guarded) -> dict[str, dict[str, Any]]:
    """The recoveries that were reported, by their letters."""
    found: dict[str, dict[str, Any]] = {}
    with Connection(losing.harness.environment["BROKER_URL"]) as connection, connection.channel() as channel:
        queue = declared_queue(f"{losing.prefix}.dead.recovered")(channel)
        queue.declare()
        while (message := queue.get()) is not None:
            report = json.loads(message.body)
            found[report["dead_letter_id"]] = report
            message.ack()
    return found


@pytest.fixture
def off(losing: Guarded) -> Callable[..., Any]:
    """Starts a worker of the losing application under the kill switch."""
    return lambda *options, **more: losing.worker(*options, env={"GUARDED_SETTINGS": OFF}, **more)


def test_every_end_of_work_that_was_put_back_is_reported(losing: Guarded, off: Callable[..., Any]) -> None:
    worker = off()
    tasks = losing.tasks
    ends = {
        put_back(losing, tasks.late, "bug", "bug"): "permanent_error",
        put_back(losing, tasks.late, "exit", "exit"): "worker_lost",
        put_back(losing, tasks.late, "reject", "reject"): "rejected",
        put_back(losing, tasks.early, "killed", "kill_child"): "worker_lost",
        put_back(losing, tasks.limited, "limited", "hang"): "time_limit",
        put_back(losing, tasks.late, "late", "return", expires=datetime(2026, 1, 1, tzinfo=timezone.utc)): "expired",
    }
    well = {
        put_back(losing, tasks.late, "well", "return"): "guarded.late",
        put_back(losing, tasks.expected, "expected", "exit"): "guarded.expected",
        put_back(losing, SimpleNamespace(name="guarded.renamed"), "renamed", "return"): "guarded.renamed",
    }
    tasks.late.delay("plain", "bug")  # nobody has put it back: nobody is told
    letters = {letter.dead_letter_id: letter for letter in losing.letters(len(ends))}
    seen: dict[str, dict[str, Any]] = {}

    def all_reported() -> bool:
        seen.update(recoveries(losing))
        return len(seen) >= len(well)

    wait_until(all_reported, 60, lambda: f"reports of {well}, there are {seen}")
    losing.no_more_letters(len(ends))
    assert {id_: letter.reason.value for id_, letter in letters.items()} == ends
    assert {(letter.generation, letter.claim_token) for letter in letters.values()} == {(1, TOKEN)}
    assert {id_: (report["task"], report["claim_token"]) for id_, report in seen.items()} == {
        id_: (name, TOKEN) for id_, name in well.items()
    }
    losing.wait_for_runs("plain", 1)
    for key in ("bug", "exit", "killed", "limited", "plain", "well"):
        assert len(losing.runs(key)) == 1, "it is a plain task, and is not tried again"
    bug = next(letter for letter in letters.values() if letter.failure.type == "KeyError")
    assert "switched off" in bug.explanation
    assert "KeyError" in bug.failure.traceback
    assert TOKEN not in worker.log()


def test_celerys_own_retries_go_on_and_the_last_ones_end_counts(on_redis: Guarded) -> None:
    """They are the task's behaviour, with Celery's three retries; the header goes along."""
    on_redis.worker("-c", "1", env={"GUARDED_SETTINGS": OFF})
    letter = put_back(on_redis, on_redis.tasks.by_hand, "again", 0.1)
    found = on_redis.letter()
    assert len(on_redis.runs("again")) == 4
    assert (found.dead_letter_id, found.generation, found.claim_token) == (letter, 1, TOKEN)
    assert found.failure.type == "ValueError"
    on_redis.no_more_letters(1)
    assert recoveries(on_redis) == {}


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_report_it_too(on_redis_losing: Guarded, pool: str) -> None:
    losing = on_redis_losing
    losing.worker(env={"GUARDED_SETTINGS": OFF}, pool=pool)
    dead = put_back(losing, losing.tasks.late, "bug", "bug")
    well = put_back(losing, losing.tasks.late, "well", "return")
    letter = losing.letter()
    assert (letter.dead_letter_id, letter.reason.value) == (dead, "permanent_error")
    until = time.monotonic() + 60
    seen: dict[str, Any] = {}
    while well not in seen and time.monotonic() < until:
        seen.update(recoveries(losing))
    assert well in seen


@pytest.fixture
def on_redis_losing(redis_broker: Any, harness: Any, result_backend: str) -> Guarded:
    harness.environment.update(VISIBILITY_TIMEOUT="2")
    return Guarded(harness, redis_broker.url, result_backend, {}, "losing")
