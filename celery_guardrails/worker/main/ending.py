"""What a worker's main process does when a task ended outside its body: a lost worker, a hard time limit, Reject.

    ended -> decide -> Retry:      publish it -> tell Celery of a retry -> ack
                    -> DeadLetter: publish it -> let Celery tell of the failure -> ack

The letter or the retry is with the broker (or spooled) before anybody is told; where neither takes it, the message is
not acknowledged. What the body hook has met comes here too, and goes on to Celery. Owns what is decided about each
ending, as plain functions on a `GuardedRequest`; nothing of ours raises into the worker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.worker import state

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import read_header
from celery_guardrails.policy.decision import DeadLetter, Reason, decide_crash, decide_time_limit
from celery_guardrails.worker.failure.failed_run import STARTED, FailedRun, examine
from celery_guardrails.worker.failure.next_attempt import unpublishable
from celery_guardrails.worker.failure.outcome import put_back, rng
from celery_guardrails.worker.failure.succeeded import has_succeeded
from celery_guardrails.worker.main import journal, seen
from celery_guardrails.worker.main.report import (
    End,
    Tell,
    einfo,
    settled,
    settled_in_brief,
    tell_of_cancel,
    tell_of_failure,
    tell_of_requeue,
    tell_of_success,
    tell_of_timeout,
    told,
)
from celery_guardrails.worker.main.seen import Copy
from celery_guardrails.worker.main.shutdown import is_ending_cold

__all__ = [
    "cancelled",
    "crashed",
    "expired",
    "failed",
    "revoked",
    "timed_out",
    "unanswered",
    "unbegun",
]

logger = logging.getLogger("celery_guardrails.worker")

_DEATHS = (WorkerLostError, SystemExit, KeyboardInterrupt, MemoryError, TimeLimitExceeded)


def failed(request: Any, exc_info: Any, return_ok: bool, celery: Callable[[Any], Any]) -> None:
    """Meet an outcome of the pool that is not a success.

    Args:
        request: the worker's request.
        exc_info: billiard's form of the exception.
        return_ok: the tracer handled it in the process that ran the task, and with it our hooks there.
        celery: what Celery does with it.
    """
    if (unkept := getattr(exc_info, "unkept", None)) is not None:
        journal.leave(request, *unkept)
    exc = exc_info.exception
    if isinstance(exc, ExceptionWithTraceback):
        exc = exc.exc
    usual = partial(celery, exc_info)
    if not isinstance(exc, Reject) and (return_ok or isinstance(exc, (Ignore, Retry, Terminated))):
        usual()
    elif isinstance(exc, Reject):
        goes_back = exc.requeue and not request.acknowledged
        brief = None if goes_back else _brief(request, exc, Reason.REJECTED, usual)
        _safely(request, usual, lambda: _rejected(request, exc, usual), brief)
    # a child that has died is only missed after seconds, and meanwhile its time goes on
    elif isinstance(exc, TimeLimitExceeded) and not _is_gone(request.worker_pid):
        _safely(request, usual, lambda: _limited(request, exc, None), _brief(request, exc, Reason.TIME_LIMIT, None))
        if request.ended is not None:
            request.hear(usual)
    elif isinstance(exc, _DEATHS):
        _safely(request, usual, lambda: _lost(request, exc, celery), _brief(request, exc, Reason.WORKER_LOST, usual))
    else:
        unstorable = _brief(request, exc, Reason.RESULT_UNSTORABLE, usual)
        _safely(request, usual, lambda: _unseen(request, exc, usual), unstorable)


def timed_out(request: Any, timeout: float, celery: Tell) -> None:
    """Meet a hard time limit. The prefork pool has called `failed` with it just before, gevent's has not."""
    if request.ended is End.SETTLED:
        request.hear(celery)
        return

    exc, tell = TimeLimitExceeded(timeout), partial(tell_of_timeout, request, timeout, celery)

    def meet() -> Tell:
        if request.ended is not End.BURIED:
            return _limited(request, exc, tell)
        request.ended = End.SETTLED
        return partial(told, request, tell)

    _safely(request, celery, meet, _brief(request, exc, Reason.TIME_LIMIT, tell))


def cancelled(request: Any, celery: Tell) -> None:
    """Meet a task that a cold shutdown ends while it runs, or a lost connection. Late, its message goes back."""
    exc = WorkerLostError("the worker was shut down cold while the task ran")
    goes_back = request.task.acks_late and not request.acknowledged
    tell = partial(tell_of_failure, request, exc)

    def meet() -> Tell:
        if goes_back:
            if request.unmark is not None:
                request.unmark()  # its end is ours, and no crash of it
            return partial(tell_of_cancel, request, celery)
        request._already_cancelled = True  # first: where it is a greenlet that is killed, its end may come meanwhile
        if has_succeeded(request):
            return celery
        text = "a cold shutdown of the worker ended it, and its message had been acknowledged early"
        return settled(request, _run_of(request, exc), DeadLetter(Reason.CANCELLED, text), tell)

    _safely(request, celery, meet, None if goes_back else _brief(request, exc, Reason.CANCELLED, tell))


def expired(request: Any, celery: Tell) -> None:
    """Meet a task that is past its `expires` before it could start."""

    exc = TaskRevokedError(f"expired at {request.expires.isoformat()}, before it could start")

    def meet() -> Tell:
        run = _run_of(request, exc)
        if run.policy.on_expired == "drop":
            return partial(told, request, celery)
        tell = settled(request, run, DeadLetter(Reason.EXPIRED, run.failure.message), celery, ran=False)
        request._already_revoked = True
        return tell

    _safely(request, celery, meet, _brief(request, exc, Reason.EXPIRED, celery))
    if request.ended is not None:
        # Celery has put the id among the revoked ones, where it would stop a requeue of it, too
        state.revoked.discard(request.id)


def revoked(request: Any, celery: Tell) -> None:
    """Meet a task that somebody has revoked, before it started or while it ran: it makes no letter.

    Work that had been put back has a letter already, which waits for its end: that one is dead again.
    """

    def meet() -> Tell:
        request._already_revoked = True  # first: where it is a greenlet that is killed, its end may come meanwhile
        if read_header(request.request_dict).dead_letter_id is None:
            return partial(told, request, celery)
        exc = TaskRevokedError("somebody revoked it after it had been put back")
        decision = DeadLetter(Reason.CANCELLED, str(exc))
        return settled(request, _run_of(request, exc), decision, celery, ran=bool(request.time_start))

    _safely(request, celery, meet)


def unbegun(request: Any, future: Future[Any]) -> None:
    """Meet what waited, acknowledged, in a pool of threads, when a shutdown cancels all that has not begun."""
    if not future.cancelled():
        return
    exc = WorkerLostError("the worker was shut down before the task began")
    tell = partial(tell_of_failure, request, exc)

    def meet() -> Tell:
        run = _run_of(request, exc)
        if (lost := put_back(run)) is not None:
            text = f"{exc}, and its message, acknowledged early, could not be put back: {lost}"
            decision = DeadLetter(Reason.CANCELLED, text, in_doubt=not lost.refused)
            return settled(request, run, decision, tell, ran=False)
        logger.warning("%s[%s] had not begun: it goes back to its queue", request.name, request.id)
        return partial(state.task_ready, request)

    _safely(request, partial(state.task_ready, request), meet, _brief(request, exc, Reason.CANCELLED, tell))
    journal.end(request)


def unanswered(request: Any) -> bool:
    """Meet what runs at most once and has not begun, because no answer came to its acknowledgement: it may be gone.

    Returns:
        Whether there is a letter.
    """

    exc = ConnectionError("the broker did not answer to the acknowledgement, before the task could begin")
    tell = partial(tell_of_failure, request, exc)

    def meet() -> Tell:
        text = f"{exc}: it did not run here, and is gone unless its broker delivers it again"
        decision = DeadLetter(Reason.CANCELLED, text, in_doubt=True)
        return settled(request, _run_of(request, exc), decision, tell, ran=False)

    _safely(request, partial(state.task_ready, request), meet, _brief(request, exc, Reason.CANCELLED, tell))
    return bool(request.acknowledged)


def crashed(request: Any, crashes: int) -> Tell:
    """Decide about a message that came back because the whole worker that ran it died; returns what is to be told.

    Args:
        request: the worker's request, which is not to run.
        crashes: how many workers died with it.
    """
    exc = WorkerLostError("the whole worker died while it ran the task: the message came back")
    return _crashed(request, exc, crashes, request.fail_as_celery)


def _safely(request: Any, usual: Tell, meet: Callable[[], Tell], brief: Callable[[str], Tell] | None = None) -> None:
    """Do what `meet` finds is to be done; what is usual under the kill switch.

    Where guardrails fails on it, that is what `brief` finds: a letter of the little that is sure, else what is usual.
    """
    tell = usual
    try:
        if not is_plain(request.task):
            tell = meet()
    except Exception as ours:
        logger.warning("guardrails failed on the end of %s[%s]", request.name, request.id, exc_info=True)
        try:
            if brief is not None:
                tell = brief(f"guardrails failed on its end: {ours!r}")
        except Exception:
            logger.warning("%s[%s] is lost to the dead-letter queue", request.name, request.id, exc_info=True)
            journal.strand(request)
    tell()


def _brief(request: Any, exc: BaseException, reason: Reason, tell: Tell | None) -> Callable[[str], Tell]:
    return partial(settled_in_brief, request, exc, reason, tell)


def _rejected(request: Any, exc: Reject, usual: Tell) -> Tell:
    if isinstance(exc.reason, PublishError):
        return _given_back(request, exc.reason, usual)
    run = _run_of(request, exc)
    run = replace(run, failure=replace(run.failure, message=str(exc.reason)[:2000]))
    if not exc.requeue:
        text = f"the task rejected its message: {run.failure.message}"
        return settled(request, run, DeadLetter(Reason.REJECTED, text), usual)
    # before it is published: where this is not main's own thread, main may take the copy at once
    seen.of(run.guard).forget(Copy.of(request), request.message.body)
    if (lost := put_back(run)) is not None:
        if request.acknowledged:
            text = f"the task asked for its message to be put back, acknowledged early: {lost}"
            return settled(request, run, unpublishable(lost, text), usual)
        logger.warning("%s[%s] goes back by its broker: %s", request.name, request.id, lost)
        return usual
    return partial(tell_of_requeue, request)


def _given_back(request: Any, why: PublishError, usual: Tell) -> Tell:
    """Our own way to give a message back, unless somebody has ended the task, or its message is gone."""
    if request._already_revoked or (request._already_cancelled and request.acknowledged):
        return partial(state.task_ready, request)
    if not request.acknowledged:
        return usual
    exc = WorkerLostError(why.reason)
    text = f"{why.reason}, and its message had been acknowledged early"
    run = _run_of(request, exc)
    return settled(request, run, DeadLetter(Reason.CANCELLED, text), partial(tell_of_failure, request, exc))


def _limited(request: Any, exc: Exception, tell: Tell | None) -> Tell:
    run = _run_of(request, exc)
    decision = decide_time_limit(run.policy, run.failure, run.history, run.now, rng)
    return settled(request, run, decision, tell)


def _is_gone(pid: int | None) -> bool:
    """Whether a child of ours has ended, reaped or not; `False` where nobody knows."""
    if pid is None or not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
    except OSError:
        return False


def _lost(request: Any, exc: BaseException, celery: Callable[[Any], Any]) -> Tell:
    ours = request._already_cancelled or request._already_revoked  # our own signal ended it
    if ours or (is_ending_cold() and not request.acknowledged):  # a cold shutdown: the broker has the message
        request.ended = End.SETTLED  # its time limit, which the pool may still report, has nothing to add
        return partial(state.task_ready, request)
    if has_succeeded(request):
        request.ended = End.SETTLED
        return partial(tell_of_success, request)
    if isinstance(exc, TimeLimitExceeded):
        exc = WorkerLostError("Worker exited prematurely, and its time limit passed before it was missed")
    elif not isinstance(exc, WorkerLostError):
        code = exc.code if isinstance(exc, SystemExit) else type(exc).__name__
        exc = WorkerLostError(f"Worker exited prematurely: {code}")
    return _crashed(request, exc, read_header(request.request_dict).crashes + 1, celery)


def _crashed(request: Any, exc: BaseException, crashes: int, celery: Callable[[Any], Any]) -> Tell:
    run = _run_of(request, exc)
    run = replace(run, header=replace(run.header, crashes=crashes))
    late = bool(request.task.acks_late)
    decision = decide_crash(run.policy, run.failure, run.history, crashes, run.now, rng, rerun=late)
    return settled(request, run, decision, partial(celery, einfo(exc)))


def _unseen(request: Any, exc: BaseException, usual: Tell) -> Tell:
    text = f"its outcome could not be handed to the worker, whether the body succeeded is not known: {exc}"
    return settled(request, _run_of(request, exc), DeadLetter(Reason.RESULT_UNSTORABLE, text), usual)


def _run_of(request: Any, exc: BaseException) -> FailedRun:
    context = request._context
    if request.time_start:
        context.__dict__[STARTED] = request.time_start
    return examine(request.task, context, exc)
