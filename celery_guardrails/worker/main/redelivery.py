"""Messages of work that came before: a retry, a requeue, or a redelivery.

Owns two questions just before the task would run, in the worker's main process: is the work done already, and did it
kill the worker that ran it? A first message does not come here, unless its task runs at most once: then the message is
acknowledged before the task begins.

How deaths of whole workers are counted: a redelivered message was with a worker that died, but perhaps it only waited
there. So its task runs again, with a mark in the broker (`transport/started.py`) from its begin to its end. If the
message comes back once more and the mark is there, the task did run when its worker died; the first redelivery then
counts as a death, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.worker import state

from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.errors import PublishError
from celery_guardrails.seams import AT_MOST_ONCE, holds
from celery_guardrails.transport.started import mark_name
from celery_guardrails.worker.failure.succeeded import has_succeeded
from celery_guardrails.worker.main import journal, seen
from celery_guardrails.worker.main.announcement import Announce
from celery_guardrails.worker.main.ending import publish_crash, settle_unanswered, settle_unbegun
from celery_guardrails.worker.main.prefork import (
    acknowledge_at_once,
    call_before_writing,
    runs_in_main_process,
    writes_later,
)
from celery_guardrails.worker.main.seen import Copy, Life
from celery_guardrails.worker.main.takeover import find_running, take_over

__all__ = ["execute", "execute_once", "note_retry"]

logger = logging.getLogger("celery_guardrails.worker")

# The brokers that mark a message that they deliver again.
_SAYING_REDELIVERED = ("amqp", "redis")


def execute(request: Any, pool: Any, **options: Any) -> Any:
    """Hand a message of work that came before to the pool, or settle it here.

    Raises:
        TaskRevokedError: the task does not run. For Celery it means that no slot of the pool is taken.
    """
    request.__dict__.pop("execute_using_pool", None)
    substitute: Callable[[], Any] | None = None
    try:
        if not is_plain(request.task) and not request.revoked():
            substitute = _find_substitute(request)
    except Exception:
        logger.warning("guardrails failed before %s[%s]", request.name, request.id, exc_info=True)
    if substitute is not None:
        substitute()
        raise TaskRevokedError(request.id)
    if not request.task.acks_late:
        return execute_once(request, pool, **options)
    if request.begin is not None:
        return _execute_marked(request, pool, **options)
    return request.execute_using_pool(pool, **options)


def execute_once(request: Any, pool: Any, **options: Any) -> Any:
    """Acknowledge a message whose task runs at most once, then hand it to the pool.

    Celery acknowledges when the pool reports that the task has begun. If the worker died just then, it would run twice.

    Raises:
        TaskRevokedError: the task does not run.
        ConnectionError: the broker did not take the acknowledgement, and delivers the message again.
    """
    request.__dict__.pop("execute_using_pool", None)
    if is_plain(request.task) or not holds(AT_MOST_ONCE):
        return request.execute_using_pool(pool, **options)
    if _drop_if_acknowledged(request):
        raise TaskRevokedError(request.id)
    journal.end_on_success(request)
    begin = partial(_acknowledge, request)
    if writes_later(pool):
        job = request.execute_using_pool(pool, **options)
        call_before_writing(pool, job, request, begin)
        return job
    hand_over = partial(_acknowledge_and_hand_over, request, pool, begin, options)
    turns = Guardrails.of(request.task.app).turns
    return hand_over() if turns is None else turns.take(hand_over)


def note_retry(request: Any) -> None:
    """Remember that the pool has published the next attempt of this request."""
    try:
        copy = request.received_copy
        seen.of(Guardrails.of(request.task.app)).note(copy.life, copy.retries + 1)
    except Exception:
        logger.warning("guardrails failed on a retry of %s[%s]", request.name, request.id, exc_info=True)


def _execute_marked(request: Any, pool: Any, **options: Any) -> Any:
    """Hand a request to the pool, and set its mark when the task begins: a task that only waited killed no worker."""
    if writes_later(pool):
        job = request.execute_using_pool(pool, **options)
        call_before_writing(pool, job, request, request.begin)
        return job
    if runs_in_main_process(pool):
        celery = request.on_accepted

        def on_accepted(*args: Any) -> None:
            request.begin()
            celery(*args)

        request.on_accepted = on_accepted
    else:
        request.begin()  # this pool does not report when a task is about to begin
    return request.execute_using_pool(pool, **options)


def _acknowledge_and_hand_over(request: Any, pool: Any, begin: Callable[[], bool], options: Any) -> Future[Any] | None:
    """Acknowledge a message and hand it to a pool that takes it at once; returns the future of a pool of threads."""
    if not request.revoked() and not begin():
        state.task_ready(request)
        raise TaskRevokedError(request.id)
    job = getattr(request.execute_using_pool(pool, **options), "f", None)
    if not isinstance(job, Future):
        return None
    job.add_done_callback(partial(settle_unbegun, request))
    return job


def _acknowledge(request: Any) -> bool:
    """Write a message to the journal, then acknowledge it; returns whether its task may begin."""
    if _drop_if_acknowledged(request):  # a copy has begun while this one waited for a child or a thread
        return False
    if not journal.keep(request):
        return False
    if not acknowledge_at_once(request, partial(_settle_gone, request), partial(journal.end, request)):
        words = "%s[%s] does not run here: its broker has given it to another worker meanwhile, or has lost it"
        logger.warning(words, request.name, request.id)
        journal.end(request)
        return False
    journal.note_acknowledged(request)
    _note_acknowledged(request)
    return True


def _settle_gone(request: Any) -> None:
    if settle_unanswered(request):
        _note_acknowledged(request)
    journal.end(request)


def _note_acknowledged(request: Any) -> None:
    seen.of(Guardrails.of(request.task.app)).note_acknowledged(request.received_copy, request.message.body)


def _drop_if_acknowledged(request: Any) -> bool:
    """Drop a message that was acknowledged here before; a broker that was killed may lose an acknowledgement.

    Returns:
        Whether the message was dropped.
    """
    try:
        if not seen.of(Guardrails.of(request.task.app)).was_acknowledged(request.received_copy, request.message.body):
            return False
    except Exception:
        logger.warning("guardrails failed before %s[%s]", request.name, request.id, exc_info=True)
        return False
    _drop(request, "it was acknowledged here before")
    return True


def _find_substitute(request: Any) -> Callable[[], Any] | None:
    """What to do instead of running the task; `None`: it runs."""
    guard, copy = Guardrails.of(request.task.app), request.received_copy
    again = bool(request.delivery_info.get("redelivered"))
    if seen.of(guard).is_overtaken(copy.life, copy.retries):
        return partial(_drop, request, "a later attempt of it is known")
    if again and (other := find_running(request, copy)) is not None:
        return partial(take_over, request, other, partial(request.known.has, copy))
    if again and request.known.has(copy):
        return partial(_drop, request, "it has ended here before")
    if not seen.of(guard).begins(copy) and not again and _says_redelivered(guard):
        return partial(_drop, request, "the same message has begun here before")
    seen.of(guard).note(copy.life, copy.retries)
    if again and has_succeeded(request):
        return partial(_drop, request, "the result backend says that it has succeeded")
    if not request.task.acks_late:
        return None  # it is acknowledged when it begins: as far as is known, a message that comes back has not begun
    if not again and not copy.crashes:
        return None
    mark = _mark_of(guard, copy)
    if again and not _still_runs(request) and _is_marked(guard, mark):
        # The first redelivery left no mark. It counts as a death, too, because this one is a death.
        return partial(_announce_crash, guard, mark, publish_crash(request, copy.crashes + 1 if copy.crashes else 2))
    request.begin = partial(_set_mark, guard, request, mark)
    return None


def _drop(request: Any, why: str) -> None:
    logger.warning("%s[%s] is acknowledged without running: %s", request.name, request.id, why)
    state.task_ready(request)
    request.let_go()


def _announce_crash(guard: Guardrails, mark: str, announce: Announce) -> None:
    announce()
    _remove_mark(guard, mark)


def _mark_of(guard: Guardrails, copy: Copy) -> str:
    work, generation = copy.life
    execution = f"{work.lasting_key}/{generation}/{copy.retries}/{copy.crashes}"
    if copy.waits:
        execution += f"/{copy.waits}"
    return mark_name(guard.settings.dead_letter.queue, execution)


def _is_marked(guard: Guardrails, mark: str) -> bool:
    try:
        return guard.started.has(mark)
    except PublishError as exc:
        logger.warning("the broker does not answer whether a redelivered task had begun before: %s", exc)
        return False


def _set_mark(guard: Guardrails, request: Any, mark: str) -> bool:
    """Set the mark, and have it removed as soon as the message is settled. The task runs in any case."""
    try:
        guard.started.put(mark)
    except PublishError as exc:
        words = "%s[%s] runs without a mark, so if its worker dies, the death may not be counted: %s"
        logger.warning(words, request.name, request.id, exc)
        return True
    on_ack, on_reject = request._on_ack, request._on_reject

    def ack(*args: Any) -> None:
        on_ack(*args)
        _remove_mark(guard, mark)

    def reject(*args: Any) -> None:
        on_reject(*args)
        _remove_mark(guard, mark)

    request._on_ack, request._on_reject = ack, reject
    request.unmark = partial(_remove_mark, guard, mark)
    return True


def _remove_mark(guard: Guardrails, mark: str) -> None:
    try:
        guard.started.remove(mark)
    except PublishError as exc:
        logger.warning("the mark of a task that has ended stays in the broker: %s", exc)


def _still_runs(request: Any) -> bool:
    """Whether this worker still runs the work: then only the connection was lost, and no worker died."""
    same_id = [other for other in tuple(state.active_requests) if other.id == request.id and other is not request]
    if not same_id:
        return False
    # compare what the name of the mark is made of: if nothing names the work, each delivery is a life of its own
    work, generation = Life.of(request)
    lives = [Life.of(other) for other in same_id]
    return any(life.work.lasting_key == work.lasting_key and life.generation == generation for life in lives)


def _says_redelivered(guard: Guardrails) -> bool:
    with guard.app.connection_for_read() as connection:
        return connection.transport.driver_type in _SAYING_REDELIVERED
