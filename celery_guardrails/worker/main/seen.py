"""What a worker recognises as done already: an attempt that was overtaken, a requeue sent twice, work that succeeded.

Owns three bounded memories of this process and one careful question to the result backend. It is asked only about
messages that came back or went out before, and about those that run at most once; any other that runs for the first
time costs nothing here.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import Any, NamedTuple

from celery import states
from celery.backends.base import DisabledBackend

from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.work import Work
from celery_guardrails.worker.failure.work import work_of

__all__ = ["Copy", "Life", "Seen", "Succeeded"]

logger = logging.getLogger("celery_guardrails.worker")

_MOST = 10_000
_PATIENCE = 2.0
_PAUSE = 60.0


class Life(NamedTuple):
    """One life of a work: since it was published, or put back for the n-th time."""

    work: Work
    generation: int

    @classmethod
    def of(cls, request: Any, header: Header | None = None) -> Life:
        """The life that this request of the worker belongs to; its header is read where it is not given."""
        header = header or read_header(request.request_dict)
        return cls(work_of(request.request_dict, header), header.generation)


class Copy(NamedTuple):
    """One message of a life: for which attempt, and with how many workers the work was lost before."""

    life: Life
    retries: int
    crashes: int

    @classmethod
    def of(cls, request: Any) -> Copy:
        """The message of this request of the worker."""
        header, retries = read_header(request.request_dict), request.request_dict.get("retries")
        return cls(Life.of(request, header), retries if isinstance(retries, int) else 0, header.crashes)


class Seen:
    """What this worker has seen of each life: the highest attempt, which copies have begun, and which it acknowledged.

    Args:
        most: how many are remembered; the oldest are forgotten.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._highest: OrderedDict[Life, int] = OrderedDict()
        self._begun: OrderedDict[Copy, None] = OrderedDict()
        self._acknowledged: OrderedDict[tuple[Copy, bytes], None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, life: Life, retries: int) -> None:
        """Remember that this attempt exists: it was published, or it arrived."""
        with self._lock:
            if retries > self._highest.get(life, -1):
                self._highest[life] = retries
            self._highest.move_to_end(life)
            _trim(self._highest, self._most)

    def is_overtaken(self, life: Life, retries: int) -> bool:
        """Whether a later attempt exists."""
        with self._lock:
            return self._highest.get(life, -1) > retries

    def begins(self, copy: Copy) -> bool:
        """Whether this copy begins here for the first time; it is remembered."""
        with self._lock:
            if copy in self._begun:
                return False
            self._begun[copy] = None
            _trim(self._begun, self._most)
            return True

    def acknowledged(self, copy: Copy, body: Any) -> None:
        """Remember that this message, which runs at most once, was acknowledged, and that it begins now."""
        if not copy.life.work.is_lasting:
            return
        with self._lock:
            self._acknowledged[copy, _digest(body)] = None
            _trim(self._acknowledged, self._most)

    def was_acknowledged(self, copy: Copy, body: Any) -> bool:
        """Whether it was: its broker has lost that, or never heard it, if the message comes again."""
        with self._lock:
            return bool(self._acknowledged) and (copy, _digest(body)) in self._acknowledged

    def forget(self, copy: Copy, body: Any) -> None:
        """This copy is sent again on purpose."""
        with self._lock:
            self._begun.pop(copy, None)
            self._acknowledged.pop((copy, _digest(body)), None)


class Succeeded:
    """Asks the result backend whether a task has succeeded already.

    It is asked in a thread of its own, at most 2 seconds long; a backend that does not answer is left alone for a
    minute, because whoever asks is the worker's main process.
    """

    def __init__(self, patience: float = _PATIENCE, pause: float = _PAUSE) -> None:
        self._patience = patience
        self._pause = pause
        self._asked_again_at = 0.0

    def __call__(self, request: Any, since: datetime | None) -> bool:
        """Whether the backend has a success of this request's work from after `since`; never raises.

        It knows task ids only. What the task published itself, under its own id, may have succeeded in its place.

        Args:
            request: the worker's request.
            since: when this life of the task began. `None` is not known, and then a success may be an older one's.
        """
        backend = request.task.backend
        if since is None or request.ignore_result or isinstance(backend, DisabledBackend):
            return False
        if str(backend.as_uri()).startswith("rpc") or time.monotonic() < self._asked_again_at:
            return False
        try:
            meta = self._ask(lambda: backend._get_task_meta_for(request.id))
        except Exception as exc:  # noqa: BLE001 whatever it is, the answer is not known
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


def _digest(body: Any) -> bytes:
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body).digest()


def _trim(memory: OrderedDict[Any, Any], most: int) -> None:
    while len(memory) > most:
        memory.popitem(last=False)
