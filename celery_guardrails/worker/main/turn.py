"""Turns for tasks that run at most once in a pool of threads: each waits unacknowledged until a thread is free.

A pool of threads takes any number of tasks at once, and such a task is acknowledged before the pool gets it. Without
turns one worker would acknowledge a whole queue: its prefetch count would bound nothing, other workers would stay idle,
and if it died, any of these tasks may have run. Other pools say themselves when a child or a greenlet is free. Owns the
tasks that wait, and waking the main thread when a task ends.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import TaskRevokedError

from celery_guardrails.app.guardrails import Guardrails

__all__ = ["Turns"]

Begin = Callable[[], "Future[Any] | None"]
"""Acknowledges a message and hands its task to the pool; returns the pool's job."""


class Turns(bootsteps.StartStopStep):  # type: ignore[misc]
    """The consumer's step that hands the pool as many tasks at once as it has threads.

    A worker without an event loop (Celery has none for some brokers) hands each task over as it comes, because nothing
    could wake its main thread.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._pool = consumer.pool
        self._waiting: deque[Begin] = deque()
        self._running = 0
        self._lock = threading.Lock()
        self._bell: tuple[socket.socket, socket.socket] | None = None
        Guardrails.of(consumer.app).turns = self

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called by Celery whenever its event loop begins: a new loop has forgotten its readers."""
        if not isinstance(self._pool, ThreadPool):
            return
        if self._bell is None:
            self._bell = socket.socketpair()
            for end in self._bell:
                end.setblocking(False)
        hub.add_reader(self._bell[0].fileno(), self._begin_waiting)

    def stop(self, consumer: Any) -> None:
        """Forget the waiting tasks: the connection is over, and the broker delivers their messages again."""
        self._waiting.clear()

    def take(self, begin: Begin) -> Any:
        """Begin a task now, or when a thread is free. Call it in the main thread.

        Args:
            begin: called once, now or later; never if the connection is lost before.

        Returns:
            What `begin` returned; `None` if the task waits.

        Raises:
            Exception: what `begin` raises.
        """
        if self._bell is not None:
            with self._lock:
                if self._waiting or self._running >= self._pool.limit:
                    self._waiting.append(begin)
                    return None
        return self._begin(begin)

    def _begin(self, begin: Begin) -> Any:
        job = begin()
        if job is not None and self._bell is not None:
            with self._lock:
                self._running += 1
            job.add_done_callback(self._end_task)
        return job

    def _end_task(self, _: Future[Any]) -> None:
        """Count a task that is over. Called in its thread; at a shutdown in the main thread."""
        with self._lock:  # so that no task begins to wait just now, unnoticed
            self._running -= 1
            waits = bool(self._waiting)
        if waits and self._bell is not None:
            with suppress(BlockingIOError):  # the socket is full: the main thread wakes anyway
                self._bell[1].send(b"!")

    def _begin_waiting(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError):
                self._bell[0].recv(4096)
        while self._waiting and self._running < self._pool.limit:
            with suppress(TaskRevokedError):
                self._begin(self._waiting.popleft())
