"""What lies in Redis and cannot be read, moved or run holds up nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import wait_until

# kombu's JSON makes values of these, and fails with errors of its own
ODD = ({"__type__": "decimal", "__value__": "abc"}, {"__type__": "bytes", "__value__": 1})


def message(redis: Any, key: str, **headers: Any) -> dict[str, Any]:
    """A message for `onredis.work` as kombu writes it."""
    app = redis.tasks.app
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        body = json.dumps([[key], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        whole = {"lang": "py", "task": "onredis.work", "id": key, "root_id": key, "retries": 0, **headers}
        made = channel.prepare_message(
            body, content_type="application/json", content_encoding="utf-8", headers=whole, properties={}
        )
        channel._inplace_augment_message(made, "", "celery")
    return dict(made)


def leave(redis: Any, tag: str, record: Any) -> None:
    """Leave a record behind as a worker does that died long ago."""
    redis.redis.hset("unacked", tag, record if isinstance(record, bytes) else json.dumps(record))
    redis.redis.zadd("unacked_index", {tag: time.time() - 10_000})


def test_records_of_dead_workers_that_go_nowhere_hold_up_no_other(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=2)
    redis.redis.set("wrong", "no list")
    for number in range(120):
        leave(redis, f"a{number}", [message(redis, "nowhere"), "no such exchange", "x"])
    for number, odd in enumerate(ODD):
        leave(redis, f"b{number}", [message(redis, "odd", odd=odd), "", "celery"])
    leave(redis, "c", [message(redis, "wrong"), "", "wrong"])
    leave(redis, "d", [message(redis, "good"), "", "celery"])
    worker = redis.worker()
    wait_until(lambda: redis.lines("good", "end"), 30, "the one that can be put back runs")
    wait_until(lambda: redis.redis.llen("dead") == len(ODD), 30, "those that cannot be read are dead-lettered")
    worker.wait_for_log("121 unacknowledged messages stay")
    wait_until(lambda: redis.redis.hlen("unacked") == 121, 30, "all others are done")
    assert worker.is_running


def test_a_message_that_cannot_be_read_back_is_dead_lettered(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    worker = redis.worker()
    for odd in ODD:
        redis.redis.lpush("celery", json.dumps(message(redis, "odd", odd=odd)))
    redis.tasks.work.delay("after")
    wait_until(lambda: redis.lines("after", "end"), 30, "the task behind them has run")
    wait_until(lambda: redis.redis.llen("dead") == len(ODD), 30, "they are dead-lettered")
    wait_until(lambda: redis.redis.hlen("unacked") == 0, 30, "all are done")
    assert worker.is_running


def test_half_of_a_surrogate_pair_is_no_reason_not_to_run(on_redis: Callable[..., Any]) -> None:
    """Python makes it of a file's name that is no UTF-8; JSON writes it, and the decoder inside Redis refuses it."""
    redis = on_redis()
    redis.worker()
    redis.tasks.work.apply_async(("half",), headers={"file": "caf\udce9"})
    wait_until(lambda: redis.lines("half", "end"), 30, "it runs")
    redis.wait_until_idle()
    assert redis.redis.llen("dead") == 0


@pytest.mark.own_servers
def test_workers_that_look_for_their_neighbours_take_safely_too(on_redis: Callable[..., Any]) -> None:
    """They consume the answers without acknowledgements, on the channel of the tasks, before these come."""
    redis = on_redis()
    redis.worker(alone=False)
    redis.worker(alone=False)
    redis.tasks.work.delay("first")
    wait_until(lambda: redis.lines("first", "end"), 30, "they take")
    before = redis.redis.info("commandstats")
    for number in range(30):
        redis.tasks.count.delay(number)
    wait_until(lambda: len(redis.counted()) == 30, 30, "all have run")
    after = redis.redis.info("commandstats")
    assert after["cmdstat_evalsha"]["calls"] > before["cmdstat_evalsha"]["calls"]
    assert after.get("cmdstat_brpop", {}).get("calls", 0) == before.get("cmdstat_brpop", {}).get("calls", 0)
