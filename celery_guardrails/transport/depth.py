"""How many messages are in a queue, on any broker.

Owns the difference between brokers: a passive declaration returns the number, except on Redis. There kombu looks for
the queue's key without the application's prefix, and so never finds it. It must not know what the messages are.
"""

from __future__ import annotations

from amqp.exceptions import NotFound
from kombu import Connection
from kombu.exceptions import ChannelError

__all__ = ["depth"]


def depth(connection: Connection, queue: str) -> int | None:
    """How many messages are in a queue, without those that a consumer holds; `None` if the queue does not exist.

    On Redis an empty queue does not exist.

    Args:
        connection: an open connection; a channel of its own is opened on it.
        queue: its name, without the application's prefix.

    Raises:
        Exception: the broker does not answer, or refuses to say; each transport has errors of its own.
    """
    with connection.channel() as channel:
        if connection.transport.driver_type == "redis":
            return int(channel._size(queue)) or None
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except (NotFound, ChannelError) as exc:
            if isinstance(exc, NotFound) or "NOT_FOUND" in str(exc):
                return None
            raise
