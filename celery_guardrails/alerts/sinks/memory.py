"""A sink that keeps what it was given, for tests: yours and ours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered

__all__ = ["Kept", "MemorySink"]


@dataclass(frozen=True)
class Kept:
    """One message as it is now, its earlier versions, and its replies with whether each went to the channel too."""

    posted: Posted
    message: Message
    earlier: tuple[Message, ...] = ()
    replies: tuple[tuple[Message, bool], ...] = ()


@dataclass
class MemorySink:
    """Keep alerts in memory.

    Set `trouble` to have the next calls fail with it, oldest first; set `can_edit` or `can_find` to `False` to be
    like a webhook.
    """

    name: str = "memory"
    can_edit: bool = True
    can_find: bool = True
    min_gap: float = 0.0
    trouble: list[Undelivered] = field(default_factory=list)
    messages: dict[str, Kept] = field(default_factory=dict)

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Keep a new message."""
        self._fail()
        posted = Posted(ts=f"{len(self.messages) + 1}", channel=channel or "memory")
        self.messages[posted.ts] = Kept(posted, message)
        return posted

    def edit(self, posted: Posted, message: Message) -> None:
        """Replace a message and keep the earlier version."""
        kept = self._known(posted, self.can_edit)
        self.messages[posted.ts] = replace(kept, message=message, earlier=(*kept.earlier, kept.message))

    def reply(self, posted: Posted, message: Message, *, broadcast: bool = False) -> Posted:
        """Keep a reply."""
        kept = self._known(posted, self.can_edit)
        self.messages[posted.ts] = replace(kept, replies=(*kept.replies, (message, broadcast)))
        return Posted(ts=f"{posted.ts}.{len(kept.replies) + 1}", channel=posted.channel)

    def find(self, post_uid: str, *, since: datetime, channel: str | None = None, thread: str = "") -> Posted | None:
        """Search the kept messages; `since` and `channel` do not matter here."""
        self._fail()
        if not self.can_find:
            raise Undelivered(Trouble.REFUSED, "cannot be searched")
        for ts, kept in self.messages.items():
            if not thread and kept.message.post_uid == post_uid:
                return kept.posted
            for number, (message, _) in enumerate(kept.replies if ts == thread else (), start=1):
                if message.post_uid == post_uid:
                    return Posted(f"{ts}.{number}", kept.posted.channel)
        return None

    def check(self) -> None:
        """Succeed, or fail with the next `trouble`."""
        self._fail()

    def _fail(self) -> None:
        if self.trouble:
            raise self.trouble.pop(0)

    def _known(self, posted: Posted, able: bool) -> Kept:
        self._fail()
        if not able:
            raise Undelivered(Trouble.REFUSED, "cannot be edited")
        if posted.ts not in self.messages:
            raise Undelivered(Trouble.GONE, "message_not_found")
        return self.messages[posted.ts]
