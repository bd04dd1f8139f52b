"""A policy as JSON, for `guardrails policy --json` and for the policy kept in a dead letter.

Pure. A class or a callable becomes its dotted name: the JSON is for people to read, nothing loads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery_guardrails.clock import format_duration
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.backoff import Constant, Exponential, Linear, Schedule, is_tenacity_wait
from celery_guardrails.policy.dotted import dotted_name
from celery_guardrails.policy.idempotency import Idempotency
from celery_guardrails.policy.policy import Policy

__all__ = ["policy_fields"]


def policy_fields(policy: Policy) -> dict[str, Any]:
    """Every field of the policy as JSON-safe data, in the order of the class; never raises.

    Durations are text (`"2h"`), backoff forms are as one writes them, `retry_on` is `None` for the built-in taxonomy.
    """
    return {name: _plain(getattr(policy, name)) for name in Policy.model_fields}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, TaskAlerts):
        return _plain(value.as_data())
    if isinstance(value, Idempotency):
        return {name: _plain(getattr(value, name)) for name in Idempotency.model_fields}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (Exponential, Constant, Linear, Schedule)):
        return str(value)
    # A tenacity wait, or another callable object, has no name of its own: its class's name stands for it.
    return dotted_name(type(value) if is_tenacity_wait(value) else value)
