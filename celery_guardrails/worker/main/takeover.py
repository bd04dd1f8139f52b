"""A message that comes back while this very worker still runs it: the run takes it over, and acknowledges it.

A lost connection ends no task. Its message is delivered again, and would run beside itself. Owns finding the request
that runs, or waits in its pool, and handing the message to it; what had ended before is in `ended.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import VERSION
from celery.worker import state

from celery_guardrails.seams import OUTLIVING, holds
from celery_guardrails.worker.main.seen import Copy

__all__ = ["HEARS_AFTER_LOSS", "going_on", "running", "take_over"]

logger = logging.getLogger("celery_guardrails.worker")

HEARS_AFTER_LOSS = VERSION[:2] >= (5, 7)
"""Whether this Celery hears of the ends of tasks that outlive a connection."""


def running(request: Any, copy: Copy) -> Any:
    """The request of this worker that runs the same copy, or is to run it; `None` where there is none.

    Args:
        request: the one whose message came back.
        copy: its copy.
    """
    if not HEARS_AFTER_LOSS or not holds(OUTLIVING) or not copy.life.work.is_lasting:
        return None
    for other in going_on():
        if other.id == request.id and other is not request and Copy.of(other) == copy:
            return other
    return None


def going_on() -> list[Any]:
    """The requests that were given to this worker's pool, and whose messages are acknowledged when they end."""
    while True:
        try:
            here = list(state.reserved_requests)
        except RuntimeError:  # a thread of the pool has ended one while they were listed
            continue
        return [request for request in here if _goes_on(request)]


def take_over(request: Any, other: Any, is_over: Callable[[], bool]) -> None:
    """Have the run acknowledge the message that came back, or give it back, in place of its own, which is gone.

    Args:
        request: the one whose message came back, which is not to run.
        other: the one that runs. It may end meanwhile, in another thread.
        is_over: whether the end of the run was noted.
    """
    logger.warning("%s[%s] came back while it runs here: it runs on, and only once", request.name, request.id)
    answer, message = _Answer(request, other), request.message
    other._on_ack, other._on_reject = answer.ack, answer.reject
    other._message = message
    state.task_ready(request)
    # noted before the run asked for its `_on_ack` or `_on_reject`, and that was the old one, perhaps
    if is_over() or other.goes_back is False:
        answer.ack(logger, request._connection_errors)
    elif other.goes_back:
        answer.reject(logger, request._connection_errors, True)
    else:
        state.task_reserved(other)  # Celery finds it by its id, which the other request had taken


def _goes_on(request: Any) -> bool:
    """Whether somebody will hear of its end: not of what runs at most once, or what its pool did not get or take."""
    given = request._apply_result is not None or request in state.active_requests
    ended = request.acknowledged or request._already_cancelled or request._already_revoked
    return bool(given and request.task.acks_late and not ended)


class _Answer:
    """Answers the broker once, for the run and for the message that came back."""

    def __init__(self, request: Any, other: Any) -> None:
        # Redis forgets the old tag with it; on RabbitMQ the old channel is closed, or has the message still
        on_redis = hasattr(other.message, "ack_if_held")
        self._old = other._on_ack if on_redis or other.message.channel is request.message.channel else None
        self._on_ack, self._on_reject = request._on_ack, request._on_reject
        self._unmark = other.unmark
        self._lock, self._given = threading.Lock(), False

    def ack(self, *args: Any) -> None:
        """Acknowledge: in place of Celery's `on_ack`."""
        self._once(partial(self._on_ack, *args), args)

    def reject(self, log: Any, errors: Any, requeue: bool) -> None:
        """Give back, or drop: in place of Celery's `on_reject`."""
        self._once(partial(self._on_reject, log, errors, requeue), (log, errors))

    def _once(self, answer: Callable[[], Any], args: Any) -> None:
        with self._lock:
            given, self._given = self._given, True
        if given:
            return
        answer()
        if self._old is not None:
            self._old(*args)
        if self._unmark is not None:
            self._unmark()
