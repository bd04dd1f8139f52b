"""Redis refuses for a while: it is full, say, or a replica. Workers and guardians wait, say so once, and go on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_guardrails.transport.redis.trouble import PAUSE
from tests.conftest import Broker
from tests.harness import Process
from tests.integration.redis.refusal import REFUSALS, refusing
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers

ON, OVER = "Redis refuses for now", "Redis takes commands again"


def asks(client: Any) -> int:
    """How often it was asked for work: by take and by peek."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "blmove")) + sum(
        stats.get(f"cmdstat_{name}", {}).get("rejected_calls", 0) for name in ("evalsha", "blmove")
    )


def said_once(worker: Process) -> None:
    """Fail unless trouble and its end were logged once each, without a traceback."""
    worker.wait_for_log(OVER)
    log = worker.log()
    assert (log.count(ON), log.count(OVER)) == (1, 1)
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("how", "pool"),
    [*((how, "prefork") for how in REFUSALS), ("full", "threads"), ("full", "solo"), ("alone", "threads"),
     ("alone", "gevent")],
)  # fmt: skip
def test_an_idle_worker_waits(on_redis: Callable[..., Any], redis_broker: Broker, how: str, pool: str) -> None:
    app = on_redis(visibility_timeout=4)
    worker = app.worker(pool=pool)
    # gevent's greenlet for the remote control ends for good where it may not declare its queue
    wait_until(lambda: app.tasks.app.control.ping(timeout=1), 60, "it answers")
    with refusing(redis_broker, how):
        worker.wait_for_log(ON)
        assert re.search(REFUSALS[how], worker.log())
        before, began = asks(app.redis), time.monotonic()
        wait_until(lambda: asks(app.redis) >= before + 8 or not worker.is_running, 60, "it asks again")
        # the keeper's own few among them: one that does not wait asks thousands of times a second
        assert time.monotonic() - began >= PAUSE
        if how != "unsaved":  # then it refuses even the first question of a new connection
            app.tasks.app.control.rate_limit("onredis.work", "500/s")
            worker.wait_for_log("500/s")
        assert worker.is_running
    app.tasks.work.delay("after")
    wait_until(lambda: app.lines("after", "end") or not worker.is_running, 60, "it takes work by itself")
    app.wait_until_idle()
    said_once(worker)


@pytest.mark.parametrize("how", REFUSALS)
def test_what_ran_meanwhile_is_acknowledged_afterwards(
    on_redis: Callable[..., Any], redis_broker: Broker, how: str
) -> None:
    app = on_redis(visibility_timeout=4)
    worker = app.worker()
    app.tasks.work.delay("long", 2.0)
    wait_until(lambda: app.lines("long"), 30, "it runs")
    with refusing(redis_broker, how):
        worker.wait_for_log(ON)
        wait_until(lambda: app.lines("long", "end"), 30, "it has run")
        worker.wait_for_log("succeeded in")
        assert worker.is_running
    app.wait_until_idle()
    said_once(worker)
    assert len(app.lines("long")) == 1


def test_a_full_redis_still_hears_what_runs(on_redis: Callable[..., Any], redis_broker: Broker) -> None:
    """Else another worker would be given it: that one's part, putting back, is not refused."""
    app = on_redis(visibility_timeout=2)
    app.worker()
    app.tasks.work.delay("long", 10.0)
    wait_until(lambda: app.lines("long"), 30, "it runs")
    with refusing(redis_broker, "full"):
        app.worker(wait=False)
        wait_until(lambda: app.lines("long", "end"), 60, "it has run")
    app.wait_until_idle()
    assert len(app.lines("long")) == 1


@pytest.mark.parametrize("how", REFUSALS)
def test_a_worker_that_starts_or_reconnects_waits(on_redis: Callable[..., Any], redis_broker: Broker, how: str) -> None:
    app = on_redis(visibility_timeout=4)
    old = app.worker()
    with refusing(redis_broker, how):
        new = app.worker(wait=False)
        new.wait_for_log(ON)
        for name in ("normal", "pubsub"):
            app.redis.client_kill_filter(_type=name, skipme=True)
        old.wait_for_log("Connection to broker lost")
        old.wait_for_log(ON)
    for number in range(20):
        app.tasks.work.delay(f"work{number}", 0.2)
    new.wait_for_log("ready.")
    app.wait_until_idle()
    assert old.is_running
    assert all(len(app.lines(f"work{number}", "end")) == 1 for number in range(20))


@pytest.mark.parametrize("how", REFUSALS)
def test_a_worker_ends_in_order(on_redis: Callable[..., Any], redis_broker: Broker, how: str) -> None:
    app = on_redis(visibility_timeout=4)
    worker = app.worker()
    with refusing(redis_broker, how):
        worker.wait_for_log(ON)
        assert worker.stop(60) == 0
    assert "Traceback" not in worker.log()


@pytest.mark.parametrize("how", REFUSALS)
def test_a_guardian_waits(on_redis: Callable[..., Any], redis_broker: Broker, how: str) -> None:
    app = on_redis(visibility_timeout=4)
    app.worker()
    guardian = app.harness.guardian("tests.apps.onredis")
    app.tasks.failing.delay("first")
    guardian.wait_for_log("archived 1")
    with refusing(redis_broker, how):
        guardian.wait_for_log(ON)
        assert guardian.is_running
    app.tasks.failing.delay("second")
    wait_until(lambda: guardian.log().count("archived 1") == 2, 60, "the next letter is archived")
    assert guardian.log().count(ON) == 1
