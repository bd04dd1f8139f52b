"""The message as it came to a worker: body, content type and headers. Letters and retries carry the same bytes.

Owns where a request keeps it: under one key of its `properties`. Celery neither copies them into headers nor shows
them, and the pool's processes get them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from celery_guardrails.letters.codec import json_safe
from celery_guardrails.letters.record import OriginalMessage
from celery_guardrails.transport.body import as_published

__all__ = ["ORIGINAL", "Original", "letter_message", "original_of"]

ORIGINAL = "guardrails_original"


class Original(NamedTuple):
    """The message as it came. A tuple, because the main process sends it to a pool process with every task."""

    body: Any
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    arrival: str | None = None
    """A token of this delivery, where the header does not name the work."""


def original_of(request: Any) -> Original | None:
    """The original message of a running task's request.

    `None` in eager mode, and where a task class's own Strategy makes requests that are not ours.
    """
    properties = request.properties
    found = properties.get(ORIGINAL) if isinstance(properties, dict) else None
    return Original(*found) if isinstance(found, tuple) and len(found) == 5 else None


def letter_message(original: Original, request: Any) -> OriginalMessage:
    """The original message of a request in the form in which a letter keeps it."""
    return OriginalMessage.model_construct(
        body=as_published(original.body, original.content_encoding),
        content_type=original.content_type,
        content_encoding=original.content_encoding,
        headers=json_safe(original.headers),
        properties=json_safe({key: value for key, value in request.properties.items() if key != ORIGINAL}),
    )
