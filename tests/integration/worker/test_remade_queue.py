"""A queue of RabbitMQ that is deleted and made again, as one does to change its type: what waits for it still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_guardrails.transport.waiting.level import LEVELS
from tests.conftest import Broker
from tests.integration.worker.test_delays import Delays
from tests.waiting import wait_until

KEYS = [f"waiting-{number}" for number in range(6)]


@pytest.fixture
def make(rabbitmq_broker: Broker, result_backend: str, tmp_path: Path) -> Iterator[Callable[[], Delays]]:
    made: list[Delays] = []

    def start() -> Delays:
        made.append(Delays(tmp_path, rabbitmq_broker.url, result_backend, "classic"))
        return made[-1]

    yield start
    for each in made:
        each.close()


def in_levels(delays: Delays) -> int:
    """How many messages wait in the delay levels, those that go round there not counted."""
    with delays.app.connection_for_read() as connection, connection.channel() as channel:
        return sum(channel.queue_declare(level, passive=True).message_count for level in LEVELS)


def remake(delays: Delays, *queues: str, kind: str = "classic") -> None:
    with delays.app.connection_for_write() as connection, connection.channel() as channel:
        for queue in queues:
            channel.queue_delete(queue)
        for queue in queues:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": kind})


def fail_all(delays: Delays) -> None:
    for key in KEYS:
        delays.tasks.later.apply_async((key,))
    for key in KEYS:
        delays.wait_for(key, 1)
    wait_until(lambda: in_levels(delays) == len(KEYS), 30, lambda: f"{in_levels(delays)} wait")


def test_from_classic_to_quorum_with_a_new_worker(make: Callable[[], Delays]) -> None:
    delays = make()
    worker = delays.worker()
    fail_all(delays)
    assert worker.stop() == 0
    remake(delays, delays.mail, delays.billing, delays.topic, delays.audit, kind="quorum")
    delays.harness.environment["DELAYS_KIND"] = "quorum"
    delays.worker()
    for key in KEYS:
        assert delays.wait_for(key, 2)[1]["retries"] == 1


def test_a_worker_that_reconnects(make: Callable[[], Delays]) -> None:
    """It does so as soon as the queue is deleted under it."""
    delays = make()
    worker = delays.worker()
    fail_all(delays)
    remake(delays, delays.mail)
    for key in KEYS:
        assert delays.wait_for(key, 2)[1]["retries"] == 1
    assert worker.stop() == 0


def test_a_queue_that_is_added_at_run_time(make: Callable[[], Delays]) -> None:
    delays = make()
    extra = f"{delays.prefix}.extra"
    for key in KEYS:
        delays.tasks.note.apply_async((key,), countdown=8, queue=extra)
    remake(delays, extra)
    delays.worker()
    assert delays.app.control.add_consumer(extra, reply=True, timeout=30)
    for key in KEYS:
        delays.wait_for(key, 1)
