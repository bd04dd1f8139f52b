"""What a killed worker had taken: invisible for the visibility timeout, an hour by default, and named by `doctor`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.redis.conftest import APP
from tests.waiting import wait_until


def redelivery(redis: Any) -> list[str]:
    """What `doctor` warns of."""
    done = redis.harness.run(APP, "guardrails", "doctor", "--json")
    return [row["found"] for row in json.loads(done.stdout) if row["check"] == "redelivery" and row["level"] != "ok"]


def aged(redis: Any, seconds: float) -> None:
    """Have the workers been silent for so long."""
    for tag in redis.redis.zrange("unacked_index", 0, -1):
        redis.redis.zadd("unacked_index", {tag: time.time() - seconds})


@pytest.mark.parametrize("plain", [False, True])
def test_what_nobody_holds_is_told_until_redis_gives_it_back(on_redis: Callable[..., Any], plain: bool) -> None:
    redis = on_redis()
    worker = redis.worker("-c", "1", plain=plain)
    redis.tasks.work.delay("held", 300.0)
    redis.tasks.work.delay("behind")
    wait_until(lambda: redis.lines("held") and redis.redis.hlen("unacked") == 2, 60, "both are taken")
    if plain:
        aged(redis, 720)  # a plain worker never says what it holds; it is asked
    assert redelivery(redis) == []
    worker.kill()
    aged(redis, 720)
    (found,) = redelivery(redis)
    assert found.startswith(
        "2 messages (onredis.work) taken, but no worker that answers holds them, the first for 12 min"
    )
    assert "each is redelivered 1 h after a worker last reported to hold it, the first in 4" in found
    aged(redis, 7200)
    (overdue,) = redelivery(redis)
    assert overdue.endswith("the first for 2 h: redelivery is due, but no worker is there to do it")


def test_more_than_can_be_read_and_what_is_no_message(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    old = time.time() - 600
    for number in range(510):
        redis.redis.hset("unacked", str(number), "no message")
        redis.redis.zadd("unacked_index", {str(number): old})
    (found,) = redelivery(redis)
    assert found.startswith("at least 500 messages (of no task) taken, but no worker that answers holds them")
