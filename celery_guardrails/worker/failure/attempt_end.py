"""Where the end of each attempt is noted: its log line, and the data that the counters of the main process get.

    an attempt ends ──> AttemptEnd ──> one line on the logger `celery_guardrails.attempt`
                                  └──> the counters; from a child it comes with the outcome that Celery sends

Owns how an `AttemptEnd` is made of what is known: a failed run, a letter, or only a message. It never raises. It must
not know how ends are counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.figures.attempt import AttemptEnd
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.preview import named_in_items
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy import Policy
from celery_guardrails.transport.routing import queue_name
from celery_guardrails.worker.failure.argument import arguments_by_name
from celery_guardrails.worker.failure.attempt_log import is_logged, log_end
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.sent_repr import sender_text
from celery_guardrails.worker.failure.tracing import note_end

__all__ = ["ENDED", "attach_end", "end_of_message", "ended_of", "note_letter", "note_run", "note_success"]

logger = logging.getLogger("celery_guardrails.worker")

ENDED = "_guardrails_ended"
"""Where a request keeps how its attempt ended, until Celery has made its outcome of it."""


def note_run(
    run: FailedRun,
    outcome: AttemptOutcome,
    *,
    letter: Letter | None = None,
    delay: float | None = None,
    ran: bool = True,
) -> None:
    """Note how a failed attempt has ended: log it, and keep it in the run's request.

    Args:
        run: what failed. An eager run, and one under the kill switch, is not noted.
        outcome: what became of it.
        letter: its dead letter, if one was published or spooled.
        delay: seconds until the next attempt, if there is one.
        ran: whether the body began.
    """
    try:
        if run.request.is_eager or not run.guard.settings.enabled:
            return
        started = None if run.started_at is None or not ran else run.started_at.timestamp()
        end = _end(run.task, run.request.__dict__, run.header, run.policy)._replace(
            outcome=outcome.value,
            started_at=started,
            ended_at=run.now.timestamp(),
            category=run.failure.category.value,
            error=run.failure.error,
            fingerprint=run.failure.fingerprint,
            delay=delay,
            letter_id=None if letter is None else letter.id,
            reason=None if letter is None else letter.reason.value,
        )
        run.request.__dict__[ENDED] = end
        if is_logged(end):
            request = run.request
            log_end(end, _correlation(run.task, run.policy, request.__dict__, request.args, request.kwargs))
    except Exception:
        logger.warning("the end of %s[%s] is not counted", run.task.name, run.request.id, exc_info=True)


def note_letter(guard: Guardrails, letter: Letter) -> AttemptEnd | None:
    """Log the dead letter of a message that no process here ran, and return its end; under the kill switch nothing."""
    try:
        if not guard.settings.enabled:
            return None
        headers = letter.message.headers or {}
        end = AttemptEnd(
            task=letter.task,
            task_id=letter.task_id,
            root_id=letter.root_id,
            outcome=AttemptOutcome.DEAD.value,
            attempt=_retries(headers) + 1,
            ended_at=letter.died_at.timestamp(),
            category=letter.failure.category.value,
            error=letter.failure.type,
            fingerprint=letter.failure.fingerprint,
            queue=letter.queue,
            worker=letter.worker,
            generation=letter.generation,
            letter_id=letter.id,
            reason=letter.reason.value,
        )
        note_end(end)
        if is_logged(end):
            log_end(end, letter.correlation)
    except Exception:
        logger.warning("the end of %s[%s] is not logged", letter.task, letter.task_id, exc_info=True)
        return None
    return end


def note_success(task: Any, message: Mapping[str, Any], args: Any, kwargs: Any, run_time: float) -> None:
    """Log a task that succeeded; it is counted elsewhere. Call it only if the log is enabled for it.

    Args:
        task: the task.
        message: its message's headers, as Celery's tracer gets them.
        args, kwargs: its arguments.
        run_time: seconds.
    """
    try:
        now, policy = time.time(), Guardrails.of(task.app).policy_of(task).policy
        end = _end(task, message, read_header(message), policy)
        end = end._replace(outcome=AttemptOutcome.SUCCEEDED.value, started_at=now - run_time, ended_at=now)
        log_end(end, _correlation(task, policy, message, args, kwargs))
    except Exception:
        logger.warning("the success of %s[%s] is not logged", task.name, message.get("id"), exc_info=True)


def end_of_message(
    task: Any, message: Mapping[str, Any], outcome: AttemptOutcome, started_at: float | None, error: str | None = None
) -> AttemptEnd:
    """The end of an attempt of which only its message and its outcome are known, just now.

    Args:
        task: the task.
        message: its message's headers, as Celery's request keeps them.
        outcome: what became of it.
        started_at: when the body began, in seconds since 1970; `None`: it did not.
        error: the type of its error, if it failed.
    """
    policy = Guardrails.of(task.app).policy_of(task).policy
    end = _end(task, message, read_header(message), policy)
    return end._replace(outcome=outcome.value, started_at=started_at, ended_at=time.time(), error=error)


def attach_end(outcome: Any, request: Any) -> Any:
    """Have an outcome, and the span of its attempt, say how the attempt ended; returns the outcome.

    Args:
        outcome: an `ExceptionInfo`, or an exception of ours.
        request: the task's request.
    """
    if (end := request.__dict__.get(ENDED)) is not None:
        outcome.ended = end
        note_end(end)
    return outcome


def ended_of(outcome: Any) -> AttemptEnd | None:
    """How an attempt ended, as its process says with this outcome."""
    found = getattr(outcome, "ended", None)
    return found if isinstance(found, AttemptEnd) else None


def _end(task: Any, message: Mapping[str, Any], header: Header, policy: Policy) -> AttemptEnd:
    """What a message says of its attempt; the caller puts in how the attempt ended."""
    delivery = message.get("delivery_info")
    delivery = delivery if isinstance(delivery, Mapping) else {}
    queue = delivery.get("queue") or queue_name(
        task.app, delivery.get("exchange") or "", delivery.get("routing_key") or ""
    )
    attempt = _retries(message) + 1
    begins = header.life_starts_at
    return AttemptEnd(
        task=subject_of(task).name,
        task_id=str(message.get("id") or ""),
        root_id=message.get("root_id"),
        outcome="",
        attempt=attempt,
        max_attempts=policy.max_attempts,
        ended_at=0.0,
        queue=str(queue or ""),
        worker=str(message.get("hostname") or ""),
        generation=header.generation,
        due_at=_due(header, attempt, message.get("eta")),
        life_starts_at=None if begins is None else begins.timestamp(),
    )


def _due(header: Header, attempt: int, at: object) -> float | None:
    """When an attempt was due: after the delay behind the attempt before, or when its life began."""
    last = header.attempts[-1] if header.attempts else None
    if last is not None and last.number == attempt - 1 and last.generation == header.generation:
        return last.ended_at.timestamp() + (last.delay or 0.0)
    begins = header.deadline_starts_at
    if begins is None or attempt > 1 or (at is not None and header.due_at is None):
        return None  # nobody says when it was due
    return begins.timestamp()


def _retries(message: Mapping[str, Any]) -> int:
    retries = message.get("retries")
    return retries if isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries < 2**31 else 0


def _correlation(task: Any, policy: Policy, message: Mapping[str, Any], args: Any, kwargs: Any) -> Mapping[str, Any]:
    """The arguments that the policy's `correlate` names, as a letter shows them."""
    if not policy.correlate:
        return {}
    args, kwargs = tuple(args or ()), dict(kwargs or {})
    redactor = Guardrails.of(task.app).redactor(policy)
    found = named_in_items(policy.correlate, arguments_by_name(task, args, kwargs), redactor)
    return sender_text(task.app, message, args, kwargs).seen(found, kwargs)
