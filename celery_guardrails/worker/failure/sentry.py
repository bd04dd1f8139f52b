"""What Sentry gets from us: our facts on the event that its own integration sends, and one trace for all attempts.

It does nothing where the application has not initialised Sentry with its Celery integration. It sends an event of its
own only for parked work, and for messages that are no task: of these Celery logs the whole body, or nothing. It sends
nothing for retries. The event of a dead letter has no more secrets than the letter shows (`sentry_event.py`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_guardrails.letters.alert_name import alert_name
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.policy import Policy
from celery_guardrails.redaction import Redactor
from celery_guardrails.worker.failure.sentry_event import event_processor

__all__ = ["Facts", "annotate", "annotated_scope", "one_event", "report", "sentry_of_application", "trace_on"]

logger = logging.getLogger("celery_guardrails.worker")

_TRACE, _BAGGAGE, _ENQUEUED = "sentry-trace", "baggage", "sentry-task-enqueued-time"


@dataclass(frozen=True, slots=True)
class Facts:
    """What an event says of a dead letter.

    Args:
        letter: the dead letter.
        policy: the policy in force.
        redactor: what to hide.
        group_by: the setting `alerts.group_by`, for the alert's id.
    """

    letter: Letter
    policy: Policy
    redactor: Redactor
    group_by: Sequence[str] = ("task",)


def annotate(facts: Facts) -> None:
    """Put our facts on the scope of the running task before its exception leaves it, and hide secrets in its events."""
    sdk = _sdk()
    if sdk is None:
        return
    letter, policy = facts.letter, facts.policy
    scope = sdk.get_isolation_scope()
    tags = {
        "guardrails.task": letter.task,
        "guardrails.reason": letter.reason.value,
        "guardrails.category": letter.failure.category.value,
        "guardrails.owner": letter.owner,
        "guardrails.environment": letter.environment,
        "guardrails.alert": alert_name(letter, facts.group_by),
        "guardrails.attempts": str(letter.attempts[-1].number if letter.attempts else 1),
    }
    for name, value in tags.items():
        if value is not None:
            scope.set_tag(name, value)
    scope.set_context(
        "guardrails",
        {
            "dead_letter_id": letter.origin_id,
            "explanation": letter.explanation,
            "generation": letter.generation,
            "queue": letter.queue,
            "runbook": policy.runbook,
            "policy": letter.policy,
        },
    )
    scope.fingerprint = [letter.task, letter.failure.fingerprint]
    scope.add_event_processor(event_processor(facts.redactor, letter.preview))


def report(exc: BaseException) -> None:
    """Send the event of parked work, which leaves the task as Celery's Ignore and so never reaches Sentry."""
    sdk = _sdk()
    if sdk is not None:
        sdk.capture_exception(exc)


@contextmanager
def annotated_scope(facts: Facts | None) -> Iterator[None]:
    """Give the events of the block our facts, and no other events; never raises.

    Celery reports hard time limits and lost workers in the main process, where no task has a scope.

    Args:
        facts: what to say; `None`: there is no letter.
    """
    with ExitStack() as stack:
        try:
            sdk = _sdk()
            if sdk is not None and facts is not None:
                # earlier log lines are about other tasks, and may quote bodies of messages that cannot be read
                scope = stack.enter_context(sdk.isolation_scope())
                scope.clear_breadcrumbs()
                annotate(facts)
        except Exception:
            logger.warning("Sentry gets this error without the facts of its dead letter", exc_info=True)
        yield


@contextmanager
def one_event(facts: Facts) -> Iterator[None]:
    """Send one event of a message that is no task, in place of those that log lines in the block make; never raises.

    Celery's log line of such a message quotes its body, in which nobody can tell what is a secret.
    """
    with annotated_scope(facts):
        sdk = None
        try:
            if (sdk := _sdk()) is not None:
                sdk.get_isolation_scope().add_event_processor(_without_log_lines)
        except Exception:
            logger.warning("Sentry may get the body of an unreadable message", exc_info=True)
        try:
            yield
        finally:
            try:
                if sdk is not None:
                    sdk.get_isolation_scope().clear_breadcrumbs()
                    letter = facts.letter
                    words = f"{letter.task} is dead-lettered as {letter.reason.shown}: {letter.explanation}"
                    sdk.capture_message(words, level="error")
            except Exception:
                logger.warning("Sentry gets no event of an unreadable message", exc_info=True)


def _without_log_lines(event: Any, hint: Any) -> Any:
    """An event processor that drops what a log line has made."""
    return None if event.get("logger") else event


def trace_on(headers: MutableMapping[str, Any], task: Any, request: Any, now: datetime) -> None:
    """Put the running attempt's trace on its next attempt's message, as Sentry's own `apply_async` does.

    Without it, each attempt would begin a trace of its own where the publisher has no Sentry. The trace goes into the
    headers and into a nested `headers`, where Sentry looks for it. The nested ones replace the others in the task's
    `request.headers`, so they hold a copy of those too.

    Args:
        headers: the message's.
        task: the task.
        request: the attempt's. Where it does not run in this process and thread (the main process publishes for a pool
            process that is gone), the message keeps the trace that it had.
        now: this instant.
    """
    try:
        sdk = _sdk()
        if sdk is None or task.request.id != request.id:
            return
        if not sdk.get_client().get_integration("celery").propagate_traces:
            return
        traceparent = sdk.get_traceparent()
        if not traceparent:
            return
        found = headers.get("headers")
        custom = found if isinstance(found, Mapping) else request.headers or {}
        nested = {key: value for key, value in custom.items() if key not in BROKER_HEADERS}
        trace = {_TRACE: traceparent, _ENQUEUED: now.timestamp()}
        before = nested.get(_BAGGAGE) or headers.get(_BAGGAGE)
        ours = sdk.get_baggage()
        if before and "sentry-trace_id" not in before and ours:
            trace[_BAGGAGE] = f"{before},{ours}"
        elif before or ours:
            trace[_BAGGAGE] = before or ours
        headers.update(trace)
        headers["headers"] = {**nested, **trace}
    except Exception:
        logger.warning("the next attempt does not continue Sentry's trace", exc_info=True)


def _sdk() -> Any:
    sdk = sentry_of_application()
    return sdk if sdk is not None and sdk.get_client().get_integration("celery") is not None else None


def sentry_of_application() -> Any:
    """The module `sentry_sdk` where the application has initialised it, else `None`.

    An application that uses Sentry has imported its SDK. For all others it is not imported here: it would cost each
    process of a worker 17 MB and a quarter of a second.
    """
    if "sentry_sdk" not in sys.modules:
        return None
    import sentry_sdk

    return sentry_sdk if sentry_sdk.is_initialized() else None
