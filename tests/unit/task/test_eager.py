"""Eager mode: retries run as plain Celery's do, and what is exhausted is captured in memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.policy.decision import Reason


@pytest.fixture
def app(new_app: Callable[..., Celery]) -> Celery:
    return new_app()


def outcome(call: Callable[[], Any]) -> Any:
    """The result of an eager call, or the exception that it ended with, whichever way it came."""
    try:
        result = call()
    except Exception as exc:  # noqa: BLE001 the task's own
        return exc
    return result.result


def test_retries_run_at_once_until_it_succeeds(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, bind=True)
    def flaky(self: Any, wanted: int) -> str:
        count.seen.append(self.request.retries)
        if self.request.retries < wanted:
            raise ConnectionError("down")
        return "done"

    for call in (flaky.delay, lambda *a: flaky.apply(a), lambda *a: flaky.s(*a).apply_async()):
        count.seen.clear()
        result = call(2)
        assert (result.result, result.state) == ("done", "SUCCESS")
        assert count.seen == [0, 1, 2]
    assert not Guardrails.of(app).captured


def test_exhaustion_is_captured_with_its_history(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=3, owner="growth", correlate=("order",), redact=("address",))
    def mail(order: int, address: str) -> None:
        count.runs += 1
        raise ConnectionError(f"down {count.runs}")

    assert isinstance(outcome(lambda: mail.delay(7, address="1 Main St")), ConnectionError)
    (letter,) = Guardrails.of(app).captured
    assert count.runs == 3
    assert (letter.task, letter.reason, letter.owner) == ("unit.task", Reason.ATTEMPTS_EXHAUSTED, "growth")
    assert [(attempt.number, attempt.message) for attempt in letter.attempts] == [
        (1, "down 1"), (2, "down 2"), (3, "down 3"),
    ]  # fmt: skip
    assert letter.correlation == {"order": "7"}
    assert "1 Main St" not in letter.preview.kwargs
    # the message is what Celery would have written, so that a test can look at it
    assert b"1 Main St" in letter.message.body
    assert letter.message.headers["task"] == "unit.task"


def test_a_passphrase_of_plain_words_is_in_no_text_of_its_letter(app: Celery, quick: Any) -> None:
    @quick(app, max_attempts=2)
    def sign_in(user: str, password: str, options: Any = None) -> None:
        raise ConnectionError(f"no {user} with {password} or {options['token']}, nor password={password}")

    outcome(lambda: sign_in.delay("ada", "correct horse battery", options={"token": "staple gun"}))
    (letter,) = Guardrails.of(app).captured
    shown = letter.model_dump_json(exclude={"message"})
    assert [word for word in ("correct", "horse", "battery", "staple") if word in shown] == []
    assert "no ada with [redacted]" in letter.failure.message
    assert "no ada with [redacted]" in letter.attempts[0].message


def test_a_permanent_error_dies_at_once(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app)
    def bug() -> None:
        count.runs += 1
        raise KeyError("x")

    assert isinstance(outcome(bug.delay), KeyError)
    assert count.runs == 1
    assert Guardrails.of(app).captured[0].reason is Reason.PERMANENT_ERROR


def test_retry_by_hand_runs_at_once_and_ends_with_its_error(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=3, bind=True)
    def by_hand(self: Any) -> None:
        count.runs += 1
        raise self.retry(exc=ValueError("not yet"), countdown=600)

    assert isinstance(outcome(by_hand.delay), ValueError)
    assert count.runs == 3
    (letter,) = Guardrails.of(app).captured
    assert letter.reason is Reason.ATTEMPTS_EXHAUSTED
    assert [attempt.delay for attempt in letter.attempts] == [600, 600, None]


def test_retry_by_hand_without_an_error_of_its_own(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=2, bind=True)
    def by_hand(self: Any) -> None:
        count.runs += 1
        self.retry()

    assert isinstance(outcome(by_hand.delay), MaxRetriesExceededError)
    assert count.runs == 2


def test_max_retries_of_the_call_only_lowers(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=3, bind=True)
    def by_hand(self: Any, limit: int) -> None:
        count.runs += 1
        self.retry(max_retries=limit)

    outcome(lambda: by_hand.delay(1))
    assert count.runs == 2
    count.runs = 0
    outcome(lambda: by_hand.delay(50))
    assert count.runs == 3


def test_retry_by_hand_can_change_the_arguments(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=3, bind=True)
    def by_hand(self: Any, x: int, y: int = 0) -> int:
        count.seen.append((x, y))
        if x < 3:
            self.retry(args=(x + 1,), kwargs={"y": y + 10})
        return x + y

    assert by_hand.delay(1).result == 23
    assert count.seen == [(1, 0), (2, 10), (3, 20)]


def test_retry_without_throwing_lets_the_body_go_on(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, bind=True)
    def by_hand(self: Any) -> str:
        count.runs += 1
        assert isinstance(self.retry(throw=False), Retry)
        return "went on"

    assert by_hand.delay().result == "went on"
    assert count.runs == 1


def test_a_refused_retry_that_the_body_handles_is_a_success(app: Celery, quick: Any) -> None:
    @quick(app, max_attempts=1, bind=True)
    def handled(self: Any) -> str:
        try:
            raise self.retry()
        except self.MaxRetriesExceededError:
            return "handled"

    assert handled.delay().result == "handled"
    assert not Guardrails.of(app).captured


@pytest.mark.parametrize("signal", [Ignore(), Reject("no"), Retry("raised by hand")])
def test_celerys_own_words_pass(app: Celery, quick: Any, count: SimpleNamespace, signal: Exception) -> None:
    @quick(app)
    def says() -> None:
        count.runs += 1
        assert count.runs < 10, "runs for ever"
        raise signal

    outcome(says.delay)
    assert count.runs == 1
    assert not Guardrails.of(app).captured


def test_expected_errors_are_final_and_leave_no_letter(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, throws=(LookupError,), retry_on=(KeyError,))
    def expected() -> None:
        count.runs += 1
        raise KeyError("expected")

    assert isinstance(outcome(expected.delay), KeyError)
    assert count.runs == 1
    assert not Guardrails.of(app).captured


def test_parked_work_is_captured_and_raises_nothing(app: Celery, quick: Any) -> None:
    @quick(app, on_exhausted="park", max_attempts=2)
    def parked() -> None:
        raise ConnectionError("down")

    result = parked.apply(throw=False)
    assert result.state == "IGNORED"
    assert len(Guardrails.of(app).captured) == 1


def test_the_kill_switch_makes_tasks_plain(new_app: Callable[..., Celery], quick: Any, count: SimpleNamespace) -> None:
    app = new_app({"enabled": False})

    @quick(app, max_attempts=4)
    def plain() -> None:
        count.runs += 1
        raise ConnectionError("down")

    @quick(app, "unit.by_hand", max_attempts=9, bind=True, max_retries=2, default_retry_delay=1)
    def by_hand(self: Any) -> None:
        count.seen.append(self.request.retries)
        raise self.retry(exc=ConnectionError("down"))

    assert isinstance(outcome(plain.delay), ConnectionError)
    assert count.runs == 1
    assert isinstance(outcome(by_hand.delay), ConnectionError)
    assert count.seen == [0, 1, 2]
    assert not Guardrails.of(app).captured


def test_direct_calls_are_plain_functions(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=3, bind=True)
    def inner(self: Any) -> None:
        count.runs += 1
        assert self.request.called_directly
        raise ConnectionError("down")

    @quick(app, "unit.unbound", max_attempts=3)
    def unbound() -> None:
        count.runs += 1
        raise ConnectionError("down")

    for call in (inner, inner.run, unbound, unbound.run):
        count.runs = 0
        with pytest.raises(ConnectionError):
            call()
        assert count.runs == 1
    assert not Guardrails.of(app).captured


def test_retry_of_a_direct_call_raises_the_error(app: Celery, quick: Any) -> None:
    @quick(app, bind=True)
    def by_hand(self: Any) -> None:
        raise self.retry(exc=ValueError("not yet"))

    with pytest.raises(ValueError, match="not yet"):
        by_hand()


def test_a_guarded_task_called_inside_another_is_a_plain_function(
    app: Celery, quick: Any, count: SimpleNamespace
) -> None:
    @quick(app, "unit.inner", max_attempts=5)
    def inner() -> None:
        count.runs += 1
        raise ConnectionError("down")

    @quick(app, "unit.outer", max_attempts=2)
    def outer() -> None:
        inner()

    outcome(outer.delay)
    assert count.runs == 2
    (letter,) = Guardrails.of(app).captured
    assert letter.task == "unit.outer"


def test_a_task_that_calls_itself(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    @quick(app, max_attempts=2)
    def recursive(depth: int) -> None:
        count.runs += 1
        if not depth:
            raise ConnectionError("down")
        recursive(depth - 1)

    outcome(lambda: recursive.delay(2))
    assert count.runs == 6
    assert len(Guardrails.of(app).captured) == 1


def test_a_call_of_ones_own_knows_its_request(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    class ContextTask(GuardedTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            count.runs += 1
            return super().__call__(*args, **kwargs)

    @quick(app, base=ContextTask, max_attempts=3, bind=True)
    def inside(self: Any) -> None:
        count.seen.append(self.request.retries)
        raise self.retry(exc=ConnectionError("down"), max_retries=1)

    assert isinstance(outcome(inside.delay), ConnectionError)
    assert (count.runs, count.seen) == (2, [0, 1])
    assert len(Guardrails.of(app).captured[0].attempts) == 2


def test_a_call_that_does_not_lead_to_ours(app: Celery, quick: Any, count: SimpleNamespace) -> None:
    class ContextTask(GuardedTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

    class Deeper(ContextTask):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            count.runs += 1
            return super().__call__(*args, **kwargs)

    @quick(app, base=Deeper, max_attempts=3)
    def inside() -> None:
        raise ConnectionError("down")

    outcome(inside.delay)
    assert count.runs == 3
    assert len(Guardrails.of(app).captured) == 1
    inside_direct = outcome(lambda: inside())
    assert isinstance(inside_direct, ConnectionError)
    assert count.runs == 4


def test_only_the_last_thousand_are_kept(app: Celery, quick: Any) -> None:
    @quick(app)
    def bug() -> None:
        raise KeyError("x")

    for _ in range(1003):
        outcome(bug.delay)
    assert len(Guardrails.of(app).captured) == 1000


def test_policies_may_be_declared_without_a_decorator(app: Celery) -> None:
    class Mail(GuardedTask):
        name = "unit.mail"
        policy = Policy(max_attempts=1)

        def run(self) -> None:
            raise ConnectionError("down")

    task = app.register_task(Mail())
    outcome(task.delay)
    assert Guardrails.of(app).captured[0].reason is Reason.ATTEMPTS_EXHAUSTED
