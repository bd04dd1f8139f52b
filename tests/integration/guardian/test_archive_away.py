"""While the archive or the broker is away the guardian keeps what it has, and goes on with everything else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from celery_guardrails.guardian import guardian as module
from celery_guardrails.store.engine import open_store
from tests.conftest import Broker
from tests.integration.guardian.bench import Bench, letter
from tests.waiting import wait_until


class Counting:
    """A service that is always due."""

    name, every = "counting", timedelta(0)

    def __init__(self) -> None:
        self.runs = 0

    def run_once(self, now: datetime, flush: bool) -> None:
        self.runs += 1

    def goes_on(self) -> None:
        before = self.runs
        wait_until(lambda: self.runs >= before + 3, 30, "three more runs of the service")


@contextmanager
def locked(bench: Bench) -> Iterator[None]:
    """The archive as it is while somebody else writes to it for long."""
    bench.impatient()
    blocker = open_store(f"sqlite:///{bench.path}")
    try:
        with blocker.begin():
            yield
    finally:
        blocker.close()


@pytest.fixture
def counted(rabbitmq_broker: Broker, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose queues drop a message that came back twice."""
    made = Bench(rabbitmq_broker.url, tmp_path, {"x-queue-type": "quorum", "x-delivery-limit": 2})
    yield made
    made.close()


def test_a_queue_that_counts_deliveries_loses_nothing(counted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.4)
    for number in range(150):
        counted.sender.send(letter(number))
    guardian = counted.guardian()
    with ExitStack() as archive:
        archive.enter_context(locked(counted))
        with counted.running(guardian):
            wait_until(lambda: guardian.troubles >= 6, 60, "six tries")
            archive.close()
            wait_until(lambda: counted.count() == 150, 60, "all letters in the archive")
    # RabbitMQ keeps up to 32 acknowledgements of a channel in memory, and forgets them if the channel closes just then:
    # these letters come again, and the archive knows them
    again = counted.guardian().run_once()
    assert (again.archived, counted.count(), counted.waiting()) == (0, 150, 0)


def test_services_go_on_while_the_archive_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 600.0)
    counting = Counting()
    guardian = bench.guardian(counting)
    bench.sender.send(letter(1))
    with locked(bench), bench.running(guardian):
        wait_until(lambda: guardian.troubles > 0, 30, "the refusal of the archive")
        counting.goes_on()
        assert bench.waiting() == 0  # it is in hand
    wait_until(lambda: bench.waiting() == 1, 30, "the letter back in its queue, as this guardian ended")


@pytest.mark.own_servers
def test_services_go_on_while_the_broker_is_away(bench: Bench, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 600.0)
    counting = Counting()
    guardian = bench.guardian(counting)
    broker.server.stop()
    try:
        with bench.running(guardian):
            wait_until(lambda: guardian.troubles > 0, 30, "the missing broker")
            counting.goes_on()
    finally:
        broker.server.start()


def test_once_ends_while_somebody_goes_on_publishing(bench: Bench) -> None:
    sent, done = [0], threading.Event()

    def publish() -> None:
        while not done.is_set():
            bench.sender.send(letter(sent[0]))
            sent[0] += 1

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    wait_until(lambda: sent[0] >= 50, 30, "some letters")
    archived: list[int] = []
    once = threading.Thread(target=lambda: archived.append(bench.guardian().run_once().archived), daemon=True)
    once.start()
    once.join(40)
    ended = not once.is_alive()
    done.set()
    publisher.join(30)
    once.join(60)
    assert ended, "it goes on for as long as somebody publishes"
    assert archived[0] >= 50
    wait_until(lambda: archived.append(bench.guardian().run_once().archived) or bench.waiting() == 0, 30)
    assert bench.count() == sum(archived) == sent[0]
