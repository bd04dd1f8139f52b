"""Messages that came before: a retry, work that was put back, one that its broker delivers again.

Owns what is asked about them just before they would run, in the worker's main process: is it done already, and did it
kill the worker that ran it? A message that comes for the first time does not come here, unless it runs at most once:
then it is acknowledged before it begins.

How deaths of whole workers are counted: a message that came back was with a worker that died, but so were those that
only waited there. So the first time is taken for a death, perhaps, and the task runs again with a mark in the broker
(`transport/started.py`), from when it begins for as long as it runs. If it comes back and its mark is there, it did
run, and died.
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
from celery_guardrails.worker.main.ending import publish_crash, settle_unanswered, settle_unbegun
from celery_guardrails.worker.main.prefork import acknowledge_at_once, before_writing, runs_here, writes_later
from celery_guardrails.worker.main.report import Tell
from celery_guardrails.worker.main.seen import Copy, Life
from celery_guardrails.worker.main.takeover import running, take_over

__all__ = ["execute", "execute_once", "retried"]

logger = logging.getLogger("celery_guardrails.worker")

# Brokers that say of a message whether they have delivered it before.
_TELLING = ("amqp", "redis")


def execute(request: Any, pool: Any, **options: Any) -> Any:
    """Hand a message that came before to the pool, or end it here.

    Raises:
        TaskRevokedError: it does not run; Celery's word to its caller that no slot is taken.
    """
    request.__dict__.pop("execute_using_pool", None)
    tell: Tell | None = None
    try:
        if not is_plain(request.task) and not request.revoked():
            tell = _verdict(request)
    except Exception:
        logger.warning("guardrails failed before %s[%s]", request.name, request.id, exc_info=True)
    if tell is not None:
        tell()
        raise TaskRevokedError(request.id)
    if not request.task.acks_late:
        return execute_once(request, pool, **options)
    if request.begin is not None:
        return _execute_marked(request, pool, **options)
    return request.execute_using_pool(pool, **options)


def execute_once(request: Any, pool: Any, **options: Any) -> Any:
    """Hand a message to the pool whose task runs at most once: it is acknowledged before it begins.

    Celery acknowledges when the pool says that the task has begun, and a worker that dies just then runs it twice.

    Raises:
        TaskRevokedError: it does not run.
        ConnectionError: the broker did not take the acknowledgement, and sends the message again.
    """
    request.__dict__.pop("execute_using_pool", None)
    if is_plain(request.task) or not holds(AT_MOST_ONCE):
        return request.execute_using_pool(pool, **options)
    if _is_dropped(request):
        raise TaskRevokedError(request.id)
    journal.watch(request)
    begin = partial(_acknowledge, request)
    if writes_later(pool):
        job = request.execute_using_pool(pool, **options)
        before_writing(pool, job, request, begin)
        return job
    hand_over = partial(_acknowledge_and_hand_over, request, pool, begin, options)
    turns = Guardrails.of(request.task.app).turns
    return hand_over() if turns is None else turns.take(hand_over)


def retried(request: Any) -> None:
    """Remember that the pool has published the next attempt of this request."""
    try:
        copy = Copy.of(request)
        seen.of(Guardrails.of(request.task.app)).note(copy.life, copy.retries + 1)
    except Exception:
        logger.warning("guardrails failed on a retry of %s[%s]", request.name, request.id, exc_info=True)


def _execute_marked(request: Any, pool: Any, **options: Any) -> Any:
    """Hand it to the pool so that its mark is set when it begins: what only waited is not to be blamed."""
    if writes_later(pool):
        job = request.execute_using_pool(pool, **options)
        before_writing(pool, job, request, request.begin)
        return job
    if runs_here(pool):
        celery = request.on_accepted

        def on_accepted(*args: Any) -> None:
            request.begin()
            celery(*args)

        request.on_accepted = on_accepted
    else:
        request.begin()  # a pool that says of nothing when it begins, before it has
    return request.execute_using_pool(pool, **options)


def _acknowledge_and_hand_over(request: Any, pool: Any, begin: Callable[[], bool], options: Any) -> Future[Any] | None:
    """For the pools that take work at once; returns the job where it is a thread's."""
    if not request.revoked() and not begin():
        state.task_ready(request)
        raise TaskRevokedError(request.id)
    job = getattr(request.execute_using_pool(pool, **options), "f", None)
    if not isinstance(job, Future):
        return None
    job.add_done_callback(partial(settle_unbegun, request))
    return job


def _acknowledge(request: Any) -> bool:
    """Keep it in the journal, then acknowledge it; says whether it begins."""
    if _is_dropped(request):  # its twin has begun while it waited for a child or a thread
        return False
    if not journal.keep(request):
        return False
    if not acknowledge_at_once(request, partial(_gone, request), partial(journal.end, request)):
        words = "%s[%s] is left to another worker, which was given it meanwhile, unless its broker has lost it"
        logger.warning(words, request.name, request.id)
        journal.end(request)
        return False
    journal.acknowledged(request)
    _remember(request)
    return True


def _gone(request: Any) -> None:
    if settle_unanswered(request):
        _remember(request)
    journal.end(request)


def _remember(request: Any) -> None:
    seen.of(Guardrails.of(request.task.app)).acknowledged(Copy.of(request), request.message.body)


def _is_dropped(request: Any) -> bool:
    """Drop this very message if it was acknowledged here: a broker that was killed may have lost that."""
    try:
        if not seen.of(Guardrails.of(request.task.app)).was_acknowledged(Copy.of(request), request.message.body):
            return False
    except Exception:
        logger.warning("guardrails failed before %s[%s]", request.name, request.id, exc_info=True)
        return False
    _drop(request, "it was acknowledged here before")
    return True


def _verdict(request: Any) -> Tell | None:
    """What is to be done in place of running it; `None`: it runs."""
    guard, copy = Guardrails.of(request.task.app), Copy.of(request)
    again = bool(request.delivery_info.get("redelivered"))
    if seen.of(guard).is_overtaken(copy.life, copy.retries):
        return partial(_drop, request, "a later attempt of it is known")
    if again and (other := running(request, copy)) is not None:
        return partial(take_over, request, other, partial(request.known.has, copy))
    if again and request.known.has(copy):
        return partial(_drop, request, "it has ended here before")
    if not seen.of(guard).begins(copy) and not again and _tells(guard):
        return partial(_drop, request, "the same message has begun here before")
    seen.of(guard).note(copy.life, copy.retries)
    if again and has_succeeded(request):
        return partial(_drop, request, "the result backend says that it has succeeded")
    if not request.task.acks_late:
        return None  # it is acknowledged when it begins: what comes back has not begun, as far as anybody knows
    if not again and not copy.crashes:
        return None
    mark = _mark_of(guard, copy)
    if again and not _runs_here(request) and _is_set(guard, mark):
        # Its first death of this kind left no mark: it was a death, since this one was.
        return partial(_after_crash, guard, mark, publish_crash(request, copy.crashes + 1 if copy.crashes else 2))
    request.begin = partial(_set, guard, request, mark)
    return None


def _drop(request: Any, why: str) -> None:
    logger.warning("%s[%s] is acknowledged without running: %s", request.name, request.id, why)
    state.task_ready(request)
    request.let_go()


def _after_crash(guard: Guardrails, mark: str, tell: Tell) -> None:
    tell()
    _remove(guard, mark)


def _mark_of(guard: Guardrails, copy: Copy) -> str:
    work, generation = copy.life
    execution = f"{work.lasting_key}/{generation}/{copy.retries}/{copy.crashes}"
    return mark_name(guard.settings.dead_letter.queue, execution)


def _is_set(guard: Guardrails, mark: str) -> bool:
    try:
        return guard.started.has(mark)
    except PublishError as exc:
        logger.warning("the broker does not say whether a task that came back had begun: %s", exc)
        return False


def _set(guard: Guardrails, request: Any, mark: str) -> bool:
    """Set the mark, to be removed as soon as the message is settled. The task runs in any case."""
    try:
        guard.started.put(mark)
    except PublishError as exc:
        logger.warning("%s[%s] runs without the mark that would tell of its death: %s", request.name, request.id, exc)
        return True
    on_ack, on_reject = request._on_ack, request._on_reject

    def acked(*args: Any) -> None:
        on_ack(*args)
        _remove(guard, mark)

    def rejected(*args: Any) -> None:
        on_reject(*args)
        _remove(guard, mark)

    request._on_ack, request._on_reject = acked, rejected
    request.unmark = partial(_remove, guard, mark)
    return True


def _remove(guard: Guardrails, mark: str) -> None:
    try:
        guard.started.remove(mark)
    except PublishError as exc:
        logger.warning("a mark of a task that has ended stays in the broker: %s", exc)


def _runs_here(request: Any) -> bool:
    """Whether this very worker still runs it: then its connection was lost, and nobody died."""
    same_id = [other for other in tuple(state.active_requests) if other.id == request.id and other is not request]
    if not same_id:
        return False
    # by what their marks go by: where nothing names its work, each delivery is a life of its own
    work, generation = Life.of(request)
    lives = [Life.of(other) for other in same_id]
    return any(life.work.lasting_key == work.lasting_key and life.generation == generation for life in lives)


def _tells(guard: Guardrails) -> bool:
    with guard.app.connection_for_read() as connection:
        return connection.transport.driver_type in _TELLING
