"""Taking: whatever happens to a worker at whatever instant, no message is gone."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import wait_until


@pytest.mark.parametrize("seed", range(3))
def test_killing_workers_at_random_instants_loses_nothing(on_redis: Callable[..., Any], seed: int) -> None:
    chosen = random.Random(seed)
    redis = on_redis(visibility_timeout=2)
    numbers = 1500
    with redis.tasks.app.producer_pool.acquire(block=True) as producer:
        for number in range(numbers):
            redis.tasks.count.apply_async((number,), producer=producer, priority=chosen.choice((0, 0, 3, 9)))
    for _ in range(4):
        worker = redis.worker()
        started = len(redis.counted())
        wait_until(lambda: len(redis.counted()) > started + 1 or redis.is_idle(), 30, "it takes tasks")  # noqa: B023
        time.sleep(chosen.uniform(0.0, 0.3))  # the instant is the test's, drawn from the seed
        worker.kill()
    redis.worker()
    redis.wait_until_idle()
    assert set(redis.counted()) == set(range(numbers))


def test_plain_kombu_loses_what_it_popped_and_did_not_record(on_redis: Callable[..., Any]) -> None:
    """The same worker, stopped by a hook between the two steps and killed there."""
    redis = on_redis(visibility_timeout=1)
    hook = redis.harness.folder / "sitecustomize.py"
    hook.write_text(
        "import os, signal\n"
        "from kombu.transport import redis\n"
        "def append(self, message, delivery_tag):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "redis.QoS.append = append\n"
    )
    env = {"PYTHONPATH": f"{redis.harness.folder}"}
    killed = redis.harness.worker("tests.apps.onredis", env={**env_with_root(env), "ONREDIS_PLAIN": "1"})
    redis.tasks.work.delay("lost")
    assert killed.wait() == -signal.SIGKILL
    assert redis.redis.llen("celery") == redis.redis.hlen("unacked") == 0
    assert redis.lines("lost") == []
    # the same hook on a guarded worker kills nothing: it has no second step
    redis.harness.worker("tests.apps.onredis", env=env_with_root(env))
    redis.tasks.work.delay("kept")
    redis.wait_until_idle()
    assert len(redis.lines("kept", "end")) == 1


def env_with_root(env: dict[str, str]) -> dict[str, str]:
    from tests.harness import ROOT

    return {"PYTHONPATH": f"{env['PYTHONPATH']}:{ROOT}"}


def test_what_is_no_message_is_dead_lettered_and_others_run(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    worker = redis.worker()
    good = {"delivery_tag": "x", "delivery_info": {}, "body_encoding": "base64"}
    items = [
        b"garbage", b"", b"\xff\xfe", b"[1]", b"null", b"{}", b'{"properties": []}', b'{"properties": {}}',
        json.dumps({"properties": good, "body": "%%%"}).encode(),
        json.dumps({"properties": {**good, "body_encoding": "no such"}, "body": "x"}).encode(),
        b'{"body": "x", "properties": {"delivery_tag": "a\xff"}}',
        b"[" * 5000, b'{"a":' * 900 + b"1" + b"}" * 900,
    ]  # fmt: skip
    for item in items:
        redis.redis.lpush("celery", item)
    redis.tasks.work.delay("after")
    wait_until(lambda: redis.lines("after", "end"), 30, "the task behind them has run")
    redis.wait_until_idle()
    assert redis.redis.hlen("guardrails.quarantine") == 0
    assert redis.redis.llen("dead") == len(items)
    assert worker.is_running


def test_what_a_dead_worker_left_in_quarantine_is_taken_up(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    redis.redis.hset("guardrails.quarantine", "t1", b"6:celerygarbage")
    redis.worker()
    wait_until(lambda: redis.redis.llen("dead") == 1, 30, "it is dead-lettered")
    wait_until(lambda: not redis.redis.hlen("guardrails.quarantine"), 30, "it is gone from the quarantine")


def test_priorities_and_queues_are_kept(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    for number, priority in enumerate((9, 6, 3, 0)):
        for _ in range(3):
            redis.tasks.count.apply_async((number,), priority=priority)
    redis.worker("-c", "1", pool="solo")
    redis.wait_until_idle()
    assert redis.counted() == [3] * 3 + [2] * 3 + [1] * 3 + [0] * 3


def test_queues_take_turns(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    for number in range(12):
        redis.tasks.count.apply_async((number,), queue="celery" if number < 6 else "second")
    redis.worker("-c", "1", "-Q", "celery,second", pool="solo")
    redis.wait_until_idle()
    first = redis.counted()[:6]
    assert 2 <= sum(number < 6 for number in first) <= 4


def test_a_worker_shuts_down_with_messages_in_hand(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    for number in range(30):
        redis.tasks.work.delay(f"k{number}", 0.3)
    worker = redis.worker()
    wait_until(lambda: redis.lines("k0"), 30, "tasks run")
    assert worker.stop() == 0
    assert redis.redis.hlen("unacked") == 0
    done = sum(bool(redis.lines(f"k{number}", "end")) for number in range(30))
    # Celery may leave behind the result of a task that ends in the same instant: that one runs again
    assert 30 - done <= redis.redis.llen("celery") <= 30 - done + 2
    redis.worker("-c", "4", pool="threads")
    redis.wait_until_idle()
    assert all(redis.lines(f"k{number}", "end") for number in range(30))


def test_a_plain_worker_shares_the_queue(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(visibility_timeout=3, unacked_restore_interval=1, unacked_restore_throttle=1)
    guarded, plain = redis.worker(), redis.worker(plain=True)
    for number in range(600):
        redis.tasks.count.apply_async((number,), queue="celery")
    redis.tasks.work.apply_async(("topic",), queue="topical", routing_key="news.today")
    wait_until(lambda: len(redis.counted()) > 20, 30, "both take")
    guarded.kill()
    redis.worker()  # alone, kombu 5.5 takes minutes to put back what the other one held
    redis.wait_until_idle()
    assert set(redis.counted()) == set(range(600))
    plain.kill()
    for number in range(600, 700):
        redis.tasks.count.apply_async((number,), queue="celery")
    redis.wait_until_idle()
    assert set(redis.counted()) == set(range(700))
    assert redis.lines("topic", "end")


def test_what_has_to_wait_in_the_worker_holds_up_no_other(on_redis: Callable[..., Any]) -> None:
    """There is room for three more, and never for as many as a worker with enough to do would rather take at once."""
    redis = on_redis()
    redis.worker(task_annotations={"onredis.work": {"rate_limit": "1/h"}})
    for number in range(6):
        redis.tasks.work.delay(f"limited{number}")
    for number in range(30):
        redis.tasks.count.delay(number)
    wait_until(lambda: len(redis.counted()) == 30, 30, "the others run")
    assert sum(len(redis.lines(f"limited{number}")) for number in range(6)) == 1
