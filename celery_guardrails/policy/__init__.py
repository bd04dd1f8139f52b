"""Pure: what should happen after a failure. No Celery, no I/O, no clock, no random source of its own."""

from __future__ import annotations

from celery_guardrails.policy.backoff import Backoff, Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, Retry
from celery_guardrails.policy.failure import Attempt, Category, Failure, History
from celery_guardrails.policy.policy import Policy

__all__ = [
    "Attempt",
    "Backoff",
    "Category",
    "Constant",
    "DeadLetter",
    "Decision",
    "Exponential",
    "Failure",
    "History",
    "Linear",
    "Policy",
    "Reason",
    "Retry",
    "Schedule",
]
