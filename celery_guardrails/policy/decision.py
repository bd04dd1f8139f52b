"""What should happen after a failure: a pure function from policy, failure and history to a decision.

Owns `Reason`, `Retry`, `DeadLetter` and `decide`, and for failures outside the body `decide_crash`, `decide_time_limit`
and `decide_unbegun`. It must not read the clock, draw from a random source of its own, or know Celery.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from random import Random

from celery_guardrails.clock import LONGEST, shown
from celery_guardrails.policy import backoff as backoffs
from celery_guardrails.policy import jitter
from celery_guardrails.policy.backoff import Backoff
from celery_guardrails.policy.failure import Failure, History
from celery_guardrails.policy.matching import nearest_rule, refusal
from celery_guardrails.policy.policy import Policy

__all__ = [
    "DeadLetter",
    "Decision",
    "Reason",
    "Requested",
    "Retry",
    "decide",
    "decide_crash",
    "decide_time_limit",
    "decide_unbegun",
    "shown_reason",
]

_LONGEST_SECONDS = LONGEST.total_seconds()


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

    @property
    def shown(self) -> str:
        """As people read it: `permanent_error` is "not retried", because many of these errors are of unknown kind."""
        return "not retried" if self is Reason.PERMANENT_ERROR else self.value


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the task again after `delay`; `reason` says in words why."""

    delay: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The task will not run again by itself; `explanation` says in words why.

    `in_doubt`: its message may be in the broker all the same, and may run from there.
    """

    reason: Reason
    explanation: str
    in_doubt: bool = False


Decision = Retry | DeadLetter


def shown_reason(value: str) -> str:
    """A reason as people read it; a reason that only a newer version knows stays as it is."""
    try:
        return Reason(value).shown
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class Requested:
    """What the task asked for by calling `self.retry()` itself.

    `delay` is the explicit countdown; `None`: the policy's backoff. `max_attempts` counts all executions (one more than
    Celery's `max_retries`); `None`: the policy's. `bounded`: a policy declares `max_attempts` for this task, and the
    smaller of the two holds; not `bounded`: the task's own holds. `bare`: the task gave no error.
    """

    delay: timedelta | None = None
    max_attempts: int | None = None
    bounded: bool = True
    bare: bool = False


def decide(
    policy: Policy,
    failure: Failure,
    history: History,
    now: datetime,
    rng: Random,
    *,
    requested: Requested | None = None,
) -> Decision:
    """What happens to a task after this failure.

    Args:
        policy: the policy in force.
        failure: the attempt's error.
        history: what came before; `history.attempt` is the attempt that has just failed.
        now: this instant, aware UTC.
        rng: draws the jitter.
        requested: what the task asked for by its own `self.retry()`. The kind of the error then does not matter, and
            an explicit delay is taken as it is; attempts and deadline still bound it.

    Returns:
        `Retry` only if the next attempt is allowed by number and would start by the deadline.
    """
    if requested is None and (why := refusal(policy, failure)):
        return DeadLetter(Reason.PERMANENT_ERROR, why)
    limit = _limit(policy, requested)
    if limit is not None and history.attempt >= limit:
        bare = requested is not None and requested.bare
        return DeadLetter(Reason.ATTEMPTS_EXHAUSTED, _exhausted(history.attempt, limit, None if bare else failure))
    delay, source = _delay(policy, failure, history, rng, requested)
    if policy.deadline is not None and now + delay > history.published_at + policy.deadline:
        age = shown(now - history.published_at)
        text = f"a retry in {shown(delay)} ({source}) would start after the deadline of {shown(policy.deadline)}"
        return DeadLetter(Reason.DEADLINE_EXCEEDED, f"{age} after {history.since}, {text}")
    following = f"attempt {history.attempt + 1}" + (f" of {limit}" if limit is not None else "")
    return Retry(delay, f"{following} in {shown(delay)}{_because(failure, requested)} ({source})")


def decide_crash(
    policy: Policy, failure: Failure, history: History, crashes: int, now: datetime, rng: Random, *, rerun: bool
) -> Decision:
    """What happens to a task whose worker died while it ran.

    Args:
        policy: the policy in force. Which errors it retries does not matter: the worker died, the task raised nothing.
        failure: the worker's death, of category `worker_lost`.
        history: as for `decide`; the attempt that died counts.
        crashes: how many workers died while they ran this work, this one included.
        now: this instant, aware UTC.
        rng: draws the jitter.
        rerun: whether the task may run again; `False` where it runs at most once (`acks="early"`).

    Returns:
        `Retry` after the policy's backoff below `max_crashes`, within attempts and deadline; else a dead letter with
        reason `worker_lost`.
    """
    lost = "its worker was lost while it ran"
    if crashes > 1:
        lost = f"it was running in {crashes} workers when they were lost"
    if not rerun:
        return DeadLetter(Reason.WORKER_LOST, f"{lost}, and it runs at most once (acks early)")
    if crashes >= policy.max_crashes:
        return DeadLetter(Reason.WORKER_LOST, f"{lost}; max_crashes is {policy.max_crashes}")
    decision = decide(policy, failure, history, now, rng, requested=Requested())
    if isinstance(decision, DeadLetter):
        return DeadLetter(Reason.WORKER_LOST, f"{lost}; {decision.explanation}")
    return Retry(decision.delay, f"{decision.reason}, worker loss {crashes} of {policy.max_crashes}")


def decide_unbegun(policy: Policy, failure: Failure, history: History, now: datetime, rng: Random) -> Decision:
    """What happens to a task whose body did not begin, because Celery itself failed before it.

    Which errors the policy retries does not matter: the task raised nothing. The failure counts as an attempt, so that
    attempts and deadline bound it. The arguments are those of `decide`.
    """
    decision = decide(policy, failure, history, now, rng, requested=Requested())
    if isinstance(decision, DeadLetter):
        return DeadLetter(decision.reason, f"the body did not begin; {decision.explanation}")
    return Retry(decision.delay, f"{decision.reason}, the body did not begin")


def decide_time_limit(policy: Policy, failure: Failure, history: History, now: datetime, rng: Random) -> Decision:
    """What happens to a task that its hard time limit has ended: dead as `time_limit`, unless the policy retries it.

    The policy retries it only where `retry_on` names the error. The arguments are those of `decide`.
    """
    decision = decide(policy, failure, history, now, rng)
    if isinstance(decision, DeadLetter) and decision.reason is Reason.PERMANENT_ERROR:
        text = f"its hard time limit ended it, and the policy does not retry that ({failure.message})"
        return DeadLetter(Reason.TIME_LIMIT, text)
    return decision


def _limit(policy: Policy, requested: Requested | None) -> int | None:
    wished = requested.max_attempts if requested else None
    if requested is not None and wished is not None and not requested.bounded:
        return wished
    return min((limit for limit in (policy.max_attempts, wished) if limit is not None), default=None)


def _delay(
    policy: Policy, failure: Failure, history: History, rng: Random, requested: Requested | None
) -> tuple[timedelta, str]:
    """How long to wait, and in words what sets this time."""
    if requested is not None and requested.delay is not None:
        return _bounded(requested.delay.total_seconds()), "the task asked for this delay"
    rule = nearest_rule(policy.backoff_for, failure)
    seconds = _jittered(policy, policy.backoff if rule is None else rule, failure, history, rng)
    if policy.respect_retry_after and failure.retry_after is not None and failure.retry_after > seconds:
        return _bounded(failure.retry_after), "the server's Retry-After"
    return _bounded(seconds), "backoff"


def _jittered(policy: Policy, backoff: Backoff, failure: Failure, history: History, rng: Random) -> float:
    seconds = backoffs.delay(backoff, history.attempt, failure)
    if policy.jitter != "decorrelated":
        return jitter.spread(policy.jitter, seconds, base=seconds, cap=seconds, previous=None, rng=rng)
    previous = history.attempts[-1].delay if history.attempts else None
    base, cap = backoffs.limits(backoff, seconds, failure)
    return jitter.spread("decorrelated", seconds, base=base, cap=cap, previous=previous, rng=rng)


def _bounded(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_SECONDS))


def _because(failure: Failure, requested: Requested | None) -> str:
    """Why there is a next attempt: an error, or the task asked for it and gave no error."""
    if requested is None or not requested.bare:
        return f" after {failure.summary}"
    return ", asked for by the task" if requested.delay is None else ""


def _exhausted(attempt: int, limit: int, failure: Failure | None) -> str:
    if failure is None:
        return f"the task asked for another attempt, but {attempt} of {limit} are used up"
    # Somebody may have lowered max_attempts since, or the work was put back: more attempts than are allowed now.
    counted = (
        f"{attempt} of {limit} attempts failed" if attempt <= limit else f"{attempt} attempts failed, {limit} allowed"
    )
    return f"{counted}, the last with {failure.named}"
