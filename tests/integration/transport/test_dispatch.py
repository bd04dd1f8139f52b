"""The way out of a failed attempt on real brokers: broker, else spool, else an error."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from kombu import Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.transport import publisher as module
from celery_guardrails.transport.dead_letter import DeadLetterSender
from celery_guardrails.transport.dispatch import Dispatch
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.spool import Spool
from tests.conftest import Broker
from tests.integration.transport.conftest import Line
from tests.integration.transport.dock import DECLARED, NOW, QUEUE, Dock
from tests.integration.transport.spooling import LIMIT


def letter() -> Letter:
    return Letter(
        id=letter_id(Work("t1", "", "", ""), 1, 0, Reason.PERMANENT_ERROR),
        task="shop.mail",
        task_id="t1",
        reason=Reason.PERMANENT_ERROR,
        failure=LetterFailure(type="KeyError", message="'x'", category=Category.BUG, fingerprint="v1:1"),
        queue="mail",
        first_failed_at=NOW,
        died_at=NOW,
        message=OriginalMessage.model_construct(
            body=b"\x00\xff", content_type="application/x-odd", content_encoding="binary", headers={}, properties={}
        ),
    )


class Exit:
    """A way out of failed attempts, and its spool."""

    def __init__(self, dock: Dock, limit: int = LIMIT) -> None:
        publisher = dock.line.publisher
        self.spool = Spool(dock.spool.directory, limit)
        sender = DeadLetterSender(publisher, "t.dead", {"x-max-length": 100_000})
        self.dispatch = Dispatch(publisher, dock.waiting, sender, self.spool)


def test_what_the_broker_takes_is_not_spooled(dock: Dock) -> None:
    way_out = Exit(dock)
    way_out.dispatch.run(Envelope(b"again", QUEUE), [DECLARED], 0, NOW, "attempt 2")
    way_out.dispatch.run(Envelope(b"later", QUEUE), [DECLARED], 5, NOW, "attempt 3")
    way_out.dispatch.publish_letter(letter(), None, NOW)
    way_out.dispatch.publish_letter(letter(), "t.own", NOW)
    way_out.dispatch.report_recovered(Recovery("l1", 2, NOW, "shop.mail", "t0ken"), NOW)
    assert len(dock.line.bodies("t.dead.recovered")) == 1
    assert dock.line.bodies(QUEUE) == [b"again", b"later"]
    assert len(dock.line.bodies("t.dead")) == len(dock.line.bodies("t.own")) == 1
    assert dock.waiting.delays == [5]
    assert not way_out.spool.directory.exists()


@pytest.mark.own_lines
def test_what_the_broker_does_not_take_is_spooled_with_all_that_it_needs(
    away: Dock, caplog: pytest.LogCaptureFixture
) -> None:
    way_out = Exit(away)
    exchange = Queue("q", routing_key="k")
    way_out.dispatch.run(Envelope(b"again", "k", exchange="x", headers={"a": b"1"}), [exchange], 0, NOW, "attempt 2")
    way_out.dispatch.run(Envelope(b"later", QUEUE), [], 30, NOW, "attempt 3")
    way_out.dispatch.publish_letter(letter(), "t.own", NOW)
    way_out.dispatch.report_recovered(Recovery("l1", 2, NOW, "shop.mail", "t0ken"), NOW)
    (_, again), (_, later), (_, dead), (_, recovered) = way_out.spool.entries()
    assert (again.envelope.body, again.envelope.headers, again.declare, again.due_at) == (
        b"again", {"a": b"1"}, ("q",), None,
    )  # fmt: skip
    assert (later.due_at, later.what, later.letter) == (NOW + timedelta(seconds=30), "attempt 3", False)
    assert (dead.letter, dead.envelope.routing_key, dead.due_at) == (True, "t.own", None)
    assert decode(dead.envelope.body) == letter()
    assert (recovered.letter, recovered.envelope.routing_key) == (True, "t.dead.recovered")
    assert caplog.text.count("is spooled to") == 4
    assert "dead letter of shop.mail[t1]" in caplog.text


@pytest.mark.own_lines
def test_a_spool_that_is_full_too_is_an_error_that_says_both(away: Dock) -> None:
    way_out = Exit(away, limit=10)
    with pytest.raises(PublishError, match=r"t\.dead: .*; and the spool .*it is full") as lost:
        way_out.dispatch.publish_letter(letter(), None, NOW)
    assert isinstance(lost.value.__cause__, PublishError)
    with pytest.raises(PublishError, match="it is full"):
        way_out.dispatch.run(Envelope(b"x", QUEUE), [], 1, NOW, "attempt 2")


def test_a_retry_that_the_broker_refuses_is_for_people_to_see(on_rabbitmq: Dock) -> None:
    way_out = Exit(on_rabbitmq)
    with pytest.raises(PublishError, match="NO_ROUTE") as lost:
        way_out.dispatch.run(Envelope(b"x", "nowhere"), [], 0, NOW, "attempt 2")
    assert lost.value.refused
    assert way_out.spool.is_empty()


def test_a_letter_that_the_broker_refuses_is_spooled(on_rabbitmq: Dock) -> None:
    with on_rabbitmq.line.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("t.dead", durable=True, auto_delete=False, arguments={"x-max-length": 1})
    way_out = Exit(on_rabbitmq)
    way_out.dispatch.publish_letter(letter(), None, NOW)
    assert not way_out.spool.is_empty()


def test_an_error_out_of_a_library_is_no_reason_to_lose_work(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    way_out = Exit(dock)

    def fail(*_: object) -> None:
        raise RuntimeError("out of a library")

    monkeypatch.setattr(dock.line.publisher, "publish", fail)
    way_out.dispatch.run(Envelope(b"x", QUEUE), [], 0, NOW, "attempt 2")
    way_out.dispatch.publish_letter(letter(), None, NOW)
    assert way_out.spool.status().entries == 2


@pytest.mark.own_lines
def test_after_one_long_wait_in_vain_the_next_are_short(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(broker, timeout=3)
    envelope = Envelope(b"x", QUEUE)
    broker.server.stop()
    try:
        with pytest.raises(PublishError):
            line.publisher.publish(envelope, [DECLARED])
        until = line.publisher._away_until
        assert until > time.monotonic()
        with pytest.raises(PublishError):
            line.publisher.publish(envelope, [DECLARED])
        assert line.publisher._away_until == until, "a short wait in vain has prolonged it"
    finally:
        broker.server.start()
    line.publisher.seconds, line.publisher._away_until = 60.0, time.monotonic() + 600
    monkeypatch.setattr(module, "_CONNECT", 60.0)
    monkeypatch.setattr(module, "_QUICK", 20.0)
    line.publisher.publish(envelope, [DECLARED])
    assert line.publisher._away_until == 0.0
    assert line.publisher._idle == [], "a connection with short timeouts was kept"
    line.publisher.publish(envelope, [DECLARED])
    assert len(line.publisher._idle) == 1
    line.publisher.close()
