"""Retries by policy, a dead-letter queue that loses nothing, alerts people do not mute, for Celery.

The public names, and that our loggers hide secrets from the first line on. The names are imported when they are first
used: Celery imports this package for every command of every application, which should not cost one that has nothing to
do with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_guardrails.log import install

if TYPE_CHECKING:
    from celery_guardrails.alerts.sinks.alert import Alert
    from celery_guardrails.errors import (
        ConfigurationError,
        DeadLetterError,
        DeadLetterNotFound,
        GuardrailsError,
        InvalidTransition,
        LeaseLost,
        PermanentError,
        RequeueFailed,
        SinkError,
        StoreError,
        TransientError,
    )
    from celery_guardrails.policy import Constant, Exponential, Idempotency, Linear, Policy, Schedule
    from celery_guardrails.task import GuardedTask, GuardMixin, Guardrails

__all__ = [
    "Alert",
    "ConfigurationError",
    "Constant",
    "DeadLetterError",
    "DeadLetterNotFound",
    "Exponential",
    "GuardMixin",
    "GuardedTask",
    "Guardrails",
    "GuardrailsError",
    "Idempotency",
    "InvalidTransition",
    "LeaseLost",
    "Linear",
    "PermanentError",
    "Policy",
    "RequeueFailed",
    "Schedule",
    "SinkError",
    "StoreError",
    "TransientError",
]

_HOMES = {
    "celery_guardrails.alerts.sinks.alert": ("Alert",),
    "celery_guardrails.policy": ("Constant", "Exponential", "Idempotency", "Linear", "Policy", "Schedule"),
    "celery_guardrails.task": ("GuardMixin", "GuardedTask", "Guardrails"),
}

install()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "celery_guardrails.errors")
    try:
        value = globals()[name] = getattr(import_module(home), name)
    except (ImportError, AttributeError) as exc:
        from celery_guardrails.seam import explain

        raise explain(exc) from exc
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
