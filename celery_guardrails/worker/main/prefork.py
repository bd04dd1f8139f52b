"""Gaps in Celery's pools, through which work falls that its broker will not deliver again, or runs twice.

A task that runs at most once is acknowledged before it begins, but not before a child is free for it: what waits in
main is with the broker, too. What was acknowledged, or is in the hands of a child, is kept when a lost connection or a
warm shutdown makes Celery forget what its pool has not begun, and a dead child is heard out before its task is given to
another, as if it had not begun. Owns these seams to Celery's pool; it must not know why a task runs at most once.
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
from celery_guardrails.worker.main.report import einfo
from celery_guardrails.worker.main.takeover import HEARS_AFTER_LOSS

__all__ = [
    "GuardedPool",
    "PoolStep",
    "acknowledge_at_once",
    "before_writing",
    "guarded_pool",
    "has_begun_after_all",
    "keep_taken",
    "mixed",
    "runs_here",
    "takes_back",
    "writes_later",
]

logger = logging.getLogger("celery_guardrails.worker")


class GuardedPool:
    """Ours over the pool behind Celery's `TaskPool` of processes: `AsynPool`, or an application's own on it."""

    def flush(self) -> None:
        """Called by Celery when a connection is lost, and in a warm shutdown."""
        keep_taken(self, super().flush)()  # type: ignore[misc]

    def on_job_process_down(self, job: Any, pid_gone: int) -> None:
        """Called by Celery for a job whose process has died before it said that it had begun."""
        if not has_begun_after_all(self, job):
            super().on_job_process_down(job, pid_gone)  # type: ignore[misc]

    def _track_child_process(self, child: Any, hub: Any) -> None:
        """Called by Celery for each process whenever its event loop begins.

        Children that died while the worker looked for its broker are passed over: Celery would add them to its event
        loop again, whose error ends the worker. They are replaced in any case.
        """
        if getattr(child, "_sentinel_poll", child) is not None:
            super()._track_child_process(child, hub)  # type: ignore[misc]


def guarded_pool(cls: Any) -> Any:
    """A pool class of Celery's, or of an application, that uses `GuardedPool`; the class itself where it has no use.

    Args:
        cls: what the worker was told to use: `TaskPool` of any kind, or a class on one.

    Raises:
        TypeError: the class does not let anybody derive from it.
    """
    inner = getattr(cls, "Pool", None)
    needed = ("flush", "on_job_process_down", "process_flush_queues", "_track_child_process")
    if not holds(PREFORK) or not isinstance(inner, type) or not all(hasattr(inner, name) for name in needed):
        return cls
    return mixed(cls, {"Pool": mixed(inner, {}, GuardedPool)})


def mixed(cls: type, attributes: Mapping[str, Any], *ours: type) -> type:
    """A class on `cls`, with ours before it, which shows itself as `cls`.

    Raises:
        TypeError: the class does not let anybody derive from it.
    """
    shown = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return new_class(cls.__name__, (*ours, cls), exec_body=lambda space: space.update({**shown, **attributes}))


class PoolStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has the consumer remember what the pool of this worker runs after a connection is lost."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.goes_on = HEARS_AFTER_LOSS and holds(OUTLIVING) and not takes_back(consumer.pool)


def writes_later(pool: Any) -> bool:
    """Whether this pool (Celery's `TaskPool`) keeps work in main until it writes it to a child."""
    return holds(AT_MOST_ONCE) and hasattr(getattr(pool, "_pool", None), "outbound_buffer")


def takes_back(pool: Any) -> bool:
    """Whether this pool (Celery's `TaskPool`) forgets what it has not begun when a connection is lost."""
    return bool(vars(pool).get("flush"))


def runs_here(pool: Any) -> bool:
    """Whether this pool (Celery's) runs tasks in the worker's own process."""
    return not isinstance(getattr(pool, "_pool", None), billiard.Pool)


def before_writing(pool: Any, job: Any, request: Any, act: Callable[[], bool]) -> None:
    """Do something just before a job is written to a child, where the pool `writes_later`.

    Args:
        pool: Celery's `TaskPool`.
        job: the pool's word for the task; `None`: the pool is closed and did not take it.
        request: the worker's request.
        act: what to do; it says whether the task is to run. An OSError keeps the job from being written; the loop
            takes it for what it is, a connection that is lost.
    """
    if job is not None:
        job.guarded, job._payload = request, _Payload(pool._pool, job, act)


def acknowledge_at_once(request: Any, gone: Callable[[], None], back: Callable[[], None] | None = None) -> bool:
    """Acknowledge a message whose task runs at most once, just before it begins.

    Celery's way is to do it in the next turn of the loop, when the task may have begun, or is over.

    Args:
        request: the worker's request.
        gone: called after an error, when nobody may get the message again; on Redis later, from another thread.
        back: called after an error, likewise, when the broker still has the message.

    Returns:
        Whether it is to begin; not where its broker has given the message to another worker meanwhile.

    Raises:
        ConnectionError: the broker did not say that it took it: it must not run now.
    """
    message, held = request.message, True

    def over() -> None:
        message.ack = _nothing
        gone()

    if not message.acknowledged:
        try:
            held = acknowledge(message, over, back)
        except Exception as exc:
            raise ConnectionError(f"{request.name}[{request.id}] could not be acknowledged: {exc}") from exc
        message.ack = _nothing
    request.acknowledge()
    return held


def _written(job: Any, function: Callable[[], Any]) -> tuple[memoryview, memoryview, int]:
    """What Celery's pool writes to a child that is to call a function for this job."""
    body = pickle.dumps((billiard.TASK, (job._job, None, function, (), {})), protocol=pickle.HIGHEST_PROTOCOL)
    return memoryview(pack(">I", len(body))), memoryview(body), len(body)


def _pass_over() -> tuple[int, Any, float]:
    """What a child does in place of a task that is not to run: it says so, in the tracer's words."""
    return 1, einfo(Ignore()), 0.0


class _Payload:
    """What is written to a child. It is unpacked when the writing begins, and at no other time."""

    def __init__(self, pool: Any, job: Any, act: Callable[[], bool]) -> None:
        self._pool, self._job = pool, job
        self._act: Callable[[], bool] | None = act
        self._parts = job._payload

    def __iter__(self) -> Iterator[Any]:
        try:
            if self._act is not None and not self._act():
                self._parts = _written(self._job, _pass_over)
        except OSError:
            self._pool._active_writers.discard(self._job._writer())
            self._job.discard()
            raise
        self._act = None
        return iter(self._parts)


def keep_taken(pool: Any, celery: Callable[[], None]) -> Callable[[], None]:
    """Make the `flush` of a prefork pool that forgets neither what was acknowledged nor what a child has.

    Args:
        pool: the pool behind Celery's `TaskPool`.
        celery: its `flush`, which drops what no child has said to have begun, because its broker will deliver it again.
            A child that has it in its pipe runs it nevertheless. At a warm shutdown nobody would hear of that: the
            child waits half a minute for it, and the worker for the child.
    """

    def flush() -> None:
        taken = [job for job in tuple(pool._cache.values()) if _is_taken(job) or _is_with_a_child(job)]
        if not taken or pool._state == billiard.TERMINATE:
            celery()
            return
        outbound = pool.outbound_buffer
        # Celery drops jobs by these two: from its cache, and from what is still to be written
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

    return flush


def _is_taken(job: Any) -> bool:
    request = getattr(job, "guarded", None)
    return request is not None and request.acknowledged and not job.ready()


def _is_with_a_child(job: Any) -> bool:
    return _living_child(job) is not None and not job.ready()


def _living_child(job: Any) -> Any:
    """The child that the job was written to, if it lives."""
    child = getattr(job, "_write_to", None)
    return child if child is not None and child._is_alive() else None


def _nothing(**_: Any) -> None:
    """Stands in for what must not be done: a job's `discard`, a second ack."""


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
        state.task_reserved(request)  # Celery has forgotten that it is here


def has_begun_after_all(pool: Any, job: Any) -> bool:
    """Whether a job had begun whose process died before anybody knew of it: what the process has said is read first."""
    child = job._write_to
    if child is None or job._accepted:
        return False
    try:
        pool.process_flush_queues(child)
    except Exception:
        logger.warning("what a dead pool process said last cannot be read", exc_info=True)
    return bool(job._accepted)  # then it is lost with its process, whose turn comes
