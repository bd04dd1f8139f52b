"""What one worker holds on Redis: its channels, and the takes whose answer never came.

Owns the knowledge that outlives a channel. If a connection breaks after a take was sent, Redis may have carried out the
take or not. The worker made the take's tags, so its messages can be given back as soon as Redis answers. A command that
Redis did not take (an acknowledgement, a message to give back) is owed to Redis until it takes the command.
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
"""Called with an unreadable item, its queue and its tag; `True`: the item is safe elsewhere and may be removed."""


class Fate(NamedTuple):
    """Called for a message to give back: `back` when it is in its queue again, `gone` if Redis does not have it."""

    gone: Callable[[], None]
    back: Callable[[], None] | None = None


_DOUBT = 120.0
"""Seconds for which Redis may still carry out an unanswered take: a paused server works off what it has read."""


class Custody:
    """What a worker holds on Redis.

    Args:
        quarantined: takes unreadable items.
        running: gives the tags of messages whose tasks run, and keep running when a connection is lost.
        who: the process that takes, as the log names it.

    Attributes:
        trouble: what the server refuses for now, so that it is logged once.
        gather: called with a channel and a tag; acknowledges that message without waiting for Redis, and returns
            whether it does. The default does not.
        enough: gives how many messages keep the worker's pool busy, for a moment; 0 if it is not known.
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
        """Note a channel of this worker."""
        with self._lock:
            self._channels.add(channel)

    def doubt(self, tags: Iterable[str]) -> None:
        """Note the tags of a take that was not answered."""
        until = time.monotonic() + _DOUBT
        with self._lock:
            self._doubtful.update(dict.fromkeys(tags, until))

    def doubtful(self) -> list[str]:
        """The tags of the takes that were not answered in the last two minutes."""
        now = time.monotonic()
        with self._lock:
            self._doubtful = {tag: until for tag, until in self._doubtful.items() if until > now}
            return list(self._doubtful)

    def ack_later(self, tag: str) -> None:
        """Note an acknowledgement that Redis has not taken yet; until then the message is kept from other workers."""
        with self._lock:
            self._returns.pop(tag, None)
            self._acks.add(tag)

    def return_later(self, tags: Iterable[str], fate: Fate | None = None) -> None:
        """Note messages to give back that Redis has not taken yet; `fate` is called for each when the end is known."""
        with self._lock:
            self._returns.update(dict.fromkeys(tags, fate))
            self._acks.difference_update(self._returns)

    def owed(self) -> tuple[list[str], dict[str, Fate | None]]:
        """The tags to acknowledge, and the tags to give back, each with its `Fate` to call afterwards."""
        with self._lock:
            return list(self._acks), dict(self._returns)

    def miss(self, tags: set[str]) -> int:
        """Note tags that Redis does not know; returns how many are newly missing, which means twice in a row.

        A tag that is missing once may be acknowledged just now: Redis removes it before this worker has noted that.
        """
        with self._lock:
            missed = (tags & self._missing) - self._acks
            new = missed - self._missed
            self._missing, self._missed = tags, missed
            return len(new)

    def paid(self, tags: Iterable[str]) -> None:
        """Note that Redis has taken the commands that it was owed for these tags."""
        done = set(tags)
        with self._lock:
            self._acks -= done
            for tag in done:
                self._returns.pop(tag, None)

    def retire(self) -> None:
        """Give up all channels, because the connection is lost: keep what runs, and have the rest given back."""
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
    """Gather nothing: each acknowledgement is sent alone, and its sender waits for the answer."""
    return False
