"""Waiting in RabbitMQ's delay levels: due and not before, at the right queue only, whatever happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from amqp.exceptions import AMQPError, NotFound
from kombu import Exchange, Queue
from kombu.common import Broadcast
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from celery_guardrails.errors import PublishError, Unlistable
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.routing import came_from
from celery_guardrails.transport.waiting.amqp import NativeDelay
from celery_guardrails.transport.waiting.build import waiting_for
from tests.conftest import Broker
from tests.integration.transport.conftest import IS_TOLD, Line
from tests.waiting import wait_until


class Delays(Line):
    """An application on RabbitMQ, and its way of waiting."""

    def __init__(self, broker: Broker, kind: str = "quorum", timeout: float = 20.0, **conf: Any) -> None:
        super().__init__(broker, timeout)
        self.app.conf.update(broker_native_delayed_delivery_queue_type=kind, **conf)
        waiting = waiting_for(self.app, self.publisher)
        assert isinstance(waiting, NativeDelay)
        self.waiting = waiting

    def know(self, *queues: Queue) -> None:
        """Make queues known to the application; nothing is declared."""
        for queue in queues:
            self.app.amqp.queues.add(queue)

    def send(self, body: bytes, queue: str, delay: float, **fields: Any) -> float:
        """Have it wait; gives the instant before."""
        began = time.time()
        self.waiting.publish(Envelope(body, queue, **fields), [], delay)
        return began

    def receive(self, *queues: str, count: int, bound: float = 60.0) -> list[tuple[str, float, Any]]:
        """Wait for so many messages in any of these queues: which queue, when, the message."""
        got: list[tuple[str, float, Any]] = []

        def look() -> bool:
            try:
                with self.app.connection_for_read() as connection, connection.channel() as channel:
                    for name in queues:
                        while (message := channel.basic_get(name, no_ack=True)) is not None:
                            got.append((name, time.time(), channel.message_to_python(message)))
            except AMQPError:  # after a restart a quorum queue needs a moment to have a leader again
                return False
            return len(got) >= count

        wait_until(look, bound, lambda: f"{count} messages, there are {got}", every=0.01)
        return got

    def count(self, queue: str) -> int | None:
        """How many messages a queue has; `None` when it does not exist."""
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except NotFound:
                return None

    def close(self) -> None:
        self.publisher.close()
        self.app.close()


@pytest.fixture
def delays(rabbitmq_broker: Broker) -> Iterator[Callable[..., Delays]]:
    made: list[Delays] = []

    def make(kind: str = "quorum", **options: Any) -> Delays:
        made.append(Delays(rabbitmq_broker, kind, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def simple(name: str, **arguments: Any) -> Queue:
    return Queue(name, routing_key=name, queue_arguments=arguments or None)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_it_arrives_when_it_is_due_and_at_its_own_queue_only(delays: Callable[..., Delays], kind: str) -> None:
    line = delays(kind)
    line.know(simple("mail"), simple("billing.mail"), simple("a.billing.mail", **{"x-queue-type": kind}))
    sent = {}
    for queue, delay in (("billing.mail", 2), ("mail", 3), ("a.billing.mail", 1)):
        sent[queue] = line.send(queue.encode(), queue, delay, headers={"kept": [1]}), delay
    assert line.count("mail") == 0, "the queue is declared when it is published"
    got = line.receive(*sent, count=3)
    assert sorted((queue, message.body) for queue, _, message in got) == [(q, q.encode()) for q in sorted(sent)]
    for queue, at, message in got:
        began, delay = sent[queue]
        assert delay <= at - began
        assert message.headers["kept"] == [1]
        info = message.delivery_info
        assert came_from(line.app, info["exchange"], info["routing_key"], message.headers) == (queue, "", queue)


def test_bindings_that_celery_makes_there_do_not_catch_it(delays: Callable[..., Delays]) -> None:
    """A worker with quorum queues binds `#.mail`, which catches what Celery itself delays for `billing.mail`."""
    line = delays()
    topic = Exchange("work", "topic")
    quorum = {"x-queue-type": "quorum"}
    queues = [Queue(name, topic, routing_key=name, queue_arguments=quorum) for name in ("mail", "b.mail")]
    queues.append(Queue("any", topic, routing_key="mail.#", queue_arguments=quorum))
    line.know(*queues)
    with line.app.connection_for_write() as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for queue in queues:
            queue(connection.channel()).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    line.send(b"ours", "b.mail", 1)
    line.send(b"ours, by exchange", "b.mail", 1, exchange="work")
    got = line.receive("mail", "b.mail", count=2)
    line.send(b"last", "mail", 1)
    got += line.receive("mail", "b.mail", "any", count=1)
    assert [(queue, message.body) for queue, _, message in got] == [
        ("b.mail", b"ours"), ("b.mail", b"ours, by exchange"), ("mail", b"last"),
    ]  # fmt: skip
    assert came_from(line.app, *_address(got[1][2])) == ("b.mail", "work", "b.mail")
    line.know(Queue("all", topic, routing_key="#", queue_arguments=quorum))
    assert line.waiting._destinations(Envelope(b"x", "mail"), []) == [], "Celery's `#` would catch it"


def _address(message: Any) -> tuple[str, str, Any]:
    return message.delivery_info["exchange"], message.delivery_info["routing_key"], message.headers


@pytest.mark.own_servers
@pytest.mark.parametrize(("kind", "how"), [("classic", "stop"), ("quorum", "kill")])
def test_a_restart_of_the_broker_loses_nothing(delays: Callable[..., Delays], kind: str, how: str) -> None:
    line = delays(kind)
    line.know(simple("tasks", **{"x-queue-type": kind}))
    # RabbitMQ 3.10 does not bring back a quorum queue that was declared less than a second before a kill
    line.send(b"first", "tasks", 1)
    line.receive("tasks", count=1)
    began = time.time()
    bodies = [f"{number}".encode() for number in range(30)]
    for number, body in enumerate(bodies):
        line.send(body, "tasks", 3 + number % 5)
    line.broker.server.stop() if how == "stop" else line.broker.server.kill()
    line.broker.server.start()
    got = line.receive("tasks", count=30, bound=60)
    assert sorted(message.body for _, _, message in got) == sorted(bodies)
    assert min(at for _, at, _ in got) - began >= 3
    line.send(b"after", "tasks", 1)
    assert [message.body for _, _, message in line.receive("tasks", count=1)] == [b"after"]


def test_a_fraction_of_a_second_is_left_to_the_worker(delays: Callable[..., Delays]) -> None:
    line = delays()
    line.know(simple("tasks"))
    line.waiting.publish(Envelope(b"now", "tasks"), [simple("tasks")], 0.9)
    assert line.count("tasks") == 1
    assert line.count("celery_delayed_0") is None, "nothing was declared for it"
    line.send(b"nearly a second", "tasks", 0.97)
    assert line.count("celery_delayed_0") == 1
    line.send(b"and a half", "tasks", 2.5)
    assert line.count("celery_delayed_1") == 1


def test_a_delay_beyond_the_levels_waits_as_long_as_they_can(delays: Callable[..., Delays]) -> None:
    line = delays()
    line.know(simple("tasks"))
    line.send(b"in ten years", "tasks", 10 * 365 * 86400)
    assert line.count("celery_delayed_27") == 1
    line.send(b"later", "tasks", 86400)
    wait_until(lambda: line.waiting.count() == 2, 30, "two messages in the levels")


@pytest.mark.parametrize("once", [True, False])
def test_the_levels_are_prepared_once_a_connection(
    delays: Callable[..., Delays], monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    """To see to all levels again for each message takes longer than there is time."""
    line = delays()
    line.know(simple("mine"))
    prepare, afresh = line.waiting.prepare, []

    def counting(channel: Any, queue: Queue, again: bool) -> None:
        afresh.append(again)
        prepare(channel, queue, again)

    monkeypatch.setattr(line.waiting, "prepare", lambda channel, queue, afresh: counting(channel, queue, afresh))
    for number in range(3):
        line.send(b"%d" % number, "mine", 1.0, once=once)
    assert not any(afresh)
    assert [message.body for _, _, message in line.receive("mine", count=3)]


def test_a_queue_that_only_the_broker_knows_is_not_declared(delays: Callable[..., Delays]) -> None:
    line = delays(timeout=IS_TOLD)
    with pytest.raises(PublishError, match="no queue 'nowhere'") as lost:
        line.send(b"lost", "nowhere", 5)
    assert (lost.value.refused, lost.value.queue, line.count("nowhere")) == (True, "nowhere", None)
    with line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("elsewhere", durable=True, auto_delete=False, arguments={"x-max-priority": 5})
    line.send(b"kept", "elsewhere", 1)
    assert line.receive("elsewhere", count=1)[0][2].body == b"kept"


def test_levels_and_queues_that_somebody_deletes_are_declared_again(delays: Callable[..., Delays]) -> None:
    line = delays()
    line.know(simple("tasks"))
    line.send(b"one", "tasks", 1)
    assert line.receive("tasks", count=1)[0][2].body == b"one"
    with line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("tasks")
        for level in range(28):
            channel.queue_delete(f"celery_delayed_{level}")
            channel.exchange_delete(f"celery_delayed_{level}")
        channel.exchange_delete("celery_delayed_delivery")
    line.send(b"two", "tasks", 1)
    assert line.receive("tasks", count=1)[0][2].body == b"two"


@pytest.mark.parametrize(("there", "wanted"), [("classic", "quorum"), ("quorum", "classic"), ("classic", "nonsense")])
def test_levels_of_another_type_are_used_as_they_are(delays: Callable[..., Delays], there: str, wanted: str) -> None:
    line = delays(wanted)
    with line.app.connection_for_write() as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, there)
    line.know(simple("tasks"))
    line.send(b"one", "tasks", 1)
    assert line.receive("tasks", count=1)[0][2].body == b"one"


def test_who_may_not_declare_the_levels_has_it_wait_in_a_worker(
    delays: Callable[..., Delays], caplog: pytest.LogCaptureFixture
) -> None:
    line = delays()
    with line.app.connection_for_write() as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for level in (27, 26):  # as some other software might have left it
            connection.channel().queue_delete(f"celery_delayed_{level}")
            connection.channel().queue_declare(f"celery_delayed_{level}", durable=True, auto_delete=False)
    line.know(simple("tasks"))
    line.send(b"one", "tasks", 60)
    line.send(b"two", "tasks", 60)
    assert [message.body for _, _, message in line.receive("tasks", count=2)] == [b"one", b"two"]
    assert caplog.text.count("wait in the memory of workers for now") == 1


def test_queues_that_the_levels_cannot_reach_wait_by_eta(delays: Callable[..., Delays]) -> None:
    line = delays()
    line.know(simple("x" * 188), simple("x" * 189), simple("a%.#"), Queue("brief", auto_delete=True))
    line.send(b"fits", "x" * 188, 60)
    line.send(b"fits", "a%.#", 61)
    assert line.count("celery_delayed_5") == 2
    line.waiting.publish(Envelope(b"x", "x" * 189), [simple("x" * 189)], 60)
    assert line.count("x" * 189) == 1
    assert [line.waiting._destinations(Envelope(b"x", "brief"), [])] == [[]]
    everybody = Broadcast("news")
    line.know(everybody)
    assert line.waiting._destinations(Envelope(b"x", "news", exchange="news"), []) == []
    assert line.waiting._destinations(Envelope(b"x", "key", exchange="unheard.of"), []) == []


def test_an_exchange_hands_one_to_each_of_its_queues_and_a_priority_is_kept(delays: Callable[..., Delays]) -> None:
    line = delays()
    topic = Exchange("events", "topic")
    line.know(
        Queue("all", topic, routing_key="#", max_priority=9),
        Queue("mail", topic, routing_key="mail.*", max_priority=9),
        Queue("other", topic, routing_key="other.*"),
    )
    line.send(b"low", "mail.sent", 1, exchange="events", priority=1)
    line.send(b"high", "mail.sent", 1, exchange="events", priority=7)
    wait_until(lambda: (line.count("all"), line.count("mail")) == (2, 2), 30)
    got = line.receive("all", "mail", count=4)
    assert [(queue, message.body) for queue, _, message in got] == [
        ("all", b"high"), ("all", b"low"), ("mail", b"high"), ("mail", b"low"),
    ]  # fmt: skip
    assert [message.properties["priority"] for _, _, message in got] == [7, 1, 7, 1]
    assert came_from(line.app, *_address(got[0][2])) == ("all", "events", "mail.sent")


def test_it_cannot_be_listed(delays: Callable[..., Delays]) -> None:
    waiting = delays().waiting
    for ask in (
        lambda: waiting.entries(5), lambda: waiting.find("x"), lambda: waiting.run_now(["x"]),
        lambda: waiting.remove(["x"]),
    ):  # fmt: skip
        with pytest.raises(Unlistable, match="RabbitMQ's delayed-delivery levels"):
            ask()
