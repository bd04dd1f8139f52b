"""Messages of workers that live are kept, those of workers that died run elsewhere soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from kombu.transport.redis import Channel

from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("pool", "timeout", "seconds"),
    [("prefork", 5, 20.0), ("threads", 2, 9.0), ("solo", 2, 9.0), ("gevent", 2, 9.0)],
)
def test_a_task_longer_than_the_visibility_timeout_runs_once(
    on_redis: Callable[..., Any], pool: str, timeout: int, seconds: float
) -> None:
    redis = on_redis(visibility_timeout=timeout)
    redis.worker(pool=pool)
    redis.worker(pool="threads")
    redis.tasks.work.delay("long", seconds)
    wait_until(lambda: redis.lines("long", "end"), 60, "the task has ended")
    redis.wait_until_idle()
    assert len(redis.lines("long")) == 1


def test_tasks_of_a_killed_worker_run_elsewhere_soon(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=5)
    killed = redis.worker()
    for number in range(6):
        redis.tasks.work.delay(f"t{number}", 3.0 if number < 2 else 0.0)
    wait_until(lambda: redis.lines("t0") and redis.lines("t1"), 30, "two tasks run")
    other = redis.worker()
    killed.kill()
    at = time.time()
    wait_until(lambda: all(redis.lines(f"t{number}", "end") for number in range(6)), 30, "all have run elsewhere")
    redis.wait_until_idle()
    restarted = [float(redis.lines(f"t{number}")[-1].split()[2]) - at for number in range(2)]
    assert max(restarted) < 15, restarted
    assert other.is_running


def test_a_worker_that_shuts_down_keeps_what_still_runs(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=2)
    leaving = redis.worker()
    redis.tasks.work.delay("last", 8.0)
    wait_until(lambda: redis.lines("last"), 30, "the task runs")
    redis.worker()
    assert leaving.stop() == 0
    redis.wait_until_idle()
    assert (len(redis.lines("last")), len(redis.lines("last", "end"))) == (1, 1)


@pytest.mark.skipif(
    not hasattr(Channel, "unacked_restore_interval"), reason="this kombu looks only every 100 s for what is due again"
)
def test_plain_celery_runs_a_long_task_twice(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=2, unacked_restore_interval=1, unacked_restore_throttle=1)
    redis.worker(plain=True)
    redis.tasks.work.delay("long", 9.0)
    wait_until(lambda: len(redis.lines("long")) > 1, 30, "it runs again while it runs")


def test_what_may_run_once_is_left_to_whom_it_was_given(on_redis: Callable[..., Any]) -> None:
    """A worker that could say nothing for the visibility timeout still has it in hand, and another one runs it."""
    redis = on_redis()
    worker = redis.worker("-c", "1")
    redis.tasks.work.delay("busy", 4.0)
    redis.tasks.once.delay("once")
    wait_until(lambda: redis.lines("busy") and worker.log().count("] received") == 2, 30, "both are taken")
    tags = [tag for tag, record in redis.redis.hgetall("unacked").items() if b"onredis.once" in record]
    assert redis.redis.hdel("unacked", *tags) == redis.redis.zrem("unacked_index", *tags) == 1
    for key in ("after", "that"):
        redis.tasks.work.delay(key)
        wait_until(lambda: redis.lines(key, "end"), 30, "the ones behind it run")  # noqa: B023
    assert redis.lines("once") == []
    assert "has given it to another worker" in worker.log()
    assert redis.redis.llen("dead") == 0


def test_a_worker_says_once_that_what_it_holds_is_gone(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=2)
    worker = redis.worker("-c", "1")
    for key in ("long", "behind"):
        redis.tasks.work.delay(key, 5.0)
    wait_until(lambda: redis.lines("long") and worker.log().count("] received") == 2, 30, "both are taken")
    assert "does not know" not in worker.log()
    redis.redis.flushdb()
    worker.wait_for_log("Redis does not know 2 messages any more that this process has taken")
    wait_until(lambda: redis.lines("behind", "end"), 30, "both run")
    redis.tasks.work.delay("after", 5.0)
    wait_until(lambda: redis.lines("after", "end"), 30, "the worker goes on")
    assert worker.log().count("does not know") == 1
