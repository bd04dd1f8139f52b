"""Pure: what should happen after a failure. No Celery, no I/O, no clock, no random source of its own."""

from __future__ import annotations

from celery_guardrails.policy.backoff import Backoff, Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, Requested, Retry, decide
from celery_guardrails.policy.declaration import declared
from celery_guardrails.policy.describe import describe
from celery_guardrails.policy.failure import Attempt, Category, Failure, History
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
    "Layer",
    "Linear",
    "PlannedAttempt",
    "Policy",
    "Reason",
    "Requested",
    "Retry",
    "Schedule",
    "decide",
    "declared",
    "describe",
    "match_pattern",
    "merge",
    "schedule",
]
