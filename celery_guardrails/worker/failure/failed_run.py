"""One failed attempt with all that is known about it: decisions, letters and retries are made from it.

Owns how the facts are gathered from a task and its request. It must not know what happens next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.work import Work
from celery_guardrails.policy import Policy, describe
from celery_guardrails.policy.failure import Attempt, Failure, History
from celery_guardrails.redaction import Redactor
from celery_guardrails.worker.failure.argument import redactor_of_run
from celery_guardrails.worker.failure.tracing import with_span
from celery_guardrails.worker.failure.work import work_of

__all__ = ["SEEN", "STARTED", "UNKEPT", "FailedRun", "examine"]

STARTED = "_guardrails_started"
"""Where a request keeps when its attempt began, in epoch seconds."""
SEEN = "_guardrails_seen"
"""Where a request keeps what has become of its failure: a type of exception. Such a failure is not settled again."""

UNKEPT = "_guardrails_unkept"
"""Where a request of work acknowledged early keeps a letter that neither broker nor spool took, and its queue."""


@dataclass(frozen=True, slots=True)
class FailedRun:
    """One failed attempt with all that is known about it."""

    task: Any
    request: Any
    guard: Guardrails
    policy: Policy
    failure: Failure
    header: Header
    work: Work
    started_at: datetime | None
    now: datetime
    redactor: Redactor
    """By the settings and the policy; in text it hides the run's own secret arguments, too."""

    @property
    def number(self) -> int:
        """Which attempt this was; the first is 1."""
        return int(self.request.retries or 0) + 1

    @property
    def history(self) -> History:
        """What the decision looks at."""
        begun = self.header.deadline_starts_at or self.started_at or self.now
        return History(self.number, begun, self.header.attempts, self.header.deadline_event)

    def attempt(self, delay: float | None) -> Attempt:
        """This attempt as a history entry; `delay` seconds until the next one."""
        return Attempt(
            number=self.number,
            started_at=self.started_at,
            ended_at=self.now,
            error=self.failure.error,
            message=self.failure.message,
            category=self.failure.category,
            fingerprint=self.failure.fingerprint,
            worker=str(self.request.hostname or ""),
            delay=delay,
            generation=self.header.generation,
        )


def examine(task: Any, request: Any, exc: BaseException) -> FailedRun:
    """Gather what is known about an attempt that failed with `exc`."""
    guard = Guardrails.of(task.app)
    now = clock.now()
    header = with_span(read_header(request.__dict__))
    started = request.__dict__.get(STARTED)
    started_at = clock.from_epoch(started) if started is not None else None
    work = work_of(request.__dict__, header)
    if header.published_at is None:
        # Published without our header: as far as is known, its time began with this attempt.
        header = replace(header, published_at=started_at or now)
    elif header.due_at is None and request.eta and not request.retries:
        header = replace(header, due_at=_due_at(task, request, started_at or now))
    if header.work is None:
        # From here on the header names the work, even if a retry changes the arguments.
        header = replace(header, work=work.publish, id_given=True)
    policy = guard.policy_of(task).policy
    redactor = redactor_of_run(guard.redactor(policy), task, request)
    failure = describe(exc, now, with_traceback=False, hide=redactor.text)
    return FailedRun(task, request, guard, policy, failure, header, work, started_at, now, redactor)


def _due_at(task: Any, request: Any, begun: datetime) -> datetime | None:
    """When a first attempt was due by its `eta`, or when it began if that was earlier: people can have it run now."""
    try:
        due: datetime = maybe_make_aware(maybe_iso8601(request.eta), task.app.timezone)
        return min(due, begun)
    except (TypeError, ValueError, OverflowError):  # a message may say anything
        return None
