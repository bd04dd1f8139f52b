"""Publishing on real brokers: success means that the broker has the message, and everything else ends in time."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import threading
import time
from datetime import timedelta

import pytest
from celery import Celery
from kombu import Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.transport import publisher as module
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from tests.conftest import Broker
from tests.integration.transport.conftest import GIVES_UP, IS_TOLD, Line
from tests.waiting import wait_until

QUEUE = "t.dead"
DECLARED = [declared_queue(QUEUE)]


def send(line: Line, body: bytes) -> None:
    line.publisher.publish(Envelope(body, QUEUE), DECLARED)


def test_what_was_published_is_there(line: Line) -> None:
    send(line, b"\x00\xff one")
    line.publisher.publish(Envelope(b"two", QUEUE, headers={"a": {"b": [1]}}, priority=3), DECLARED)
    assert line.bodies(QUEUE) == [b"\x00\xff one", b"two"]


def publish_around_a_fork(url: str) -> None:
    """Publish before a fork, in the child and after it; the parent's connection has to outlive its child.

    It runs in a process of its own: the child's collection of garbage would otherwise end, in a copied process, what
    other tests have left behind, and wait for their brokers.
    """
    app = Celery("transport-test", broker=url, set_as_current=False)
    publisher = Publisher(app, timedelta(seconds=20))

    def publish(body: bytes) -> None:
        publisher.publish(Envelope(body, QUEUE), DECLARED)

    publish(b"parent before")
    (before,) = publisher._idle
    pid = os.fork()
    if not pid:
        faulthandler.dump_traceback_later(60, exit=True)
        publish(b"child")
        gc.collect()
        (childs,) = publisher._idle
        os._exit(childs is before)
    assert os.waitpid(pid, 0) == (pid, 0), "the child has failed, or used its parent's connection"
    publish(b"parent after")
    (after,) = publisher._idle
    assert after is before, "the child has closed its parent's connection"


def test_a_fork_leaves_its_parents_connection_alone(line: Line) -> None:
    forking = multiprocessing.get_context("spawn").Process(target=publish_around_a_fork, args=(line.broker.url,))
    forking.start()
    forking.join(120)
    assert forking.exitcode == 0
    assert sorted(line.bodies(QUEUE)) == [b"child", b"parent after", b"parent before"]


def test_threads_share_a_publisher(line: Line) -> None:
    barrier = threading.Barrier(8)
    failed: list[Exception] = []

    def work(number: int) -> None:
        barrier.wait()
        try:
            for count in range(50):
                send(line, f"{number}/{count}".encode())
        except Exception as exc:  # noqa: BLE001 shown below
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert sorted(line.bodies(QUEUE)) == sorted(f"{n}/{c}".encode() for n in range(8) for c in range(50))
    assert len(line.publisher._idle) <= 8


@pytest.mark.own_lines
def test_it_reconnects_when_the_broker_has_restarted(line: Line) -> None:
    send(line, b"before")
    line.broker.server.stop()
    line.broker.server.start()
    send(line, b"after")
    assert line.bodies(QUEUE) == [b"before", b"after"]


@pytest.mark.own_lines
def test_it_reconnects_when_the_broker_comes_back_within_the_timeout(broker: Broker) -> None:
    line = Line(broker, timeout=60)
    send(line, b"before")
    broker.server.stop()
    thread = threading.Thread(target=send, args=(line, b"meanwhile"))
    thread.start()
    broker.server.start()
    thread.join(90)
    assert line.bodies(QUEUE) == [b"before", b"meanwhile"]
    line.publisher.close()


def test_a_queue_deleted_after_it_was_declared_is_declared_again(line: Line) -> None:
    send(line, b"one")
    with line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(QUEUE)
    send(line, b"two")
    assert line.bodies(QUEUE)[-1:] == [b"two"]  # on Redis a queue without a binding keeps what it has


def test_no_route_is_an_error_and_harms_no_other_publish(rabbitmq_broker: Broker) -> None:
    line = Line(rabbitmq_broker, IS_TOLD)
    for _ in range(2):
        with pytest.raises(PublishError, match="NO_ROUTE"):
            line.publisher.publish(Envelope(b"lost", "nowhere"))
        send(line, b"kept")
    with pytest.raises(PublishError, match="NOT_FOUND"):
        line.publisher.publish(Envelope(b"lost", "key", exchange="no.such.exchange"))
    send(line, b"kept")
    assert line.bodies(QUEUE) == [b"kept"] * 3
    line.publisher.close()


FULL = Queue("t.full", routing_key="t.full", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})


@pytest.mark.own_lines
@pytest.mark.parametrize(
    ("envelope", "declare", "said", "refused"),
    [
        (Envelope(b"x", "nowhere"), [], "NO_ROUTE", True),
        (Envelope(b"x", "key", exchange="no.such.exchange"), [], "NOT_FOUND", True),
        (Envelope(b"x", "t.full"), [FULL], "MessageNacked", False),
    ],
)
def test_what_the_broker_said_counts_more_than_a_last_try_without_time(
    rabbitmq_broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    envelope: Envelope,
    declare: list[Queue],
    said: str,
    refused: bool,
) -> None:
    """It is tried again until the time is up, and the last try may find too little left for a handshake."""
    line = Line(rabbitmq_broker)
    line.publisher.publish(Envelope(b"1", "t.full"), [FULL])
    hand_over = Publisher._hand_over

    def then_pause(self: Publisher, *args: object) -> None:
        try:
            hand_over(self, *args)  # type: ignore[arg-type]
        except Exception:
            rabbitmq_broker.server.pause()
            raise

    monkeypatch.setattr(Publisher, "_hand_over", then_pause)
    line.publisher.seconds = GIVES_UP
    try:
        with pytest.raises(PublishError, match=said) as caught:
            line.publisher.publish(envelope, declare)
    finally:
        rabbitmq_broker.server.resume()
    assert caught.value.refused is refused
    assert (line.publisher._away_until == 0.0) is refused, "only who is away or full is tried more shortly"
    line.publisher.close()


def test_a_queue_with_other_arguments_is_refused_for_good(rabbitmq_broker: Broker) -> None:
    line = Line(rabbitmq_broker, timeout=60)
    with line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-max-length": 1})
    started = time.monotonic()
    with pytest.raises(PublishError, match="PreconditionFailed"):
        send(line, b"refused")
    assert time.monotonic() - started < 30, "tried again in vain"
    line.publisher.close()


@pytest.mark.own_lines
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "fresh"])
def test_a_broker_that_is_down_ends_in_time(broker: Broker, warm: bool) -> None:
    line = Line(broker)
    if warm:
        send(line, b"before")
    broker.server.stop()
    line.publisher.seconds = GIVES_UP
    try:
        assert_bounded(line)
    finally:
        broker.server.start()
    line.publisher.seconds = 20.0
    line.publisher._away_until = 0.0  # as if those seconds were over
    send(line, b"after")
    line.publisher.close()


@pytest.mark.own_lines
@pytest.mark.parametrize("size", [10, 30_000_000], ids=["small", "large"])
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "fresh"])
def test_a_broker_that_hangs_ends_in_time(broker: Broker, warm: bool, size: int) -> None:
    line = Line(broker)
    if warm:
        send(line, b"before")
    broker.server.pause()
    line.publisher.seconds = GIVES_UP
    try:
        assert_bounded(line, b"x" * size)
    finally:
        broker.server.resume()
    line.publisher.close()
    roomy = Line(broker, timeout=30)  # it has a backlog to work off
    send(roomy, b"after")
    roomy.publisher.close()


@pytest.mark.own_lines
@pytest.mark.parametrize("step", ["channel", "declare"])
def test_a_broker_that_hangs_between_steps_ends_in_time(
    broker: Broker, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the connection, then stops: the steps after that have no timeout of their own."""
    line = Line(broker, GIVES_UP)
    if step == "channel":
        opened = module.opened

        def paused(*args: object, **options: object) -> object:
            connection = opened(*args, **options)  # type: ignore[arg-type]
            broker.server.pause()
            return connection

        monkeypatch.setattr(module, "opened", paused)
    else:
        original = Publisher._open

        def opened_then_paused(self: Publisher) -> object:
            made = original(self)
            broker.server.pause()
            return made

        monkeypatch.setattr(Publisher, "_open", opened_then_paused)
    try:
        assert_bounded(line)
    finally:
        broker.server.resume()


def assert_bounded(line: Line, body: bytes = b"x") -> None:
    """A publish that cannot work raises within a bound that a hung one would not keep."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            send(line, body)
        except PublishError as exc:
            raised.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the publish hangs"
    assert raised


def test_an_address_that_nobody_listens_on() -> None:
    from celery import Celery

    for url in ("redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"):
        publisher = Publisher(Celery("x", broker=url, set_as_current=False), timedelta(seconds=0.3))
        with pytest.raises(PublishError, match=r"t\.dead"):
            publisher.publish(Envelope(b"x", QUEUE), DECLARED)


@pytest.mark.own_lines
def test_several_addresses_are_tried_in_turn(broker: Broker) -> None:
    line = Line(broker)
    line.app.conf.broker_url = [broker.url.replace(f":{broker.server.port}", ":1"), broker.url]
    send(line, b"x")
    wait_until(lambda: line.bodies(QUEUE) == [b"x"], 30)
    line.publisher.close()


def test_no_more_than_ten_connections_are_kept(line: Line) -> None:
    lines = [line.publisher._take(4.0) for _ in range(12)]
    for each in lines:
        line.publisher._give(each)
    assert len(line.publisher._idle) == 10
    line.publisher.close()
    assert line.publisher._idle == []


@pytest.mark.own_lines
def test_idle_lines_from_before_a_restart_do_not_use_up_the_time(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [line.publisher._take(4.0) for _ in range(10)]
    for each in old:
        line.publisher._send(each, Envelope(b"before", QUEUE), DECLARED, 4.0)
        line.publisher._give(each)
    line.broker.server.stop()
    line.broker.server.start()
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    send(line, b"after")
    assert pauses == []
    if line.broker.name == "rabbitmq":  # the client of Redis reconnects by itself
        assert not any(each in old for each in line.publisher._idle)
    assert line.bodies(QUEUE)[-1:] == [b"after"]
