"""`raise Retry()` by hand: of which Celery publishes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import MaxRetriesExceededError, Reject, Retry

from celery_guardrails import GuardedTask, Guardrails
from celery_guardrails.policy.decision import Reason
from celery_guardrails.worker.child.tracer import GuardInfo
from tests.unit.traced import Gate, error_of, trace

WAYS: dict[str, Callable[[], Retry]] = {
    "bare": Retry,
    "message": lambda: Retry("later"),
    "exc": lambda: Retry(exc=KeyError("not yet")),
    "text": lambda: Retry(exc="not an exception"),
    "countdown": lambda: Retry(when=30),
    "eta": lambda: Retry(when=datetime.now(timezone.utc) + timedelta(seconds=30)),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_a_retry_within_the_policy(app: Celery, gate: Gate, quick: Any, way: str) -> None:
    @quick(app, max_attempts=2)
    def raw() -> None:
        raise WAYS[way]()

    outcome = trace(raw)
    assert outcome.info.state == "RETRY"
    (envelope,) = gate.retries
    assert envelope.headers["retries"] == 1
    (attempt,) = envelope.headers["guardrails"]["history"]
    assert attempt["error"] == ("KeyError" if way == "exc" else "celery.exceptions.Retry")
    if way in ("countdown", "eta"):
        due = datetime.fromisoformat(envelope.headers["eta"])
        assert 20 < (due - datetime.now(timezone.utc)).total_seconds() <= 30
        assert 20 < attempt["delay"] <= 30


def test_what_it_was_raised_from_is_the_failure(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app)
    def raw() -> None:
        try:
            raise ConnectionError("down")
        except ConnectionError as exc:
            raise Retry from exc

    trace(raw)
    assert gate.retries[0].headers["guardrails"]["history"][0]["error"] == "ConnectionError"


@pytest.mark.parametrize("way", ["bare", "exc"])
def test_without_an_attempt_left_it_is_a_dead_letter(app: Celery, gate: Gate, quick: Any, way: str) -> None:
    @quick(app, max_attempts=2)
    def raw() -> None:
        raise WAYS[way]()

    outcome = trace(raw, headers={"retries": 1})
    assert outcome.info.state == "FAILURE"
    assert isinstance(outcome.info.retval, KeyError if way == "exc" else MaxRetriesExceededError)
    (letter,) = gate.letters
    assert letter.reason is Reason.ATTEMPTS_EXHAUSTED
    bare = "the task asked for another attempt, but 2 of 2 are used up"
    assert letter.explanation == (bare if way == "bare" else "2 of 2 attempts failed, the last with KeyError")
    if way == "bare":  # without the task's id, by which no two letters would say the same
        assert letter.failure.message == f"Can't retry {raw.name}: {bare}"
    assert gate.retries == []


def test_one_that_cannot_be_published_is_a_dead_letter(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app)
    def raw() -> None:
        raise Retry("later")

    gate.closed.add("unit.tasks")
    assert trace(raw).info.state == "FAILURE"
    assert gate.letters[0].reason is Reason.RETRY_UNPUBLISHABLE


def test_where_guardrails_fails_celery_publishes_it(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app)
    def raw() -> None:
        raise Retry(when=0)

    monkeypatch.setattr("celery_guardrails.worker.child.retry_call.examine", lambda *_: 1 / 0)
    assert trace(raw).info.state == "RETRY"
    with app.connection_for_read() as connection:
        assert connection.SimpleQueue("unit.tasks").get(timeout=5).headers["retries"] == 1


@pytest.mark.parametrize("left", [1, 0])
def test_one_that_is_raised_before_the_body_is_published_too(app: Celery, gate: Gate, quick: Any, left: int) -> None:
    class Refusing(GuardedTask):
        abstract = True

        def before_start(self, *_: Any) -> None:
            raise Retry("no database yet")

    @quick(app, base=Refusing, max_attempts=2)
    def raw() -> None: ...

    outcome = trace(raw, headers={"retries": 1 - left}, info=GuardInfo)
    assert outcome.info.state == ("RETRY" if left else "FAILURE")
    assert type(error_of(outcome)) is (Retry if left else MaxRetriesExceededError)
    assert (len(gate.retries), len(gate.letters)) == (left, 1 - left)


def test_one_before_the_body_that_nobody_takes_goes_back(app: Celery, gate: Gate, quick: Any) -> None:
    class Refusing(GuardedTask):
        abstract = True

        def before_start(self, *_: Any) -> None:
            raise Retry("no database yet")

    @quick(app, base=Refusing)
    def raw() -> None: ...

    Guardrails.of(app).prepare()
    gate.closed.update(("unit.tasks", "unit.dead"))
    outcome = trace(raw, info=GuardInfo)
    assert outcome.info.state == "REJECTED"
    assert isinstance(error_of(outcome), Reject)


def test_under_the_kill_switch_and_in_eager_mode_it_stays_celerys(new_app: Callable[..., Celery], quick: Any) -> None:
    off = new_app({"enabled": False})
    gate = Gate(off)

    @quick(off)
    def raw() -> None:
        raise Retry("later")

    assert trace(raw).info.state == "RETRY"
    assert gate.sent == []
    eager = new_app({})

    @quick(eager)
    def raw_eager() -> None:
        raise Retry("later")

    assert raw_eager.apply().state == "RETRY"
    assert list(Guardrails.of(eager).captured) == []
