"""A policy's fields as one writes them in Python, for people who move from Celery's own options.

Pure. A class of another library becomes its dotted path, so that the written policy needs no import.
"""
# on its own: only check --migrate uses it, for people who move from autoretry_for

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from celery_guardrails.clock import format_duration
from celery_guardrails.policy.backoff import Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.dotted import dotted_name
from celery_guardrails.policy.policy import Policy

__all__ = ["arguments_of", "source_of"]


def arguments_of(policy: Policy, fields: Iterable[str]) -> list[str]:
    """Each of these fields as an argument: `max_attempts=4`."""
    return [f"{name}={source_of(getattr(policy, name))}" for name in fields]


def source_of(value: Any) -> str:
    """One value, such as `("requests.exceptions.Timeout",)` or `Constant("1m")`.

    A callable becomes its dotted name, and has to be imported where the policy is written.
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, timedelta):
        return f'"{format_duration(value)}"'
    if isinstance(value, tuple):
        return f"({', '.join(map(source_of, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{source_of(key)}: {source_of(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (Exponential, Constant, Linear, Schedule)):
        return str(value)
    name = dotted_name(value)
    return json.dumps(name) if isinstance(value, type) and value.__module__ != "builtins" else name
