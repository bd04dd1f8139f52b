from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import pytest
from pydantic import ValidationError

from celery_guardrails.errors import ConfigurationError
from celery_guardrails.policy import Constant, Exponential, Linear, Policy, Schedule, faults


def task(**options):
    """Stands for `app.task`: takes what the decorator takes."""
    return lambda function: function


def is_busy(exc):
    return "busy" in str(exc)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("max_atempts", 3, "did you mean max_attempts?"),
        ("zzzzzz", 3, "fields are retry_on"),
        ("max_attempts", 0, None),
        ("max_attempts", "5", None),
        ("max_attempts", True, None),
        ("max_attempts", 2.5, None),
        ("deadline", "2 fortnights", None),
        ("deadline", -1, None),
        ("retry_on", TimeoutError, "write a tuple"),
        ("retry_on", "TimeoutError", "write a tuple"),
        ("retry_on", 3, None),
        ("retry_on", (int,), None),
        ("retry_on", (3,), None),
        ("retry_on", ("TimeOutError",), "did you mean 'TimeoutError'?"),
        ("retry_on", ("zzzzzz",), None),
        ("retry_on", ("requests..Timeout",), None),
        ("retry_on", (lambda: True,), None),
        ("give_up_on", None, None),
        ("give_up_on", is_busy, "write a tuple"),
        ("backoff", "5s", "write Exponential"),
        ("backoff", None, "write Exponential"),
        ("backoff", Exponential, 'write Exponential("5s")'),
        ("backoff_for", [TimeoutError], None),
        ("backoff_for", {"rate_limt": Constant(1)}, "did you mean 'rate_limit'?"),
        ("backoff_for", {3: Constant(1)}, None),
        ("backoff_for", {int: Constant(1)}, None),
        ("backoff_for", {list[int]: Constant(1)}, None),
        ("backoff_for", {TimeoutError: "5s"}, "write Exponential"),
        ("jitter", 1.5, None),
        ("jitter", -0.1, None),
        ("jitter", True, None),
        ("jitter", None, None),
        ("jitter", "ful", "did you mean 'full'?"),
        ("respect_retry_after", "yes", None),
        ("on_exhausted", "parc", "did you mean 'park'?"),
        ("on_exhausted", None, None),
        ("max_crashes", 0, None),
        ("dead_letter_queue", "", None),
        ("on_expired", "zzz", None),
        ("acks", "erly", "did you mean 'early'?"),
        ("severity", "eror", "did you mean 'error'?"),
        ("owner", 3, None),
        ("affected_by", "order_id", "write ('order_id',)"),
        ("affected_by", 3, None),
        ("redact", ("card", ""), None),
        ("correlate", (3,), None),
        ("max_latency", None, None),
        ("version", 2, None),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(field, value, hint):
    with pytest.raises(ConfigurationError) as caught:
        Policy(**{field: value})
    (fault,) = caught.value.faults
    assert fault.setting == field
    assert fault.value
    assert fault.problem
    assert hint is None or hint in fault.suggestion
    assert fault.task
    assert not isinstance(caught.value.__context__, ValidationError)


def test_every_wrong_field_is_named_at_once_with_the_task():
    with pytest.raises(ConfigurationError) as caught:

        @task(name="shop.send_receipt", policy=Policy(max_atempts=3, severity="eror", max_attempts=None, deadline=None))
        def send_receipt(order_id):
            """Never runs."""

    assert {fault.setting for fault in caught.value.faults} == {"max_atempts", "severity", "deadline"}
    assert {fault.task for fault in caught.value.faults} == {"shop.send_receipt"}
    assert "did you mean max_attempts?" in str(caught.value)


def test_without_attempts_a_deadline_is_needed():
    assert Policy(max_attempts=None).deadline == timedelta(hours=2)
    assert Policy(deadline=None).max_attempts == 5
    with pytest.raises(ConfigurationError, match="deadline = None: is needed where max_attempts is None"):
        Policy(max_attempts=None, deadline=None)


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize("value", [Unshowable(), "x" * 10_000, "{braces} %s"])
def test_an_odd_value_still_makes_a_fault(value):
    with pytest.raises(ConfigurationError) as caught:
        Policy(severity=value)
    assert 0 < len(caught.value.value) <= 120


def test_a_wrong_backoff_is_an_error_at_its_own_construction():
    for make in (
        lambda: Exponential("soon"),
        lambda: Exponential("5s", factor=0.5),
        lambda: Exponential("5s", factor="3"),
        lambda: Exponential("5s", cap="x"),
        lambda: Linear("5s", "x"),
        lambda: Linear("5s", "1s", "x"),
        lambda: Constant(None),
        lambda: Schedule([]),
        lambda: Schedule("5s"),
        lambda: Schedule(["5s", "x"]),
    ):
        with pytest.raises(ConfigurationError, match=r"backoff\."):
            make()


def test_collected_faults_leave_the_wrong_fields_at_their_default():
    with faults.collecting() as found:
        assert faults.is_collecting()
        policy = Policy(max_attempts=None, deadline=None, owner=3, severity="critical")
        backoff = Exponential("soon", factor=0, cap="x")
        waits = Schedule([])
    assert [fault.setting for fault in found] == [
        "owner",
        "deadline",
        "backoff.base",
        "backoff.factor",
        "backoff.cap",
        "backoff.waits",
    ]
    assert policy == Policy(max_attempts=None, severity="critical")
    assert policy.model_fields_set == {"max_attempts", "severity"}
    assert backoff == Exponential("5s", factor=3, cap="5m")
    assert waits == Schedule(["5s"])
    assert not faults.is_collecting()


def test_collecting_everywhere_until_stopped():
    faults.start()
    try:
        Policy(jitter=7)
        with faults.collecting() as inner:
            Policy(jitter=8)
    finally:
        faults.stop()
    assert [fault.value for fault in faults.collected] == ["7"]
    assert [fault.value for fault in inner] == ["8"]
    with pytest.raises(ConfigurationError):
        Policy(jitter=9)
    faults.start()
    faults.stop()
    assert faults.collected == []


def test_defaults_are_the_table():
    assert dict(Policy()) == {
        "retry_on": None,
        "give_up_on": (),
        "max_attempts": 5,
        "deadline": timedelta(hours=2),
        "backoff": Exponential("5s", factor=3, cap="5m"),
        "backoff_for": {},
        "jitter": 0.25,
        "respect_retry_after": True,
        "on_exhausted": "fail",
        "max_crashes": 3,
        "dead_letter_queue": None,
        "on_expired": "dead_letter",
        "acks": "late",
        "owner": None,
        "runbook": None,
        "severity": "error",
        "alert": None,
        "affected_by": (),
        "correlate": (),
        "redact": (),
        "max_latency": timedelta(minutes=5),
        "expect_every": None,
        "idempotency": None,
        "version": None,
    }


def test_what_users_write_becomes_what_the_rest_relies_on():
    policy = Policy(
        retry_on=[TimeoutError, "requests.exceptions.ConnectionError", is_busy, "builtins.OSError", "KeyError"],
        give_up_on={ValueError},
        deadline=90,
        max_latency=timedelta(seconds=1),
        backoff=lambda attempt, failure: 1,
        backoff_for={"rate_limit": Constant("1m"), TimeoutError: Linear("1s"), "a.B": Schedule([1])},
        jitter=1,
        affected_by={"b", "a"},
    )
    assert policy.retry_on == (TimeoutError, "requests.exceptions.ConnectionError", is_busy, "OSError", "KeyError")
    assert policy.give_up_on == (ValueError,)
    assert policy.deadline == timedelta(seconds=90)
    assert isinstance(policy.jitter, float)
    assert policy.affected_by == ("a", "b")
    assert set(policy.backoff_for) == {"rate_limit", TimeoutError, "a.B"}


def test_a_callable_without_a_signature_is_taken_as_a_predicate():
    class Silent:
        @property
        def __signature__(self):
            raise ValueError("no signature")

        def __call__(self, exc):
            return True

    assert Policy(retry_on=(Silent(),)).retry_on


def test_a_policy_is_frozen_and_can_be_copied_and_pickled():
    policy = Policy(max_attempts=3, retry_on=(TimeoutError, is_busy), backoff=Schedule(["5s", "15s"]))
    with pytest.raises(ValidationError):
        policy.max_attempts = 4
    with pytest.raises(AttributeError):
        policy.backoff.waits = ()
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert twin == policy
        assert twin.model_fields_set == policy.model_fields_set
