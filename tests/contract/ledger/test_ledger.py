"""What every ledger keeps: one run at a time, a fence that grows, a result that a later run gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis

from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.key import key_of_arguments, key_of_text
from celery_guardrails.idempotency.ledger import (
    Begun,
    Differs,
    Done,
    Kept,
    Key,
    Ledger,
    Result,
    Run,
    Running,
    State,
)
from celery_guardrails.idempotency.memory import MemoryLedger
from celery_guardrails.idempotency.redis import RedisLedger
from celery_guardrails.store.ledger import SqlLedger
from tests.archive import migrated_file

LONG = timedelta(hours=1)
SHORT = timedelta(milliseconds=50)
"""A lease that a test waits for."""
KEY = key_of_text("production", "shop.charge", "order-4711")
FIRST = Run("run-1", "work-1", 0, "shop.charge", "id-1")
OTHER = Run("run-x", "work-x", 0, "shop.charge", "id-x")
RESULT = Result(Kept.HERE, b'{"paid": true}', "application/json")


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.servers),
        pytest.param("redis", marks=pytest.mark.servers),
    ]
)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger()
    elif request.param == "sqlite":
        made = SqlLedger(migrated_file(tmp_path / "archive.sqlite3"))
    elif request.param == "postgresql":
        made = SqlLedger(request.getfixturevalue("migrated_postgresql_url"))
    else:
        made = RedisLedger(request.getfixturevalue("result_backend"))
    yield made
    made.close()


def begin(ledger: Ledger, run: Run = FIRST, key: Key = KEY, arguments: str = "a", lease: timedelta = LONG) -> object:
    return ledger.begin(key, run, arguments, lease)


def test_one_run_does_the_work_and_a_later_one_gets_its_result(ledger: Ledger) -> None:
    assert begin(ledger) == Begun(1)
    waits = begin(ledger, OTHER)
    assert isinstance(waits, Running)
    assert waits.task_id == "id-1"
    assert 3590 < waits.seconds <= 3600
    assert ledger.finish(KEY, "run-1", RESULT, LONG)
    done = begin(ledger, OTHER)
    assert isinstance(done, Done)
    assert (done.result, done.task_id) == (RESULT, "id-1")
    assert abs(done.at - ledger.now()) < timedelta(minutes=1)


def test_keys_are_apart(ledger: Ledger) -> None:
    others = [
        key_of_text("staging", "shop.charge", "order-4711"),
        key_of_text("production", "shop.refund", "order-4711"),
        key_of_text("production", "shop.charge", "order-4712"),
    ]
    assert begin(ledger) == Begun(1)
    for number, other in enumerate(others):
        assert begin(ledger, replace(OTHER, owner=f"run-{number}"), other) == Begun(1)


def test_other_arguments_under_the_same_key_are_a_mistake(ledger: Ledger) -> None:
    begin(ledger)
    assert begin(ledger, OTHER, arguments="b") == Differs("id-1")
    ledger.finish(KEY, "run-1", RESULT, LONG)
    assert begin(ledger, OTHER, arguments="b") == Differs("id-1")


def test_a_retry_of_the_same_work_may_change_its_arguments(ledger: Ledger) -> None:
    begin(ledger)
    assert begin(ledger, replace(FIRST, owner="run-1b", turn=1), arguments="b") == Begun(2)


def test_a_key_that_was_freed_is_begun_again_with_the_next_fence(ledger: Ledger) -> None:
    begin(ledger)
    assert ledger.free("run-1")
    assert not ledger.free("run-1")
    assert begin(ledger, OTHER, arguments="b") == Begun(2)
    assert not ledger.finish(KEY, "run-1", RESULT, LONG)


def test_the_next_attempt_takes_over_at_once_and_a_copy_of_the_same_attempt_waits(ledger: Ledger) -> None:
    begin(ledger)
    twin = replace(FIRST, owner="run-1'")
    assert isinstance(begin(ledger, twin), Running)
    assert begin(ledger, FIRST) == Begun(2)  # the same run asks once more: its first answer was lost
    after = replace(FIRST, owner="run-1b", turn=1)
    assert begin(ledger, after) == Begun(3)
    assert isinstance(begin(ledger, twin), Running)
    assert not ledger.free("run-1")
    assert ledger.finish(KEY, "run-1b", RESULT, LONG)


def test_a_lease_that_is_over_lets_anybody_begin_and_the_run_before_cannot_finish(ledger: Ledger) -> None:
    begin(ledger, lease=SHORT)
    time.sleep(0.1)
    assert begin(ledger, OTHER, arguments="b") == Begun(2)
    assert not ledger.finish(KEY, "run-1", RESULT, LONG)
    assert ledger.renew(["run-1"], LONG) == set()
    assert not ledger.hold("run-1", 10)
    assert not ledger.free("run-1")
    assert ledger.finish(KEY, OTHER.owner, RESULT, LONG)


def test_a_lease_is_renewed_for_many_runs_at_once_also_late(ledger: Ledger) -> None:
    keys = [key_of_text("production", "shop.charge", f"order-{number}") for number in range(20)]
    runs = [Run(f"run-{number}", f"work-{number}", 0, "shop.charge", f"id-{number}") for number in range(20)]
    for key, run in zip(keys, runs, strict=True):
        begin(ledger, run, key, lease=SHORT)
    ledger.finish(keys[0], "run-0", RESULT, LONG)
    ledger.free("run-1")
    time.sleep(0.1)  # nobody has taken them
    assert ledger.renew([run.owner for run in runs] + ["nobody"], LONG) == {run.owner for run in runs[2:]}
    assert isinstance(begin(ledger, OTHER, keys[2]), Running)
    assert ledger.renew([], LONG) == set()


def test_a_key_is_held_for_the_next_attempt(ledger: Ledger) -> None:
    begin(ledger, lease=SHORT)
    assert ledger.hold("run-1", 3600)
    time.sleep(0.1)
    assert isinstance(begin(ledger, OTHER), Running)
    assert begin(ledger, replace(FIRST, owner="run-1b", turn=1)) == Begun(2)


def test_what_is_done_may_be_noted_once_more_and_is_forgotten_after_its_time(ledger: Ledger) -> None:
    begin(ledger)
    assert ledger.finish(KEY, "run-1", Result(), LONG)
    assert ledger.finish(KEY, "run-1", RESULT, LONG)
    assert not ledger.free("run-1")
    again = begin(ledger, replace(FIRST, owner="run-1b", turn=1))
    assert isinstance(again, Done)
    assert again.result == RESULT
    assert ledger.finish(KEY, "run-1", RESULT, SHORT)
    time.sleep(0.1)
    assert isinstance(begin(ledger, OTHER, arguments="b"), Begun)


def test_after_all_is_forgotten_the_run_before_cannot_finish_the_next_ones_work(ledger: Ledger) -> None:
    """A Redis that was flushed counts its fences from 1 again."""
    begin(ledger)
    ledger.forget(KEY)
    assert begin(ledger, OTHER, arguments="b") == Begun(1)
    assert not ledger.finish(KEY, "run-1", RESULT, LONG)


def test_an_entry_shows_what_is_known(ledger: Ledger) -> None:
    assert ledger.entry(KEY) is None
    begin(ledger)
    entry = ledger.entry(KEY)
    assert entry is not None
    assert (entry.scope, entry.text, entry.state, entry.fence) == ("shop.charge", "order-4711", State.RUNNING, 1)
    assert (entry.task, entry.task_id, entry.done_at, entry.result) == ("shop.charge", "id-1", None, Result())
    assert abs(entry.until - entry.began_at - LONG) < timedelta(minutes=1)
    ledger.finish(KEY, "run-1", RESULT, LONG)
    entry = ledger.entry(KEY)
    assert entry is not None
    assert (entry.state, entry.result) == (State.DONE, RESULT)
    assert entry.done_at is not None
    assert ledger.forget(KEY)
    assert not ledger.forget(KEY)
    assert begin(ledger, OTHER, arguments="b") == Begun(1)


def test_a_key_is_found_by_its_text(ledger: Ledger) -> None:
    made = key_of_arguments("production", "shop.charge", {"order_id": 4711})
    twin, elsewhere = (key_of_text(*where, made.text) for where in (("production", "shop.a"), ("staging", "shop.a")))
    for number, key in enumerate((made, twin, elsewhere, KEY)):
        begin(ledger, replace(OTHER, owner=f"run-{number}"), key)
    found = ledger.find("production", made.text)
    assert sorted(found, key=lambda key: key.scope) == [twin, made]
    assert ledger.find("production", made.text, "shop.charge") == [made]
    assert ledger.find("production", made.text, "shop.none") == []
    assert ledger.find("production", "order_id: 0") == []
    assert len(ledger.find("production", made.text, most=1)) == 1


def test_a_key_that_was_begun_again_meanwhile_is_not_forgotten(ledger: Ledger) -> None:
    begin(ledger)
    ledger.free("run-1")
    assert begin(ledger, OTHER) == Begun(2)
    assert not ledger.forget(KEY, fence=1)
    assert ledger.entry(KEY) is not None
    assert ledger.forget(KEY, fence=2)
    assert ledger.entry(KEY) is None
    assert not ledger.forget(KEY, fence=2)


def test_what_is_past_its_time_is_removed(ledger: Ledger) -> None:
    for number in range(3):
        key = key_of_text("production", "shop.charge", f"order-{number}")
        begin(ledger, Run(f"run-{number}", f"work-{number}", 0, "shop.charge", f"id-{number}"), key)
        assert ledger.finish(key, f"run-{number}", RESULT, SHORT)
    begin(ledger)
    time.sleep(0.2)
    removed = ledger.prune(2)
    assert ledger.prune() == (0 if ledger.name.startswith("redis") else 1)
    assert removed == (0 if ledger.name.startswith("redis") else 2)
    assert ledger.entry(key) is None
    assert ledger.entry(KEY) is not None


def test_of_many_runs_at_once_one_begins(ledger: Ledger) -> None:
    barrier, answers = threading.Barrier(8), []

    def ask(number: int) -> None:
        barrier.wait()
        answers.append(begin(ledger, Run(f"run-{number}", f"work-{number}", 0, "shop.charge", f"id-{number}")))

    for _ in range(5):
        answers.clear()
        ledger.forget(KEY)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sum(isinstance(answer, Begun) for answer in answers) == 1
        assert sum(isinstance(answer, Running) for answer in answers) == 7


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "postgresql://nobody@127.0.0.1:1/none", "sqlite:////nowhere/at/all.sqlite3"]
)
def test_a_ledger_that_is_away_says_so(url: str) -> None:
    with pytest.raises(LedgerError):
        begin(RedisLedger(url) if url.startswith("redis") else SqlLedger(url))


@pytest.mark.servers
def test_a_key_is_found_among_many_others_in_redis(result_backend: str) -> None:
    ledger = RedisLedger(result_backend)
    with Redis.from_url(result_backend) as client, client.pipeline() as pipeline:
        for number in range(3000):
            pipeline.set(f"other-{number}", "")
        pipeline.execute()
    keys = [key_of_arguments("production", "shop.charge", {"order_id": number}) for number in range(1500)]
    for number, key in enumerate(keys):
        begin(ledger, replace(OTHER, owner=f"run-{number}"), key)
    assert ledger.find("production", keys[1234].text) == [keys[1234]]
    ledger.close()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://127.0.0.1:6379/3", "redis://127.0.0.1:6379/3"),
        ("rediss://user:hunter2@redis.shop:6380/0?password=hunter2", "rediss://redis.shop:6380/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://:hunter2/x@redis.shop/0", "redis://***"),
    ],
)
def test_the_name_of_a_ledger_in_redis_says_where_it_is_and_no_password(url: str, name: str) -> None:
    assert RedisLedger(url).name == name
