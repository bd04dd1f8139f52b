"""The messages that this worker has acknowledged because their work was over.

After a lost connection nobody knows whether the broker took the last acknowledgements, so a message may come back. If
it is known here, it is acknowledged again and not run. Owns that bounded memory. Noting a message costs each task only
a look at its headers; the copy of the work is worked out when some message comes back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Any, NamedTuple

from celery_guardrails.letters.header import HEADER, read_header
from celery_guardrails.worker.main.seen import Copy

__all__ = ["Ended"]

_LATEST = 2_000
"""Messages kept between two calls of `has`; each takes about 400 bytes, 5 KiB at most."""
_MOST = 10_000
_NESTED = "headers"
_Noted = tuple[Any, Any, Any, Any, Any, dict[str, Any]]


class _Message(NamedTuple):
    """The part of a request that `Copy.of` needs if the header names the work; without the body, which may be large."""

    request_dict: dict[str, Any]


class Ended:
    """The copies whose messages this worker has acknowledged, because their work was over; safe from any thread.

    Args:
        latest: how many messages are kept between two calls of `has`; the oldest are forgotten.
        most: how many copies are kept after that; the oldest are forgotten.
    """

    def __init__(self, latest: int = _LATEST, most: int = _MOST) -> None:
        self._latest: deque[_Noted] = deque(maxlen=latest)
        self._most = most
        self._known: OrderedDict[Copy, None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, request: Any) -> None:
        """Remember that the work of a worker's request is over. Call it before the message is acknowledged."""
        headers = request._message.headers or {}
        get, nested = headers.get, headers.get(_NESTED)
        # keep our header only: a sender may have put large values beside it
        nested = {HEADER: nested.get(HEADER)} if type(nested) is dict else None
        self._latest.append((get("id"), get("task"), get("retries"), get(HEADER), nested, request._delivery_info))

    def has(self, copy: Copy) -> bool:
        """Whether this copy is over; `False` if its header does not name its work: other work may look the same."""
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
            # otherwise only the body could name the work, and the body is not kept
            header = read_header(message.request_dict, attempts=False)
            if header.names_its_work:
                self._known[Copy.of(message, header)] = None
        while len(self._known) > self._most:
            self._known.popitem(last=False)
