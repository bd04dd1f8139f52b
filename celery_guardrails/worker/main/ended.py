"""Which messages this worker has done with: those whose work was over when it acknowledged them.

Whether their broker heard of it nobody knows before the connection is lost. A message that comes back and is known here
is acknowledged again, and not run. Owns that bounded memory. Noting a message costs a task that succeeds a look
at its headers; which copy of which work it was is worked out only when some message comes back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any, NamedTuple

from celery_guardrails.letters.header import HEADER, read_header
from celery_guardrails.worker.main.seen import Copy

__all__ = ["Ended"]

_LATEST = 2_000
"""Messages that may be acknowledged between two questions; what is kept of each is some 400 bytes, 5 KiB at most."""
_MOST = 10_000
_NESTED = "headers"
_Noted = tuple[Any, Any, Any, Any, Any, dict[str, Any]]


class _Message(NamedTuple):
    """What tells the copy of a request whose header names its work; without the body, which may be large."""

    request_dict: dict[str, Any]


class Ended:
    """The copies whose messages this worker has acknowledged, because their work was over; safe from any thread.

    Args:
        latest: how many are kept between two questions; the oldest are forgotten.
        most: how many are remembered once somebody has asked; the oldest are forgotten.
    """

    def __init__(self, latest: int = _LATEST, most: int = _MOST) -> None:
        self._latest: deque[_Noted] = deque(maxlen=latest)
        self._most = most
        self._known: OrderedDict[Copy, None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, request: Any) -> None:
        """Remember that the work of this request of the worker is over. Call it before its message is acknowledged."""
        headers = request._message.headers or {}
        get, nested = headers.get, headers.get(_NESTED)
        # what else a sender has put among the headers may be large
        nested = {HEADER: nested.get(HEADER)} if type(nested) is dict else None
        self._latest.append((get("id"), get("task"), get("retries"), get(HEADER), nested, request._delivery_info))

    def has(self, copy: Copy) -> bool:
        """Whether this copy is over; `False` where its header does not name its work: another one may look the same."""
        with self._lock:
            self._work_out()
            return copy in self._known

    def _work_out(self) -> None:
        while self._latest:
            task_id, task, retries, header, nested, delivery = self._latest.popleft()
            message = _Message(
                {
                    "id": task_id,
                    "task": task,
                    "retries": retries,
                    HEADER: header,
                    _NESTED: nested,
                    "delivery_info": delivery,
                }
            )
            if read_header(message.request_dict, attempts=False).names_its_work:  # without its body, nothing else does
                self._known[Copy.of(message)] = None
        while len(self._known) > self._most:
            self._known.popitem(last=False)
