"""Retries by policy, a dead-letter queue that loses nothing, alerts people do not mute, for Celery.

The public names, nothing else.
"""

from celery_guardrails.errors import (
    ConfigurationError,
    DeadLetterError,
    DeadLetterNotFound,
    GuardrailsError,
    InvalidTransition,
    PermanentError,
    RequeueFailed,
    SinkError,
    StoreError,
    TransientError,
)
from celery_guardrails.policy import Constant, Exponential, Linear, Policy, Schedule
from celery_guardrails.worker.install import Guardrails
from celery_guardrails.worker.task import GuardedTask, GuardMixin

__all__ = [
    "ConfigurationError",
    "Constant",
    "DeadLetterError",
    "DeadLetterNotFound",
    "Exponential",
    "GuardMixin",
    "GuardedTask",
    "Guardrails",
    "GuardrailsError",
    "InvalidTransition",
    "Linear",
    "PermanentError",
    "Policy",
    "RequeueFailed",
    "Schedule",
    "SinkError",
    "StoreError",
    "TransientError",
]
