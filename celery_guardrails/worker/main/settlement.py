"""One end of a task that only the main process sees, as data, and the one function that settles it.

    End ──> decide ──> publish the next attempt or the letter ──> Celery announces the end ──> acknowledge the message

The broker or the spool has the attempt or the letter before Celery announces anything. If neither takes the letter, the
message is not acknowledged. If guardrails itself fails on an end, it publishes a letter of the few facts that are sure.
Owns that order. `ending.py` says which end it is; `announcement.py` has Celery announce it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.policy.decision import DeadLetter, Decision
from celery_guardrails.policy.describe import LONGEST_MESSAGE
from celery_guardrails.worker.failure.attempt_end import ENDED
from celery_guardrails.worker.failure.failed_run import STARTED, FailedRun, examine
from celery_guardrails.worker.failure.outcome import Dead, Outcome, Retried, carry_out, carry_out_in_brief, put_back
from celery_guardrails.worker.failure.succeeded import has_succeeded
from celery_guardrails.worker.failure.tracing import FailureSpan, note_end
from celery_guardrails.worker.main import counting, journal, lease, seen
from celery_guardrails.worker.main.announcement import (
    Announce,
    announce_and_acknowledge,
    final_step,
    final_step_of_letter,
)

__all__ = ["End", "examine_request", "publish", "settle"]

logger = logging.getLogger("celery_guardrails.worker")


@dataclass(frozen=True, slots=True)
class End:
    """How a task has ended outside its body, and what to do about it."""

    exc: BaseException
    """What ended it."""
    usual: Announce
    """What Celery does without guardrails: used under the kill switch, and if guardrails can do nothing."""
    announce: Announce | None
    """How Celery announces the end; `None`: Celery does so by itself, when the pool reports the end again."""
    dead: DeadLetter | None = None
    """The decision, unless `decide` makes another one; `None`: there is nothing to publish."""
    decide: Callable[[FailedRun], Decision | None] | None = None
    """Decides whether the task runs again. If it returns `None`, there is nothing to publish."""
    back: Announce | None = None
    """What to do after the message was published again, as the same attempt; `None`: it is not published again."""
    succeeded: Announce | None = None
    """What to do if the task had succeeded before the end; `None`: the result backend is not asked."""
    message: str | None = None
    """The failure's message; `None`: that of `exc`."""
    crashes: int | None = None
    """How many workers died while they ran the task; `None`: as many as the message's header says."""
    ran: bool = True
    """Whether the body began."""
    kind: str | None = None
    """The end in one word, for its span; `None`: the reason of `dead`; without a reason, too, it gets no span."""
    mark: str | None = None
    """An attribute of the request to set first, because the pool may report the end of a killed greenlet meanwhile."""


def settle(request: Any, end: End) -> Outcome | None:
    """Publish the next attempt or the letter, then have Celery announce the end. An error of guardrails is logged.

    Args:
        request: the worker's request; afterwards its `settled` is `True` if nothing is left to announce.
        end: how its task has ended.

    Returns:
        What guardrails has done; `None`: nothing was published.
    """
    outcome, announce = None, end.usual
    try:
        if not is_plain(request.task):
            outcome, announce = publish(request, end)
            request.settled = not _is_announced_later(end, outcome)
    except Exception as ours:
        logger.warning("guardrails failed on the end of %s[%s]", request.name, request.id, exc_info=True)
        try:
            if end.dead is not None and (end.back is None or request.acknowledged):
                brief = DeadLetter(end.dead.reason, f"guardrails failed on its end: {ours!r}")
                outcome = carry_out_in_brief(request.task, request._context, end.exc, brief)
                counting.count_settled(request, request._context)
                announce = final_step_of_letter(request, outcome, end.announce)
                request.settled = not _is_announced_later(end, outcome)
        except Exception:
            logger.warning("%s[%s] gets no dead letter", request.name, request.id, exc_info=True)
            journal.leave_without_letter(request)
    announce()
    return outcome


def publish(request: Any, end: End) -> tuple[Outcome | None, Announce]:
    """Publish the next attempt or the letter of an end.

    Args:
        request: the worker's request.
        end: how its task has ended.

    Returns:
        What guardrails has done (`None`: nothing was published), and what is left to do: Celery announces the end.
    """
    outcome, announce = _publish_end(request, end)
    lease.note_end(request, goes_on=isinstance(outcome, Retried))
    return outcome, announce


def _publish_end(request: Any, end: End) -> tuple[Outcome | None, Announce]:
    if end.mark is not None:
        setattr(request, end.mark, True)
    if end.succeeded is not None and has_succeeded(request):
        counting.count_as(request, AttemptOutcome.SUCCEEDED)
        return None, end.succeeded
    kind = end.kind or (None if end.dead is None else end.dead.reason.value)
    if kind is None:
        return None, end.announce or end.usual
    with FailureSpan(kind, request.request_dict) as span:
        return _publish(request, end, span)


def _publish(request: Any, end: End, span: FailureSpan) -> tuple[Outcome | None, Announce]:
    if end.dead is None:
        span.explain(type(end.exc).__name__, str(end.exc))
        return None, end.announce or end.usual
    run = _examine(request, end)
    span.explain(run.failure.error, run.failure.message)
    decision: Decision | None = end.dead
    if end.back is not None:
        # forget first: the worker may take the published copy at once, in its main thread, if this is another thread
        seen.of(run.guard).forget(request.received_copy, request.message.body)
        lost = put_back(run)
        if lost is None:
            return None, end.back
        if not request.acknowledged:
            logger.warning("%s[%s] goes back to its queue: %s", request.name, request.id, lost)
            return None, end.usual
        decision = DeadLetter(end.dead.reason, f"{end.dead.explanation}: {lost}", in_doubt=not lost.refused)
    elif end.decide is not None:
        decision = end.decide(run)
    if decision is None:
        return None, partial(announce_and_acknowledge, request, end.announce or end.usual)
    outcome = carry_out(run, decision, ran=end.ran)
    if (ended := run.request.__dict__.get(ENDED)) is not None:
        note_end(ended)
    counting.count_settled(request, run.request)
    return outcome, final_step(request, run, outcome, end.announce)


def examine_request(request: Any, exc: BaseException) -> FailedRun:
    """All that is known about the attempt of a worker's request that `exc` ended."""
    context = request._context
    if request.time_start:
        context.__dict__[STARTED] = request.time_start
    return examine(request.task, context, exc)


def _examine(request: Any, end: End) -> FailedRun:
    run = examine_request(request, end.exc)
    if end.message is not None:
        message = run.redactor.text(end.message)[:LONGEST_MESSAGE]
        run = replace(run, failure=replace(run.failure, message=message))
    if end.crashes is not None:
        run = replace(run, header=replace(run.header, crashes=end.crashes))
    return run


def _is_announced_later(end: End, outcome: Outcome | None) -> bool:
    return end.announce is None and isinstance(outcome, Dead) and not outcome.parked
