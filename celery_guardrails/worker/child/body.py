"""What the process that runs a task does when an attempt has failed: describe, decide, act, report to Celery.

    body raised -> describe -> decide -> carry out ──> Retried:  Celery's Retry leaves the task
                                                   ──> Dead:     the failure itself, or Ignore where it is parked
                                                   ──> NotTaken: Reject, so that the message goes back to its queue

The dead letter is confirmed before the result backend and the errbacks get the failure. Nothing here may make a task's
outcome worse: an error of ours is logged, and the original exception leaves the task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.app.in_force import retries_automatically, subject_of
from celery_guardrails.errors import LeaseLost
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import Header, read_header, write_header
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.policy import decide
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, decide_unbegun
from celery_guardrails.policy.decision import Retry as Again
from celery_guardrails.worker.child.exits import harmless, is_terminating
from celery_guardrails.worker.child.journaled import mark_done
from celery_guardrails.worker.child.put_off import PutOff, put_off
from celery_guardrails.worker.child.soft_limit import call_undisturbed
from celery_guardrails.worker.failure import sentry
from celery_guardrails.worker.failure.attempt_end import attach_end, note_run
from celery_guardrails.worker.failure.failed_run import SEEN, UNKEPT, FailedRun, examine
from celery_guardrails.worker.failure.original import original_of
from celery_guardrails.worker.failure.outcome import (
    NotTaken,
    Outcome,
    Retried,
    carry_out,
    carry_out_in_brief,
    dead_letter,
    log_not_taken,
    park,
    rng,
)

__all__ = [
    "FINAL",
    "Failed",
    "act_once",
    "as_celery_says",
    "headers_with",
    "report_recovery",
    "settle_after_body",
    "settle_attempt",
    "settle_decided",
    "settle_put_off",
    "settle_unbegun",
]

logger = logging.getLogger("celery_guardrails.worker")

_T = TypeVar("_T")

FINAL = "_guardrails_final"
"""Where a request keeps a decision that is made already: for a refused `retry()`, or a body that did not begin."""


class Failed:
    """What running a body gives when it failed: the exception that is to leave the task."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: BaseException) -> None:
        self.outcome = outcome


def settle_attempt(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on a failed attempt, and return the exception that is to leave the task: `exc` itself, or one of Celery's.

    A `TaskAborted` replaces an exception that would end the process which runs the task.

    Args:
        task: the task.
        request: its request.
        exc: what left the body.
    """
    return act_once(lambda: _settle(task, request, exc))


def settle_unbegun(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on an error of Celery's own machinery before the body, whether or not the policy retries it."""

    def act() -> BaseException:
        try:
            run = examine(task, request, exc)
            decision = decide_unbegun(run.policy, run.failure, run.history, run.now, rng)
            request.__dict__[FINAL] = decision
        except Exception:
            logger.warning("guardrails failed on %s[%s]", task.name, request.id, exc_info=True)
        return _settle(task, request, exc, began=False)

    return act_once(act)


def settle_decided(task: Any, request: Any, exc: BaseException, decision: DeadLetter) -> Failed:
    """Dead-letter work whose body did not begin, as is decided already.

    Args:
        task, request: the task and its request.
        exc: what is wrong.
        decision: why it is dead.
    """

    def act() -> BaseException:
        try:
            run = examine(task, request, exc)
            return _finish(run, dead_letter(run, decision, ran=False), exc)
        except Exception as ours:  # noqa: BLE001 logged there
            return _act_in_brief(task, request, exc, decision, ours)

    return Failed(_noted(request, act_once(act)))


def settle_put_off(task: Any, request: Any, why: str) -> Failed:
    """Have work wait whose body must not begin now.

    Args:
        task, request: the task and its request.
        why: for the log and, if it may not wait any longer, the letter.
    """
    return Failed(_noted(request, act_once(partial(_put_off, task, request, PutOff(why)))))


def settle_after_body(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Act on an error after the body succeeded, with its result or its callbacks. Never runs the body again."""
    request.__dict__[SEEN] = type(exc)
    text = f"the body succeeded, but its result could not be stored, or its callbacks could not be sent: {exc}"
    decision = DeadLetter(Reason.RESULT_UNSTORABLE, text)

    def act() -> BaseException:
        try:
            run = examine(task, request, exc)
            return _finish(run, dead_letter(run, decision, raised=exc), exc)
        except Exception as ours:  # noqa: BLE001 logged there
            return _act_in_brief(task, request, exc, decision, ours)

    return act_once(act)


def report_recovery(task: Any, request: Any) -> None:
    """Report that requeued work has succeeded, or has ended with an error that its task expects; never raises.

    Under the kill switch, too: whoever requeued the work was promised to see its end.
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
    """The task's name in the message: a renamed task may still run under its old name."""
    published = request.__dict__.get("task")
    if isinstance(published, str) and published != task.name:
        return published
    return str(subject_of(task).name)


def act_once(act: Callable[[], _T]) -> _T:
    """Call `act` once and return what it returns, even if a soft time limit comes just before or after it.

    Args:
        act: what is to be done; it raises nothing itself.
    """
    done: list[_T] = []

    def once() -> None:
        if not done:
            done.append(act())

    while True:
        try:
            call_undisturbed(once)
            return done[0]
        except SoftTimeLimitExceeded:
            if done:
                return done[0]


def _settle(task: Any, request: Any, exc: BaseException, began: bool = True) -> BaseException:
    if is_terminating():
        # A signal ends this process, and the body with it. The task has not failed: the main process knows its end.
        return exc if isinstance(exc, SystemExit) else SystemExit(str(exc))
    try:
        if is_plain(task):
            return exc
        if request.__dict__.get(SEEN) is Retry and not request.is_eager:
            outcome: BaseException = Retry("retry() had published its next attempt already", harmless(exc))
        elif isinstance(exc, LeaseLost):
            outcome = _put_off(task, request, exc)
        elif began and task.throws and isinstance(exc, task.throws):
            outcome = _settle_expected(task, request, exc)
        else:
            outcome = _act(examine(task, request, exc), exc)
    except Exception as ours:  # noqa: BLE001 logged there
        decision = DeadLetter(Reason.PERMANENT_ERROR, f"guardrails failed on its failure: {ours!r}")
        outcome = _act_in_brief(task, request, exc, decision, ours)
    return _noted(request, outcome)


def _settle_expected(task: Any, request: Any, exc: BaseException) -> BaseException:
    """Settle an error that the task expects (`throws`): final, without a letter, after Celery's automatic retries."""
    if retries_automatically(Guardrails.of(task.app).policy_of(task)):
        return _act(examine(task, request, exc), exc, expected=True)
    report_recovery(task, request)
    _harmlessly(lambda: note_run(examine(task, request, exc), AttemptOutcome.EXPECTED), task)
    return exc


def _put_off(task: Any, request: Any, exc: BaseException) -> BaseException:
    decision: BaseException | DeadLetter = DeadLetter(Reason.CANCELLED, str(exc))
    try:
        run = examine(task, request, exc)
        if not request.is_eager:
            decision = put_off(run, str(exc))
        if isinstance(decision, DeadLetter):
            return _finish(run, dead_letter(run, decision, ran=False), exc)
        return decision
    except Exception as ours:  # noqa: BLE001 logged there
        return _act_in_brief(task, request, exc, DeadLetter(Reason.CANCELLED, str(exc)), ours)


def _noted(request: Any, outcome: BaseException) -> BaseException:
    """The outcome, noted in the request as settled."""
    request.__dict__[SEEN] = type(outcome)
    if isinstance(outcome, (Ignore, Reject)):
        attach_end(outcome, request)  # they are ours; to other outcomes Celery's handling attaches it
    return outcome if request.is_eager else harmless(outcome)


def _act(run: FailedRun, exc: BaseException, *, expected: bool = False) -> BaseException:
    refused: Decision | None = run.request.__dict__.pop(FINAL, None)
    decision = refused or decide(run.policy, run.failure, run.history, run.now, rng)
    if expected and isinstance(decision, DeadLetter):
        report_recovery(run.task, run.request)
        note_run(run, AttemptOutcome.EXPECTED)
        return exc
    if isinstance(decision, Again) and run.request.is_eager:
        return _eager_retry(run, decision, exc)
    return _finish(run, carry_out(run, decision, raised=exc), exc)


def _finish(run: FailedRun, outcome: Outcome, exc: BaseException) -> BaseException:
    """Complete an outcome (journal, Sentry, parking); returns the exception that leaves the task, for Celery to see."""
    if not isinstance(outcome, NotTaken):
        mark_done(run.task, run.request)
    if isinstance(outcome, Retried):
        decision = outcome.decision
        retry: BaseException = Retry(decision.reason, harmless(exc), when=decision.delay.total_seconds())
        return retry
    if isinstance(outcome, NotTaken):
        return _leave_message(run.task, run.request, outcome, exc)
    _harmlessly(lambda: sentry.annotate(_facts(run, outcome.letter)), run.task)
    if not outcome.parked:
        return exc
    _harmlessly(lambda: sentry.report(exc), run.task)
    _harmlessly(lambda: park(run, outcome.letter), run.task)
    ignore: BaseException = Ignore()
    return ignore


def _facts(run: FailedRun, letter: Letter) -> sentry.Facts:
    return sentry.Facts(letter, run.policy, run.redactor, run.guard.settings.alerts.group_by)


def _act_in_brief(task: Any, request: Any, exc: BaseException, decision: DeadLetter, ours: Exception) -> BaseException:
    """Publish a brief letter where guardrails itself fails on a failure, so that the work can be requeued."""
    name = f"{task.name}[{request.id}]"
    logger.warning("guardrails failed on the failure of %s: Celery handles it as usual", name, exc_info=ours)
    if request.is_eager or original_of(request) is None:
        return exc
    try:
        outcome = carry_out_in_brief(task, request, exc, decision)
    except Exception:
        logger.warning("%s gets no dead letter", name, exc_info=True)
        return exc
    if isinstance(outcome, NotTaken):
        return _leave_message(task, request, outcome, exc)
    mark_done(task, request)
    return exc


def _leave_message(task: Any, request: Any, outcome: NotTaken, exc: BaseException) -> BaseException:
    """The last resort: leave the message with the broker, which will deliver it again, or in the worker's journal."""
    log_not_taken(outcome, f"{task.name}[{request.id}]", goes_back=task.acks_late)
    if task.acks_late:
        back: BaseException = Reject(outcome.why, requeue=True)
        return back
    request.__dict__[UNKEPT] = (outcome.letter, outcome.queue)
    return exc


def _eager_retry(run: FailedRun, decision: Again, exc: BaseException) -> BaseException:
    """The Retry with which Celery's `apply` runs the next attempt; the headers carry the history."""
    seconds = decision.delay.total_seconds()
    header, delay = run.header.with_attempt(run.attempt(seconds)), as_celery_says(seconds)
    again = run.task.signature_from_request(
        run.request, countdown=delay, retries=run.number, headers=headers_with(run.request, header)
    )
    retry: BaseException = Retry(decision.reason, exc, when=delay, is_eager=True, sig=again)
    return retry


def as_celery_says(seconds: float) -> float:
    """A delay as a task would write it: 5 for 5.0. Tests of applications compare the text of Celery's Retry."""
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


def _harmlessly(action: Callable[[], Any], task: Any) -> None:
    try:
        action()
    except Exception:
        logger.warning("guardrails failed on %s", task.name, exc_info=True)
