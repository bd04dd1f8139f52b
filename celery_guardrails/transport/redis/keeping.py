"""What has to be done on Redis again and again, by every worker: say what is held, give back what is not.

Owns one round of each; how often, and on which connection, is the caller's business.
"""

from __future__ import annotations

import logging
from typing import Any

from celery_guardrails.transport.redis.custody import Custody
from celery_guardrails.transport.redis.quarantine import bury_all
from celery_guardrails.transport.redis.restore import give_back, quarantine_key, restore_expired
from celery_guardrails.transport.redis.script import LEASE

__all__ = ["lease", "leave", "restore"]

logger = logging.getLogger("celery_guardrails.transport")

_CHUNK = 500


def lease(channel: Any, client: Any, custody: Custody) -> None:
    """Say of every message that this worker has taken that it still has it.

    Args:
        channel: a Redis channel of kombu, for its keys.
        client: a `redis.Redis` without a prefix.
        custody: what the worker holds.
    """
    held = custody.held()
    key = str(channel.global_keyprefix) + channel.unacked_index_key
    for start in range(0, len(held), _CHUNK):
        LEASE.run(client, [key], held[start : start + _CHUNK])


def leave(channel: Any, client: Any, custody: Custody) -> None:
    """Give back what a worker that ends still has of connections that it lost.

    Args:
        channel: the same.
        client: the same.
        custody: the same.
    """
    left = [tag for known in custody.channels() if known.is_over for tag in known.held()]
    give_back(channel, client, [*left, *custody.doubtful()])


def restore(channel: Any, client: Any, custody: Custody) -> None:
    """Give back what other workers no longer hold, and what was taken without an answer; hand on the quarantine.

    Args:
        channel: the same.
        client: the same.
        custody: the same.
    """
    for known in custody.channels():
        if known.connection is not None:  # a message of a plain worker names an exchange, whose kind decides the queue
            channel.state.exchanges.update(known.state.exchanges)
    doubtful = custody.doubtful()
    unanswered = give_back(channel, client, doubtful) if doubtful else 0
    expired = restore_expired(channel, client)
    if unanswered or expired:
        logger.warning("put back: %d of workers that are gone, %d whose delivery broke off", expired, unanswered)
    bury_all(client, quarantine_key(channel), custody.quarantined)
