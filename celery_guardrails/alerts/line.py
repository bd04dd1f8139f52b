"""The way to one sink, as the poster sees it: whether it is open, and when it may be used again.

Owns the circuit, the gap between two messages in a channel, the pauses that the sink asked for, and the rest after
trouble, so that a sink that is down costs one try at a time and holds up no other. It must not know what is sent.
"""

# on its own: the poster has one for each sink, and must not know how it decides when

from __future__ import annotations

import random
from datetime import datetime, timedelta

from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.alerts.trouble import Circuit, backoff

__all__ = ["Line"]


class Line:
    """What the poster remembers of one sink.

    Args:
        sink: the sink.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.circuit = Circuit()
        self._free_at: dict[str | None, datetime] = {}
        self._rests_until: datetime | None = None
        self._failures = 0

    @property
    def is_well(self) -> bool:
        """Whether its last call succeeded, and its credentials work; `True` before its first call."""
        return not self._failures and not self.circuit.is_open

    def free_at(self, channel: str | None, otherwise: datetime) -> datetime:
        """When a channel may be used again: `otherwise`, or later."""
        return max(otherwise, self._free_at.get(channel, otherwise), self._rests_until or otherwise)

    def use(self, channel: str | None, now: datetime) -> None:
        """Note that a message goes to a channel: the next one waits for the sink's gap."""
        self._free_at[channel] = now + timedelta(seconds=self.sink.min_gap)

    def pause(self, channel: str | None, until: datetime) -> None:
        """Leave a channel alone until an instant, as its sink asked."""
        self._free_at[channel] = until

    def rest(self, now: datetime, rng: random.Random) -> None:
        """Leave the whole sink alone for a while, longer after each failure in a row: it did not answer."""
        self._failures += 1
        self._rests_until = now + backoff(self._failures, rng)

    def forget(self) -> None:
        """Forget that the sink did not answer; what it asked for stays."""
        self._failures = 0
        self.circuit.close()

    def succeed(self) -> None:
        """Note that the sink answered."""
        self._failures, self._rests_until = 0, None
        self.circuit.reset()
