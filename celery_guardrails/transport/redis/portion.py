"""How many messages a channel takes at once, and whether it takes now: a take costs as much as several messages.

    room for a few, and the pool has enough to do ── up to 2 ms ──> room for more, or the time is up ──> take

Owns that choice. The prefetch count, which bounds it, is kombu's.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.asynchronous import get_event_loop

__all__ = ["Portion"]

_MOST = 10
"""Messages a take at most: enough to save round trips, few enough to be handed on before the loop's next events."""
_PATIENCE = 0.002
"""Seconds to wait for more room. For so long a message that cannot run now (a rate limit, say) may hold up others."""


class Portion:
    """Decides how many messages one channel takes, and when.

    Args:
        channel: the channel, for its prefetch count.
        enough: gives how many messages keep the worker's pool busy; 0: not known.
    """

    def __init__(self, channel: Any, enough: Callable[[], int]) -> None:
        self._channel = channel
        self._enough = enough
        self._until = 0.0

    def size(self) -> int:
        """How many messages to take at most."""
        room = self._channel.qos.can_consume_max_estimate()
        if self._takes_singly():
            room = 1
        return _MOST if room is None else max(1, min(room, _MOST))

    def waits(self) -> bool:
        """Whether to wait for more room before the next take.

        It does not wait where the pool may run out of work, nor without an event loop, which would ask again.
        """
        if not self._is_small():
            self._until = 0.0
            return False
        now = monotonic()
        if self._until:
            is_early = now < self._until
            self._until = self._until if is_early else 0.0
            return is_early
        loop = get_event_loop()
        if loop is None:
            return False
        self._until = now + _PATIENCE
        loop.call_later(_PATIENCE, bool)  # does nothing, but wakes the loop, which then asks again
        return True

    def _is_small(self) -> bool:
        """Whether there is room for a few messages only, and the pool has enough to do."""
        qos = self._channel.qos
        room = qos.can_consume_max_estimate()
        if room is None or room >= _MOST or self._takes_singly():
            return False
        held: int = qos.prefetch_count - room
        return 0 < self._enough() < held

    def _takes_singly(self) -> bool:
        """Whether the channel takes one message at a time, as with Celery's `worker_disable_prefetch`."""
        return "can_consume" in vars(self._channel.qos)
