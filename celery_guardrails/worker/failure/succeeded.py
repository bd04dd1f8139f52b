"""Whether work has succeeded already, as far as the result backend says.

Owns one careful question to the backend. It is asked only about messages that were delivered again, and about the work
of dead workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import Any
from weakref import WeakKeyDictionary

from celery import states
from celery.backends.base import DisabledBackend

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import read_header
from celery_guardrails.seams import SUCCESS, holds

__all__ = ["Succeeded", "has_succeeded"]

logger = logging.getLogger("celery_guardrails.worker")

_PATIENCE = 2.0
_PAUSE = 60.0


def has_succeeded(request: Any) -> bool:
    """Whether this life of the task has succeeded already, as far as the result backend says; never raises."""
    # a chord's task stores its success before it reports to the chord: only another run is sure to report
    if request.chord:
        return False
    header = read_header(request.request_dict)
    # results are kept by task id: where a caller chose the id, the success may be that of other work
    if not header.owns_its_id:
        return False
    return _of(Guardrails.of(request.task.app))(request, header.life_starts_at)


class Succeeded:
    """Asks the result backend whether a task has succeeded already.

    It asks in a thread of its own, for at most 2 seconds. A backend that does not answer is not asked again for a
    minute, because the worker's main process waits for the answer.
    """

    def __init__(self, patience: float = _PATIENCE, pause: float = _PAUSE) -> None:
        self._patience = patience
        self._pause = pause
        self._asked_again_at = 0.0

    def __call__(self, request: Any, since: datetime | None) -> bool:
        """Whether the backend has a success of this request's work from after `since`; never raises.

        The backend knows only task ids. A message that the task itself published under its own id does not count.

        Args:
            request: the worker's request.
            since: when this life of the task began. `None`: not known. Then no success counts, since it may be older.
        """
        backend = request.task.backend
        if not holds(SUCCESS) or since is None or request.ignore_result or isinstance(backend, DisabledBackend):
            return False
        if str(backend.as_uri()).startswith("rpc") or time.monotonic() < self._asked_again_at:
            return False
        try:
            meta = self._ask(lambda: backend._get_task_meta_for(request.id))
        except Exception as exc:  # noqa: BLE001 after any error the answer is not known
            self._asked_again_at = time.monotonic() + self._pause
            logger.warning("the result backend does not say whether %s has succeeded: %r", request.id, exc)
            return False
        if meta.get("parent_id") == request.id:
            return False
        return meta.get("status") == states.SUCCESS and _after(meta.get("date_done"), since)

    def _ask(self, question: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()

        def ask() -> None:
            try:
                answer.set_result(question())
            except BaseException as exc:  # noqa: BLE001 handed on
                answer.set_exception(exc)

        # a thread that hangs must not hold up the worker's end, as an executor's would
        threading.Thread(target=ask, name="guardrails-result", daemon=True).start()
        return answer.result(self._patience)


def _after(done: Any, since: datetime) -> bool:
    try:
        at = done if isinstance(done, datetime) else datetime.fromisoformat(str(done))
    except ValueError:
        return False
    return (at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)) >= since


_kept: WeakKeyDictionary[Guardrails, Succeeded] = WeakKeyDictionary()


def _of(guard: Guardrails) -> Succeeded:
    kept = _kept.get(guard)
    return _kept.setdefault(guard, Succeeded()) if kept is None else kept
