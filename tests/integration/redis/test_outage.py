"""Redis goes away and comes back, with its append-only file, in the middle of everything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import celery
import pytest

from tests.conftest import Broker
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers


@pytest.mark.parametrize("seed", range(2))
def test_restarting_redis_loses_nothing(on_redis: Callable[..., Any], redis_broker: Broker, seed: int) -> None:
    chosen = random.Random(seed)
    redis = on_redis(visibility_timeout=4)
    redis.worker()
    numbers = 3000
    with redis.tasks.app.producer_pool.acquire(block=True) as producer:
        for number in range(numbers):
            redis.tasks.count.apply_async((number,), producer=producer)
    for _ in range(2):
        started = len(redis.counted())
        wait_until(lambda: len(redis.counted()) > started or redis.is_idle(), 30, "it takes tasks")  # noqa: B023
        time.sleep(chosen.uniform(0.0, 0.1))  # the instant is the test's, drawn from the seed
        redis_broker.server.kill()
        time.sleep(chosen.uniform(0.0, 1.0))
        redis_broker.server.start()
    redis.wait_until_idle()
    assert set(redis.counted()) == set(range(numbers))


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="Celery 5.5 loses the results of tasks that outlive a connection")
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_running_task_outlives_redis_and_runs_once(
    on_redis: Callable[..., Any], redis_broker: Broker, pool: str
) -> None:
    redis = on_redis(visibility_timeout=3)
    worker = redis.worker(pool=pool)
    redis.tasks.work.delay("long", 12.0)
    redis.tasks.work.delay("beside", 12.0)
    redis.tasks.work.delay("next")
    wait_until(lambda: redis.lines("long") and redis.lines("beside"), 30, "they run")
    redis_broker.server.stop()
    redis_broker.server.start()
    wait_until(lambda: worker.log().count("Connected to redis") > 1, 30, "the worker is back")
    wait_until(lambda: redis.lines("next", "end"), 60, "the next one has run")
    redis.wait_until_idle()
    assert [len(redis.lines(key)) for key in ("long", "beside", "next")] == [1, 1, 1]


def test_a_paused_redis_is_waited_for(on_redis: Callable[..., Any], redis_broker: Broker) -> None:
    redis = on_redis(visibility_timeout=4)
    redis.worker()
    for number in range(300):
        redis.tasks.count.delay(number)
    wait_until(redis.counted, 30, "it takes tasks")
    redis_broker.server.pause()
    time.sleep(5.0)  # longer than the visibility timeout
    redis_broker.server.resume()
    redis.wait_until_idle()
    assert set(redis.counted()) == set(range(300))
