from __future__ import annotations

import logging
import sys
import types
from dataclasses import replace
from datetime import datetime, timezone

import pytest
import redis
import requests

from celery_guardrails.errors import PermanentError, TransientError
from celery_guardrails.policy import Constant, Policy, describe
from celery_guardrails.policy.dotted import dotted_name, resolve
from celery_guardrails.policy.matching import distance, nearest_rule, refusal

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


class Refusal(PermanentError):
    pass


class Busy(TransientError):
    pass


def of(exc):
    return describe(exc, NOW, with_traceback=False)


def yes(exc):
    return True


def no(exc):
    return False


def broken(exc):
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("matchers", "place"),
    [
        ((), None),
        ((ConnectionResetError,), 0),
        ((ConnectionError,), 1),
        ((OSError, ConnectionError), 1),
        (("ConnectionError",), 1),
        ((Exception,), 3),
        ((ValueError, "requests.exceptions.Timeout", "not.there.AtAll"), None),
        ((yes, Exception), 0),
        ((no,), None),
        ((broken,), None),
    ],
)
def test_distance_is_the_place_in_the_mro(matchers, place):
    assert distance(matchers, of(ConnectionResetError())) == place


def test_a_broken_predicate_is_no_match_and_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        assert distance((broken, ConnectionError), of(ConnectionResetError())) == 1
    assert "broken" in caplog.text


def test_a_predicate_needs_the_exception_itself():
    assert distance((yes,), replace(of(ValueError()), exception=None)) is None
    assert distance((ValueError,), replace(of(ValueError()), exception=None)) == 0


def test_an_alias_of_a_loaded_module_is_the_class_that_it_names():
    assert distance(("redis.ConnectionError",), of(redis.ConnectionError())) == 0
    assert distance(("requests.ConnectionError",), of(requests.ConnectTimeout())) == 1
    assert distance(("socket.timeout",), of(TimeoutError())) == 0


def test_an_alias_is_resolved_without_importing():
    lazy = types.ModuleType("lazy_vendor")
    lazy.__getattr__ = lambda name: pytest.fail("imported")
    lazy.number = 3
    sys.modules["lazy_vendor"] = lazy
    try:
        assert resolve("lazy_vendor.Error") == "lazy_vendor.Error"
        assert resolve("lazy_vendor.number.Error") == "lazy_vendor.number.Error"
    finally:
        del sys.modules["lazy_vendor"]
    assert resolve("never_imported.Error") == "never_imported.Error"
    assert "never_imported" not in sys.modules
    assert resolve("TimeoutError") == "TimeoutError"


@pytest.mark.parametrize(
    ("exc", "retry_on", "give_up_on", "retried"),
    [
        # the built-in taxonomy
        (TimeoutError(), None, (), True),
        (ValueError(), None, (), False),
        (RuntimeError(), None, (), False),
        (TimeoutError(), None, (Exception,), False),
        (TimeoutError(), None, (no,), True),
        # given, it replaces the taxonomy
        (TimeoutError(), (), (), False),
        (TimeoutError(), (ValueError,), (), False),
        (ValueError(), (ValueError,), (), True),
        (ValueError(), (yes,), (), True),
        (ValueError(), (broken,), (), False),
        # both match: the nearer wins, a tie gives up
        (ConnectionResetError(), (ConnectionResetError,), (ConnectionError,), True),
        (ConnectionResetError(), (ConnectionError,), (ConnectionResetError,), False),
        (ConnectionResetError(), (ConnectionError,), (ConnectionError,), False),
        (ConnectionResetError(), (yes,), (ConnectionError,), True),
        (ConnectionResetError(), (yes,), (ConnectionResetError,), False),
        (ConnectionResetError(), (ConnectionResetError,), (yes,), False),
        (ConnectionResetError(), (OSError,), ("ConnectionError",), False),
        # what the task says itself
        (PermanentError(), None, (), False),
        (PermanentError(), (Exception,), (), False),
        (Refusal(), (Exception,), (), False),
        (Refusal(), (Refusal,), (), True),
        (TransientError(), None, (), True),
        (TransientError(), (ValueError,), (), True),
        (Busy(), (ValueError,), (), True),
        (Busy(), (ValueError,), (Busy,), False),
        (Busy(), None, (TransientError,), False),
    ],
)
def test_which_errors_are_worth_another_attempt(exc, retry_on, give_up_on, retried):
    why = refusal(Policy(retry_on=retry_on, give_up_on=give_up_on), of(exc))
    assert (why is None) == retried
    assert retried or dotted_name(type(exc)) in why


def test_the_nearest_rule_wins_and_the_category_is_last():
    near, far, kind = Constant(1), Constant(2), Constant(3)
    failure = of(ConnectionResetError())
    assert nearest_rule({"connection": kind, OSError: far, "ConnectionError": near}, failure) is near
    assert nearest_rule({"connection": kind, OSError: far}, failure) is far
    assert nearest_rule({"connection": kind, ValueError: far}, failure) is kind
    assert nearest_rule({"timeout": kind}, failure) is None


class Ours(Exception):
    pass


def caused(cause):
    error = Ours("no stock service")
    error.__cause__ = cause
    return of(error)


def test_an_error_without_a_name_is_retried_for_its_cause_and_named_with_it():
    failure = caused(ConnectionResetError("reset"))
    assert refusal(Policy(), failure) is None
    assert failure.named.endswith("Ours, caused by ConnectionResetError")
    assert (failure.error, failure.category.value) == (dotted_name(Ours), "connection")


@pytest.mark.parametrize(
    "policy",
    [
        Policy(give_up_on=(Ours,)),
        Policy(give_up_on=(ConnectionError,)),  # its cause is what it is retried for
        Policy(give_up_on=("ConnectionResetError",)),
        Policy(give_up_on=(lambda exc: isinstance(exc, ConnectionError),)),
        Policy(retry_on=(TimeoutError,)),
        Policy(retry_on=(ConnectionError,)),  # what is listed is asked of the error itself
    ],
)
def test_what_the_policy_says_wins_over_the_cause(policy):
    assert refusal(policy, caused(ConnectionResetError("reset")))


def test_what_the_task_says_wins_over_the_cause():
    error = PermanentError("no")
    error.__cause__ = ConnectionResetError()
    assert refusal(Policy(), of(error))
    assert of(error).cause is None
    assert refusal(Policy(), caused(PermanentError("no")))
    assert refusal(Policy(), caused(TransientError("soon"))) is None


def test_a_backoff_for_its_cause_holds():
    rules = {ConnectionError: Constant("7s"), "connection": Constant("9s")}
    assert nearest_rule(rules, caused(ConnectionResetError())) == Constant("7s")
    assert nearest_rule({**rules, Ours: Constant("3s")}, caused(ConnectionResetError())) == Constant("3s")
    assert nearest_rule({"connection": Constant("9s")}, caused(ConnectionResetError())) == Constant("9s")


def test_a_cause_tells_when_to_come_back():
    assert caused(TransientError("soon", retry_after=60)).retry_after == 60


def test_what_is_unknown_is_not_called_permanent():
    why = refusal(Policy(), of(Ours("odd")))
    assert why == f"{dotted_name(Ours)} is an error of unknown kind, and the policy names no other errors to retry"
    assert "permanent" not in (why + refusal(Policy(), of(KeyError("x"))))
