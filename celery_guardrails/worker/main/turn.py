"""Work that runs at most once, in a pool of threads: it waits in main, unacknowledged, until a thread is free for it.

A pool of threads takes any amount of work at once. What runs at most once is acknowledged before the pool gets it; so
without turns one worker would acknowledge a whole queue: its prefetch count bounds nothing, other workers stay idle,
and if it dies all of that work may have run. The other pools say by themselves when a child or a greenlet is free.
Owns who waits, and waking the main thread when a task ends.
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
"""Acknowledges and hands over to the pool; returns the pool's word for the task."""


class Turns(bootsteps.StartStopStep):  # type: ignore[misc]
    """The consumer's step: as many tasks at once as the pool has threads.

    Where the worker has no event loop (a broker that Celery does not read by one), nobody could wake its main thread:
    there a task is handed over as it comes.
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
        """Called by Celery whenever its event loop begins, which has forgotten whom it listened to."""
        if not isinstance(self._pool, ThreadPool):
            return
        if self._bell is None:
            self._bell = socket.socketpair()
            for end in self._bell:
                end.setblocking(False)
        hub.add_reader(self._bell[0].fileno(), self._rung)

    def stop(self, consumer: Any) -> None:
        """The connection is over: the broker delivers again what has not begun."""
        self._waiting.clear()

    def take(self, begin: Begin) -> Any:
        """Begin now, or when a thread is free; to be called in the main thread.

        Args:
            begin: called once, here or later, or never where the connection is lost before.

        Returns:
            What `begin` returned; `None` where it waits.

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
            job.add_done_callback(self._over)
        return job

    def _over(self, _: Future[Any]) -> None:
        """A task is over; called in its thread, and at a shutdown in the main one."""
        with self._lock:  # with it, nobody begins to wait unseen
            self._running -= 1
            waits = bool(self._waiting)
        if waits and self._bell is not None:
            with suppress(BlockingIOError):  # it has been rung often enough
                self._bell[1].send(b"!")

    def _rung(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError):
                self._bell[0].recv(4096)
        while self._waiting and self._running < self._pool.limit:
            with suppress(TaskRevokedError):
                self._begin(self._waiting.popleft())
