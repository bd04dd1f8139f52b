"""The one place that carries out a decision: it publishes, or else spools, the next attempt or the dead letter.

    Retry ──> publish the next attempt ──> Retried
                └─ neither broker nor spool takes it: a dead letter
    DeadLetter ──> publish the letter ──> Dead
                └─ neither broker nor spool takes it ──> NotTaken

Owns this order, the line in the log, and that the end of the attempt is noted. An outcome is data: the process that
runs the task makes Celery's exceptions of it (`worker/child/body.py`), the main process has Celery announce it
(`worker/main/announcement.py`). It must not know how a decision is made.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import Header
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import DeadLetter, Decision, Retry
from celery_guardrails.policy.describe import traceback_text
from celery_guardrails.worker.failure.attempt_end import ENDED, note_letter, note_run
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.letter import brief_letter, capture
from celery_guardrails.worker.failure.next_attempt import decide_unpublishable, publish_again, publish_retry
from celery_guardrails.worker.failure.notice import log_death
from celery_guardrails.worker.failure.original import original_of

__all__ = [
    "Dead",
    "NotTaken",
    "Outcome",
    "Retried",
    "carry_out",
    "carry_out_in_brief",
    "dead_letter",
    "log_not_taken",
    "park",
    "publish_letter",
    "put_back",
    "rng",
    "run_again",
]

logger = logging.getLogger("celery_guardrails.worker")

PARKED = "DEAD_LETTERED"
# The system's source has no state that forked processes would share, so their jitter differs.
rng = random.SystemRandom()

Publish = Callable[[FailedRun, Header, float], Any]
"""Publishes the next attempt of a run, with this header, to start after so many seconds."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The next attempt is published, or spooled."""

    decision: Retry


@dataclass(frozen=True, slots=True)
class Dead:
    """The dead letter is published, or spooled; `parked`: its task does not fail, it is parked (`park`)."""

    letter: Letter
    parked: bool = False


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Neither the broker nor the spool took the letter for `queue` (`None`: the application's): the message stays."""

    letter: Letter
    queue: str | None
    why: PublishError


Outcome = Retried | Dead | NotTaken


def carry_out(run: FailedRun, decision: Decision, *, raised: BaseException | None = None, ran: bool = True) -> Outcome:
    """Carry out a decision on a failed run.

    Args:
        run: what failed.
        decision: what is to happen.
        raised: the error whose traceback the letter keeps; `None`: the one that `run` has, if any.
        ran: whether the body began; otherwise this attempt is not in the letter's history.
    """
    if isinstance(decision, Retry):
        try:
            run_again(run, decision)
            note_run(run, AttemptOutcome.RETRIED, delay=decision.delay.total_seconds(), ran=ran)
            return Retried(decision)
        except PublishError as lost:
            decision = decide_unpublishable(lost)
    return dead_letter(run, decision, raised=raised, ran=ran)


def run_again(run: FailedRun, decision: Retry, publish: Publish | None = None) -> Any:
    """Publish the next attempt, and return what `publish` returns.

    Args:
        run: what failed.
        decision: when it runs again.
        publish: publishes it; `None`: the same message as it came.

    Raises:
        PublishError: neither the broker nor the spool took it.
    """
    delay = decision.delay.total_seconds()
    return (publish or publish_retry)(run, run.header.with_attempt(run.attempt(delay)), delay)


def dead_letter(
    run: FailedRun, decision: DeadLetter, *, raised: BaseException | None = None, ran: bool = True
) -> Dead | NotTaken:
    """Make, publish and log the dead letter of a failed run; the arguments are those of `carry_out`."""
    # formatting a traceback takes several times as long as a decision: only a letter has one
    text = None if raised is None else traceback_text(raised, run.redactor.text)
    letter, queue = capture(run, decision, traceback=text, ran=ran), run.policy.dead_letter_queue
    if run.request.is_eager:
        run.guard.captured.append(letter)
    else:
        try:
            run.guard.dispatch.publish_letter(letter, queue, run.now)
        except PublishError as lost:
            note_run(run, AttemptOutcome.NOT_TAKEN, ran=ran)
            return NotTaken(letter, queue, lost)
    note_run(run, AttemptOutcome.DEAD, letter=letter, ran=ran)
    log_death(letter)
    return Dead(letter, run.policy.on_exhausted == "park")


def carry_out_in_brief(task: Any, request: Any, exc: BaseException, decision: DeadLetter) -> Dead | NotTaken:
    """Publish a brief letter, with only what is sure, where guardrails itself fails on a failure.

    Args:
        task: the task.
        request: its request.
        exc: the task's error.
        decision: why it is dead.

    Raises:
        LookupError: the request does not have the original message.
        Exception: not even this letter can be made.
    """
    original = original_of(request)
    if original is None:
        raise LookupError("the request does not have the original message")
    letter, guard = brief_letter(task, request, original, exc, decision), Guardrails.of(task.app)
    try:
        guard.dispatch.publish_letter(letter, None, letter.died_at)
    except PublishError as lost:
        return NotTaken(letter, None, lost)
    request.__dict__[ENDED] = note_letter(guard, letter)
    words = "%s[%s] is dead-lettered as %s, by a brief letter"
    logger.warning(words, letter.task, letter.task_id, letter.reason.shown)
    return Dead(letter)


def log_not_taken(outcome: NotTaken, name: str, *, goes_back: bool) -> None:
    """Log that neither the broker nor the spool took a letter.

    Args:
        outcome: the letter, and why.
        name: the task's, with its id.
        goes_back: whether the message goes back to its queue; else it was acknowledged before.
    """
    words = "%s goes back to its queue: %s" if goes_back else "the dead letter of %s is not taken: %s"
    logger.warning(words, name, outcome.why)


def publish_letter(guard: Guardrails, letter: Letter, queue: str | None, now: datetime) -> None:
    """Publish and log the letter of a message that no process here runs.

    Args:
        guard: the application's guardrails.
        letter: the letter.
        queue: its dead-letter queue; `None`: the application's.
        now: this instant.

    Raises:
        PublishError: neither the broker nor the spool took it.
    """
    guard.dispatch.publish_letter(letter, queue, now)
    log_death(letter)
    if note_letter(guard, letter) is not None:
        guard.counters.note_dead(letter.id, letter.task)


def put_back(run: FailedRun) -> PublishError | None:
    """Publish the same message again, as the same attempt; returns the error if neither broker nor spool took it."""
    try:
        publish_again(run)
    except PublishError as lost:
        return lost
    return None


def park(run: FailedRun, letter: Letter) -> None:
    """Store the state DEAD_LETTERED in place of FAILURE, so that a later requeue can still complete a chord."""
    if run.task.ignore_result or run.request.is_eager:
        return
    meta = {
        "dead_letter_id": letter.origin_id,
        "reason": letter.reason.value,
        "error": letter.failure.type,
        "message": letter.failure.message,
    }
    run.task.backend.store_result(run.request.id, meta, PARKED, request=run.request)
