"""Taking where Redis is another one: older, behind sentinels; and consumers that come and go."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import run_server
from tests.port import reserve_port
from tests.servers import RedisServer, find_program
from tests.waiting import wait_until


class OldServer(RedisServer):
    """One that does not know `BLMOVE`, as before 6.2."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--rename-command", "BLMOVE", ""]


@pytest.fixture
def old_server() -> Iterator[RedisServer]:
    yield from run_server(OldServer)


def test_an_older_redis_is_taken_from_as_well(on_redis: Callable[..., Any], old_server: RedisServer) -> None:
    redis = on_redis(old_server.fresh_url())
    worker = redis.worker()
    redis.tasks.work.delay("one")
    redis.wait_until_idle()
    time.sleep(1.0)  # some rounds of finding nothing
    redis.tasks.work.apply_async(("two",), priority=9)
    redis.wait_until_idle()
    assert redis.lines("one", "end")
    assert redis.lines("two", "end")
    assert "Traceback" not in worker.log()


@pytest.fixture
def sentinel(tmp_path: Path, own_redis: RedisServer) -> Iterator[int]:
    port = reserve_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
                      f"sentinel monitor shop 127.0.0.1 {own_redis.port} 1\n")  # fmt: skip
    program = find_program("redis-server", install="redis-server")
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([program, str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        with redis.Redis(port=port) as client:
            wait_until(lambda: answers(client), 30, "the sentinel answers")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_a_worker_behind_sentinels_takes_safely(
    on_redis: Callable[..., Any], sentinel: int, own_redis: RedisServer
) -> None:
    made = on_redis(own_redis.fresh_url(), master_name="shop", visibility_timeout=2)
    number = made.url.rsplit("/", 1)[1]
    url = f"sentinel://127.0.0.1:{sentinel}/{number}"
    made.harness.environment["BROKER_URL"] = url
    tasks = made.load()
    made.worker()
    tasks.work.delay("long", 5.0)
    tasks.work.delay("short")
    wait_until(lambda: made.lines("long", "end") and made.lines("short", "end"), 30, "both have run")
    made.wait_until_idle()
    assert len(made.lines("long")) == 1
    assert made.redis.info("commandstats").get("cmdstat_blmove")
    tasks.app.close()


def test_a_consumer_that_is_cancelled_leaves_its_queue_alone(on_redis: Callable[..., Any]) -> None:
    redis = on_redis()
    redis.worker()
    control = redis.tasks.app.control
    for number in range(60):
        redis.tasks.work.apply_async((f"a{number}", 0.05), queue="second")
    wait_until(lambda: redis.lines("a0"), 30, "it takes from the queue")
    assert control.cancel_consumer("second", reply=True, timeout=30, limit=1)
    wait_until(lambda: not redis.redis.hlen("unacked"), 30, "what it had is done")
    left = redis.redis.llen("second")
    redis.tasks.work.delay("other")
    wait_until(lambda: redis.lines("other", "end"), 30, "the other queue is still consumed")
    assert redis.redis.llen("second") == left > 0
    assert control.add_consumer("second", exchange="celery", routing_key="second", reply=True, timeout=30, limit=1)
    redis.wait_until_idle()
    assert all(len(redis.lines(f"a{number}", "end")) == 1 for number in range(60))


def test_without_acknowledgements_kombu_has_its_own_way(on_redis: Callable[..., Any]) -> None:
    redis = on_redis(ack_emulation=False)
    redis.worker()
    for number in range(20):
        redis.tasks.count.delay(number)
    wait_until(lambda: len(redis.counted()) == 20, 30, "all have run")
    assert not redis.redis.exists("unacked")
