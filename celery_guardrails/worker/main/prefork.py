"""Gaps in Celery's process pool, where a task would be lost for good, or run twice.

A task that runs at most once is acknowledged before it begins, but only when a child is free: while it waits in the
main process, the broker still has it. At a lost connection or a warm shutdown Celery forgets the tasks that its pool
has not begun; acknowledged tasks, and those that a child has, are kept here. Before the task of a dead child is given
to another child, the dead child's last messages are read. Owns these seams; must not know why a task runs at most once.
"""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from struct import pack
from types import new_class
from typing import Any

from billiard import pool as billiard
from celery import bootsteps
from celery.exceptions import Ignore
from celery.worker import state

from celery_guardrails.seams import AT_MOST_ONCE, OUTLIVING, PREFORK, holds
from celery_guardrails.transport.acknowledge import acknowledge
from celery_guardrails.worker.main.announcement import einfo
from celery_guardrails.worker.main.takeover import RESULTS_AFTER_LOSS

__all__ = [
    "GuardedPool",
    "PoolStep",
    "acknowledge_at_once",
    "call_before_writing",
    "flush_untaken",
    "guarded_pool",
    "has_begun_after_all",
    "mixed",
    "runs_in_main_process",
    "takes_back",
    "writes_later",
]

logger = logging.getLogger("celery_guardrails.worker")


class GuardedPool:
    """Our methods over the pool behind Celery's `TaskPool` of processes: `AsynPool`, or a subclass of it."""

    def flush(self) -> None:
        """Called by Celery when a connection is lost, and at a warm shutdown."""
        flush_untaken(self, super().flush)  # type: ignore[misc]

    def on_job_process_down(self, job: Any, pid_gone: int) -> None:
        """Called by Celery for a job whose process has died before it reported that the job had begun."""
        if not has_begun_after_all(self, job):
            super().on_job_process_down(job, pid_gone)  # type: ignore[misc]

    def _track_child_process(self, child: Any, hub: Any) -> None:
        """Called by Celery for each process whenever its event loop begins.

        Children that died while the worker was looking for its broker are left out: adding them to the event loop is an
        error that ends the worker. Celery replaces them in any case.
        """
        if getattr(child, "_sentinel_poll", child) is not None:
            super()._track_child_process(child, hub)  # type: ignore[misc]


def guarded_pool(cls: Any) -> Any:
    """The worker's pool class with `GuardedPool` mixed in; the class itself if it is not a pool of processes.

    Args:
        cls: the class that the worker is set to use: one of Celery's, or a subclass.

    Raises:
        TypeError: no class can be derived from it.
    """
    inner = getattr(cls, "Pool", None)
    needed = ("flush", "on_job_process_down", "process_flush_queues", "_track_child_process")
    if not holds(PREFORK) or not isinstance(inner, type) or not all(hasattr(inner, name) for name in needed):
        return cls
    return mixed(cls, {"Pool": mixed(inner, {}, GuardedPool)})


def mixed(cls: type, attributes: Mapping[str, Any], *ours: type) -> type:
    """A class derived from ours and `cls`, in that order, with the name and docstring of `cls`.

    Raises:
        TypeError: no class can be derived from `cls`.
    """
    shown = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return new_class(cls.__name__, (*ours, cls), exec_body=lambda space: space.update({**shown, **attributes}))


class PoolStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sets whether the consumer remembers, after a lost connection, the tasks that the pool still runs."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.goes_on = RESULTS_AFTER_LOSS and holds(OUTLIVING) and not takes_back(consumer.pool)


def writes_later(pool: Any) -> bool:
    """Whether this pool (Celery's `TaskPool`) keeps tasks in the main process until it writes them to a child."""
    return holds(AT_MOST_ONCE) and hasattr(getattr(pool, "_pool", None), "outbound_buffer")


def takes_back(pool: Any) -> bool:
    """Whether this pool (Celery's `TaskPool`) forgets the tasks that it has not begun when a connection is lost."""
    return bool(vars(pool).get("flush"))


def runs_in_main_process(pool: Any) -> bool:
    """Whether this pool (Celery's) runs tasks in the worker's own process."""
    return not isinstance(getattr(pool, "_pool", None), billiard.Pool)


def call_before_writing(pool: Any, job: Any, request: Any, act: Callable[[], bool]) -> None:
    """Have a function called just before a job is written to a child, for a pool that `writes_later`.

    Args:
        pool: Celery's `TaskPool`.
        job: the pool's job for the task; `None`: the pool is closed and did not take the task.
        request: the worker's request.
        act: the function; it returns whether the task may run. If it raises an OSError, the job is not written, and the
            event loop handles the error as a lost connection.
    """
    if job is not None:
        job.guarded, job._payload = request, _Payload(pool._pool, job, act)


def acknowledge_at_once(request: Any, gone: Callable[[], None], back: Callable[[], None] | None = None) -> bool:
    """Acknowledge a message whose task runs at most once, just before it begins.

    Celery itself acknowledges in the next turn of its event loop, when the task may have begun, or may be over.

    Args:
        request: the worker's request.
        gone: called after an error, if the broker may never deliver the message again; on Redis later, in another
            thread.
        back: called after an error, if the broker still has the message; on Redis also later, in another thread.

    Returns:
        Whether the task may begin; `False` if the broker has given the message to another worker meanwhile.

    Raises:
        ConnectionError: the broker did not confirm the acknowledgement: the task must not run now.
    """
    message, held = request.message, True

    def settle_gone() -> None:
        message.ack = _nothing
        gone()

    if not message.acknowledged:
        try:
            held = acknowledge(message, settle_gone, back)
        except Exception as exc:
            raise ConnectionError(f"{request.name}[{request.id}] could not be acknowledged: {exc}") from exc
        message.ack = _nothing
    request.acknowledge()
    return held


def _parts_for(job: Any, function: Callable[[], Any]) -> tuple[memoryview, memoryview, int]:
    """The bytes by which Celery's pool has a child call a function for a job: a header, a body, and its length."""
    body = pickle.dumps((billiard.TASK, (job._job, None, function, (), {})), protocol=pickle.HIGHEST_PROTOCOL)
    return memoryview(pack(">I", len(body))), memoryview(body), len(body)


def _pass_over() -> tuple[int, Any, float]:
    """Called by a child instead of a task that must not run; returns what the tracer returns for Celery's Ignore."""
    return 1, einfo(Ignore()), 0.0


class _Payload:
    """The bytes to write to a child. Celery unpacks them when it begins to write, and at no other time."""

    def __init__(self, pool: Any, job: Any, act: Callable[[], bool]) -> None:
        self._pool, self._job = pool, job
        self._act: Callable[[], bool] | None = act
        self._parts = job._payload

    def __iter__(self) -> Iterator[Any]:
        try:
            if self._act is not None and not self._act():
                self._parts = _parts_for(self._job, _pass_over)
        except OSError:
            self._pool._active_writers.discard(self._job._writer())
            self._job.discard()
            raise
        self._act = None
        return iter(self._parts)


def flush_untaken(pool: Any, celery: Callable[[], None]) -> None:
    """Flush a prefork pool, but keep the jobs that were acknowledged, and those that a child has.

    Args:
        pool: the pool behind Celery's `TaskPool`.
        celery: its own `flush`. It drops each job that no child has reported to have begun, because the broker delivers
            the message again; but a child that has the job in its pipe runs it. At a warm shutdown nobody would take
            the result of such a job: the child waits half a minute for that, and the worker waits for the child.
    """
    taken = [job for job in tuple(pool._cache.values()) if _is_taken(job) or _is_with_a_child(job)]
    if not taken or pool._state == billiard.TERMINATE:
        celery()
        return
    outbound = pool.outbound_buffer
    # Celery drops a job in two places: by its `discard`, and from the buffer of jobs to write
    pool.outbound_buffer = deque()
    for job in taken:
        job.discard = _nothing
    try:
        celery()
    finally:
        pool.outbound_buffer = outbound
        kept = [job for job in outbound if job in taken]
        outbound.clear()
        outbound.extend(kept)
        for job in taken:
            _restore(pool, job)


def _is_taken(job: Any) -> bool:
    request = getattr(job, "guarded", None)
    return request is not None and request.acknowledged and not job.ready()


def _is_with_a_child(job: Any) -> bool:
    return _living_child(job) is not None and not job.ready()


def _living_child(job: Any) -> Any:
    """The child that the job was written to; `None` if it does not live."""
    child = getattr(job, "_write_to", None)
    return child if child is not None and child._is_alive() else None


def _nothing(**_: Any) -> None:
    """Replaces a method that must do nothing: a job's `discard`, or a second acknowledgement."""


def _restore(pool: Any, job: Any) -> None:
    del job.discard
    if job.ready() and job._accepted:
        return
    pool._cache[job._job] = job
    child = _living_child(job)
    if child is not None:
        pool._busy_workers.add(child.inqW_fd)
    request = getattr(job._callback, "__self__", None)
    if not job._accepted and request is not None:
        state.task_reserved(request)  # Celery has forgotten the request


def has_begun_after_all(pool: Any, job: Any) -> bool:
    """Whether a job had begun before its process died. To know, the last messages of the process are read first."""
    child = job._write_to
    if child is None or job._accepted:
        return False
    try:
        pool.process_flush_queues(child)
    except Exception:
        logger.warning("the last messages of a dead pool process cannot be read", exc_info=True)
    return bool(job._accepted)  # if so, Celery then reports the worker process as lost
