"""Work that must not begin now, because the journal cannot keep it: it waits a while, then goes back to its queue.

Owns that while. Messages that went back at once would come again at once, over and over; so each stays unacknowledged
with the worker for as long as the trouble has lasted, 5 to 30 seconds, and the prefetch count makes room for others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from celery import bootsteps
from celery.worker import state

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import SpoolError
from celery_guardrails.seams import INTAKE, holds

__all__ = ["Postponing", "postpone", "resumed"]

logger = logging.getLogger("celery_guardrails.worker")

_SHORTEST, _LONGEST = 5.0, 30.0
_SPARE = 100
"""Messages that may wait beyond the prefetch count; more of them use it up, so that memory does not fill with them."""


class Postponing(bootsteps.StartStopStep):  # type: ignore[misc]
    """The consumer's step: keeps what must not begin until it goes back to its queue."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._held: deque[tuple[float, Any]] = deque()
        self._since: float | None = None
        self._waits = False
        if holds(INTAKE):
            Guardrails.of(consumer.app).postponing = self

    def stop(self, consumer: Any) -> None:
        """The connection is over: the broker delivers again what was not acknowledged."""
        self._held.clear()

    def hold(self, reject: Any, why: SpoolError) -> None:
        """Call `reject` after a while, in the consumer's own thread."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning("%s: tasks that run at most once do not begin, and go back to their queue", why)
        self._held.append((now + min(max(now - self._since, _SHORTEST), _LONGEST), reject))
        if len(self._held) <= _SPARE:
            self._consumer.qos.increment_eventually()
        self._look_later()

    def over(self) -> None:
        """The journal can be written."""
        if self._since is not None:
            self._since = None
            logger.warning("the journal can be written: tasks that run at most once begin again")

    def _look_later(self) -> None:
        if not self._waits and self._held:
            self._waits = True
            seconds = max(0.1, self._held[0][0] - time.monotonic())
            self._consumer.timer.call_after(seconds, self._consumer.call_soon, (self._give_back,))

    def _give_back(self) -> None:
        self._waits = False
        while self._held and self._held[0][0] <= time.monotonic():
            reject = self._held.popleft()[1]
            if len(self._held) < _SPARE:
                self._consumer.qos.decrement_eventually()
            reject(requeue=True)
        self._look_later()


def postpone(guard: Guardrails, request: Any, why: SpoolError) -> None:
    """Have a message go back to its queue after a while, in place of running its task.

    Args:
        guard: the application's guardrails.
        request: the worker's request, not acknowledged. Celery's own acknowledgement of it does nothing any more.
        why: the journal's trouble.
    """
    on_reject, logged, errors = request._on_reject, request_logger, request._connection_errors

    def reject(requeue: bool) -> None:
        on_reject(logged, errors, requeue)

    request._on_ack = request._on_reject = _nothing
    state.task_ready(request)
    if guard.postponing is None:
        logger.warning("%s[%s] goes back to its queue: %s", request.name, request.id, why)
        reject(True)
    else:
        guard.postponing.hold(reject, why)


def resumed(guard: Guardrails) -> None:
    """The journal has kept a message."""
    if guard.postponing is not None:
        guard.postponing.over()


request_logger = logging.getLogger("celery.worker.request")


def _nothing(*_: Any, **__: Any) -> None:
    """Stands in for what must not be done: Celery's acknowledgement of a message that goes back."""
