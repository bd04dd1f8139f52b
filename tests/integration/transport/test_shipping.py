"""Shipping the spool on real brokers: everything arrives, whoever dies in between, and nothing blocks the rest."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from kombu import Queue

from celery_guardrails.transport import shipping
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.shipping import Shipped, Shipper
from celery_guardrails.transport.waiting.eta import EtaWaiting
from tests.conftest import Broker
from tests.integration.transport.conftest import Line
from tests.integration.transport.dock import DECLARED, NOW, QUEUE, Dock, publish_counter
from tests.integration.transport.spooling import entry
from tests.integration.transport.test_spool import ENVIRONMENT, SCRIPT
from tests.waiting import wait_until


def test_all_of_it_arrives_in_order_and_the_spool_is_empty(dock: Dock) -> None:
    bodies = dock.fill(30)
    assert dock.shipper.ship(NOW, most=20) == Shipped(20, 10)
    assert dock.shipper.ship(NOW) == Shipped(10, 0)
    assert dock.shipper.ship(NOW) == Shipped(0, 0)
    assert dock.line.bodies(QUEUE) == sorted(bodies)
    assert list(dock.spool.directory.iterdir()) == []


def test_a_retry_waits_for_the_rest_of_its_delay(dock: Dock) -> None:
    dock.spool.put(entry(b"later", QUEUE, NOW + timedelta(seconds=40)))
    dock.spool.put(entry(b"due", QUEUE, NOW - timedelta(seconds=1)))
    assert dock.shipper.ship(NOW + timedelta(seconds=10)).count == 2
    assert dock.waiting.delays == [30.0]


@pytest.mark.own_lines
def test_a_pass_stops_at_the_first_sign_that_the_broker_is_away(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(broker, timeout=0.5)
    dock = Dock(line, tmp_path)
    bodies = dock.fill(50)
    asked = publish_counter(line.publisher, monkeypatch)
    broker.server.stop()
    try:
        first, second = dock.shipper.ship(NOW), dock.shipper.ship(NOW)
    finally:
        broker.server.start()
    assert (first.count, first.left, second.count, second.left) == (0, 50, 0, 50)
    assert first.away
    assert second.away
    assert len(asked) == 2
    line.publisher.seconds = 20.0
    wait_until(lambda: dock.shipper.ship(NOW).left == 0, 30, "the spool is empty")
    assert set(line.bodies(QUEUE)) == bodies
    line.publisher.close()


def test_two_shippers_at_once_ship_each_entry_once(dock: Dock) -> None:
    bodies = dock.fill(120)
    counts: list[int] = []

    def work(shipper: Shipper) -> None:
        counts.append(shipper.ship(NOW).count)

    threads = [threading.Thread(target=work, args=(dock.another(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == 120
    assert sorted(dock.line.bodies(QUEUE)) == sorted(bodies)


def test_kill_9_of_shippers_loses_nothing(dock: Dock) -> None:
    rng = random.Random(11)
    dock.line.publisher.publish(Envelope(b"declare", QUEUE), [DECLARED])
    bodies = dock.fill(400)
    killed = 0
    while killed < 8:
        command = [sys.executable, str(SCRIPT), "ship", str(dock.spool.directory), dock.line.broker.url]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) for _ in range(2)]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.02))
        for child in children:
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
            assert child.stdout is not None
            child.stdout.close()
        if dock.spool.is_empty():
            bodies |= dock.fill(400, QUEUE)
    dock.shipper.ship(NOW)
    assert dock.spool.is_empty()
    assert set(dock.line.bodies(QUEUE)) == bodies | {b"declare"}


def test_a_shipper_that_dies_between_confirm_and_removal_ships_twice(dock: Dock) -> None:
    dock.fill(1)
    pid = os.fork()
    if pid == 0:
        claim = dock.spool.claim(dock.spool.names()[0])
        assert claim is not None
        dock.line.publisher.publish(claim.entry.envelope, [DECLARED])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert dock.shipper.ship(NOW).count == 1
    assert len(dock.line.bodies(QUEUE)) == 2


def test_a_refused_entry_stays_with_one_warning_and_blocks_no_other(
    on_rabbitmq: Dock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock = on_rabbitmq
    monkeypatch.setattr(shipping, "_FIRST_REST", 600.0)
    dock.declared["taken"] = declared_queue("taken")
    with dock.line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("taken", durable=True, auto_delete=False, arguments={"x-max-length": 1})
    asked = publish_counter(dock.line.publisher, monkeypatch)
    for queue in ("taken", "nowhere", QUEUE):
        dock.fill(10, queue)
    assert dock.shipper.ship(NOW) == Shipped(10, 20, refused=20)
    assert dock.shipper.ship(NOW) == Shipped(0, 20, refused=20)
    assert (asked.count("taken"), asked.count("nowhere")) == (1, 1)
    assert caplog.text.count("the broker refuses it") == 2
    with dock.line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("taken")
        channel.queue_declare("nowhere", durable=True, auto_delete=False)
    assert dock.another().ship(NOW) == Shipped(20, 0)  # a process that remembers no refusal
    assert len(dock.line.bodies("taken")) == 10


def test_a_refused_address_is_asked_again_after_a_while(on_rabbitmq: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    dock = on_rabbitmq
    dock.fill(3, "nowhere")
    asked = publish_counter(dock.line.publisher, monkeypatch)
    for _ in range(2):
        assert dock.shipper.ship(NOW).refused == 3
        for rest in dock.shipper._rests.values():
            rest.until = 0.0
    assert [rest.seconds for rest in dock.shipper._rests.values()] == [10.0]
    assert asked == ["nowhere"] * 2
    dock.declared["nowhere"] = declared_queue("nowhere")
    assert dock.shipper.ship(NOW) == Shipped(3, 0)


def test_a_queue_that_is_full_blocks_no_other(on_rabbitmq: Dock) -> None:
    full = Queue(
        "full", durable=True, routing_key="full", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    on_rabbitmq.declared["full"] = full
    on_rabbitmq.line.publisher.publish(Envelope(b"1", "full"), [full])
    on_rabbitmq.fill(3, "full")
    on_rabbitmq.fill(5)
    assert on_rabbitmq.shipper.ship(NOW) == Shipped(5, 3, refused=3)


@pytest.mark.own_lines
def test_what_fails_in_no_known_way_goes_last_the_next_time(dock: Dock) -> None:
    class Odd(EtaWaiting):
        def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
            raise RuntimeError("out of a library")

    dock.spool.put(entry(b"odd", QUEUE, NOW + timedelta(hours=1)))
    bodies = dock.fill(3)
    shipper = Shipper(dock.spool, dock.line.publisher, Odd(dock.line.publisher), dock._queues, dock._doubt)
    assert shipper.ship(NOW) == Shipped(0, 4, away="RuntimeError: out of a library")
    assert shipper.ship(NOW) == Shipped(3, 1, away="RuntimeError: out of a library")
    assert set(dock.line.bodies(QUEUE)) == bodies
    assert dock.another().ship(NOW) == Shipped(1, 0)


@pytest.mark.own_lines
def test_suspects_take_turns(dock: Dock) -> None:
    """One that fails always and is older must not keep one for good that failed once, as when the broker was away."""

    class Odd(EtaWaiting):
        away = False

        def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
            if self.away or envelope.body == b"odd":
                raise RuntimeError("out of a library")
            super().publish(envelope, declare, delay)

    waiting = Odd(dock.line.publisher)
    for body in (b"odd", b"good"):
        dock.spool.put(entry(body, QUEUE, NOW + timedelta(hours=1)))
    shipper = Shipper(dock.spool, dock.line.publisher, waiting, dock._queues, dock._doubt)
    waiting.away = True
    for _ in range(2):
        assert shipper.ship(NOW).count == 0
    waiting.away = False
    shipped = [shipper.ship(NOW).count for _ in range(3)]
    assert sum(shipped) == 1
    assert [found.envelope.body for _, found in dock.spool.entries()] == [b"odd"]
