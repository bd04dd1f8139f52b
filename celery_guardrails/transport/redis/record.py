"""How messages are stored in Redis: kombu's record of an unacknowledged message, and ours of an unreadable item.

    unacked:    tag -> JSON [message, exchange, routing key]        (kombu's; the take writes "" and the queue)
    quarantine: tag -> <bytes of the queue's name>:<queue><item>    (ours; the item is any bytes)

Pure: no connection.
"""

from __future__ import annotations

from typing import Any

from kombu.utils.json import dumps, loads

__all__ = ["Unreadable", "quarantined", "read_quarantined", "read_unacked", "redelivered"]


class Unreadable(Exception):
    """A taken item is not a message that kombu can read."""


def read_unacked(record: bytes) -> tuple[dict[str, Any], str, str]:
    """The message, exchange and routing key of an unacknowledged message.

    Raises:
        Unreadable: the record does not have kombu's form.
    """
    try:
        message, exchange, routing_key = loads(record.decode())
    except Exception as exc:  # kombu's JSON also decodes dates, decimals and bytes, and each raises errors of its own
        raise Unreadable(f"a record of {len(record)} bytes: {type(exc).__name__}") from exc
    if not isinstance(message, dict):
        raise Unreadable(f"a record of {len(record)} bytes: its message is not a mapping")
    return message, str(exchange or ""), str(routing_key or "")


def redelivered(message: dict[str, Any]) -> str:
    """The text of a message that goes back to its queue, marked as redelivered in kombu's way.

    Raises:
        Unreadable: the message cannot be written as JSON again.
    """
    headers, properties = message.get("headers"), message.get("properties")
    if isinstance(headers, dict):
        headers["redelivered"] = True
    if isinstance(properties, dict) and isinstance(properties.get("delivery_info"), dict):
        properties["delivery_info"]["redelivered"] = True
    try:
        return str(dumps(message))
    except Exception as exc:
        raise Unreadable(f"its message cannot be written again: {type(exc).__name__}") from exc


def quarantined(queue: str, item: bytes) -> bytes:
    """An unreadable item in the form that the quarantine keeps."""
    name = queue.encode()
    return b"%d:%s%s" % (len(name), name, item)


def read_quarantined(kept: bytes) -> tuple[str, bytes]:
    """The queue and the item that `quarantined` has written."""
    length, _, rest = kept.partition(b":")
    size = int(length)
    return rest[:size].decode(errors="replace"), rest[size:]
