"""What Sentry gets from us: our facts on the event that its own integration sends, and one trace for all attempts.

It does nothing where the application has not initialised Sentry with its Celery integration. It sends an event of its
own only for parked work, which Sentry cannot see, and nothing for retries. The event of a dead letter has no more
secrets than the letter shows (`sentry_event.py`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.policy import Policy
from celery_guardrails.redaction import Redactor
from celery_guardrails.worker.failure.sentry_event import event_processor

__all__ = ["annotate", "annotated_scope", "report", "sentry_of_application", "trace_on"]

logger = logging.getLogger("celery_guardrails.worker")

_TRACE, _BAGGAGE, _ENQUEUED = "sentry-trace", "baggage", "sentry-task-enqueued-time"


def annotate(letter: Letter, policy: Policy, redactor: Redactor) -> None:
    """Put our facts on the scope of the running task before its exception leaves it, and hide secrets in its events.

    Args:
        letter: the dead letter.
        policy: the policy in force.
        redactor: what to hide.
    """
    sdk = _sdk()
    if sdk is None:
        return
    scope = sdk.get_isolation_scope()
    tags = {
        "guardrails.task": letter.task,
        "guardrails.reason": letter.reason.value,
        "guardrails.category": letter.failure.category.value,
        "guardrails.owner": letter.owner,
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
    scope.add_event_processor(event_processor(redactor, letter.preview))


def report(exc: BaseException) -> None:
    """Send the event of parked work, which leaves the task as Celery's Ignore and so never reaches Sentry."""
    sdk = _sdk()
    if sdk is not None:
        sdk.capture_exception(exc)


@contextmanager
def annotated_scope(dead_lettered: tuple[Letter, Policy, Redactor] | None) -> Iterator[None]:
    """Give the events of the block our facts on this letter, and no other events; never raises.

    Celery reports hard time limits and lost workers in the main process, where no task has a scope.

    Args:
        dead_lettered: the letter, the policy in force and what to hide; `None`: there is no letter.
    """
    with ExitStack() as stack:
        try:
            sdk = _sdk()
            if sdk is not None and dead_lettered is not None:
                # earlier log lines are about other tasks, and may quote bodies of messages that cannot be read
                stack.enter_context(sdk.isolation_scope()).clear_breadcrumbs()
                annotate(*dead_lettered)
        except Exception:
            logger.warning("Sentry gets this error without the facts of its dead letter", exc_info=True)
        yield


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
