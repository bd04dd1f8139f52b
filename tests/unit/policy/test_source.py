"""A policy's fields as Python: what is written is read back as the same."""

from __future__ import annotations

import smtplib
from datetime import timedelta
from typing import Any

import pytest

from celery_guardrails import Constant, Exponential, Linear, Policy, Schedule
from celery_guardrails.policy.source import arguments_of, source_of

NAMES = {"Constant": Constant, "Exponential": Exponential, "Linear": Linear, "Policy": Policy, "Schedule": Schedule}


@pytest.mark.parametrize(
    "fields",
    [
        {"retry_on": (ConnectionError,), "give_up_on": (ValueError, KeyError)},
        {"retry_on": (), "max_attempts": None, "deadline": "2h"},
        {"deadline": None, "jitter": 0.1, "respect_retry_after": False},
        {"backoff": Exponential("1s", factor=2, cap="10m"), "jitter": "full"},
        {"backoff": Exponential(90, factor=1.5, cap=None)},
        {"backoff": Linear("10s", step="5s"), "backoff_for": {"rate_limit": Constant("1m"), "lock": Schedule(["5s"])}},
        {"owner": 'the "mail" team', "runbook": "https://wiki/ä", "affected_by": ("customer_id",)},
        {"max_latency": timedelta(seconds=7.5), "acks": "early"},
    ],
)
def test_what_is_written_is_read_as_the_same(fields: dict[str, Any]) -> None:
    policy = Policy(**fields)
    written = f"Policy({', '.join(arguments_of(policy, fields))})"
    assert eval(written, dict(NAMES)) == policy
    assert eval(written, dict(NAMES)).model_fields_set == policy.model_fields_set


def test_a_class_of_a_library_is_its_path_so_that_nothing_is_imported() -> None:
    assert source_of((OSError, smtplib.SMTPException)) == '(OSError, "smtplib.SMTPException")'
