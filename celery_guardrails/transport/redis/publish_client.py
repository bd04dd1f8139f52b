"""A client for a Redis channel that publishes: one connection, on which a publish is a write and its answer.

kombu makes a client for each command. redis-py then takes a connection from its pool, checks whether it is alive, and
gives it back: that costs twice as much as the publish itself. Owns the shorter way. If the answer is missing, the
connection has failed, and the publisher must give the channel up.
"""
# on its own: how Redis publishes; the publisher itself is for every broker

from __future__ import annotations

from typing import Any

from celery_guardrails.seams import REDIS_SPEED, holds

__all__ = ["PublishClient", "keep_client"]


class PublishClient:
    """The client of one channel, for one thread at a time. Only `lpush` is ours; all else is redis-py's.

    Args:
        channel: kombu's Redis channel.
    """

    def __init__(self, channel: Any) -> None:
        self._client = channel.Client(connection_pool=channel.pool, single_connection_client=True)
        self._prefix = str(channel.global_keyprefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def lpush(self, key: str, *values: Any) -> Any:
        """Put values at the end of a queue; returns its length.

        Raises:
            redis.exceptions.RedisError: the server cannot be reached, or refuses.
        """
        connection = self._client.connection
        connection.send_command("LPUSH", self._prefix + key, *values)
        return connection.read_response()


def keep_client(channel: Any) -> None:
    """Have a channel use one client for all its commands."""
    if not holds(REDIS_SPEED):
        return
    if channel.pool.connection_kwargs.get("credential_provider") is None:
        kept: Any = PublishClient(channel)
    else:  # the provider authenticates pooled connections again, so redis-py must manage them
        kept = channel._create_client()
    channel.conn_or_acquire = _Kept(kept)


class _Kept:
    """Replaces a channel's `conn_or_acquire`: always gives the same client, which is not closed after its use."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, client: Any = None) -> Any:
        return _Kept(client) if client else self

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the client stays open."""
