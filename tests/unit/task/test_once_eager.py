"""Work that takes effect once in eager mode, as tests of applications run it: the ledger is in memory."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_guardrails import Constant, GuardedTask, Idempotency, Policy
from celery_guardrails.app.guardrails import Guardrails

RUNS: list[tuple[int, int]] = []


@pytest.fixture
def app() -> Celery:
    RUNS.clear()
    made = Celery("eager-once", broker="memory://", set_as_current=False)
    made.conf.task_always_eager = True
    return made


def declare(app: Celery, **policy: Any) -> Any:
    given = {"idempotency": Idempotency(key=("order_id",)), "backoff": Constant(0), "max_attempts": 2, **policy}

    @app.task(base=GuardedTask, bind=True, policy=Policy(**given), shared=False)
    def charge(self: Any, order_id: int, end: str = "success", amount: int = 5) -> Any:
        RUNS.append((order_id, self.idempotency.fence))
        if end == "fail" or (end == "retry" and len(RUNS) == 1):
            raise ConnectionError
        if end == "given":
            self.idempotency.finish_in("default", "given")
        if end == "given and failed":
            self.idempotency.finish_in("default", "given")
            raise KeyError
        return len(RUNS)

    return charge


def test_the_second_call_gets_the_first_ones_result(app: Celery) -> None:
    charge = declare(app)
    assert [charge.delay(1).get(), charge.delay(order_id=1).get(), charge.delay(2).get()] == [1, 1, 2]
    assert RUNS == [(1, 1), (2, 1)]


def test_a_retry_keeps_the_key_and_a_failure_frees_it(app: Celery) -> None:
    charge = declare(app)
    assert charge.delay(1, "retry").get() == 2
    assert RUNS == [(1, 1), (1, 2)]
    assert isinstance(charge.delay(2, "fail").result, ConnectionError)
    assert charge.delay(2).get() == 5
    assert RUNS[-1] == (2, 3)


def test_finish_in_gives_the_result_that_later_calls_get(app: Celery) -> None:
    charge = declare(app)
    assert [charge.delay(1, "given").get(), charge.delay(1).get()] == [1, "given"]
    assert isinstance(charge.delay(2, "given and failed").result, KeyError)
    assert charge.delay(2).get() == 3


def test_a_key_of_the_sender_is_for_any_task(app: Celery) -> None:
    @app.task(base=GuardedTask, shared=False)
    def plain(number: int) -> int:
        RUNS.append((number, 0))
        return len(RUNS)

    calls = [plain.apply_async((1,), idempotency_key="k") for _ in range(2)]
    assert [call.get() for call in calls] == [1, 1]
    other = plain.apply_async((2,), idempotency_key="k")
    assert other.state == "FAILURE"
    (letter,) = Guardrails.of(app).captured
    assert letter.reason.value == "rejected"
    with pytest.raises(ValueError, match="is the most"):
        plain.apply_async((1,), idempotency_key="k" * 513)
    with pytest.raises(ValueError, match="give a text"):
        plain.apply_async((1,), idempotency_key=4711)


def test_a_result_in_a_form_that_the_application_does_not_accept_is_not_read(app: Celery) -> None:
    charge = declare(app)
    app.conf.result_serializer = "pickle"
    app.conf.accept_content = ["json"]
    assert charge.delay(1).get() == 1
    assert charge.delay(1).get() is None
    assert RUNS == [(1, 1)]


def test_whoever_has_no_key_is_told_so(app: Celery) -> None:
    @app.task(base=GuardedTask, bind=True, shared=False)
    def keyless(self: Any) -> int:
        return int(self.idempotency.fence)

    with pytest.raises(RuntimeError, match="runs without a key"):
        keyless.delay().get()


def test_under_the_kill_switch_every_call_runs(app: Celery) -> None:
    app.conf.guardrails = {"enabled": False}

    @app.task(base=GuardedTask, policy=Policy(idempotency=True), shared=False)
    def counted(order_id: int) -> int:
        RUNS.append((order_id, 0))
        return len(RUNS)

    assert [counted.apply_async((1,), idempotency_key="k").get() for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ttl": "0s"}, "idempotency.ttl = '0s': is shorter than a second"),
        ({"keey": ("a",)}, "did you mean key?"),
        ({"key": "order_id"}, r"write \('order_id',\)"),
        ({"key": ()}, "names no argument"),
        ({"key": lambda one: "k"}, "does not take the arguments"),
        ({"while_running": "wiat"}, "did you mean 'wait'?"),
        ({"keep_result": -1}, "idempotency.keep_result"),
        ({"scope": ""}, "idempotency.scope"),
    ],
)
def test_wrong_declarations_say_what_to_write(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        Idempotency(**given)
    with pytest.raises(Exception, match=words):
        Policy(idempotency=given)
