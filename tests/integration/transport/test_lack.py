"""What a RabbitMQ user lacks, asked without leaving anything behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from amqp import Message
from celery import Celery
from kombu import Connection, Queue

from celery_guardrails.transport.lack import lacks, may_read
from celery_guardrails.transport.topology import Topology, topology_of
from tests.conftest import Broker
from tests.integration.limited import Limited


@pytest.fixture
def app(rabbitmq_broker: Broker) -> Iterator[Celery]:
    made = Celery("lacking", broker=rabbitmq_broker.url, set_as_current=False)
    made.amqp.queues.add(Queue("work", routing_key="work"))
    yield made
    made.close()


def needed(app: Celery) -> Topology:
    return topology_of(app, ["dead", "dead.recovered"], {}, "dead")


def test_who_has_all_rights_lacks_nothing_and_nothing_is_declared(app: Celery, rabbitmq_broker: Broker) -> None:
    with Connection(rabbitmq_broker.url) as connection:
        assert lacks(connection, needed(app)) == []
        assert may_read(connection, "dead") is None
    limited = Limited(rabbitmq_broker)
    assert limited.server.control("list_queues", "-p", limited.vhost, "name", "--silent").split() == []


def test_who_has_none_lacks_everything(app: Celery, rabbitmq_broker: Broker) -> None:
    limited = Limited(rabbitmq_broker, write="", read="")
    with Connection(limited.url) as connection:
        found = lacks(connection, needed(app))
    assert [(lack.subject, lack.right.kind, lack.right.name) for lack in found] == [
        ("letters", "configure", "dead"),
        ("letters", "configure", "dead.recovered"),
        ("figures", "configure", "dead.figures"),
        ("waiting", "configure", "celery_delayed_delivery"),
        ("crashes", "configure", "dead.started.NAME"),
        ("publishing", "write", "amq.default"),
    ]
    assert {(lack.right.user, lack.right.vhost) for lack in found} == {(limited.user, limited.vhost)}


def test_reading_is_asked_of_an_empty_queue_only(app: Celery, rabbitmq_broker: Broker) -> None:
    limited = Limited(rabbitmq_broker, read="")
    with Connection(rabbitmq_broker.url) as admin, admin.channel() as channel, Connection(limited.url) as connection:
        channel.queue_declare("dead", durable=True, auto_delete=False)
        right = may_read(connection, "dead")
        assert right is not None
        assert str(right) == f"the user {limited.user!r} has no right to read the queue 'dead'"
        channel.basic_publish(Message("x"), exchange="", routing_key="dead")
        channel.flow(True)
        assert may_read(connection, "dead") is None
