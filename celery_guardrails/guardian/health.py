"""Whether this guardian does its work: when it last looked at its queues, and what is away.

Written by the guardian's loop, read by the thread that answers `/healthz` and `/metrics`.
"""
# on its own: what two threads share

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["LATE", "Health"]

LATE = timedelta(seconds=30)
"""A guardian that has not looked at its queues for so long is not well, whatever the reason."""


class Health:
    """What the guardian's loop knows about itself. Every method is safe in any thread.

    Args:
        started_at: when the guardian started.
    """

    def __init__(self, started_at: datetime) -> None:
        self._turned_at = started_at
        self._has_turned = False
        self._away: dict[str, str] = {}

    def turn(self, now: datetime) -> None:
        """Note that the guardian has looked at its queues, and archived what was there."""
        self._turned_at, self._has_turned, self._away = now, True, {}

    def trouble(self, what: str, words: str) -> None:
        """Note that something is away, such as `the broker`, and its error."""
        self._away = {**self._away, what: words}

    def lag(self, now: datetime) -> timedelta:
        """How long ago the guardian last looked at its queues and archived what was there; or started, if never."""
        return max(timedelta(0), now - self._turned_at)

    def problems(self, now: datetime) -> dict[str, str]:
        """What is not well, by what it is; empty while all is well."""
        found = dict(self._away)
        if not found and not self._has_turned:
            found["the guardian"] = "it is starting, and has not looked at its queues yet"
        elif not found and (lag := self.lag(now)) > LATE:
            found["the guardian"] = f"it has not looked at its queues for {lag.total_seconds():.0f} s"
        return found
