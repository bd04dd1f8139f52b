"""Guardrails never breaks the task: whatever of ours or of the user's fails, the task's own outcome is what it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task

from celery_guardrails import GuardedTask
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.worker.child import body
from celery_guardrails.worker.child import retry_call as manual
from celery_guardrails.worker.child.tracer import GuardInfo
from celery_guardrails.worker.failure import letter as letter_module
from celery_guardrails.worker.failure import outcome as outcome_module
from tests.unit.traced import Gate, trace

LETTER = "d1d1d1d1-0000-4000-8000-000000000001"


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("ours")


@pytest.mark.parametrize("place", [(outcome_module, "capture"), (body, "decide"), (body, "examine")])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_failure_of_ours_leaves_the_tasks_error_alone(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    place: tuple[Any, str], stage: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(*place, broken)
    outcome = trace(failing, headers={"retries": stage})
    if place[1] == "capture" and stage == 0:
        assert outcome.info.state == "RETRY"
        return
    assert outcome.info.state == "FAILURE"
    assert isinstance(outcome.info.retval, ConnectionError)
    assert "RuntimeError: ours" in caplog.text
    (letter,) = gate.letters
    assert (letter.reason, letter.failure.type) == (Reason.PERMANENT_ERROR, "ConnectionError")
    assert letter.explanation == "guardrails failed on its failure: RuntimeError('ours')"
    assert (letter.message.body, letter.message.headers["task"]) == (b"[[], {}, {}]", failing.name)
    assert letter.attempts == ()
    assert gate.retries == []
    assert all(record.levelno <= logging.WARNING for record in caplog.records if "guardrails" in record.name)


def test_a_failure_of_ours_on_a_result_leaves_a_letter_in_brief(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app)
    def unserialisable() -> object:
        return object()

    monkeypatch.setattr(body, "examine", broken)
    trace(unserialisable, info=GuardInfo)
    (letter,) = gate.letters
    assert letter.reason is Reason.RESULT_UNSTORABLE
    assert "the body succeeded" in letter.explanation


@pytest.mark.parametrize("acks", ["late", "early"])
def test_a_letter_in_brief_that_nobody_takes_leaves_the_message_where_it_is(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, acks: str
) -> None:
    @quick(app, acks=acks)
    def failing() -> None:
        raise KeyError("bug")

    Guardrails.of(app).prepare()
    monkeypatch.setattr(body, "examine", broken)
    gate.closed.add("unit.dead")
    assert trace(failing).info.state == ("REJECTED" if acks == "late" else "FAILURE")


def test_where_not_even_a_letter_in_brief_can_be_made_the_error_goes_its_way(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(body, "examine", broken)
    monkeypatch.setattr(outcome_module, "brief_letter", broken)
    assert trace(failing).info.state == "FAILURE"
    assert gate.sent == []
    assert "gets no dead letter" in caplog.text


@pytest.mark.parametrize("place", [(manual, "examine"), (manual, "decide"), (outcome_module, "publish_retry")])
def test_a_failure_of_ours_leaves_retry_by_hand_to_celery(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    place: tuple[Any, str],
) -> None:  # fmt: skip
    @quick(app, bind=True)
    def by_hand(self: Any) -> None:
        raise self.retry(exc=KeyError("not yet"), countdown=0)

    monkeypatch.setattr(*place, broken)
    assert trace(by_hand).info.state == "RETRY"
    with app.connection_for_read() as connection:
        assert connection.SimpleQueue("unit.tasks").get(timeout=5).headers["retries"] == 1
    assert "RuntimeError: ours" in caplog.text


@pytest.mark.parametrize("place", ["annotate", "report"])
def test_sentry_failing_changes_nothing(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    @quick(app, on_exhausted="park")
    def parked() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(body.sentry, place, broken)
    assert trace(parked).info.state == "IGNORED"
    assert len(gate.letters) == 1


def test_a_result_backend_that_is_down_does_not_undo_parking(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app, on_exhausted="park")
    def parked() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(app.backend, "store_result", broken)
    assert trace(parked).info.state == "IGNORED"
    assert len(gate.letters) == 1


def test_parked_work_says_so_in_the_result_backend(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app, on_exhausted="park")
    def parked() -> None:
        raise KeyError("bug")

    @quick(app, "unit.silent", on_exhausted="park", ignore_result=True)
    def silent() -> None:
        raise KeyError("bug")

    trace(parked)
    trace(silent)
    first, second = (app.AsyncResult(letter.task_id) for letter in gate.letters)
    assert (first.state, first.info["reason"]) == ("DEAD_LETTERED", "permanent_error")
    assert second.state == "PENDING"


def test_a_success_that_was_requeued_is_reported(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app)
    def fine() -> str:
        return "fine"

    mark = {"guardrails": {"v": 1, "dead_letter_id": LETTER, "generation": 2}}
    assert trace(fine, headers=mark).retval == "fine"
    assert [envelope.routing_key for envelope in gate.sent] == ["unit.dead.recovered"]
    gate.closed.add("unit.dead.recovered")
    assert trace(fine, headers=mark).retval == "fine"
    trace(fine)
    assert len(gate.sent) == 1


def test_a_requeued_success_inside_a_call_of_ones_own_is_reported(app: Celery, gate: Gate, quick: Any) -> None:
    class ContextTask(GuardedTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @quick(app, base=ContextTask)
    def fine() -> str:
        return "fine"

    assert (
        trace(
            fine,
            headers={"guardrails": {"v": 1, "dead_letter_id": LETTER, "generation": 2}},
        ).retval
        == "fine"
    )
    assert [envelope.routing_key for envelope in gate.sent] == ["unit.dead.recovered"]


@pytest.mark.parametrize("mangled", [7, "x", [], {"dead_letter_id": 5}, {"history": "x", "generation": -1}])
def test_a_mangled_header_counts_as_none(app: Celery, gate: Gate, failing: Any, quick: Any, mangled: Any) -> None:
    @quick(app, "unit.fine")
    def fine() -> str:
        return "fine"

    assert trace(fine, headers={"guardrails": mangled}).retval == "fine"
    assert gate.sent == []
    trace(failing, headers={"guardrails": mangled})
    assert len(gate.retries[0].headers["guardrails"]["history"]) == 1


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"retry_on": (broken,)}, Reason.PERMANENT_ERROR),
        ({"give_up_on": (broken,), "max_attempts": 1}, Reason.ATTEMPTS_EXHAUSTED),
        ({"correlate": ("order",), "affected_by": ("order.id",), "max_attempts": 1}, Reason.ATTEMPTS_EXHAUSTED),
    ],
)
def test_a_policys_callable_that_raises(
    app: Celery, gate: Gate, quick: Any, fields: dict[str, Any], reason: Reason
) -> None:
    @quick(app, **fields)
    def failing(order: Any = None) -> None:
        raise ConnectionError("down")

    assert trace(failing).info.state == "FAILURE"
    assert gate.letters[0].reason is reason


def test_a_backoff_that_raises_still_retries(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app, backoff=broken)
    def failing() -> None:
        raise ConnectionError("down")

    assert trace(failing).info.state == "RETRY"
    assert len(gate.retries) == 1


@pytest.mark.parametrize("eager", [True, False])
def test_arguments_that_cannot_be_shown(
    new_app: Callable[..., Celery], quick: Any, eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app()

    @quick(app, correlate=("order",))
    def bug(order: Any) -> None:
        raise KeyError("bug")

    task: Task = bug
    if eager:
        task.serializer = "pickle"
        task.apply((Unprintable(),), throw=False)
        (letter,) = Guardrails.of(app).captured
        assert letter.correlation["order"].startswith("<Unprintable")
        assert letter.preview.args
    else:
        gate = Gate(app)
        trace(task, {"deep": {"er": None}})
        assert len(gate.letters) == 1


class BrokenError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)  # unpickles with one argument too few

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_exceptions_that_cannot_be_shown_or_pickled(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app, retry_on=(BrokenError,), max_attempts=2, bind=True)
    def failing(self: Any) -> None:
        error = BrokenError(1, 2)
        error.lock = (open for _ in ())  # type: ignore[attr-defined] # a generator cannot be pickled
        raise error

    assert trace(failing).info.state == "RETRY"
    assert trace(failing, headers={"retries": 1}).info.state == "FAILURE"
    (letter,) = gate.letters
    assert letter.failure.type.endswith("BrokenError")
    assert "cannot be shown" in letter.failure.message


def test_a_task_whose_signature_cannot_be_read(app: Celery, gate: Gate, failing: Any) -> None:
    failing.run = SimpleNamespace  # a class without a readable signature is not a function either
    assert letter_module.parameter_names(SimpleNamespace(run=5)) == []


def test_an_error_of_ours_in_the_preview_keeps_the_message(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_module, "preview", broken)
    trace(failing, headers={"retries": 1})
    (letter,) = gate.letters
    assert letter.message.body == b"[[], {}, {}]"
    assert letter.failure.category is Category.CONNECTION
