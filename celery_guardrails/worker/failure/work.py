"""Which work a request of Celery's belongs to: the same answer in the main process and in the pool's processes.

Owns where the parts of that identity are found in a request. What they mean is in `letters/work.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.work import Work, new_token
from celery_guardrails.worker.failure.original import ORIGINAL, Original

__all__ = ["work_of"]

_ARRIVAL = "_guardrails_arrival"


def work_of(request: MutableMapping[str, Any], header: Header | None = None) -> Work:
    """The work of a request.

    Args:
        request: a worker's `request_dict`, or the `__dict__` of a task's request.
        header: its guardrails header; it is read where it is not given.
    """
    header = header or read_header(request)
    properties = request.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    found = properties.get(ORIGINAL)
    original = Original(*found) if isinstance(found, tuple) and len(found) == 5 else None
    arrival = None if original is None else original.arrival
    if original is None and not header.names_its_work:
        # eager, or a request that is not ours: only this run of the work is known
        arrival = request.setdefault(_ARRIVAL, new_token())
    return Work.of(
        header,
        task_id=str(request.get("id") or ""),
        task=str(request.get("task") or ""),
        queue=_queue(request.get("delivery_info")),
        body=b"" if original is None else original.body,
        properties={} if original is None else properties,
        arrival=arrival,
    )


def _queue(delivery: Any) -> str:
    """The queue that the work's messages come from, and its retries go to; "" where it is not known."""
    if not isinstance(delivery, Mapping):
        return ""
    by_default = "" if delivery.get("exchange") else delivery.get("routing_key")
    return str(delivery.get("queue") or by_default or "")
