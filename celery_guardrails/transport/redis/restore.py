"""Giving messages back to their queues: those of a channel that closes, and those whose worker died.

Owns the two steps: read the record here (kombu's JSON, the redelivered marks), then run one script that moves the
message only if it is still unacknowledged. Any number of workers may do it at once, and no lock can be left behind. A
message without a queue to go to does not hold up the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery_guardrails.transport.redis.record import Unreadable, quarantined, read_unacked, redelivered
from celery_guardrails.transport.redis.script import DUE, MOVE, PUT_OFF, QUARANTINE

__all__ = ["give_back", "is_unacknowledged", "quarantine_key", "restore_expired", "unacked_keys"]

logger = logging.getLogger("celery_guardrails.transport")

_BATCH = 100
_PUT_OFF = 60.0
"""Seconds until a message without a queue to go to is tried again."""


class _Immovable(Exception):
    """A message that cannot be put back for now; the text says why."""


def quarantine_key(channel: Any) -> str:
    """The whole key of the hash that keeps items that are not messages."""
    return str(channel.global_keyprefix) + "guardrails.quarantine"


def unacked_keys(channel: Any) -> list[str]:
    """The whole keys of kombu's hash of unacknowledged messages and of its index by time."""
    prefix = str(channel.global_keyprefix)
    return [prefix + channel.unacked_key, prefix + channel.unacked_index_key]


def is_unacknowledged(channel: Any, client: Any, tag: str) -> bool:
    """Whether a message was taken with this tag, and was neither acknowledged nor given back.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses.
    """
    return bool(client.execute_command("HEXISTS", unacked_keys(channel)[0], tag))


def give_back(channel: Any, client: Any, tags: Sequence[str], leftmost: bool = False) -> int:
    """Put messages back into their queues, whoever holds them; gives how many were still unacknowledged.

    A message without a queue to go to stays unacknowledged.

    Args:
        channel: a Redis channel of kombu, for its keys and bindings.
        client: a `redis.Redis` without a prefix.
        tags: the tags of the messages.
        leftmost: whether they become the last of the queue, rather than the next.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses.
    """
    moved = 0
    for start in range(0, len(tags), _BATCH):
        batch = list(tags[start : start + _BATCH])
        records = client.execute_command("HMGET", unacked_keys(channel)[0], *batch)
        for tag, record in zip(batch, records, strict=True):
            if record is None:
                continue
            try:
                moved += _move(channel, client, tag, record, "", "LPUSH" if leftmost else "RPUSH")
            except _Immovable as exc:
                logger.warning("an unacknowledged message stays: %s", exc)
    return moved


def restore_expired(channel: Any, client: Any, most: int = 1000) -> int:
    """Put back the messages whose lease was not renewed for the visibility timeout; gives how many.

    A message without a queue to go to is tried again a minute later.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses.
    """
    moved = seen = 0
    left: list[_Immovable] = []
    while seen < most:
        bound, *found = DUE.run(client, unacked_keys(channel), [channel.visibility_timeout, _BATCH])
        for tag, record in zip(found[::2], found[1::2], strict=True):
            try:
                moved += _move(channel, client, tag, record, bound, "RPUSH")
            except _Immovable as exc:
                left.append(exc)
                PUT_OFF.run(client, unacked_keys(channel)[1:], [tag, channel.visibility_timeout, _PUT_OFF])
        seen += len(found) // 2
        if len(found) // 2 < _BATCH:
            break
    if left:
        logger.warning("%d unacknowledged messages stay, and are tried again in a minute: %s", len(left), left[0])
    return moved


def _move(channel: Any, client: Any, tag: Any, record: bytes, bound: Any, push: str) -> int:
    keys = unacked_keys(channel)
    if not record:  # only its tag is known
        return int(MOVE.run(client, keys, [tag, bound, push]))
    try:
        message, exchange, routing_key = read_unacked(record)
        text = redelivered(message)
    except Unreadable:
        return int(QUARANTINE.run(client, [*keys, quarantine_key(channel)], [tag, quarantined("", record)]))
    lists = _lists(channel, message, exchange, routing_key)
    try:
        return int(MOVE.run(client, [*keys, *lists], [tag, bound, push, *[text] * len(lists)]))
    except channel.ResponseError as exc:
        if "WRONGTYPE" not in str(exc):
            raise
        raise _Immovable(f"{lists} are not all lists: {exc}") from exc


def _lists(channel: Any, message: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
    """The lists that a message goes to, by the present bindings."""
    try:
        priority = channel._get_message_priority(message, reverse=False)
        queues = [queue for queue in channel._lookup(exchange, routing_key) if queue]
    except channel.connection_errors:
        raise
    except Exception as exc:
        raise _Immovable(f"{exchange!r} with {routing_key!r}: {type(exc).__name__}: {exc}") from exc
    if not queues:
        raise _Immovable(f"no queue is bound to {exchange!r} with {routing_key!r}")
    return [str(channel.global_keyprefix) + channel._q_for_pri(queue, priority) for queue in queues]
