"""What a failed attempt publishes: the next one, or a dead letter; and when the broker takes neither."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.replay import replay
from celery_guardrails.policy.decision import Reason
from tests.unit.traced import Gate, trace


def test_a_retry_is_the_message_that_came(app: Celery, gate: Gate, failing: Any) -> None:
    outcome = trace(failing, headers={"mine": "kept", "x-death": [{"count": 1}], "compression": "application/x-gzip"})
    assert outcome.info.state == "RETRY"
    (envelope,) = gate.retries
    assert (envelope.exchange, envelope.routing_key, envelope.priority) == ("", "unit.tasks", 4)
    assert envelope.headers["mine"] == "kept"
    assert envelope.headers["retries"] == 1
    assert envelope.headers["eta"] is None
    assert not {"x-death", "compression"} & set(envelope.headers)
    assert envelope.properties == {"correlation_id": envelope.headers["id"]}
    assert gate.letters == []


@pytest.mark.parametrize(("delay", "written"), [(0.25, True), (0, False), (90, True)])
def test_the_retrys_eta(app: Celery, gate: Gate, quick: Any, delay: float, written: bool) -> None:
    from datetime import datetime, timedelta, timezone

    @quick(app, backoff=lambda attempt, failure: delay)
    def failing() -> None:
        raise ConnectionError("down")

    before = datetime.now(timezone.utc)
    trace(failing)
    after = datetime.now(timezone.utc)
    eta = gate.retries[0].headers["eta"]
    assert (eta is not None) is written
    if written:
        assert before + timedelta(seconds=delay) <= datetime.fromisoformat(eta) <= after + timedelta(seconds=delay)


def test_the_dead_letter_can_run_the_task_again(app: Celery, gate: Gate, failing: Any) -> None:
    trace(failing, headers={"retries": 1})
    (letter,) = gate.letters
    assert (letter.queue, letter.priority, letter.worker) == ("unit.tasks", 4, "w@here")
    again = replay(letter, 1, letter.id, "t0ken", letter.died_at)
    assert again.body == b"[[], {}, {}]"
    assert (again.headers["retries"], again.headers["id"]) == (0, letter.task_id)


def test_a_task_with_a_request_class_of_its_own(app: Celery, gate: Gate, failing: Any) -> None:
    """The original bytes are not at hand: Celery publishes the retry, and the letter's message is written anew."""
    assert trace(failing, whole=False).info.state == "RETRY"
    assert gate.retries == []
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("unit.tasks").get(timeout=5)
        assert message.headers["retries"] == 1
        assert len(message.headers["guardrails"]["history"]) == 1
    trace(failing, whole=False, headers={"retries": 1})
    (letter,) = gate.letters
    assert letter.message.body == (
        b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    )  # fmt: skip


def test_an_unpublishable_retry_is_dead_lettered(
    app: Celery, gate: Gate, failing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gate.closed.add("unit.tasks")
    outcome = trace(failing)
    assert outcome.info.state == "FAILURE"
    assert isinstance(outcome.info.retval, ConnectionError)
    (letter,) = gate.letters
    assert letter.reason is Reason.RETRY_UNPUBLISHABLE
    assert "closed" in letter.explanation


@pytest.mark.parametrize("how", ["plain", "changed", "foreign request"])
def test_an_unpublishable_retry_by_hand_is_dead_lettered(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    @quick(app, bind=True)
    def by_hand(self: Any, x: int = 0) -> None:
        raise self.retry(exc=KeyError("not yet"), kwargs={"x": 1} if how == "changed" else None)

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no broker")

    gate.closed.add("unit.tasks")
    monkeypatch.setattr(app, "send_task", refuse)
    monkeypatch.setattr(app.amqp, "send_task_message", refuse)
    outcome = trace(by_hand, whole=how != "foreign request")
    assert isinstance(outcome.info.retval, KeyError)
    (letter,) = gate.letters
    assert letter.reason is Reason.RETRY_UNPUBLISHABLE
    assert letter.failure.type == "KeyError"


def test_celerys_way_of_a_retry_can_fail_too(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work must not be lost because Celery's own publish raises something else than we do."""

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("no broker")

    monkeypatch.setattr(app.amqp, "send_task_message", refuse)
    outcome = trace(failing, whole=False)
    assert isinstance(outcome.info.retval, ConnectionError)
    assert gate.letters[0].reason is Reason.RETRY_UNPUBLISHABLE


def test_an_unpublishable_letter_leaves_the_message_with_the_broker(app: Celery, gate: Gate, failing: Any) -> None:
    gate.closed |= {"unit.tasks", "unit.dead"}
    reject = trace(failing).info.retval
    assert isinstance(reject, Reject)
    assert reject.requeue is True


def test_an_unpublishable_letter_of_early_acknowledged_work_fails_as_it_would_have(
    app: Celery, gate: Gate, quick: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @quick(app, acks="early")
    def early() -> None:
        raise KeyError("bug")

    Guardrails.of(app).prepare()
    gate.closed.add("unit.dead")
    outcome = trace(early)
    assert outcome.info.state == "FAILURE"
    assert isinstance(outcome.info.retval, KeyError)
    assert "is not taken" in caplog.text


def test_a_policys_own_dead_letter_queue(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app, dead_letter_queue="billing.dead")
    def bug() -> None:
        raise KeyError("bug")

    trace(bug)
    assert [envelope.routing_key for envelope in gate.sent] == ["billing.dead"]


@pytest.mark.parametrize("broken_receiver", [False, True])
def test_receivers_may_change_headers_and_break(
    app: Celery, gate: Gate, quick: Any, broken_receiver: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from celery.signals import after_task_publish, before_task_publish

    heard: list[Any] = []

    @quick(app, max_attempts=3)
    def failing(x: str) -> None:
        raise ConnectionError("down")

    def before(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
        heard.append(("before", headers["retries"], body[0], sender))
        headers["trace"] = "t-1"
        if broken_receiver:
            raise RuntimeError("a receiver's own")

    def after(sender: Any = None, headers: Any = None, routing_key: str = "", **_: Any) -> None:
        heard.append(("after", headers["trace"], routing_key))

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        trace(failing, "x")
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert heard == [("before", 1, ("x",), "unit.task"), ("after", "t-1", "unit.tasks")]
    assert gate.retries[0].headers["trace"] == "t-1"


def test_a_message_of_protocol_1_counts_its_attempts(app: Celery, gate: Gate, failing: Any) -> None:
    """Its counters are in its body: published again as it came, it would run for ever."""
    from celery.app.trace import build_tracer

    from celery_guardrails.worker.main.request import ORIGINAL

    request = {
        "id": "p1", "task": "unit.task", "args": (), "kwargs": {}, "retries": 0, "hostname": "w@here",
        "delivery_info": {"exchange": "", "routing_key": "unit.tasks"},
        "properties": {ORIGINAL: (b'{"task": "unit.task", "id": "p1"}', "application/json", "utf-8", {}, None)},
    }  # fmt: skip
    build_tracer("unit.task", failing, app=app)("p1", (), {}, request)
    assert gate.retries == []
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("unit.tasks").get(timeout=5)
    assert message.headers["retries"] == 1
    assert message.headers["id"] == "p1"
