"""What the tracer hands to the main process is what was decided, wherever it failed; a killed greenlet is no end."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject, Retry
from greenlet import GreenletExit

from celery_guardrails import Guardrails
from celery_guardrails.errors import PublishError
from tests.unit.worker.traced import Gate, error_of


def handed_out(task: Any, **options: Any) -> Any:
    """What a worker's process that runs tasks gives the main one."""
    Guardrails.of(task.app).retrace("w@here")
    request = {"id": str(uuid.uuid4()), "retries": 0, "delivery_info": {"routing_key": "unit.tasks"}, **options}
    return task.__trace__(request["id"], (), {}, request)


def down(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no result backend")


@pytest.fixture
def fine(app: Celery, quick: Any) -> Any:
    @quick(app, track_started=True)
    def fine() -> str:
        return "fine"

    return fine


def test_a_result_that_nobody_takes_goes_back_where_no_letter_can_be_written(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Guardrails.of(app).prepare()
    monkeypatch.setattr(app.backend, "mark_as_done", down)
    gate.closed.add("unit.dead")
    with pytest.warns(RuntimeWarning, match="outside body"):
        outcome = handed_out(fine)
    error = error_of(outcome)
    assert outcome.info
    assert isinstance(error, Reject)
    assert error.requeue
    assert isinstance(error.reason, PublishError)


def test_a_start_that_cannot_be_stored_is_handed_out_as_the_retry_that_it_became(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.backend, "store_result", down)
    with pytest.warns(RuntimeWarning, match="outside body"):
        outcome = handed_out(fine)
    assert isinstance(error_of(outcome), Retry)
    assert gate.letters == []


def test_what_is_dead_lettered_is_handed_out_as_a_failure(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.backend, "mark_as_done", down)
    with pytest.warns(RuntimeWarning, match="outside body"):
        outcome = handed_out(fine)
    assert isinstance(error_of(outcome), ConnectionError)
    assert [letter.reason.value for letter in gate.letters] == ["result_unstorable"]


def test_success_is_handed_out_as_it_is(gate: Gate, fine: Any) -> None:
    outcome = handed_out(fine)
    assert (outcome.retval, outcome.info, gate.sent) == ("fine", None, [])


@pytest.mark.parametrize("where", ["body", "result"])
def test_a_killed_greenlet_gives_its_message_back(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def killed(*_: Any) -> None:
        raise GreenletExit

    @quick(app)
    def task() -> None:
        if where == "body":
            killed()

    monkeypatch.setattr(app.backend, "mark_as_done", killed)
    error = error_of(handed_out(task))
    assert isinstance(error, Reject)
    assert error.requeue
    assert gate.sent == []


def test_who_ends_the_worker_ends_it(app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @quick(app)
    def task() -> None: ...

    def ended(*_: Any, **__: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(app.backend, "mark_as_done", ended)
    with pytest.raises(SystemExit):
        handed_out(task)
