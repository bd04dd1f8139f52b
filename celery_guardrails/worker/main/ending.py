"""The ends of a task outside its body, as a worker's main process sees them: a lost worker, a hard time limit, Reject.

Owns which end it is and what is decided about it, as plain functions on a `GuardedRequest`. An end is data, which
`settlement.py` settles. Failures that the body's hook has handled come here too, and go on to Celery.
"""

from __future__ import annotations

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

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import read_header
from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, decide_crash
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.outcome import rng
from celery_guardrails.worker.main import journal
from celery_guardrails.worker.main.announcement import (
    Announce,
    announce_and_acknowledge,
    announce_cancel,
    announce_failure,
    announce_loss,
    announce_requeue,
    announce_success,
    announce_unbegun,
)
from celery_guardrails.worker.main.settlement import End, publish, settle
from celery_guardrails.worker.main.shutdown import is_ending_cold
from celery_guardrails.worker.main.time_limit import TimeLimit

__all__ = [
    "publish_crash",
    "settle_cancel",
    "settle_expiry",
    "settle_failure",
    "settle_revocation",
    "settle_time_limit",
    "settle_unanswered",
    "settle_unbegun",
]

_DEATHS = (WorkerLostError, SystemExit, KeyboardInterrupt, MemoryError, TimeLimitExceeded)
_LOOKED_AT = 32 * 1024
"""Characters of a task's text that are searched for secrets; the rest is cut off first."""
_CANCELLED, _REVOKED = "_already_cancelled", "_already_revoked"


def settle_failure(request: Any, exc_info: Any, return_ok: bool, celery: Callable[[Any], Any]) -> None:
    """Settle an outcome of the pool that is not a success.

    Args:
        request: the worker's request.
        exc_info: billiard's form of the exception.
        return_ok: whether the tracer, and our hooks in it, handled the failure in the process that ran the task.
        celery: what Celery does with the outcome.
    """
    if (unkept := getattr(exc_info, "unkept", None)) is not None:
        journal.leave(request, *unkept)
    exc = exc_info.exception
    if isinstance(exc, ExceptionWithTraceback):
        exc = exc.exc
    usual = partial(celery, exc_info)
    if isinstance(exc, Reject):
        settle(request, _rejection(request, exc, usual))
    elif return_ok or isinstance(exc, (Ignore, Retry, Terminated)):
        usual()
    # the pool notices a dead child only after seconds: until then the time limit of its task can still pass
    elif isinstance(exc, TimeLimitExceeded) and not _is_gone(request.worker_pid):
        request.limit = TimeLimit(request)
        request.limit.publish(exc, usual)
    elif isinstance(exc, _DEATHS):
        settle(request, _loss(request, exc, usual, celery))
    else:
        text = f"its outcome could not be handed to the worker, whether the body succeeded is not known: {_said(exc)}"
        settle(request, End(exc, usual, usual, DeadLetter(Reason.RESULT_UNSTORABLE, text)))


def settle_time_limit(request: Any, timeout: float, celery: Announce) -> None:
    """Settle a hard time limit. The prefork pool has reported it as a failure just before, gevent's has not.

    Args:
        request: the worker's request.
        timeout: the limit, in seconds.
        celery: how Celery announces it.
    """
    limit, request.limit = request.limit or TimeLimit(request), None
    limit.announce(timeout, celery)


def settle_cancel(request: Any, celery: Announce) -> None:
    """Settle a running task that Celery cancels, at a cold shutdown or after a lost connection.

    If the task is acknowledged late, and not acknowledged yet, its message goes back to its queue. Otherwise the task
    becomes a dead letter, unless it has succeeded.
    """
    exc = WorkerLostError("the worker was shut down cold while the task ran")
    if request.task.acks_late and not request.acknowledged:
        settle(request, End(exc, celery, partial(announce_cancel, request, celery), kind=Reason.CANCELLED.value))
        return
    text = "a cold shutdown of the worker ended it, and its message had been acknowledged early"
    announce, dead = partial(announce_failure, request, exc), DeadLetter(Reason.CANCELLED, text)
    settle(request, End(exc, celery, announce, dead, succeeded=celery, mark=_CANCELLED))


def settle_expiry(request: Any, celery: Announce) -> None:
    """Settle a task that is past its `expires` before it could start."""
    exc = TaskRevokedError(f"expired at {request.expires.isoformat()}, before it could start")
    dead = DeadLetter(Reason.EXPIRED, str(exc))
    if settle(request, End(exc, celery, celery, dead, _decide_expiry, ran=False, mark=_REVOKED)) is not None:
        # Celery has noted the id as revoked, and would not run a requeue with the same id
        state.revoked.discard(request.id)


def settle_revocation(request: Any, celery: Announce) -> None:
    """Settle a task that somebody has revoked, before it started or while it ran. It does not become a dead letter.

    If the work was requeued, its letter still waits for the end of the work: that letter is dead again.
    """
    if read_header(request.request_dict).dead_letter_id is None:
        exc = TaskRevokedError("somebody revoked it")
        announce = partial(announce_and_acknowledge, request, celery)
        end = End(exc, celery, announce, kind="revoked", mark=_REVOKED)
    else:
        exc = TaskRevokedError("somebody revoked it after it had been put back")
        dead = DeadLetter(Reason.CANCELLED, str(exc))
        end = End(exc, celery, celery, dead, ran=bool(request.time_start), kind="revoked", mark=_REVOKED)
    settle(request, end)


def settle_unbegun(request: Any, future: Future[Any]) -> None:
    """Settle an acknowledged task that waited in a pool of threads, if a shutdown has cancelled it before it began."""
    if not future.cancelled():
        return
    exc = WorkerLostError("the worker was shut down before the task began")
    dead = DeadLetter(Reason.CANCELLED, f"{exc}, and its message, acknowledged early, could not be put back")
    usual, announce = partial(state.task_ready, request), partial(announce_failure, request, exc)
    settle(request, End(exc, usual, announce, dead, back=partial(announce_unbegun, request), ran=False))
    journal.end(request)


def settle_unanswered(request: Any) -> bool:
    """Settle a task that runs at most once and has not begun: nobody knows if the broker took its acknowledgement.

    Returns:
        Whether a letter was published or spooled, so that the message counts as acknowledged.
    """
    exc = ConnectionError("the broker did not answer to the acknowledgement, before the task could begin")
    text = f"{exc}: it did not run here, and is gone unless its broker delivers it again"
    usual, announce = partial(state.task_ready, request), partial(announce_failure, request, exc)
    settle(request, End(exc, usual, announce, DeadLetter(Reason.CANCELLED, text, in_doubt=True), ran=False))
    return bool(request.acknowledged)


def publish_crash(request: Any, crashes: int) -> Announce:
    """Publish the next attempt or the letter for a message that came back because the whole worker that ran it died.

    Args:
        request: the worker's request, which must not run.
        crashes: how many workers died while they ran the task.

    Returns:
        What is left to do: Celery announces the end.
    """
    exc = WorkerLostError("the whole worker died while it ran the task: the message came back")
    _, announce = publish(request, _crash(exc, crashes, partial(announce_loss, request.fail_as_celery, exc)))
    return announce


def _rejection(request: Any, exc: Reject, usual: Announce) -> End:
    if isinstance(exc.reason, PublishError):
        return _giving_back(request, exc.reason, usual)
    said = _said(exc.reason)
    if exc.requeue:
        text = "the task asked for its message to be put back, acknowledged early"
        dead, back = DeadLetter(Reason.RETRY_UNPUBLISHABLE, text), partial(announce_requeue, request)
        return End(exc, usual, usual, dead, back=back, message=said)
    dead = DeadLetter(Reason.REJECTED, f"the task rejected its message: {said}")
    return End(exc, usual, usual, dead, message=said)


def _giving_back(request: Any, why: PublishError, usual: Announce) -> End:
    """The end of a task that our own hooks reject, so that its message goes back to its queue.

    If the message was acknowledged, it cannot go back, and the task becomes a dead letter. If the task was revoked, or
    cancelled after its acknowledgement, its end is settled elsewhere.
    """
    if request._already_revoked or (request._already_cancelled and request.acknowledged):
        return End(why, usual, partial(state.task_ready, request))
    if not request.acknowledged:
        return End(why, usual, usual)
    exc = WorkerLostError(why.reason)
    dead = DeadLetter(Reason.CANCELLED, f"{why.reason}, and its message had been acknowledged early")
    return End(exc, usual, partial(announce_failure, request, exc), dead)


def _loss(request: Any, exc: BaseException, usual: Announce, celery: Callable[[Any], Any]) -> End:
    ours = request._already_cancelled or request._already_revoked  # this worker killed the child on purpose
    if ours or (is_ending_cold() and not request.acknowledged):  # a cold shutdown: the broker still has the message
        return End(exc, usual, partial(state.task_ready, request))
    if isinstance(exc, TimeLimitExceeded):
        exc = WorkerLostError("Worker exited prematurely, and its time limit passed before it was missed")
    elif not isinstance(exc, WorkerLostError):
        code = _said(exc.code) if isinstance(exc, SystemExit) else type(exc).__name__
        exc = WorkerLostError(f"Worker exited prematurely: {code}")
    crashes, announce = read_header(request.request_dict).crashes + 1, partial(announce_loss, celery, exc)
    return replace(_crash(exc, crashes, announce), usual=usual, succeeded=partial(announce_success, request))


def _crash(exc: WorkerLostError, crashes: int, announce: Announce) -> End:
    return End(exc, announce, announce, DeadLetter(Reason.WORKER_LOST, str(exc)), _decide_crash, crashes=crashes)


def _decide_crash(run: FailedRun) -> Decision:
    late = bool(run.task.acks_late)
    return decide_crash(run.policy, run.failure, run.history, run.header.crashes, run.now, rng, rerun=late)


def _decide_expiry(run: FailedRun) -> Decision | None:
    return None if run.policy.on_expired == "drop" else DeadLetter(Reason.EXPIRED, run.failure.message)


def _said(said: Any) -> str:
    """The text of what a task has raised or given. It is an object of foreign code, whose `str` may raise."""
    try:
        return str(said)[:_LOOKED_AT]
    except Exception:  # noqa: BLE001 whatever it is
        return f"<{type(said).__name__} whose message cannot be shown>"


def _is_gone(pid: int | None) -> bool:
    """Whether a child of this process has ended, reaped or not; `False` if it is not known."""
    if pid is None or not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
    except OSError:
        return False
