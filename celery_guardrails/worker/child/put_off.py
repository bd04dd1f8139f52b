"""Work that must not begin now: another run does it, or the ledger does not answer. It waits outside the workers.

    the same message, with one more wait in its header ──> waits ──> comes to a worker again, as the same attempt

Owns how long it waits, and that it does not wait for ever: past the policy's deadline it is a dead letter.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from celery.exceptions import Ignore, Reject

from celery_guardrails.clock import shown
from celery_guardrails.errors import PublishError
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.worker.child.journaled import mark_done
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.next_attempt import decide_unpublishable, publish_later
from celery_guardrails.worker.failure.outcome import rng

__all__ = ["WAITS", "PutOff", "put_off"]

logger = logging.getLogger("celery_guardrails.worker")

WAITS = "waits"
"""The attribute of an Ignore that leaves a task which was put off: it is no end of an attempt."""
_SHORTEST, _LONGEST = 1.0, 30.0


class PutOff(Exception):
    """The body did not begin, and is to begin later; the text says why."""


def put_off(run: FailedRun, why: str) -> BaseException | DeadLetter:
    """Have the message wait, and come back as the same attempt.

    Args:
        run: the attempt, which has not begun.
        why: for the log and the letter.

    Returns:
        What leaves the task; or the decision, if the work may not wait any longer or cannot be published.
    """
    header = replace(run.header, waits=run.header.waits + 1)
    delay = _delay(header.waits)
    begun, deadline = header.deadline_starts_at or run.now, run.policy.deadline
    if deadline is not None and (run.now - begun).total_seconds() + delay > deadline.total_seconds():
        text = f"{why}, until {shown(deadline)} after {header.deadline_event} (deadline={shown(deadline)})"
        return DeadLetter(Reason.DEADLINE_EXCEEDED, text)
    name = f"{run.task.name}[{run.request.id}]"
    try:
        publish_later(run, header, delay)
    except PublishError as lost:
        if not run.task.acks_late:
            return decide_unpublishable(lost)
        logger.warning("%s goes back to its queue: %s; and %s", name, why, lost)
        back: BaseException = Reject(lost, requeue=True)
        return back
    mark_done(run.task, run.request)
    logger.info("%s waits %.1f s: %s", name, delay, why)
    ignore: BaseException = Ignore()
    setattr(ignore, WAITS, True)
    return ignore


def _delay(waits: int) -> float:
    """Seconds: 1 at first, then half as long again each time, at most 30; a quarter of it at random."""
    delay = min(_LONGEST, _SHORTEST * 1.5 ** min(waits - 1, 20))
    return float(delay * rng.uniform(0.75, 1.25))
