"""A worker's request that hands the original message to the process that runs the task.

Owns one thing: body, content type and headers as they came, under one key of the request's `properties`, where
Celery neither copies them into headers nor shows them. Capture and retry publish those very bytes again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from celery.worker.request import Request

__all__ = ["ORIGINAL", "GuardedRequest", "Original", "original_of"]

ORIGINAL = "guardrails_original"


class Original(NamedTuple):
    """The message as it came. A tuple, because it crosses to the pool's children with every task."""

    body: Any
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]


class GuardedRequest(Request):  # type: ignore[misc]
    """Celery's request, with the original message for the child."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        request = self._request_dict
        # Body and header values are the objects that are sent anyway: pickle writes them once.
        original = (message.body, message.content_type, message.content_encoding, message.headers)
        request["properties"] = {**request["properties"], ORIGINAL: original}


def original_of(request: Any) -> Original | None:
    """The original message of a running task's request; `None` in eager mode or under a foreign request class."""
    properties = request.properties
    found = properties.get(ORIGINAL) if isinstance(properties, dict) else None
    return Original(*found) if isinstance(found, tuple) and len(found) == 4 else None
