"""Retries that wait in Redis: once, in the right list, and without weight on any worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.redis import RedisWaiting
from tests.conftest import Broker
from tests.waiting import wait_until

PRIORITY = "celery\x06\x16"


def envelope(number: int, queue: str = "celery", exchange: str = "", **more: Any) -> Envelope:
    headers = {"task": "onredis.count", "id": f"task-{number}", "retries": 1, "eta": None, "lang": "py"}
    body = json.dumps([[number], {}, {}]).encode()
    return Envelope(body, queue, exchange, "application/json", "utf-8", headers, **more)


def waiting_of(redis: Any) -> RedisWaiting:
    waiting = Guardrails.of(redis.tasks.app).waiting
    assert isinstance(waiting, RedisWaiting)
    return waiting


@pytest.mark.own_servers
def test_what_a_full_redis_refuses_is_surely_not_there(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    waiting._seconds = 0.5
    redis.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(PublishError, match="maxmemory") as refused:
            waiting.publish(envelope(1, once=True), [], 60.0)
    finally:
        redis.redis.config_set("maxmemory", 0)
    assert not refused.value.unsure
    assert waiting.entries(10) == []
    waiting.publish(envelope(1, once=True), [], 60.0)
    assert [entry.task_id for entry in waiting.entries(10)] == ["task-1"]


def release(waiting: RedisWaiting, count: int) -> None:
    moved = 0

    def enough() -> bool:
        nonlocal moved
        moved += waiting.release_due(clock.now())
        return moved >= count

    wait_until(enough, 30, f"{count} are released")
    assert moved == count


@pytest.mark.parametrize("prefix", ["", "shop.", "{shop}"])
def test_a_message_waits_and_gets_to_its_list(on_redis: Callable[..., Any], prefix: str) -> None:
    redis = on_redis(global_keyprefix=prefix) if prefix else on_redis()
    waiting = waiting_of(redis)
    waiting.publish(envelope(1, priority=6), [], 0.2)
    waiting.publish(envelope(2), [], 0.2)
    waiting.publish(envelope(3), [], 60.0)
    assert not redis.redis.llen(redis.key("celery"))
    release(waiting, 2)
    assert redis.redis.llen(redis.key(f"{PRIORITY}6")) == redis.redis.llen(redis.key("celery")) == 1
    assert [entry.task_id for entry in waiting.entries(10)] == ["task-3"]
    assert waiting.count() == 1
    message = json.loads(redis.redis.lindex(redis.key(f"{PRIORITY}6"), 0))
    assert (message["headers"]["id"], message["properties"]["priority"]) == ("task-1", 6)
    redis.worker()
    redis_keys = {name.decode() for name in redis.redis.keys("*")}
    wait_until(lambda: sorted(redis.counted()) == [1, 2], 30, "both have run")
    assert all(name.startswith(prefix) for name in redis_keys)


def test_every_property_of_a_message_is_kept_while_it_waits(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    properties = {
        "correlation_id": "t1",
        "reply_to": "r",
        "message_id": "m",
        "app_id": "a",
        "type": "t",
        "user_id": "u",
    }
    before = envelope(1, priority=6, properties=properties, once=True)
    before.headers.update(odd=[1, None, {"a": "\u00e9"}], expires="2030-01-01T00:00:00+00:00")
    waiting.publish(before, [], 60.0)
    (entry,) = waiting.entries(10)
    assert replace(entry.envelope, once=True) == before  # what is in Redis is moved, and not published again
    assert waiting.run_now([entry.id]) == 1
    moved = json.loads(redis.redis.lindex(redis.key(f"{PRIORITY}6"), 0))
    assert properties.items() <= moved["properties"].items()
    assert moved["headers"] == before.headers


def test_an_exchange_decides_the_queue(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting, queues = waiting_of(redis), redis.tasks.app.amqp.queues
    waiting.publish(envelope(1, "news.today", "topics"), [queues["topical"]], 0.01)
    waiting.publish(envelope(2, "second", "celery"), [queues["second"]], 0.01)
    release(waiting, 2)
    assert redis.redis.llen("topical") == redis.redis.llen("second") == 1
    with pytest.raises(PublishError) as nowhere:
        waiting.publish(envelope(3, "nobody", "celery"), [queues["second"]], 0.01)
    assert nowhere.value.refused


def test_entries_can_be_listed_found_run_and_removed(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    for number in range(25):
        waiting.publish(envelope(number, priority=3), [], 100.0 + number)
    first = waiting.entries(10)
    second = waiting.entries(10, after=first[-1].id)
    assert [entry.task_id for entry in (*first, *second)] == [f"task-{number}" for number in range(20)]
    assert (first[0].task, first[0].queue, first[0].attempt) == ("onredis.count", "celery", 2)
    assert (first[0].envelope.body, first[0].envelope.priority) == (b"[[0], {}, {}]", 3)
    assert {entry.task_id for entry in waiting.find("task-1")} == {"task-1", *(f"task-1{n}" for n in range(10))}
    assert waiting.find(first[3].id[:10]) == [first[3]]
    assert waiting.find("*") == []
    assert waiting.run_now([first[9].id, first[9].id, "nothing"]) == 1
    assert waiting.entries(10, after=first[-1].id) == second
    assert waiting.remove([first[0].id, first[1].id, "nothing"]) == 2
    assert len(waiting.entries(100)) == 22
    assert redis.redis.llen(f"{PRIORITY}3") == 1
    assert (waiting.run_now([]), waiting.remove([])) == (0, 0)


def test_an_entry_that_nothing_takes_is_put_off_and_the_others_go(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    redis.redis.set("wrong", "a text, not a list")
    waiting.publish(envelope(1, "wrong"), [], 0.01)
    waiting.publish(envelope(2), [], 0.01)
    redis.redis.hset("guardrails.waiting.messages", "odd", "no line break")
    redis.redis.zadd("guardrails.waiting", {"odd": 1.0, "gone": 1.0})
    release(waiting, 1)
    assert redis.redis.llen("celery") == 1
    assert redis.redis.zcard("guardrails.waiting") == redis.redis.hlen("guardrails.waiting.messages") == 2


def test_several_release_at_once_and_nothing_is_released_twice(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    for number in range(2000):
        waiting.publish(envelope(number), [], 0.01)
    with ThreadPoolExecutor(4) as pool:
        moved = list(pool.map(lambda _: sum(waiting.release_due(clock.now(), 700) for _ in range(3)), range(4)))
    assert sum(moved) == redis.redis.llen("celery") == 2000


@pytest.mark.own_servers
def test_a_redis_that_is_away_is_an_error_in_time(on_redis: Callable[..., Any], redis_broker: Broker) -> None:
    redis = on_redis()
    waiting = waiting_of(redis)
    waiting.publish(envelope(1), [], 50.0)
    redis_broker.server.kill()
    with pytest.raises(PublishError) as away:
        waiting.publish(envelope(2), [], 50.0)
    assert not away.value.refused
    with pytest.raises(PublishError):
        waiting.release_due(clock.now())
    with pytest.raises(PublishError, match=r"^Redis at redis://.* does not answer: "):
        waiting.entries(10)
    redis_broker.server.start()
    wait_until(lambda: len(waiting.entries(10)) == 1, 30, "it is there again")


def test_delays_beyond_the_visibility_timeout_run_once(on_redis: Callable[..., Any]) -> None:
    """Celery alone runs such a task four times: it waits, unacknowledged, in the memory of a worker."""
    redis = on_redis(visibility_timeout=4)
    redis.worker()
    redis.worker(pool="threads")
    redis.tasks.work.apply_async(("later",), countdown=13)
    redis.tasks.failing.delay("fails")
    wait_until(lambda: redis.redis.zcard("guardrails.waiting") >= 1, 30, "it waits in Redis")
    wait_until(lambda: redis.lines("later", "end"), 40, "it has run")
    redis.wait_until_idle()
    time.sleep(5.0)  # time for a second run, if there were to be one
    assert (len(redis.lines("later")), len(redis.lines("fails"))) == (1, 2)


def test_a_hundred_thousand_waiting_retries_weigh_nothing_on_a_worker(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    worker = redis.worker()
    redis.tasks.work.delay("before")
    redis.wait_until_idle()
    before = rss(worker.pid)
    waiting = waiting_of(redis)
    text = json.dumps([["x" * 200], {}, {}]).encode()
    with redis.redis.pipeline(transaction=False) as pipe:
        one = waiting_entry(waiting, redis, text)
        for number in range(100_000):
            name = f"{number:016x}.task-{number}"
            pipe.zadd("guardrails.waiting", {name: time.time() + 600 + number})
            pipe.hset("guardrails.waiting.messages", name, one)
            if number % 5000 == 4999:
                pipe.execute()
        pipe.execute()
    assert redis.redis.zcard("guardrails.waiting") >= 100_000
    at = time.time()
    redis.tasks.work.delay("immediate")
    wait_until(lambda: redis.lines("immediate"), 30, "an immediate task has started", every=0.01)
    took = float(redis.lines("immediate")[0].split()[2]) - at
    grown = (rss(worker.pid) - before) / 2**20
    stats = redis.tasks.app.control.inspect(timeout=30, limit=1).stats()
    assert [each["prefetch_count"] for each in stats.values()] == [8]
    assert grown < 20, f"{grown:.1f} MiB more"
    assert took < 5, f"{took:.3f} s"
    (redis.runs / "figures").write_text(f"{grown:.2f} MiB, {took * 1000:.0f} ms")


def waiting_entry(waiting: RedisWaiting, redis: Any, body: bytes) -> bytes:
    """One entry, as `publish` keeps it, to be copied."""
    waiting.publish(Envelope(body, "celery", "", "application/json", "utf-8", {"id": "task", "task": "x"}), [], 900.0)
    (kept,) = redis.redis.hvals("guardrails.waiting.messages")
    return bytes(kept)


def rss(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
