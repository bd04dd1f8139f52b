"""What one worker holds of Redis: its channels, and the takes whose answer never came.

Owns the knowledge that outlives a channel. A take that was sent on a connection that then broke may have happened or
not; its tags are known, because the worker made them, so its messages can be given back as soon as Redis answers. What
Redis did not take when it was told of (an ack, a message given back) is owed to it until it does.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from celery_guardrails.transport.redis.trouble import Trouble

__all__ = ["Custody", "Fate", "Quarantined"]

Quarantined = Callable[[bytes, str, str], bool]
"""Called with an unreadable item, its queue and its tag; `True` when it is safe elsewhere and may be removed."""


class Fate(NamedTuple):
    """What is called for a message that was to be given back: `gone` where it is not there, `back` where it is back."""

    gone: Callable[[], None]
    back: Callable[[], None] | None = None


_DOUBT = 120.0
"""Seconds for which an unanswered take may still happen: a paused server works off what it has read already."""


class Custody:
    """What a worker holds.

    Args:
        quarantined: takes unreadable items.
        running: gives the tags of messages whose tasks run and go on running when a connection is lost.
        who: who takes, as the log names it.

    Attributes:
        trouble: what the server refuses for now, so that it is said once.
        gather: called with a channel and a tag: acknowledges that message without waiting for Redis, and says whether
            it does; by itself it does not.
        enough: gives how many messages keep its pool busy, for a moment; 0 where nobody knows.
    """

    def __init__(
        self, quarantined: Quarantined, running: Callable[[], set[str]] = set, who: str = "this worker"
    ) -> None:
        self.quarantined = quarantined
        self.running = running
        self.trouble = Trouble(who)
        self.gather: Callable[[Any, str], bool] = _at_once
        self.enough: Callable[[], int] = int
        self._channels: weakref.WeakSet[Any] = weakref.WeakSet()
        self._doubtful: dict[str, float] = {}
        self._acks: set[str] = set()
        self._returns: dict[str, Fate | None] = {}
        self._missing: set[str] = set()
        self._missed: set[str] = set()
        self._lock = threading.Lock()

    def add(self, channel: Any) -> None:
        """A channel of this worker."""
        with self._lock:
            self._channels.add(channel)

    def doubt(self, tags: Iterable[str]) -> None:
        """These tags were sent with a take that was not answered."""
        until = time.monotonic() + _DOUBT
        with self._lock:
            self._doubtful.update(dict.fromkeys(tags, until))

    def doubtful(self) -> list[str]:
        """Tags of takes that were not answered, the last two minutes' worth."""
        now = time.monotonic()
        with self._lock:
            self._doubtful = {tag: until for tag, until in self._doubtful.items() if until > now}
            return list(self._doubtful)

    def ack_later(self, tag: str) -> None:
        """Redis has not taken this ack, yet. The message is kept until it has, so that nobody else gets it."""
        with self._lock:
            self._returns.pop(tag, None)
            self._acks.add(tag)

    def return_later(self, tags: Iterable[str], fate: Fate | None = None) -> None:
        """These are to be given back, and Redis did not take them; `fate` is called for each when it is known."""
        with self._lock:
            self._returns.update(dict.fromkeys(tags, fate))
            self._acks.difference_update(self._returns)

    def owed(self) -> tuple[list[str], dict[str, Fate | None]]:
        """The tags to acknowledge, and those to give back with what is to be called for each when that is done."""
        with self._lock:
            return list(self._acks), dict(self._returns)

    def miss(self, tags: set[str]) -> int:
        """Redis does not know these; gives how many are missing a second time in a row, for the first time.

        Once may be a message that is just acknowledged: Redis hears of that before this worker has noted it.
        """
        with self._lock:
            missed = (tags & self._missing) - self._acks
            new = missed - self._missed
            self._missing, self._missed = tags, missed
            return len(new)

    def paid(self, tags: Iterable[str]) -> None:
        """Redis has taken what it was owed of these."""
        done = set(tags)
        with self._lock:
            self._acks -= done
            for tag in done:
                self._returns.pop(tag, None)

    def retire(self) -> None:
        """The connection is lost, and all channels with it: keep what runs, and have the rest given back."""
        for channel in self.channels():
            channel.retire()

    def channels(self) -> list[Any]:
        """The channels that are in use."""
        with self._lock:
            return list(self._channels)

    def held(self) -> list[str]:
        """The tags of all messages that this worker has taken and not acknowledged."""
        with self._lock:
            acks = list(self._acks)
        return [*(tag for channel in self.channels() for tag in channel.held()), *acks]


def _at_once(channel: Any, tag: str) -> bool:
    """Nothing is gathered: every acknowledgement is sent by itself, and its answer waited for."""
    return False
