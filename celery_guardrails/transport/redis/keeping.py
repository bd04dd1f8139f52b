"""The regular work of every worker on Redis: renew the leases of its messages, give back messages that nobody holds.

Owns one round of each; the caller decides how often, and on which connection.
"""

from __future__ import annotations

import logging
from typing import Any

from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.quarantine import pass_on_all
from celery_guardrails.transport.redis.restore import give_back, quarantine_key, restore_expired, unacked_keys
from celery_guardrails.transport.redis.script import ACK, LEASE

__all__ = ["hand_on", "lease", "leave", "restore"]

logger = logging.getLogger("celery_guardrails.transport")

_CHUNK = 500


def lease(channel: Any, client: Any, custody: Custody) -> None:
    """Renew the lease of every message that this worker has taken; log, once, the messages that Redis has lost.

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
            "without its data, or it gave them to another worker. This process still runs them, except those that run "
            "at most once and have not begun. Other messages in its queues, and retries that waited, may be lost, too",
            missed,
        )


def leave(channel: Any, client: Any, custody: Custody) -> None:
    """Give back the messages that an ending worker still holds from connections that it lost.

    Args:
        channel: as for `lease`.
        client: as for `lease`.
        custody: as for `lease`.
    """
    _pay(channel, client, custody)
    left = [tag for known in custody.channels() if known.is_over for tag in known.held()]
    give_back(channel, client, [*left, *custody.doubtful()])


def restore(channel: Any, client: Any, custody: Custody) -> None:
    """Give back messages that other workers no longer hold, and those of unanswered takes; send what Redis is owed.

    Args:
        channel: as for `lease`.
        client: as for `lease`.
        custody: as for `lease`.
    """
    for known in custody.channels():
        if known.connection is not None:  # a plain worker's message names an exchange, and its type decides the queue
            channel.state.exchanges.update(known.state.exchanges)
    _pay(channel, client, custody)
    doubtful = custody.doubtful()
    unanswered = give_back(channel, client, doubtful) if doubtful else 0
    expired = restore_expired(channel, client)
    if unanswered or expired:
        logger.warning(
            "put messages back: %d of workers that are gone, %d whose delivery broke off", expired, unanswered
        )


def hand_on(channel: Any, client: Any, custody: Custody) -> None:
    """Pass on the items in quarantine; this takes as long as their taker needs.

    Args:
        channel: as for `lease`.
        client: as for `lease`.
        custody: as for `lease`.
    """
    if client.execute_command("HLEN", quarantine_key(channel)):
        pass_on_all(client, quarantine_key(channel), custody.quarantined)


def _not_there(channel: Any, client: Any, tags: list[str]) -> list[str]:
    """The tags that Redis does not know; asked without reading the records, which may be large."""
    asked = client.pipeline(transaction=False)
    for tag in tags:
        asked.execute_command("HEXISTS", unacked_keys(channel)[0], tag)
    return [tag for tag, there in zip(tags, asked.execute(), strict=True) if not there]


def _pay(channel: Any, client: Any, custody: Custody) -> None:
    """Send the acknowledgements and returns that Redis did not take at first."""
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
