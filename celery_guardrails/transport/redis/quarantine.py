"""What lies in a queue and is no message: kept in a hash until somebody has it safe, removed only then.

Owns the hash. Who makes a dead letter of an item is above: a callback says whether it may be removed.
"""

from __future__ import annotations

import logging
from typing import Any

from celery_guardrails.transport.redis.custody import Quarantined
from celery_guardrails.transport.redis.record import quarantined, read_quarantined
from celery_guardrails.transport.redis.restore import quarantine_key
from celery_guardrails.transport.redis.script import QUARANTINE

__all__ = ["bury", "bury_all", "set_aside"]

logger = logging.getLogger("celery_guardrails.transport")


def set_aside(channel: Any, client: Any, tag: str, queue: str, text: bytes) -> None:
    """Move an unacknowledged message that cannot be read into the quarantine."""
    keys = [channel.whole(channel.unacked_key), channel.whole(channel.unacked_index_key), quarantine_key(channel)]
    QUARANTINE.run(client, keys, [tag, quarantined(queue, text)])


def bury(client: Any, key: str, tag: str, taker: Quarantined) -> bool:
    """Hand an item of the quarantine on, and remove it once it is safe elsewhere; `False` if it stays."""
    kept = client.execute_command("HGET", key, tag)
    if kept is None:
        return True
    try:
        queue, item = read_quarantined(kept)
        safe = taker(item, queue, tag)
    except Exception:
        logger.warning("an unreadable item stays in the quarantine", exc_info=True)
        return False
    if safe:
        client.execute_command("HDEL", key, tag)
    return safe


def bury_all(client: Any, key: str, taker: Quarantined, most: int = 100) -> int:
    """Hand on what waits in the quarantine, such as what a dead worker left there; gives how many went."""
    if not client.execute_command("HLEN", key):
        return 0
    _, found = client.execute_command("HSCAN", key, 0, "COUNT", most)
    tags = list(found)
    return sum(bury(client, key, tag.decode() if isinstance(tag, bytes) else tag, taker) for tag in tags)
