"""`apply_async` with a countdown, an eta or expires: what goes to waiting, and what stays Celery's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.app.amqp import Queues
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError

from celery_guardrails import GuardedTask, Guardrails, Policy
from celery_guardrails.errors import PublishError
from celery_guardrails.task.delayed import return_to_queue
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.eta import EtaWaiting


class Kept(EtaWaiting):
    """Keeps what is to wait, as if outside."""

    outside = True

    def __init__(self) -> None:
        self.kept: list[tuple[Envelope, list[str], float]] = []
        self.away = False

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        if self.away:
            raise PublishError(envelope.routing_key, "away")
        self.kept.append((envelope, [queue.name for queue in declare], delay))


@pytest.fixture
def app(new_app: Callable[..., Celery]) -> Iterator[Celery]:
    app = new_app({}, task_default_queue="unit.timed")
    app.conf.update(task_always_eager=False, task_ignore_result=True)
    app.conf.broker_url = "memory://"
    yield app
    with app.connection_for_write() as connection:
        connection.channel().queue_purge("unit.timed")


@pytest.fixture
def waiting(app: Celery) -> Kept:
    kept = Kept()
    vars(Guardrails.of(app))["waiting"] = kept
    return kept


def add(app: Celery, **options: Any) -> Any:
    return app.task(base=GuardedTask, name="unit.add", shared=False, **options)(same)


def same(x: Any = 0) -> Any:
    return x


def taken(app: Celery) -> Any:
    """The message that went straight to the queue; `None` without one."""
    with app.connection_for_read() as connection:
        return app.amqp.queues["unit.timed"](connection.channel()).get(no_ack=True)


@pytest.mark.parametrize("how", ["countdown", "eta", "naive", "text"])
def test_a_delay_goes_to_waiting_with_all_that_the_message_had(app: Celery, waiting: Kept, how: str) -> None:
    eta = datetime.now(timezone.utc) + timedelta(seconds=30)
    options: dict[str, Any] = {
        "countdown": {"countdown": 30}, "eta": {"eta": eta}, "naive": {"eta": eta.replace(tzinfo=None)},
        "text": {"eta": eta.isoformat()},
    }[how]  # fmt: skip
    result = add(app).apply_async((1,), {}, "the-id", priority=3, compression="gzip", headers={"h": 1}, **options)
    assert (result.id, taken(app)) == ("the-id", None)
    ((envelope, declared, delay),) = waiting.kept
    assert 29 < delay <= 30
    assert (envelope.exchange, envelope.routing_key, declared) == ("", "unit.timed", ["unit.timed"])
    assert (envelope.content_type, envelope.content_encoding, envelope.priority) == ("application/json", "utf-8", 3)
    assert envelope.properties["correlation_id"] == "the-id"
    assert not {"expiration", "delivery_mode", "retry", "retry_policy"} & set(envelope.properties)
    headers = envelope.headers
    assert (headers["id"], headers["h"], headers["compression"]) == ("the-id", 1, "application/x-gzip")
    assert headers["guardrails"]["published_at"]
    due = datetime.fromisoformat(headers["eta"])
    assert abs((due.replace(tzinfo=timezone.utc) - eta).total_seconds()) < 2


@pytest.mark.parametrize(
    "options",
    [{}, {"countdown": 0}, {"countdown": -3}, {"eta": datetime(2020, 1, 1, tzinfo=timezone.utc)}, {"expires": 60}],
)
def test_what_is_due_goes_straight_to_its_queue(app: Celery, waiting: Kept, options: dict[str, Any]) -> None:
    add(app).apply_async((1,), **options)
    assert waiting.kept == []
    message = taken(app)
    assert "expiration" not in message.properties
    assert bool(message.headers["expires"]) is ("expires" in options)


def test_what_celery_refuses_it_still_refuses(app: Celery, waiting: Kept) -> None:
    with pytest.raises(ValueError, match="out of range"):
        add(app).apply_async((1,), countdown=-(10**12))
    with pytest.raises(TypeError):
        add(app).apply_async("text", countdown=5)
    assert (waiting.kept, taken(app)) == ([], None)


def test_expires_is_the_messages_lifetime_only_where_it_may_be_dropped(app: Celery, waiting: Kept) -> None:
    add(app, expires=60).delay(1)
    assert "expiration" not in taken(app).properties
    dropped = app.task(
        base=GuardedTask, name="unit.dropped", shared=False, expires=60, policy=Policy(on_expired="drop")
    )(same)
    dropped.delay()
    assert taken(app).properties["expiration"] == "60000"
    dropped.apply_async(countdown=5)
    assert "expiration" not in waiting.kept[0][0].properties, "in the delay levels it would end the wait"


def test_quorum_queues_and_a_topic_exchange_are_not_rewritten_by_celery(app: Celery, waiting: Kept) -> None:
    """Celery would send it to the delay levels itself, and refuse a delay of less than a second."""
    topic = Exchange("events", "topic")
    app.conf.task_send_sent_event = True
    app.amqp._producer_pool = None
    app.amqp.queues = None
    vars(app.amqp)["queues"] = Queues(
        {"unit.timed": Queue("unit.timed", topic, routing_key="t", queue_arguments={"x-queue-type": "quorum"})}
    )
    sent: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        events = Queue("unit.events", Exchange("celeryev", "topic"), routing_key="#")(connection.channel())
        events.declare()
        for countdown in (0.5, 7):
            add(app).apply_async((1,), countdown=countdown)
        while (message := events.get(no_ack=True)) is not None:
            sent.append(message.payload)
    assert [(e.exchange, e.routing_key, delay) for e, _, delay in waiting.kept] == [
        ("events", "t", 0.5), ("events", "t", 7.0),
    ]  # fmt: skip
    assert [event["eta"] for event in sent] == [envelope.headers["eta"] for envelope, _, _ in waiting.kept]


def test_another_broker_than_the_applications_is_celerys_business(app: Celery, waiting: Kept) -> None:
    task = add(app)
    with Connection("memory://elsewhere") as elsewhere, app.connection_for_write() as ours:
        task.apply_async((1,), countdown=30, connection=elsewhere)
        task.apply_async((2,), countdown=30, producer=app.amqp.Producer(elsewhere, auto_declare=False))
        assert waiting.kept == []
        task.apply_async((3,), countdown=30, connection=ours)
        task.apply_async((4,), countdown=30, expires=60, producer=app.amqp.Producer(ours, auto_declare=False))
    assert [delay for _, _, delay in waiting.kept] == [30.0, 30.0]


def test_a_broker_that_is_away_is_celerys_error(app: Celery, waiting: Kept) -> None:
    waiting.away = True
    with pytest.raises(OperationalError, match=r"could not publish to unit\.timed: away"):
        add(app).apply_async((1,), countdown=5)


def test_a_fault_of_ours_leaves_it_to_celery(
    app: Celery, waiting: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = add(app)
    monkeypatch.setattr("celery_guardrails.task.delayed._plan", lambda *_: 1 / 0)
    task.apply_async((1,), countdown=5)
    assert taken(app).headers["eta"]
    assert "Celery publishes it" in caplog.text


def test_the_kill_switch_and_eager_mode_leave_all_to_celery(new_app: Callable[..., Celery]) -> None:
    off = new_app({"enabled": False}, task_default_queue="unit.off")
    off.conf.task_always_eager = False
    kept = Kept()
    vars(Guardrails.of(off))["waiting"] = kept
    add(off).apply_async((1,), countdown=5, expires=9)
    eager = new_app({})
    vars(Guardrails.of(eager))["waiting"] = kept
    assert add(eager).apply_async((4,), countdown=5).get() == 4
    assert kept.kept == []


def test_headers_of_a_past_delivery_do_not_travel_again(app: Celery, waiting: Kept) -> None:
    past = {"x-delivery-count": 2, "x-death": [], "guardrails_route": ["a", "b", "c"], "kept": 1}
    add(app).apply_async((1,), headers=past)
    headers = taken(app).headers
    assert {name for name in past if name in headers} == {"kept"}


def test_a_retry_by_celery_goes_back_to_its_queue(app: Celery) -> None:
    options = {"exchange": "events", "routing_key": "k", "queue": "unit.timed", "redelivered": False}
    return_to_queue(app, options)
    assert (options["exchange"], options["routing_key"], options["queue"]) == ("", "unit.timed", "unit.timed")
    unknown = {"exchange": "events", "routing_key": "k", "queue": "bcast.1"}
    return_to_queue(app, unknown)
    assert unknown == {"exchange": "events", "routing_key": "k"}
