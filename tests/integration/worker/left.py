"""What the broker still has of an application's tasks, seen when no worker is connected."""

from __future__ import annotations

from tests.guarded import Guarded

__all__ = ["left"]


def left(made: Guarded) -> int:
    """How many messages of tasks are not acknowledged, those that a worker had taken included.

    Stop the worker first: RabbitMQ tells nobody what others have taken and not acknowledged.
    """
    queue = f"{made.prefix}.tasks"
    with made.app.connection_for_read() as connection:
        channel = connection.default_channel
        if hasattr(channel, "client"):
            return int(channel.client.llen(queue)) + int(channel.client.hlen(channel.unacked_key))
        return int(channel.queue_declare(queue, passive=True).message_count)
