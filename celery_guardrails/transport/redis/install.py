"""Giving a connection channels that take by script, for each of kombu's Redis transports.

Owns the choice of classes. The connection keeps the classes when it fails over to another address.
"""

from __future__ import annotations

from typing import Any

from kombu import Connection

from celery_guardrails.seams import REDIS_TAKE, holds
from celery_guardrails.transport.redis.held import Custody

__all__ = ["take_safely"]


def take_safely(connection: Connection, custody: Custody) -> bool:
    """Let a connection take by script; `False` if its broker is not Redis. Call it before the connection is open.

    Args:
        connection: the worker's.
        custody: what the worker holds; the connection's channels are noted there.
    """
    transport = connection.get_transport_cls()
    if getattr(transport, "driver_type", None) != "redis":
        return False
    from kombu.transport import redis as kombu_redis

    if not holds(REDIS_TAKE):
        return False
    if not issubclass(transport.Channel, kombu_redis.Channel):
        return False
    guarded = _guarded(transport, custody)
    connection.get_transport_cls = lambda: guarded
    return True


def _guarded(transport: Any, custody: Custody) -> Any:
    from celery_guardrails.transport.redis.channel import TakingChannel

    channel = type(f"Taking{transport.Channel.__name__}", (TakingChannel, transport.Channel), {"custody": custody})
    return type(transport.__name__, (transport,), {"Channel": channel})
