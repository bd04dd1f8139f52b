"""What has to be done on Redis again and again, by every worker: say what is held, give back what is not.

Owns one round of each; how often, and on which connection, is the caller's business.
"""

from __future__ import annotations

import logging
from typing import Any

from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.quarantine import bury_all
from celery_guardrails.transport.redis.restore import give_back, quarantine_key, restore_expired, unacked_keys
from celery_guardrails.transport.redis.script import ACK, LEASE

__all__ = ["hand_on", "lease", "leave", "restore"]

logger = logging.getLogger("celery_guardrails.transport")

_CHUNK = 500


def lease(channel: Any, client: Any, custody: Custody) -> None:
    """Say of every message that this worker has taken that it still has it; warn, once, of those that are gone.

    Args:
        channel: a Redis channel of kombu, for its keys.
        client: a `redis.Redis` without a prefix.
        custody: what the worker holds.
    """
    held = custody.held()
    gone: set[str] = set()
    for start in range(0, len(held), _CHUNK):
        chunk = held[start : start + _CHUNK]
        if LEASE.run(client, unacked_keys(channel)[1:], chunk) < len(chunk):
            gone.update(_not_there(channel, client, chunk))
    if missed := custody.miss(gone):
        logger.warning(
            "Redis does not know %d messages any more that this process has taken: somebody emptied it, it came back "
            "without its data, or it gave them to another worker. They run here, but for those that run at most once "
            "and have not begun; what was in its queues may be gone, and what waited for its next attempt, too",
            missed,
        )


def leave(channel: Any, client: Any, custody: Custody) -> None:
    """Give back what a worker that ends still has of connections that it lost.

    Args:
        channel: the same.
        client: the same.
        custody: the same.
    """
    _pay(channel, client, custody)
    left = [tag for known in custody.channels() if known.is_over for tag in known.held()]
    give_back(channel, client, [*left, *custody.doubtful()])


def restore(channel: Any, client: Any, custody: Custody) -> None:
    """Give back what other workers no longer hold, and what was taken without an answer, and what Redis is owed.

    Args:
        channel: the same.
        client: the same.
        custody: the same.
    """
    for known in custody.channels():
        if known.connection is not None:  # a message of a plain worker names an exchange, whose kind decides the queue
            channel.state.exchanges.update(known.state.exchanges)
    _pay(channel, client, custody)
    doubtful = custody.doubtful()
    unanswered = give_back(channel, client, doubtful) if doubtful else 0
    expired = restore_expired(channel, client)
    if unanswered or expired:
        logger.warning("put back: %d of workers that are gone, %d whose delivery broke off", expired, unanswered)


def hand_on(channel: Any, client: Any, custody: Custody) -> None:
    """Hand on what is in quarantine; it may take as long as its taker does.

    Args:
        channel: the same.
        client: the same.
        custody: the same.
    """
    if client.execute_command("HLEN", quarantine_key(channel)):
        bury_all(client, quarantine_key(channel), custody.quarantined)


def _not_there(channel: Any, client: Any, tags: list[str]) -> list[str]:
    """Which of these Redis does not know; without their records, which may be large."""
    asked = client.pipeline(transaction=False)
    for tag in tags:
        asked.execute_command("HEXISTS", unacked_keys(channel)[0], tag)
    return [tag for tag, there in zip(tags, asked.execute(), strict=True) if not there]


def _pay(channel: Any, client: Any, custody: Custody) -> None:
    """Acknowledge and give back what Redis did not hear of at the time."""
    acks, returns = custody.owed()
    for start in range(0, len(acks), _CHUNK):
        ACK.run(client, unacked_keys(channel), acks[start : start + _CHUNK])
    custody.paid(acks)
    others = [tag for tag, fate in returns.items() if fate is None]
    give_back(channel, client, others)
    custody.paid(others)
    for tag, fate in returns.items():
        if fate is not None:
            is_back = give_back(channel, client, [tag])
            custody.paid([tag])
            act = fate.back if is_back else fate.gone
            if act is not None:
                act()
