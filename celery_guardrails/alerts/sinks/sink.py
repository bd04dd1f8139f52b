"""Where an alert goes: the protocol that every sink implements, and what it gets.

Owns `Sink`, `Message` and `Posted`. It must not know any sink, nor what to do about trouble: the poster decides that,
from `errors.Trouble`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from celery_guardrails.alerts.sinks.alert import Alert

__all__ = ["Message", "Posted", "Sink"]


@dataclass(frozen=True)
class Message:
    """An alert as a sink takes it.

    `text` is the alert in one line, `plain` the whole alert as lines of plain text, `blocks` the rich layout (empty:
    send `plain`). The sink puts `post_uid` where `find` can see it. `alert` has the facts, for sinks that sort by them;
    `None` for a message that is no alert, such as a test.
    """

    text: str
    plain: str
    blocks: tuple[dict[str, Any], ...] = ()
    post_uid: str = ""
    alert: Alert | None = None


@dataclass(frozen=True)
class Posted:
    """Where a message is: enough to change it or to reply to it."""

    ts: str
    channel: str


@runtime_checkable
class Sink(Protocol):
    """One place where alerts go. Every call either succeeds or raises `Undelivered`, within its own timeout.

    `can_edit` says that `edit` and `reply` work; `can_find` that `find` does. A sink without an ability raises
    `Undelivered(Trouble.REFUSED)` when it is asked for it. `min_gap` is the least time in seconds between two messages
    in one channel.
    """

    name: str
    can_edit: bool
    can_find: bool
    min_gap: float

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Post a new message in `channel`, or in the sink's own channel when it is `None`."""

    def edit(self, posted: Posted, message: Message) -> None:
        """Replace an earlier message with this one."""

    def reply(self, posted: Posted, message: Message, *, broadcast: bool = False) -> Posted:
        """Reply in the thread of an earlier message; `broadcast` shows it in the channel too."""

    def find(self, post_uid: str, *, since: datetime, channel: str | None = None, thread: str = "") -> Posted | None:
        """The message that carries `post_uid`, posted at or after `since`, or `None` when there is none.

        `thread` is the ts of the message in whose thread to look; empty means the channel itself.
        """

    def check(self) -> None:
        """Ask whether messages could be sent now, without sending one."""
