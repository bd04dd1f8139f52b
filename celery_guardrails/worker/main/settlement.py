"""One end of a task that only the main process sees, as data, and the one function that settles it.

    End ──> decide ──> publish the next attempt or the letter ──> Celery tells of it ──> acknowledge the message

The attempt or the letter is with the broker, or in the spool, before Celery tells of anything. Where neither takes the
letter, the message is not acknowledged. Where guardrails itself fails on an end, it publishes a letter of the little
that is sure. Owns that order. Which end it is, `ending.py` says; how Celery tells of it is in `report.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.policy.decision import DeadLetter, Decision
from celery_guardrails.policy.describe import LONGEST_MESSAGE
from celery_guardrails.worker.failure.failed_run import STARTED, FailedRun, examine
from celery_guardrails.worker.failure.outcome import Dead, Outcome, carry_out, carry_out_in_brief, put_back
from celery_guardrails.worker.failure.succeeded import has_succeeded
from celery_guardrails.worker.main import journal, seen
from celery_guardrails.worker.main.report import Tell, tell_and_acknowledge, telling, telling_of_letter
from celery_guardrails.worker.main.seen import Copy

__all__ = ["End", "examine_request", "publish", "settle"]

logger = logging.getLogger("celery_guardrails.worker")


@dataclass(frozen=True, slots=True)
class End:
    """How a task has ended outside its body, and what is to become of it."""

    exc: BaseException
    """What ended it."""
    usual: Tell
    """What Celery does: under the kill switch, and where guardrails can do nothing."""
    tell: Tell | None
    """How Celery tells of it; `None`: it does by itself, when the pool reports the end again."""
    dead: DeadLetter | None = None
    """What it is, unless `decide` says otherwise; `None`: there is nothing to publish."""
    decide: Callable[[FailedRun], Decision | None] | None = None
    """Decides whether it may run again; `None` from it: there is nothing to publish."""
    back: Tell | None = None
    """How Celery tells that its message is put back, as the same attempt; `None`: the message is not put back."""
    succeeded: Tell | None = None
    """How Celery tells of it where the task had succeeded before; `None`: the result backend is not asked."""
    message: str | None = None
    """What its failure says; `None`: what `exc` says."""
    crashes: int | None = None
    """How many workers were lost with it; `None`: as its header says."""
    ran: bool = True
    """Whether the body began."""
    mark: str | None = None
    """An attribute that is set on the request first: the pool may report the end of a killed greenlet meanwhile."""


def settle(request: Any, end: End) -> Outcome | None:
    """Publish what is decided about an end, then have Celery tell of it; nothing of ours is raised.

    Args:
        request: the worker's request; afterwards `settled` says whether Celery has nothing to tell any more.
        end: how its task has ended.

    Returns:
        What has become of the task; `None`: nothing was published.
    """
    outcome, tell = None, end.usual
    try:
        if not is_plain(request.task):
            outcome, tell = publish(request, end)
            request.settled = not _is_told_later(end, outcome)
    except Exception as ours:
        logger.warning("guardrails failed on the end of %s[%s]", request.name, request.id, exc_info=True)
        try:
            if end.dead is not None and (end.back is None or request.acknowledged):
                brief = DeadLetter(end.dead.reason, f"guardrails failed on its end: {ours!r}")
                outcome = carry_out_in_brief(request.task, request._context, end.exc, brief)
                tell = telling_of_letter(request, outcome, end.tell)
                request.settled = not _is_told_later(end, outcome)
        except Exception:
            logger.warning("%s[%s] is lost to the dead-letter queue", request.name, request.id, exc_info=True)
            journal.strand(request)
    tell()
    return outcome


def publish(request: Any, end: End) -> tuple[Outcome | None, Tell]:
    """Publish what is decided about an end.

    Args:
        request: the worker's request.
        end: how its task has ended.

    Returns:
        What has become of the task (`None`: nothing was published), and what is left to do: Celery tells of it.
    """
    if end.mark is not None:
        setattr(request, end.mark, True)
    if end.succeeded is not None and has_succeeded(request):
        return None, end.succeeded
    if end.dead is None:
        return None, end.tell or end.usual
    run = _examine(request, end)
    decision: Decision | None = end.dead
    if end.back is not None:
        # before it is published: where this is not the main thread, the main thread may take the copy at once
        seen.of(run.guard).forget(Copy.of(request), request.message.body)
        lost = put_back(run)
        if lost is None:
            return None, end.back
        if not request.acknowledged:
            logger.warning("%s[%s] goes back by its broker: %s", request.name, request.id, lost)
            return None, end.usual
        decision = DeadLetter(end.dead.reason, f"{end.dead.explanation}: {lost}", in_doubt=not lost.refused)
    elif end.decide is not None:
        decision = end.decide(run)
    if decision is None:
        return None, partial(tell_and_acknowledge, request, end.tell or end.usual)
    outcome = carry_out(run, decision, ran=end.ran)
    return outcome, telling(request, run, outcome, end.tell)


def examine_request(request: Any, exc: BaseException) -> FailedRun:
    """What is known about the attempt of a worker's request, which `exc` ended."""
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


def _is_told_later(end: End, outcome: Outcome | None) -> bool:
    return end.tell is None and isinstance(outcome, Dead) and not outcome.parked
