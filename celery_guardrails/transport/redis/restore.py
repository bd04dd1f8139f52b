"""Giving messages back to their queues: those of a channel that closes, and those whose worker died.

Owns the two steps: read the record here (kombu's JSON, the redelivered marks), then one script that moves the
message only if it is still unacknowledged. Any number of workers may do it at once, and no lock can be left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery_guardrails.transport.redis.record import Unreadable, quarantined, read_unacked, redelivered
from celery_guardrails.transport.redis.script import DUE, MOVE, QUARANTINE

__all__ = ["give_back", "quarantine_key", "restore_expired"]

logger = logging.getLogger("celery_guardrails.transport")

_BATCH = 100


def quarantine_key(channel: Any) -> str:
    """The whole key of the hash that keeps what is no message."""
    return str(channel.global_keyprefix) + "guardrails.quarantine"


def give_back(channel: Any, client: Any, tags: Sequence[str], leftmost: bool = False) -> int:
    """Put messages back into their queues, whoever holds them; gives how many still were unacknowledged.

    Args:
        channel: a Redis channel of kombu, for its keys and bindings.
        client: a `redis.Redis` without a prefix.
        tags: which.
        leftmost: as the last of the queue, rather than as the next.
    """
    moved = 0
    for start in range(0, len(tags), _BATCH):
        batch = list(tags[start : start + _BATCH])
        records = client.execute_command("HMGET", _keys(channel)[0], *batch)
        for tag, record in zip(batch, records, strict=True):
            if record is not None:
                moved += _move(channel, client, tag, record, "", "LPUSH" if leftmost else "RPUSH")
    return moved


def restore_expired(channel: Any, client: Any, most: int = 1000) -> int:
    """Put back the messages whose worker has not been heard of for the visibility timeout; gives how many.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses.
    """
    moved, seen = 0, 0
    while seen < most:
        bound, *found = DUE.run(client, _keys(channel), [channel.visibility_timeout, _BATCH])
        due = list(zip(found[::2], found[1::2], strict=True))
        before = moved
        for tag, record in due:
            moved += _move(channel, client, tag, record, bound, "RPUSH")
        seen += len(due)
        if len(due) < _BATCH or moved == before:
            return moved
    return moved


def _keys(channel: Any) -> list[str]:
    prefix = str(channel.global_keyprefix)
    return [prefix + channel.unacked_key, prefix + channel.unacked_index_key]


def _move(channel: Any, client: Any, tag: Any, record: bytes, bound: Any, push: str) -> int:
    keys = _keys(channel)
    if not record:  # nothing is known of it but its tag
        return int(MOVE.run(client, keys, [tag, bound, push]))
    try:
        message, exchange, routing_key = read_unacked(record)
    except Unreadable:
        return int(QUARANTINE.run(client, [*keys, quarantine_key(channel)], [tag, quarantined("", record)]))
    priority = channel._get_message_priority(message, reverse=False)
    lists = [
        str(channel.global_keyprefix) + channel._q_for_pri(queue, priority)
        for queue in channel._lookup(exchange, routing_key)
        if queue
    ]
    if not lists:
        logger.warning("an unacknowledged message stays: nothing is bound to %r with %r", exchange, routing_key)
        return 0
    return int(MOVE.run(client, [*keys, *lists], [tag, bound, push, *[redelivered(message)] * len(lists)]))
