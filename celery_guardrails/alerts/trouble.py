"""What to do when a sink does not take a message: a pure function from the trouble to the remedy.

Owns the table of `remedy` and the waits. It must not know any sink, nor how a remedy is carried out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails.alerts.intent import Kind
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.store.outbox import OutboxRow

__all__ = ["FALL_BACK_AFTER", "GIVE_UP_AFTER", "Circuit", "Remedy", "backoff", "look_remedy", "remedy"]

FALL_BACK_AFTER = timedelta(hours=24)
"""A notification that a broken sink has not taken for this long goes to the fallback sink, too."""
GIVE_UP_AFTER = timedelta(days=7)
"""After this long a notification is not tried again: its sink shows the problem's present state with the next one."""

_LONGEST_WAIT = 300.0
_DEFAULT_PAUSE = 30.0
_FIRST_PROBE, _LONGEST_PROBE = timedelta(minutes=1), timedelta(minutes=5)
_CHANNEL_AGAIN = timedelta(minutes=15)
_OF_FALLBACK_CHANNEL = frozenset({"channel", "because", "repost"})


@dataclass(frozen=True)
class Remedy:
    """What becomes of a row: its new `status` and `changes` to its columns.

    `pause` is an instant before which nothing else goes to this channel, `rest` lets the whole sink rest for a while,
    `fall` hands the alert to the fallback sink, `open_circuit` stops sending until the sink's check succeeds.
    """

    status: str
    changes: dict[str, Any] = field(default_factory=dict)
    pause: datetime | None = None
    rest: bool = False
    fall: bool = False
    open_circuit: bool = False


class Circuit:
    """Whether it makes sense to send at all; open while the sink's credentials do not work."""

    def __init__(self) -> None:
        self.probe_at: datetime | None = None
        self._wait = _FIRST_PROBE

    @property
    def is_open(self) -> bool:
        """Whether sending is stopped."""
        return self.probe_at is not None

    def open(self, now: datetime) -> None:
        """Stop sending; the sink is checked in a minute, after each failure later, in 5 minutes at most."""
        self.probe_at = now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_PROBE)

    def close(self) -> None:
        """Send again: the check succeeded. A message may still fail."""
        self.probe_at = None

    def reset(self) -> None:
        """The sink took a message."""
        self.probe_at, self._wait = None, _FIRST_PROBE


def backoff(attempts: int, rng: random.Random) -> timedelta:
    """The wait before the next try: full jitter, at least 1 s and at most 300 s."""
    ceiling = min(_LONGEST_WAIT, 2.0 ** min(attempts, 10))
    return timedelta(seconds=max(1.0, rng.uniform(0.0, ceiling)))


def remedy(
    row: OutboxRow, action: Kind, error: Undelivered, now: datetime, rng: random.Random, fallback_channel: str | None
) -> Remedy:
    """What to do about a message that the sink did not take.

    Args:
        row: the notification.
        action: what was tried.
        error: the trouble.
        now: this instant.
        rng: draws the wait.
        fallback_channel: where to post, once, when the channel does not take it; `None`: the fallback sink.
    """
    notes, again = dict(row.notes), {"reason": error.reason, "next_try_at": now}
    if error.trouble is Trouble.AUTH:
        return Remedy("pending", again, open_circuit=True)
    if error.trouble is Trouble.RATE_LIMITED:
        until = now + _pause(error)
        return Remedy("pending", {**again, "next_try_at": until}, pause=until)
    if error.trouble in (Trouble.UNAVAILABLE, Trouble.UNCERTAIN):
        # An edit may be made twice without harm; a post may not.
        lost = error.trouble is Trouble.UNCERTAIN and action is not Kind.EDIT
        return _later(row, "unknown" if lost else "pending", error, now, rng)
    if error.trouble is Trouble.CHANNEL:
        return _closed_channel(row, action, error, now, fallback_channel)
    if error.trouble is Trouble.GONE and action is not Kind.POST:
        return Remedy("pending", {**again, "post_uid": None, "notes": {**notes, "repost": True}})
    if error.trouble is Trouble.TOO_BIG and "plain" not in notes:
        return Remedy("pending", {**again, "notes": {**notes, "plain": True}})
    return Remedy("failed", {"reason": error.reason}, fall=True)


def _closed_channel(
    row: OutboxRow, action: Kind, error: Undelivered, now: datetime, fallback_channel: str | None
) -> Remedy:
    """The fallback channel, once; else the fallback sink, and the channel again until somebody opens it."""
    if fallback_channel and "because" not in row.notes:
        notes = {**row.notes, "channel": fallback_channel, "because": error.reason, "repost": True}
        return Remedy("pending", {"reason": error.reason, "next_try_at": now, "notes": notes})
    if action is not Kind.POST or now - row.created_at > GIVE_UP_AFTER:
        return Remedy("failed", {"reason": error.reason}, fall=True)
    notes = {name: note for name, note in row.notes.items() if name not in _OF_FALLBACK_CHANNEL}
    return Remedy("pending", {"reason": error.reason, "next_try_at": now + _CHANNEL_AGAIN, "notes": notes}, fall=True)


def look_remedy(row: OutboxRow, error: Undelivered, now: datetime, rng: random.Random) -> Remedy:
    """What to do where the search for a message of unknown fate fails."""
    again = {"reason": error.reason, "next_try_at": now}
    if error.trouble is Trouble.AUTH:
        return Remedy("unknown", again, open_circuit=True)
    if error.trouble is Trouble.RATE_LIMITED:
        until = now + _pause(error)
        return Remedy("unknown", {**again, "next_try_at": until}, pause=until)
    if error.trouble in (Trouble.UNAVAILABLE, Trouble.UNCERTAIN):
        return _later(row, "unknown", error, now, rng)
    return Remedy("pending", {**again, "notes": {**row.notes, "duplicate": True}})


def _later(row: OutboxRow, status: str, error: Undelivered, now: datetime, rng: random.Random) -> Remedy:
    if now - row.created_at > GIVE_UP_AFTER:
        return Remedy("failed", {"reason": error.reason}, rest=True)
    attempts = row.attempts + 1
    changes = {"reason": error.reason, "attempts": attempts, "absent": 0, "next_try_at": now + backoff(attempts, rng)}
    return Remedy(status, changes, rest=True)


def _pause(error: Undelivered) -> timedelta:
    return timedelta(seconds=max(1.0, _DEFAULT_PAUSE if error.retry_after is None else error.retry_after))
