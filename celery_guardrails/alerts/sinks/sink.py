"""Where an alert goes: the one protocol that every sink keeps, and the kinds of trouble it can report.

Owns `Sink`, `Message`, `Posted`, `Trouble` and `Undelivered`. It must not know any sink, nor what to do about trouble:
the poster decides that, from `Trouble`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from celery_guardrails.errors import SinkError

__all__ = ["Message", "Posted", "Sink", "Trouble", "Undelivered"]


class Trouble(str, Enum):
    """Why a sink did not take a message, as far as it matters for what to do next.

    `rate_limited` it asks for a pause; `unavailable` it certainly did not take it, later it may; `uncertain` nobody
    knows whether it took it; `auth` nothing can be sent until somebody mends the credentials; `channel` this channel
    cannot be written to; `gone` the message to change is no more; `too_big` it rejects the layout, plain text may do;
    `refused` it will never take this message.
    """

    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    UNCERTAIN = "uncertain"
    AUTH = "auth"
    CHANNEL = "channel"
    GONE = "gone"
    TOO_BIG = "too_big"
    REFUSED = "refused"

    def __str__(self) -> str:
        return self.value


class Undelivered(SinkError):
    """A sink did not take a message, or nobody knows whether it did.

    Args:
        trouble: what kind of trouble it is; decides what the poster does.
        reason: the sink's own words, such as Slack's `not_in_channel`. Never holds a credential.
        retry_after: the least wait in seconds that the sink asked for, or `None`.
    """

    def __init__(self, trouble: Trouble, reason: str, retry_after: float | None = None) -> None:
        retryable = trouble in (Trouble.RATE_LIMITED, Trouble.UNAVAILABLE, Trouble.UNCERTAIN)
        super().__init__(reason, retryable, retry_after)
        self.trouble = trouble
        self.args = (trouble, reason, retry_after)


@dataclass(frozen=True)
class Message:
    """An alert as a sink takes it.

    `text` says the whole thing in one line, `plain` is the whole alert as lines of plain text, `blocks` is the rich
    layout (empty: send `plain`). `post_uid` is put where `find` can see it.
    """

    text: str
    plain: str
    blocks: tuple[dict[str, Any], ...] = ()
    post_uid: str = ""


@dataclass(frozen=True)
class Posted:
    """Where a message is: enough to change it or to reply to it."""

    ts: str
    channel: str


@runtime_checkable
class Sink(Protocol):
    """One place where alerts go. Every call either does it or raises `Undelivered`, within its own timeout.

    `can_edit` says that `edit` and `reply` work; `can_find` that `find` does. A sink without an ability raises
    `Undelivered(Trouble.REFUSED)` when it is asked for it.
    """

    name: str
    can_edit: bool
    can_find: bool

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
