"""What Flower and other listeners to Celery's events hear of a retry, from each kind of pool."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.guarded import Guarded
from tests.waiting import wait_until


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_retry_is_told_with_its_error_and_its_place(on_redis: Guarded, pool: str) -> None:
    heard: list[dict[str, Any]] = []
    ready = threading.Event()
    receivers: list[Any] = []

    def listen() -> None:
        with on_redis.app.connection_for_read() as connection:
            # kombu subscribes some time after it says so: a heartbeat that arrives says that it has
            handlers = {"task-retried": heard.append, "worker-heartbeat": lambda _: ready.set()}
            receiver = on_redis.app.events.Receiver(connection, handlers=handlers)
            receivers.append(receiver)
            for _ in receiver.consume(limit=None, timeout=None, wakeup=False):
                pass

    on_redis.break_("mail")
    on_redis.worker("-E", pool=pool)
    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert ready.wait(30)
        result = on_redis.tasks.mail.delay(7)
        wait_until(lambda: bool(heard), 30, lambda: f"nothing was heard of {result.id}")
    finally:
        receivers[0].should_stop = True
        thread.join(30)
    event = heard[0]
    assert event["uuid"] == result.id
    assert event["exception"] == "TimeoutError('smtp did not answer')"
    assert event["traceback"].endswith("\n")
    assert "celery.exceptions.Retry: attempt 2 of 3" in event["traceback"]
    assert on_redis.letter().task_id == result.id
