from __future__ import annotations

import functools
import json

import tenacity

from celery_guardrails.policy import Constant, Exponential, Linear, Policy, Schedule, policy_fields


def is_busy(exc):
    return True


class Patient:
    def __call__(self, attempt, failure):
        return 5


def test_every_field_is_shown_as_json():
    policy = Policy(
        retry_on=(TimeoutError, "requests.exceptions.Timeout", is_busy),
        backoff=Schedule(["5s"]),
        backoff_for={OSError: Linear("5s"), "rate_limit": Constant("1m")},
        affected_by=("email",),
    )
    shown = json.loads(json.dumps(policy_fields(policy)))
    assert list(shown) == list(Policy.model_fields)
    assert shown["retry_on"] == ["TimeoutError", "requests.exceptions.Timeout", f"{__name__}.is_busy"]
    assert shown["backoff"] == 'Schedule(["5s"])'
    assert shown["backoff_for"] == {"OSError": 'Linear("5s", step="5s", cap="5m")', "rate_limit": 'Constant("1m")'}
    assert shown["deadline"] == "2h"
    assert shown["jitter"] == 0.25
    assert shown["affected_by"] == ["email"]
    assert policy_fields(Policy())["retry_on"] is None
    assert policy_fields(Policy())["backoff"] == 'Exponential("5s", factor=3, cap="5m")' == str(Exponential("5s"))


def test_callables_without_a_name_are_shown_by_their_class():
    assert policy_fields(Policy(backoff=tenacity.wait_fixed(3)))["backoff"] == "tenacity.wait.wait_fixed"
    assert policy_fields(Policy(backoff=Patient()))["backoff"] == f"{__name__}.Patient"
    assert "partial" in policy_fields(Policy(backoff=functools.partial(lambda attempt, failure: 1)))["backoff"]
