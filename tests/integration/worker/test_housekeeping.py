"""The worker's thread that ships the spool: in every pool, beside forks, and gone with its worker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import HEADER
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.service import SpoolShipping
from celery_guardrails.transport.spool import Spool
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.worker.failure.broker_services import BrokerServices
from celery_guardrails.worker.main.housekeeping import Housekeeping, HousekeepingThread
from tests.guarded import Guarded
from tests.waiting import wait_until


def spooled_task(guarded: Guarded, key: str, task_id: str = "t1") -> Spooled:
    """A task that notes `key`, as the spool keeps a retry of it."""
    body = json.dumps([[], {"key": key}, {}]).encode()
    header = {"v": 1, "work": f"work-{task_id}", "published_at": time.time()}
    headers = {"task": "guarded.heard", "id": task_id, "root_id": task_id, "retries": 1, "lang": "py", HEADER: header}
    envelope = Envelope(
        body,
        guarded.app.conf.task_default_queue,
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        properties={"correlation_id": task_id},
    )
    return Spooled(envelope, (), None, f"attempt 2 of {key}", datetime.now(timezone.utc))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_worker_ships_at_its_start_and_ends_as_it_should(on_redis: Guarded, pool: str) -> None:
    spool = Spool(on_redis.harness.folder / "guardrails.spool", 1 << 30, "guarded")
    for _ in range(2):  # the same attempt twice: it runs once
        spool.put(spooled_task(on_redis, "shipped"))
    worker = on_redis.worker(pool=pool)
    on_redis.wait_for_runs("shipped", 1)
    wait_until(spool.is_empty, 30, "an empty spool")
    on_redis.finish()
    assert len(on_redis.runs("shipped")) == 1
    assert worker.stop() == 0
    assert "Traceback" not in worker.log()


def test_children_that_are_forked_meanwhile_work(on_redis: Guarded) -> None:
    spool = Spool(on_redis.harness.folder / "guardrails.spool", 1 << 30, "guarded")
    worker = on_redis.worker("--max-tasks-per-child", "1")
    for number in range(30):
        spool.put(spooled_task(on_redis, "shipped", f"t{number}"))
        on_redis.tasks.heard.apply_async(kwargs={"key": "sent"})
        if number % 10 == 9:
            on_redis.wait_for_runs("sent", number + 1, 60)
    on_redis.wait_for_runs("shipped", 30, 60)
    assert len(on_redis.runs("shipped")) == len(on_redis.runs("sent")) == 30
    assert worker.stop() == 0


class Odd:
    """Services that do as a test says."""

    def __init__(self, *services: Any) -> None:
        self.services = services
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Counting:
    name, every = "counting", timedelta(milliseconds=10)

    def __init__(self, failing: bool) -> None:
        self.name = f"failing {failing}"
        self.failing = failing
        self.runs = 0

    def run_once(self, now: datetime, flush: bool) -> None:
        self.runs += 1
        if self.failing:
            raise RuntimeError("odd")


@contextmanager
def running(broker: Any) -> Iterator[HousekeepingThread]:
    thread = HousekeepingThread(broker)
    thread.start()
    yield thread
    thread.end(10)


def test_a_service_that_fails_is_told_of_once_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    odd = Odd(Counting(True), Counting(False))
    with running(odd) as thread:
        wait_until(lambda: min(service.runs for service in odd.services) > 2, 30, "runs of both")
    assert not thread.is_alive()
    assert odd.closed == 1
    assert caplog.text.count("housekeeping (failing True) failed") == 1


def test_it_does_not_outstay_a_service_that_hangs() -> None:
    release, entered = threading.Event(), threading.Event()

    class Hanging(Counting):
        def run_once(self, now: datetime, flush: bool) -> None:
            entered.set()
            release.wait(30)

    thread = HousekeepingThread(Odd(Hanging(False)))  # type: ignore[arg-type]
    assert thread.daemon
    thread.start()
    assert entered.wait(10)
    thread.end(0.01)
    assert thread.is_alive()
    release.set()
    thread.join(10)
    assert not thread.is_alive()


def app_with(settings: dict[str, Any]) -> Celery:
    app = Celery("housekeeping", broker="memory://", set_as_current=False)
    app.conf.guardrails = settings
    Guardrails(app)
    return app


def test_the_step_of_an_application_that_is_set_up_wrong_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with({"environment": 3})
    step = Housekeeping(SimpleNamespace(app=app))
    assert step.create(SimpleNamespace(app=app)) is None
    step.stop(None)
    assert "ships no spool" in caplog.text


def test_it_ships_letters_and_retries_to_where_they_belong(tmp_path: Path) -> None:
    app = app_with({"dead_letter": {"spool_dir": str(tmp_path), "queue_arguments": {"x-max-length": 9}}})
    broker = BrokerServices(Guardrails.of(app))
    shipping = broker.services[0]
    assert isinstance(shipping, SpoolShipping)
    now = clock.now()
    queues = shipping._shipper._queues
    (dead,) = queues(Spooled(Envelope(b"", "own.dead"), (), None, "", now, letter=True))
    assert (dead.name, dead.queue_arguments) == ("own.dead", {"x-max-length": 9})
    (known,) = queues(Spooled(Envelope(b"", "celery"), ("celery", "gone"), None, "", now))
    assert known.name == "celery"
    broker.close()
