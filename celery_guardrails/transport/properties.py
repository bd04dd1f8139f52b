"""AMQP properties that the client library cannot read: a date after the year 9999, text that is no UTF-8, deep tables.

Owns that such a message arrives, with its properties as bytes. Otherwise the message would break the connection at each
delivery. It must not know what becomes of the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_guardrails.seams import AMQP_READ, holds

__all__ = ["UNREAD", "read_whatever_comes"]

UNREAD = "guardrails_unread"
"""The property that holds the unreadable bytes as hexadecimal text; `UNREAD + "_because"` says why."""


def read_whatever_comes() -> None:
    """Let this process receive AMQP messages with any properties; a further call changes nothing."""
    if not holds(AMQP_READ):
        return
    from amqp.serialization import PROPERTY_CLASSES
    from amqp.spec import Basic

    read = PROPERTY_CLASSES[Basic.CLASS_ID]
    if not hasattr(read, UNREAD):
        PROPERTY_CLASSES[Basic.CLASS_ID] = _tolerant(read)


def _tolerant(read: Callable[..., Any]) -> Callable[..., Any]:
    def read_or_keep(buf: Any, offset: int) -> tuple[dict[str, Any], int]:
        try:
            properties, end = read(buf, offset)
        except Exception as exc:  # noqa: BLE001 no error in a message may end the connection
            because = f"{type(exc).__name__}: {exc}"[:200]
            return {UNREAD: bytes(buf[offset:]).hex(), f"{UNREAD}_because": because}, len(buf)
        return properties, end

    setattr(read_or_keep, UNREAD, True)
    return read_or_keep
