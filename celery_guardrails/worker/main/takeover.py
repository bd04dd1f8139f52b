"""A message that comes back while this worker still runs its task: the run takes the message over and acknowledges it.

A lost connection ends no task, but the broker delivers its message again: the task would run twice at once. Owns
finding the request that runs, or waits in the pool, and handing it the message. `ended.py` knows tasks that have ended.
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

__all__ = ["RESULTS_AFTER_LOSS", "find_running", "going_on", "take_over"]

logger = logging.getLogger("celery_guardrails.worker")

RESULTS_AFTER_LOSS = VERSION[:2] >= (5, 7)
"""Whether this Celery still gets the results of tasks that outlive a connection."""


def find_running(request: Any, copy: Copy) -> Any:
    """The other request of this worker that runs the same copy, or waits for it to run; `None` if there is none.

    Args:
        request: the request whose message came back.
        copy: its copy.
    """
    if not RESULTS_AFTER_LOSS or not holds(OUTLIVING) or not copy.life.work.is_lasting:
        return None
    for other in going_on():
        if other.id == request.id and other is not request and Copy.of(other) == copy:
            return other
    return None


def going_on() -> list[Any]:
    """The requests that this worker's pool has, and whose messages are acknowledged when their tasks end."""
    while True:
        try:
            here = list(state.reserved_requests)
        except RuntimeError:  # a thread of the pool has removed a request while they were listed
            continue
        return [request for request in here if _goes_on(request)]


def take_over(request: Any, other: Any, is_over: Callable[[], bool]) -> None:
    """Have a running request settle the message that came back instead of its own message, which is gone.

    Args:
        request: the request whose message came back; it must not run.
        other: the request that runs. It may end meanwhile, in another thread.
        is_over: whether the end of the run was noted.
    """
    logger.warning("%s[%s] came back while it runs here: it runs on, and only once", request.name, request.id)
    answer, message = _Answer(request, other), request.message
    other._on_ack, other._on_reject = answer.ack, answer.reject
    other._message = message
    state.task_ready(request)
    # the run notes its end before it reads `_on_ack` or `_on_reject`: it may have read the old one
    if is_over() or other.goes_back is False:
        answer.ack(logger, request._connection_errors)
    elif other.goes_back:
        answer.reject(logger, request._connection_errors, True)
    else:
        state.task_reserved(other)  # Celery finds requests by task id, and found the new request under this one


def _goes_on(request: Any) -> bool:
    """Whether this worker will get its end: not if it runs at most once, has ended, or the pool did not take it."""
    given = request._apply_result is not None or request in state.active_requests
    ended = request.acknowledged or request._already_cancelled or request._already_revoked
    return bool(given and request.task.acks_late and not ended)


class _Answer:
    """Acknowledges or rejects once, for the run and for the message that came back."""

    def __init__(self, request: Any, other: Any) -> None:
        # the old message is settled too: on Redis, so that its tag is forgotten, and on a channel that is still open
        on_redis = hasattr(other.message, "ack_if_held")
        self._old = other._on_ack if on_redis or other.message.channel is request.message.channel else None
        self._on_ack, self._on_reject = request._on_ack, request._on_reject
        self._unmark = other.unmark
        self._lock, self._given = threading.Lock(), False

    def ack(self, *args: Any) -> None:
        """Acknowledge; replaces Celery's `on_ack`."""
        self._once(partial(self._on_ack, *args), args)

    def reject(self, log: Any, errors: Any, requeue: bool) -> None:
        """Give back, or drop; replaces Celery's `on_reject`."""
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
