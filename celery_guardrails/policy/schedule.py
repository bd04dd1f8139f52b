"""The attempts that a policy plans, on a time line, for people to read.

Pure. It assumes that an attempt takes no time, and that no failure carries a Retry-After.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from celery_guardrails.clock import LONGEST
from celery_guardrails.policy import backoff as backoffs
from celery_guardrails.policy import jitter
from celery_guardrails.policy.failure import Category, Failure
from celery_guardrails.policy.policy import Policy

__all__ = ["MOST_ROWS", "PlannedAttempt", "retry_window", "schedule"]

MOST_ROWS = 50

_ANY_FAILURE = Failure(
    "Exception", "", Category.UNKNOWN, True, "", mro=("Exception", "BaseException"), exception=Exception()
)


@dataclass(frozen=True, slots=True)
class PlannedAttempt:
    """When one attempt starts, counted from when the work was due: between `earliest` and `latest`, by jitter.

    `deadline` is `"within"` where it starts by the deadline whatever the jitter, `"may_exceed"` where that depends
    on the jitter (`latest` is then the deadline), and `"exceeds"` where it is never scheduled.
    """

    number: int
    earliest: timedelta
    latest: timedelta
    deadline: Literal["within", "may_exceed", "exceeds"] = "within"


def schedule(policy: Policy) -> tuple[PlannedAttempt, ...]:
    """The attempts of a task that keeps failing, at most 50; the first one that is never scheduled ends the list."""
    planned = [PlannedAttempt(1, timedelta(0), timedelta(0))]
    least = most = 0.0
    previous: float | None = None
    rows = MOST_ROWS if policy.max_attempts is None else min(policy.max_attempts, MOST_ROWS)
    for number in range(2, rows + 1):
        seconds = backoffs.delay(policy.backoff, number - 1, _ANY_FAILURE)
        base, cap = backoffs.limits(policy.backoff, seconds, _ANY_FAILURE)
        low, high = jitter.bounds(policy.jitter, seconds, base=base, cap=cap, previous=previous)
        least, most, previous = least + low, most + high, high
        planned.append(_planned(number, _bounded(least), _bounded(most), policy.deadline))
        if planned[-1].deadline == "exceeds":
            break
    return tuple(planned)


def retry_window(policy: Policy) -> timedelta:
    """From the first attempt to the start of the last one, at most, if each fails at once."""
    planned = [attempt.latest for attempt in schedule(policy) if attempt.deadline != "exceeds"]
    window = max(planned, default=timedelta(0))
    if policy.max_attempts is None and policy.deadline is not None:
        return max(window, policy.deadline)
    return window if policy.deadline is None else min(window, policy.deadline)


def _planned(number: int, earliest: timedelta, latest: timedelta, deadline: timedelta | None) -> PlannedAttempt:
    if deadline is None or latest <= deadline:
        return PlannedAttempt(number, earliest, latest)
    if earliest > deadline:
        return PlannedAttempt(number, earliest, latest, "exceeds")
    return PlannedAttempt(number, earliest, deadline, "may_exceed")


def _bounded(seconds: float) -> timedelta:
    return min(timedelta(seconds=min(seconds, LONGEST.total_seconds())), LONGEST)
