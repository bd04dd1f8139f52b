"""Decides what happens to a task after a failure, as data.

It must not know Celery, the store or the network. Callers pass in the clock and the random source.
"""

from __future__ import annotations

from celery_guardrails.policy.backoff import Backoff, Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, Requested, Retry, decide
from celery_guardrails.policy.declaration import policy_fields
from celery_guardrails.policy.describe import describe
from celery_guardrails.policy.failure import Attempt, Category, Failure, History
from celery_guardrails.policy.idempotency import Idempotency
from celery_guardrails.policy.merge import Effective, Layer, match_pattern, merge
from celery_guardrails.policy.policy import Policy
from celery_guardrails.policy.schedule import PlannedAttempt, schedule

__all__ = [
    "Attempt",
    "Backoff",
    "Category",
    "Constant",
    "DeadLetter",
    "Decision",
    "Effective",
    "Exponential",
    "Failure",
    "History",
    "Idempotency",
    "Layer",
    "Linear",
    "PlannedAttempt",
    "Policy",
    "Reason",
    "Requested",
    "Retry",
    "Schedule",
    "decide",
    "describe",
    "match_pattern",
    "merge",
    "policy_fields",
    "schedule",
]
