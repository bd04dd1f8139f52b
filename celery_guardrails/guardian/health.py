"""Whether this guardian does its work: when it last looked at its queues, and what is away.

Written by the guardian's loop, read by the thread that answers `/healthz` and `/metrics`.
"""
# on its own: what two threads share

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from celery_guardrails import clock

__all__ = ["LATE", "Health"]

LATE = timedelta(seconds=30)
"""A guardian that has not looked at its queues for so long is not well, whatever the reason."""


class Health:
    """What the guardian's loop knows about itself, from its start on. Every method is safe in any thread.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], datetime] = clock.now) -> None:
        self._now = now
        self._turned_at = now()
        self._has_turned = False
        self._away: dict[str, str] = {}

    def turn(self) -> None:
        """Note that the guardian has looked at its queues, and archived what was there."""
        self._turned_at, self._has_turned, self._away = self._now(), True, {}

    def trouble(self, what: str, words: str) -> None:
        """Note that something is away, such as `the broker`, and its error."""
        self._away = {**self._away, what: words}

    def lag(self) -> timedelta:
        """How long ago the guardian last looked at its queues and archived what was there; or started, if never."""
        return max(timedelta(0), self._now() - self._turned_at)

    def problems(self) -> dict[str, str]:
        """What is not well, by what it is; empty while all is well."""
        found = dict(self._away)
        if not found and not self._has_turned:
            found["the guardian"] = "it is starting, and has not looked at its queues yet"
        elif not found and (lag := self.lag()) > LATE:
            found["the guardian"] = f"it has not looked at its queues for {lag.total_seconds():.0f} s"
        return found
