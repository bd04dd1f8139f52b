"""What the tracer hands to the main process is what was decided, wherever it failed; a killed greenlet is no end."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry
from greenlet import GreenletExit

from celery_guardrails import GuardedTask, Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.worker.child import outside
from celery_guardrails.worker.child.tracer import retrace
from tests.unit.traced import Gate, error_of


def handed_out(task: Any, **options: Any) -> Any:
    """What a worker's process that runs tasks gives the main one."""
    retrace(Guardrails.of(task.app), "w@here")
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
    outcome = handed_out(fine)
    assert isinstance(error_of(outcome), Retry)
    assert gate.letters == []


def broken(*_: Any, **__: Any) -> Any:
    raise KeyError("whatever Celery's machinery says")


@pytest.fixture
def _say_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_unbegun", outside._Unbegun())


@pytest.mark.usefixtures("_say_it_again")
@pytest.mark.parametrize("where", ["backend", "loader"])
def test_what_did_not_begin_is_tried_again_whatever_the_error_is(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch, where: str, caplog: Any
) -> None:
    target, name = (app.backend, "store_result") if where == "backend" else (app.loader, "on_task_init")
    monkeypatch.setattr(target, name, broken)
    with caplog.at_level(logging.INFO):
        outcomes = [error_of(handed_out(fine)) for _ in range(3)]
    assert all(isinstance(outcome, Retry) for outcome in outcomes)
    assert gate.letters == []
    said = [record for record in caplog.records if "could not begin" in record.message]
    assert [record.levelname for record in said] == ["WARNING", "INFO", "INFO"]
    assert not any(record.exc_info for record in caplog.records)


def test_what_never_began_is_dead_when_its_attempts_are(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.backend, "store_result", broken)
    handed_out(fine, retries=4)
    (letter,) = gate.letters
    assert letter.reason.value == "attempts_exhausted"
    assert letter.explanation.startswith("the body did not begin; ")


def test_what_did_not_begin_is_no_end_that_its_task_expects(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app, track_started=True, throws=(KeyError,))
    def task() -> None: ...

    monkeypatch.setattr(app.backend, "store_result", broken)
    assert isinstance(error_of(handed_out(task)), Retry)
    handed_out(task, retries=4)
    assert [letter.reason.value for letter in gate.letters] == ["attempts_exhausted"]


def test_before_start_is_the_tasks_own_code(app: Celery, gate: Gate, quick: Any) -> None:
    class Refusing(GuardedTask):
        abstract = True

        def before_start(self, *_: Any) -> None:
            broken()

    @quick(app, base=Refusing)
    def task() -> None: ...

    handed_out(task)
    assert [letter.reason.value for letter in gate.letters] == ["permanent_error"]


def test_celery_says_itself_what_fails_outside_a_task_that_nobody_guards(
    app: Celery, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(shared=False)
    def plain() -> None: ...

    retrace(Guardrails.of(app), "w@here")
    monkeypatch.setattr(app.loader, "on_task_init", broken)
    with pytest.warns(RuntimeWarning, match="outside body"):
        build_tracer(plain.name, plain, app=app)("t-1", (), {}, {"id": "t-1", "delivery_info": {}})


def test_what_is_dead_lettered_is_handed_out_as_a_failure(
    app: Celery, gate: Gate, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.backend, "mark_as_done", down)
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
