"""What should happen after a failure: a pure function from policy, failure and history to a decision.

Owns `Reason`, `Retry`, `DeadLetter` and `decide`. Reads no clock, no random source of its own, no Celery.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

__all__ = ["DeadLetter", "Decision", "Reason", "Retry"]


class Reason(str, Enum):
    """Why a dead letter is dead."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    PERMANENT_ERROR = "permanent_error"
    TIME_LIMIT = "time_limit"
    WORKER_LOST = "worker_lost"
    EXPIRED = "expired"
    UNKNOWN_TASK = "unknown_task"
    UNDECODABLE = "undecodable"
    REJECTED = "rejected"
    RETRY_UNPUBLISHABLE = "retry_unpublishable"
    RESULT_UNSTORABLE = "result_unstorable"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Retry:
    """Run it again after `delay`; `reason` says in words why."""

    delay: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """It will not run again by itself; `explanation` says in words why."""

    reason: Reason
    explanation: str


Decision = Retry | DeadLetter
