"""What SQS and PGMQ are told of a delay, as far as can be seen without either: it was never run against them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.errors import Unlistable
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.waiting.amqp import NativeDelay
from celery_guardrails.transport.waiting.build import waiting_for
from celery_guardrails.transport.waiting.eta import EtaWaiting
from celery_guardrails.transport.waiting.property import SQS_LIMIT, DelayProperty


class Noted(Publisher):
    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    def publish(self, envelope: Envelope, declare: Sequence[Any] = ()) -> None:
        self.sent.append(envelope)


@pytest.mark.parametrize(
    ("limit", "delay", "seconds"),
    [
        (SQS_LIMIT, 5, 5),
        (SQS_LIMIT, 5.9, 5),
        (SQS_LIMIT, 5.97, 6),
        (SQS_LIMIT, 0.5, None),
        (SQS_LIMIT, 900, 900),
        (SQS_LIMIT, 4000.0, 900),
        (None, 4000.0, 4000),
    ],
)
def test_the_property_has_whole_seconds_up_to_the_limit(limit: int | None, delay: float, seconds: int | None) -> None:
    noted = Noted()
    envelope = Envelope(b"x", "tasks", headers={"eta": "later"}, properties={"correlation_id": "c", "DelaySeconds": 7})
    DelayProperty(noted, limit).publish(envelope, [], delay)
    (sent,) = noted.sent
    assert sent.properties.get("DelaySeconds") == seconds
    assert (sent.properties["correlation_id"], sent.headers, sent.body) == ("c", {"eta": "later"}, b"x")
    assert envelope.properties["DelaySeconds"] == 7, "the caller's envelope stays as it was"


def test_a_fifo_queue_of_sqs_delays_no_single_message() -> None:
    noted = Noted()
    DelayProperty(noted, SQS_LIMIT).publish(Envelope(b"x", "tasks.fifo"), [], 60)
    assert noted.sent[0].properties == {}


def test_kombus_transports_read_it_from_the_messages_properties() -> None:
    """From the publisher through kombu's producer to what its transports put on the queue."""
    app = Celery("property", broker="memory://", set_as_current=False)
    publisher = Publisher(app)
    DelayProperty(publisher, SQS_LIMIT).publish(Envelope(b"x", "property"), [app.amqp.Queues([])["property"]], 42)
    (line,) = publisher._idle
    message = line.producer.channel._get("property")
    assert message["properties"]["DelaySeconds"] == 42
    pgmq = pytest.importorskip("kombu.transport.pgmq")
    assert pgmq.Channel._pgmq_send_kwargs(None, message)["delay"] == 42
    publisher.close()


def test_there_is_nothing_to_list_or_to_release() -> None:
    waiting = DelayProperty(Noted(), SQS_LIMIT)
    assert waiting.release_due(datetime.now(timezone.utc)) == 0
    for ask in (
        lambda: waiting.entries(5), lambda: waiting.find("x"), lambda: waiting.run_now(["x"]),
        lambda: waiting.remove(["x"]),
    ):  # fmt: skip
        with pytest.raises(Unlistable, match="up to 900 s at a time"):
            ask()


@pytest.mark.parametrize(
    ("driver", "kind"), [("sqs", DelayProperty), ("pgmq", DelayProperty), ("amqp", NativeDelay), ("kafka", EtaWaiting)]
)
def test_each_broker_gets_its_way(driver: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("build", broker="memory://", set_as_current=False)
    monkeypatch.setattr(
        "kombu.connection.Connection.get_transport_cls", lambda self: SimpleNamespace(driver_type=driver)
    )
    waiting = waiting_for(app, Noted())
    assert type(waiting) is kind
    assert waiting.outside is (kind is not EtaWaiting)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", EtaWaiting),
        ("amqp://nobody:wrong@127.0.0.1:1//", NativeDelay),
        ("nonsense://", EtaWaiting),
        ("amqp://guest@host:notaport//", EtaWaiting),
    ],
)
def test_it_connects_to_nothing_and_never_raises(url: str, kind: type) -> None:
    app = Celery("build", broker=url, set_as_current=False)
    assert type(waiting_for(app, Noted())) is kind
