"""Messages that came before: a retry, work that was put back, one that its broker delivers again.

Owns what is asked about them just before they would run, in the worker's main process: is it done already, and did it
kill the worker that ran it? A message that comes for the first time does not come here.

How deaths of whole workers are counted: a message that came back was with a worker that died, but so were those that
only waited there. So the first time is taken for a death, perhaps, and the task runs again with a mark in the broker
(`transport/started.py`) for as long as it runs. If it comes back and its mark is there, it did run, and died.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.worker import state

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.transport.started import mark_name
from celery_guardrails.worker.duplicate import Life
from celery_guardrails.worker.ending import crashed, has_succeeded, unbegun
from celery_guardrails.worker.install import Guardrails
from celery_guardrails.worker.pool import acknowledge_when_written, writes_later
from celery_guardrails.worker.run import is_plain
from celery_guardrails.worker.settle import Tell

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
    return request.execute_using_pool(pool, **options)


def execute_once(request: Any, pool: Any, **options: Any) -> Any:
    """Hand a message to the pool whose task runs at most once: it is acknowledged before it begins.

    Celery acknowledges when the pool says that the task has begun, and a worker that dies just then runs it twice.

    Raises:
        TaskRevokedError: it does not run.
    """
    request.__dict__.pop("execute_using_pool", None)
    if is_plain(request.task):
        return request.execute_using_pool(pool, **options)
    if writes_later(pool):
        job = request.execute_using_pool(pool, **options)
        acknowledge_when_written(pool, job, request)
        return job
    if not request.revoked():
        request.acknowledge()
    job = request.execute_using_pool(pool, **options)
    if isinstance(getattr(job, "f", None), Future):
        job.f.add_done_callback(partial(unbegun, request))
    return job


def retried(request: Any) -> None:
    """Remember that the pool has published the next attempt of this request."""
    try:
        guard = Guardrails.of(request.task.app)
        guard.seen.note(Life.of(request), _retries(request) + 1)
    except Exception:
        logger.warning("guardrails failed on a retry of %s[%s]", request.name, request.id, exc_info=True)


def _verdict(request: Any) -> Tell | None:
    """What is to be done in place of running it; `None`: it runs."""
    guard, header = Guardrails.of(request.task.app), read_header(request.request_dict)
    life, retries, again = Life.of(request), _retries(request), bool(request.delivery_info.get("redelivered"))
    if guard.seen.is_overtaken(life, retries):
        return partial(_drop, request, "a later attempt of it is known")
    if not guard.seen.begins(life, retries, header.crashes) and not again and _tells(guard):
        return partial(_drop, request, "the same message has begun here before")
    guard.seen.note(life, retries)
    if not request.task.acks_late:
        return None  # it is acknowledged when it begins: what comes back has not begun
    mark = _mark_of(guard, request, header)
    if again:
        if has_succeeded(request):
            return partial(_drop, request, "the result backend says that it has succeeded")
        if not _runs_here(request) and _is_set(guard, mark):
            # Its first death of this kind left no mark: it was a death, since this one was.
            return partial(_after_crash, guard, mark, crashed(request, header.crashes + 1 if header.crashes else 2))
    if again or header.crashes:
        _set(guard, request, mark)
    return None


def _drop(request: Any, why: str) -> None:
    logger.warning("%s[%s] is acknowledged without running: %s", request.name, request.id, why)
    state.task_ready(request)
    request.acknowledge()


def _after_crash(guard: Guardrails, mark: str, tell: Tell) -> None:
    tell()
    _remove(guard, mark)


def _mark_of(guard: Guardrails, request: Any, header: Header) -> str:
    life = f"{request.id}/{header.published_at}/{header.generation}/{Life.of(request).queue}"
    return mark_name(guard.settings.dead_letter.queue, f"{life}/{_retries(request)}/{header.crashes}")


def _is_set(guard: Guardrails, mark: str) -> bool:
    try:
        return guard.started.has(mark)
    except PublishError as exc:
        logger.warning("the broker does not say whether a task that came back had begun: %s", exc)
        return False


def _set(guard: Guardrails, request: Any, mark: str) -> None:
    """Set the mark, to be removed as soon as the message is settled."""
    try:
        guard.started.put(mark)
    except PublishError as exc:
        logger.warning("%s[%s] runs without the mark that would tell of its death: %s", request.name, request.id, exc)
        return
    on_ack, on_reject = request._on_ack, request._on_reject

    def acked(*args: Any) -> None:
        on_ack(*args)
        _remove(guard, mark)

    def rejected(*args: Any) -> None:
        on_reject(*args)
        _remove(guard, mark)

    request._on_ack, request._on_reject = acked, rejected
    request.unmark = partial(_remove, guard, mark)


def _remove(guard: Guardrails, mark: str) -> None:
    try:
        guard.started.remove(mark)
    except PublishError as exc:
        logger.warning("a mark of a task that has ended stays in the broker: %s", exc)


def _runs_here(request: Any) -> bool:
    """Whether this very worker still runs it: then its connection was lost, and nobody died."""
    return any(other.id == request.id and other is not request for other in tuple(state.active_requests))


def _tells(guard: Guardrails) -> bool:
    with guard.app.connection_for_read() as connection:
        return connection.transport.driver_type in _TELLING


def _retries(request: Any) -> int:
    retries = request.request_dict.get("retries")
    return retries if isinstance(retries, int) else 0
