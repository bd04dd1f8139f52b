from __future__ import annotations

import types
from datetime import datetime, timezone

import pytest
import requests

from celery_guardrails.errors import TransientError
from celery_guardrails.policy import Category, describe
from celery_guardrails.policy.describe import LONGEST_MESSAGE, LONGEST_TRACEBACK, traceback_text
from celery_guardrails.policy.fingerprint import fingerprint

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


def raised(exc):
    try:
        raise exc
    except BaseException as error:  # noqa: BLE001  the tests look at whatever it is
        return error


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Chainless(Exception):
    @property
    def __cause__(self):
        raise RuntimeError("no cause")


class Text(str):
    pass


class Typed(Exception):
    def __str__(self):
        return Text("typed")


class Liar(Exception):
    @property
    def retry_after(self):
        raise RuntimeError("no")

    @property
    def __traceback__(self):
        raise RuntimeError("no stack")


def cycle():
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize(
    "exc",
    [Mute(), Chainless("x"), cycle(), Typed(), Liar("x"), ValueError("x" * 10_000_000), ValueError("\udcff\0"),
     KeyboardInterrupt(), SystemExit(3), BaseException(), type("", (Exception,), {"__module__": None})()],
    ids=lambda exc: type(exc).__name__,
)  # fmt: skip
@pytest.mark.parametrize("stack", [True, False])
def test_whatever_the_exception_does_it_is_described(exc, stack):
    failure = describe(raised(exc) if stack else exc, NOW)
    assert isinstance(failure.message, str)
    assert len(failure.message) <= LONGEST_MESSAGE
    assert len(failure.traceback.encode()) <= LONGEST_TRACEBACK
    assert "\0" not in failure.message + failure.traceback
    assert failure.fingerprint.startswith("v1:")
    assert failure.exception is exc


def test_a_failure_holds_what_the_rest_needs():
    failure = describe(raised(requests.ConnectTimeout("late")), NOW)
    assert failure.error == "requests.exceptions.ConnectTimeout"
    assert failure.message == "late"
    assert (failure.category, failure.transient) == (Category.TIMEOUT, True)
    assert failure.mro[:2] == ("requests.exceptions.ConnectTimeout", "requests.exceptions.ConnectionError")
    assert failure.mro[-1] == "BaseException"
    assert "raise exc" in failure.traceback
    assert failure.retry_after is None
    assert describe(TransientError(retry_after=3), NOW).retry_after == 3
    assert describe(ValueError(), NOW).error == "ValueError"


def test_a_traceback_left_out():
    error = raised(ValueError("x"))
    failure = describe(error, NOW, with_traceback=False)
    assert failure.fingerprint == fingerprint(error)
    assert failure.traceback == ""


def framed(*modules):
    """A ValueError raised through one frame of each module, outermost first."""
    call = None
    for module in reversed(modules):
        body = "raise ValueError('deep')" if call is None else "call()"
        space = {"__name__": module, "call": call}
        exec(compile(f"def f_{module.replace('.', '_')}():\n    {body}\n", f"/srv/{module}.py", "exec"), space)
        call = next(value for value in space.values() if isinstance(value, types.FunctionType) and value is not call)
    try:
        call()
    except ValueError as error:
        return error.with_traceback(error.__traceback__.tb_next)


def test_frames_above_the_task_s_own_code_are_skipped():
    error = framed("celery.app.trace", "celery_guardrails.task.guarded", "shop.tasks", "celery_guardrails.testing")
    text = traceback_text(error)
    assert "celery.app.trace.py" not in text
    assert "worker.task.py" not in text
    assert "shop.tasks.py" in text
    assert "celery_guardrails.testing.py" in text


def test_with_only_frames_of_ours_the_error_itself_is_left():
    assert traceback_text(framed("celery.app.trace")).strip() == "ValueError: deep"


def test_of_a_long_traceback_head_and_tail_are_kept():
    error = ValueError("ü" * 100_000 + "END")
    error.__cause__ = KeyError("START")
    text = traceback_text(error)
    assert len(text.encode()) <= LONGEST_TRACEBACK
    assert "START" in text
    assert "[... cut ...]" in text
    assert text.rstrip().endswith("END")


def test_causes_are_in_the_traceback():
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        text = traceback_text(error)
    assert "inner" in text
    assert "direct cause" in text


def test_a_class_that_has_no_hash_keeps_its_names() -> None:
    class Unhashed(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            return cls is other

    class Odd(LookupError, metaclass=Unhashed):
        pass

    assert [name.rpartition(".")[2] for name in describe(Odd("x"), NOW).mro] == [
        "Odd", "LookupError", "Exception", "BaseException",
    ]  # fmt: skip
