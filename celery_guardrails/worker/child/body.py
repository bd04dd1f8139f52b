"""What a worker does when an attempt has failed: describe, decide, act.

    body raised -> describe -> decide -> Retry:      publish the retry, raise Celery's Retry
                                      -> DeadLetter: publish the letter, then let the failure out (or park it)

The dead letter is confirmed before the result backend and the errbacks hear of the failure. Nothing here may make a
task's outcome worse than it was: failures of ours are logged and the original exception goes its way.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.app.in_force import retries_automatically, subject_of
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import Header, read_header, write_header
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.policy import decide
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, decide_unbegun
from celery_guardrails.policy.decision import Retry as Again
from celery_guardrails.policy.describe import traceback_text
from celery_guardrails.worker.child.exits import harmless, is_terminating
from celery_guardrails.worker.child.soft_limit import undisturbed
from celery_guardrails.worker.failure import sentry
from celery_guardrails.worker.failure.brief import brief_letter, bury_brief
from celery_guardrails.worker.failure.failed_run import SEEN, UNKEPT, FailedRun, examine
from celery_guardrails.worker.failure.journaled import mark_done
from celery_guardrails.worker.failure.letter import capture
from celery_guardrails.worker.failure.next_attempt import publish_retry, unpublishable
from celery_guardrails.worker.failure.notice import log_death
from celery_guardrails.worker.failure.original import original_of

__all__ = [
    "FINAL",
    "after_body_failed",
    "as_celery_says",
    "attempt_failed",
    "attempt_recovered",
    "attempt_unbegun",
    "headers_with",
    "park",
    "rng",
]

logger = logging.getLogger("celery_guardrails.worker")

FINAL = "_guardrails_final"
"""Where a request keeps what is decided already: a `retry()` that was refused, a body that did not begin."""

PARKED = "DEAD_LETTERED"
# The system's source has no state that forked children would share, so their jitters differ.
rng = random.SystemRandom()


def attempt_failed(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on a failed attempt, and return the exception that is to leave the task: `exc` itself, or Celery's word.

    In its place stands a `TaskAborted` where `exc` would end the process that runs the task.

    Args:
        task: the task.
        request: its request.
        exc: what left the body.
    """
    return _once(lambda: _met(task, request, exc))


def attempt_unbegun(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on what failed in Celery's own machinery before the body, as `attempt_failed`, but whatever its kind is."""

    def decided() -> BaseException:
        try:
            run = examine(task, request, exc)
            decision = decide_unbegun(run.policy, run.failure, run.history, run.now, rng)
            request.__dict__[FINAL] = decision
        except Exception:
            logger.warning("guardrails failed on %s[%s]", task.name, request.id, exc_info=True)
        return _met(task, request, exc, began=False)

    return _once(decided)


def after_body_failed(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on what failed after the body had succeeded: its result or its callbacks. Never runs the body again."""
    request.__dict__[SEEN] = type(exc)
    text = f"the body succeeded, but its result could not be stored or its callbacks not be sent: {exc}"
    decision = DeadLetter(Reason.RESULT_UNSTORABLE, text)

    def bury() -> BaseException:
        try:
            return _bury(examine(task, request, exc), decision, exc)
        except Exception as ours:  # noqa: BLE001 logged there
            return _bury_briefly(task, request, exc, decision, ours)

    return _once(bury)


def attempt_recovered(task: Any, request: Any) -> None:
    """Say that requeued work has succeeded, or has ended as its task meant it to; never raises.

    Under the kill switch, too: that it is heard of is a promise to whoever put it back.
    """
    try:
        now = clock.now()
        recovery = Recovery.of(read_header(request.__dict__), _reported_name(task, request), now)
        if recovery is None or request.is_eager:
            return
        if request.__dict__.get(SEEN) is Retry:  # `retry(throw=False)`: it goes on
            return
        Guardrails.of(task.app).dispatch.report_recovered(recovery, now)
    except Exception:
        logger.warning("could not report that %s[%s] has recovered", task.name, request.id, exc_info=True)


def _reported_name(task: Any, request: Any) -> str:
    """The name by which the work was sent: a task that was renamed is known by its old name, too."""
    published = request.__dict__.get("task")
    if isinstance(published, str) and published != task.name:
        return published
    return str(subject_of(task).name)


def _once(act: Callable[[], BaseException]) -> BaseException:
    """What `act` gives, which raises nothing: a soft time limit just before or after it is no failure of ours."""
    done: list[BaseException] = []

    def once() -> None:
        if not done:
            done.append(act())

    while True:
        try:
            undisturbed(once)
            return done[0]
        except SoftTimeLimitExceeded:
            if done:
                return done[0]


def _met(task: Any, request: Any, exc: BaseException, began: bool = True) -> BaseException:
    if is_terminating():
        # A signal ends this process and with it the body, which says nothing of the task: the main process knows.
        return exc if isinstance(exc, SystemExit) else SystemExit(str(exc))
    try:
        if is_plain(task):
            return exc
        if request.__dict__.get(SEEN) is Retry and not request.is_eager:
            outcome: BaseException = Retry("its next attempt had been published by hand", harmless(exc))
        elif began and task.throws and isinstance(exc, task.throws):
            outcome = _expected(task, request, exc)
        else:
            outcome = _act(examine(task, request, exc), exc)
    except Exception as ours:  # noqa: BLE001 logged there
        decision = DeadLetter(Reason.PERMANENT_ERROR, f"guardrails failed on its failure: {ours!r}")
        outcome = _bury_briefly(task, request, exc, decision, ours)
    request.__dict__[SEEN] = type(outcome)
    return outcome if request.is_eager else harmless(outcome)


def _expected(task: Any, request: Any, exc: BaseException) -> BaseException:
    """What an error that the task expects ends as: final, without a letter. Celery's automatic retries go before it."""
    if retries_automatically(Guardrails.of(task.app).policy_of(task)):
        return _act(examine(task, request, exc), exc, expected=True)
    attempt_recovered(task, request)
    return exc


def _act(run: FailedRun, exc: BaseException, *, expected: bool = False) -> BaseException:
    refused: Decision | None = run.request.__dict__.pop(FINAL, None)
    decision = refused or decide(run.policy, run.failure, run.history, run.now, rng)
    if expected and isinstance(decision, DeadLetter):
        attempt_recovered(run.task, run.request)
        return exc
    if isinstance(decision, DeadLetter):
        return _bury(run, decision, exc)
    delay = decision.delay.total_seconds()
    header = run.header.with_attempt(run.attempt(delay))
    if run.request.is_eager:
        return _eager_retry(run, header, decision, exc)
    try:
        publish_retry(run.guard, run.task, run.request, header, delay, run.now)
    except PublishError as lost:
        return _bury(run, unpublishable(lost), exc)
    mark_done(run.task, run.request)
    retry: BaseException = Retry(decision.reason, harmless(exc), when=delay)
    return retry


def _eager_retry(run: FailedRun, header: Header, decision: Again, exc: BaseException) -> BaseException:
    """The Retry that has Celery's `apply` run the next attempt, which gets the history by its headers."""
    delay = as_celery_says(decision.delay.total_seconds())
    again = run.task.signature_from_request(
        run.request, countdown=delay, retries=run.number, headers=headers_with(run.request, header)
    )
    retry: BaseException = Retry(decision.reason, exc, when=delay, is_eager=True, sig=again)
    return retry


def as_celery_says(seconds: float) -> float:
    """A delay such as a task would write it: 5 for 5.0, since tests compare what Celery's Retry says."""
    return int(seconds) if seconds.is_integer() else seconds


def headers_with(request: Any, header: Header) -> dict[str, Any]:
    """A request's headers with ours in them.

    Args:
        request: the task's.
        header: ours, this failure included.
    """
    headers = dict(request.headers or {})
    write_header(headers, header)
    return headers


def _traceback(run: FailedRun, exc: BaseException) -> str:
    return traceback_text(exc, run.redactor.text)


def _bury(run: FailedRun, decision: DeadLetter, exc: BaseException) -> BaseException:
    # formatting a traceback costs several times a decision: only for those that are kept
    run = replace(run, failure=replace(run.failure, traceback=_traceback(run, exc)))
    letter = capture(run, decision)
    if run.request.is_eager:
        run.guard.captured.append(letter)
    else:
        try:
            run.guard.dispatch.bury(letter, run.policy.dead_letter_queue, run.now)
        except PublishError as lost:
            return _unacknowledged(run.task, run.request, exc, lost, letter, run.policy.dead_letter_queue)
        mark_done(run.task, run.request)
    log_death(letter)
    _harmlessly(lambda: sentry.annotate(letter, run.policy, run.redactor), run.task)
    if run.policy.on_exhausted != "park":
        return exc
    _harmlessly(lambda: sentry.report(exc), run.task)
    _harmlessly(lambda: park(run, letter), run.task)
    ignore: BaseException = Ignore()
    return ignore


def _bury_briefly(task: Any, request: Any, exc: BaseException, decision: DeadLetter, ours: Exception) -> BaseException:
    """Where guardrails fails on a failure: a letter of the little that is sure, so that the work can be put back."""
    name = f"{task.name}[{request.id}]"
    logger.warning("guardrails failed on %s: its error goes the usual way", name, exc_info=ours)
    original = None if request.is_eager else original_of(request)
    if original is None:
        return exc
    try:
        letter = brief_letter(task, request, original, exc, decision)
        try:
            bury_brief(task, letter)
        except PublishError as lost:
            return _unacknowledged(task, request, exc, lost, letter, None)
        mark_done(task, request)
    except Exception:
        logger.warning("%s is lost to the dead-letter queue", name, exc_info=True)
    return exc


def _unacknowledged(
    task: Any, request: Any, exc: BaseException, lost: PublishError, letter: Letter, queue: str | None
) -> BaseException:
    """The last resort: leave the message with the broker, which will deliver it again, or in the worker's journal."""
    if task.acks_late:
        logger.warning("%s[%s] goes back to its queue: %s", task.name, request.id, lost)
        back: BaseException = Reject(lost, requeue=True)
        return back
    logger.warning("the dead letter of %s[%s] is not taken: %s", task.name, request.id, lost)
    request.__dict__[UNKEPT] = (letter, queue)
    return exc


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


def _harmlessly(action: Callable[[], Any], task: Any) -> None:
    try:
        action()
    except Exception:
        logger.warning("guardrails failed on %s", task.name, exc_info=True)
