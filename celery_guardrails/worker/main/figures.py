"""Sending the worker's figures to the guardian: one message every 10 seconds, and one at the worker's end. A worker
that has counted nothing for a minute sends an empty one, which says that it is there.

Owns what happens while the broker is away: up to six summaries wait, and then the oldest two become one, so that no
count is lost. A message that the broker loses is lost: figures are never sent twice, and never in a task's way.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from datetime import datetime, timedelta
from uuid import uuid4

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.figures.reading import stored_name
from celery_guardrails.figures.summary import Summary
from celery_guardrails.transport.figures import FiguresSender, figures_queue
from celery_guardrails.worker.main.guardian_watch import GuardianWatch

__all__ = ["FiguresShipping"]

logger = logging.getLogger("celery_guardrails.worker")

_MOST_WAITING = 6
_REPORT = timedelta(minutes=1)
_LAST_TIMEOUT = 4.0
"""Seconds for each try at the worker's end, of two, unless the broker was away before. No task waits for it then."""


class FiguresShipping:
    """Sends what the worker has counted: every 10 seconds if anything was counted, else every minute.

    Args:
        guard: the application's guardrails.
        worker: the worker's name.
    """

    name = "figures"
    every = timedelta(seconds=10)

    def __init__(self, guard: Guardrails, worker: str) -> None:
        self._guard = guard
        self._worker = worker
        self._sender = FiguresSender(guard.app, guard.settings.dead_letter.queue)
        self._waiting: deque[Summary] = deque()
        self._is_away = False
        self._taken_at: datetime | None = None
        self._watch = GuardianWatch(figures_queue(guard.settings.dead_letter.queue))
        self._missed = 0
        self._lock = threading.Lock()

    def run_once(self, now: datetime, flush: bool) -> int:
        """Send what was counted since the last time, and what waits; returns how many messages. Never raises.

        Args:
            now: this instant.
            flush: has no meaning here: each call tries once.
        """
        with self._lock:
            self._take(now, is_there=True)
            return self._send(now)

    def finish(self, now: datetime, bound: float = 1.0) -> None:
        """Send the last figures of a worker that ends, and close the connection; never raises.

        Args:
            now: this instant.
            bound: seconds to wait while another thread is sending.
        """
        if not self._lock.acquire(timeout=bound):
            return
        try:
            self._take(now)
            if not self._is_away:
                self._sender.timeout = _LAST_TIMEOUT  # a slow broker would cost up to ten seconds of figures
            self._send(now)
            self._sender.close()
        finally:
            self._lock.release()

    def _take(self, now: datetime, *, is_there: bool = False) -> None:
        environment, at = self._guard.settings.environment, now.timestamp()
        taken = self._guard.counters.take(environment, self._worker, os.getpid(), at)
        # the first one waits, too: a worker that ends at its start, for want of a right, should leave nothing behind
        self._taken_at = self._taken_at or now
        if taken is None:
            # a clock that was set back counts as a minute
            if not is_there or timedelta(0) <= now - self._taken_at < _REPORT:
                return
            who = (stored_name(environment), stored_name(self._worker))
            taken = Summary(str(uuid4()), *who, os.getpid(), at, at)
        self._taken_at = now
        taken.no_guardian, self._missed = self._missed, 0
        self._waiting.append(taken)
        if len(self._waiting) > _MOST_WAITING:
            oldest = self._waiting.popleft()
            self._waiting[0].merge(oldest)

    def _send(self, now: datetime) -> int:
        sent = 0
        while self._waiting:
            try:
                self._sender.send(self._waiting[0].encode())
            except PublishError as exc:
                if not self._is_away:
                    logger.warning("the figures of this worker wait, and are sent later: %s", exc)
                self._is_away = True
                self._watch.forget()
                return sent
            except Exception:
                logger.warning("some figures of this worker are lost", exc_info=True)
            self._waiting.popleft()
            sent += 1
            self._is_away = False
            self._missed += self._watch.look(self._sender.backlog, now)
        return sent
