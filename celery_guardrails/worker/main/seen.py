"""The messages that a worker recognises: overtaken attempts, copies that began here, and those acknowledged early.

Owns three bounded memories of this process. They are asked only about redelivered, retried and requeued messages, and
about tasks that run at most once; any other message costs nothing here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.work import Work
from celery_guardrails.worker.failure.work import work_of

__all__ = ["Copy", "Life", "Seen", "of"]

_MOST = 10_000
_kept: WeakKeyDictionary[Guardrails, Seen] = WeakKeyDictionary()


class Life(NamedTuple):
    """One life of some work: it begins when the work is published, or requeued for the n-th time."""

    work: Work
    generation: int

    @classmethod
    def of(cls, request: Any, header: Header | None = None) -> Life:
        """The life that a worker's request belongs to; its header is read if it is not given."""
        header = header or read_header(request.request_dict, attempts=False)
        return cls(work_of(request.request_dict, header), header.generation)


class Copy(NamedTuple):
    """One message of a life: its attempt, how many workers died before while they ran the work, and its waits."""

    life: Life
    retries: int
    crashes: int
    waits: int = 0

    @classmethod
    def of(cls, request: Any, header: Header | None = None) -> Copy:
        """The copy that a worker's request has received; its header is read if it is not given."""
        header = header or read_header(request.request_dict, attempts=False)
        retries = request.request_dict.get("retries")
        return cls(Life.of(request, header), retries if isinstance(retries, int) else 0, header.crashes, header.waits)


class Seen:
    """What this worker has seen of each life: the highest attempt, the copies that began, and those it acknowledged.

    Args:
        most: how many entries each memory keeps; the oldest are forgotten.
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
        """Whether this copy begins here for the first time. From now on it has begun."""
        with self._lock:
            if copy in self._begun:
                return False
            self._begun[copy] = None
            _trim(self._begun, self._most)
            return True

    def note_acknowledged(self, copy: Copy, body: Any) -> None:
        """Remember that the message of a task that runs at most once was acknowledged, and that the task begins now."""
        if not copy.life.work.is_lasting:
            return
        with self._lock:
            self._acknowledged[copy, _digest(body)] = None
            _trim(self._acknowledged, self._most)

    def was_acknowledged(self, copy: Copy, body: Any) -> bool:
        """Whether this message was acknowledged here; if it comes again, its broker does not know so (any more)."""
        with self._lock:
            return bool(self._acknowledged) and (copy, _digest(body)) in self._acknowledged

    def forget(self, copy: Copy, body: Any) -> None:
        """Forget a copy, because this worker publishes it again on purpose."""
        with self._lock:
            self._begun.pop(copy, None)
            self._acknowledged.pop((copy, _digest(body)), None)


def of(guard: Guardrails) -> Seen:
    """What this process has seen of an application's messages."""
    kept = _kept.get(guard)
    return _kept.setdefault(guard, Seen()) if kept is None else kept


def _digest(body: Any) -> bytes:
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body).digest()


def _trim(memory: OrderedDict[Any, Any], most: int) -> None:
    while len(memory) > most:
        memory.popitem(last=False)
