"""Messages whose tasks must not begin, because the journal cannot be written: they wait, then go back to their queue.

Owns that wait. A message that went back at once would come again at once, over and over. So it stays unacknowledged
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

__all__ = ["Postponing", "postpone", "resume"]

logger = logging.getLogger("celery_guardrails.worker")

_SHORTEST, _LONGEST = 5.0, 30.0
_SPARE = 100
"""Messages that may wait beyond the prefetch count. Further ones use the count up, so that memory does not fill."""


class Postponing(bootsteps.StartStopStep):  # type: ignore[misc]
    """The consumer's step that holds messages whose tasks must not begin, until they go back to their queue."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._held: deque[tuple[float, Any]] = deque()
        self._since: float | None = None
        self._is_scheduled = False
        if holds(INTAKE):
            Guardrails.of(consumer.app).postponing = self

    def stop(self, consumer: Any) -> None:
        """Forget the messages: the connection is over, and the broker delivers them again."""
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
        self._schedule()

    def resume(self) -> None:
        """Note that the journal can be written again."""
        if self._since is not None:
            self._since = None
            logger.warning("the journal can be written: tasks that run at most once begin again")

    def _schedule(self) -> None:
        if not self._is_scheduled and self._held:
            self._is_scheduled = True
            seconds = max(0.1, self._held[0][0] - time.monotonic())
            self._consumer.timer.call_after(seconds, self._consumer.call_soon, (self._give_back,))

    def _give_back(self) -> None:
        self._is_scheduled = False
        while self._held and self._held[0][0] <= time.monotonic():
            reject = self._held.popleft()[1]
            if len(self._held) < _SPARE:
                self._consumer.qos.decrement_eventually()
            reject(requeue=True)
        self._schedule()


def postpone(guard: Guardrails, request: Any, why: SpoolError) -> None:
    """Give a message back to its queue after a while, instead of running its task.

    Args:
        guard: the application's guardrails.
        request: the worker's request, not acknowledged. From now on Celery cannot acknowledge or reject it.
        why: the journal's error.
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


def resume(guard: Guardrails) -> None:
    """Note that the journal has kept a message: it can be written."""
    if guard.postponing is not None:
        guard.postponing.resume()


request_logger = logging.getLogger("celery.worker.request")


def _nothing(*_: Any, **__: Any) -> None:
    """Replaces Celery's acknowledgement and rejection of a message that goes back."""
