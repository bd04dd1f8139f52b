"""Items of a queue that are not messages: kept in a hash, and removed only when they are safe elsewhere.

Owns the hash. The caller makes a dead letter of an item: its callback says whether the item may be removed.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery_guardrails.transport.redis.held import Quarantined
from celery_guardrails.transport.redis.record import quarantined, read_quarantined
from celery_guardrails.transport.redis.restore import quarantine_key, unacked_keys
from celery_guardrails.transport.redis.script import QUARANTINE

__all__ = ["pass_on", "pass_on_all", "set_aside"]

logger = logging.getLogger("celery_guardrails.transport")


def set_aside(channel: Any, client: Any, tag: str, queue: str, text: bytes) -> None:
    """Move an unacknowledged message that cannot be read into the quarantine."""
    QUARANTINE.run(client, [*unacked_keys(channel), quarantine_key(channel)], [tag, quarantined(queue, text)])


def pass_on(client: Any, key: str, tag: str, taker: Quarantined) -> bool:
    """Pass an item of the quarantine on, and remove it if it is safe elsewhere; `False` if the item stays."""
    kept = client.execute_command("HGET", key, tag)
    return kept is None or _pass_on(client, key, tag, kept, taker)


def pass_on_all(client: Any, key: str, taker: Quarantined, seconds: float = 1.0) -> int:
    """Pass on the items of the quarantine, also those that a dead worker left there; gives how many were removed.

    Args:
        client: a `redis.Redis` without a prefix.
        key: the hash.
        taker: takes the items. An item that it does not take stays, and the others are still passed on.
        seconds: after so long no further item is begun; the next round begins with the first item again.
    """
    until, gone = time.monotonic() + seconds, 0
    for tag, kept in client.hscan_iter(key, count=100):
        if time.monotonic() >= until:
            break
        gone += _pass_on(client, key, tag.decode() if isinstance(tag, bytes) else tag, kept, taker)
    return gone


def _pass_on(client: Any, key: str, tag: str, kept: bytes, taker: Quarantined) -> bool:
    try:
        queue, item = read_quarantined(kept)
        safe = taker(item, queue, tag)
    except Exception:
        logger.warning("an unreadable item stays in the quarantine", exc_info=True)
        return False
    if safe:
        client.execute_command("HDEL", key, tag)
    return safe
