"""What sinks have in common that can only post: they neither edit, nor reply, nor search.

It must not know how any of them posts.
"""
# on its own: each sink that can only post is a file, and shares this

from __future__ import annotations

from datetime import datetime

from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered

__all__ = ["PostOnly"]


class PostOnly:
    """The base of a sink that can only post. A subclass has a `name` and `post`."""

    name: str
    can_edit = False
    can_find = False
    min_gap = 1.0

    def edit(self, posted: Posted, message: Message) -> None:
        """It cannot edit."""
        raise Undelivered(Trouble.REFUSED, f"{self.name} cannot edit")

    def reply(self, posted: Posted, message: Message, *, broadcast: bool = False) -> Posted:
        """It knows no threads."""
        raise Undelivered(Trouble.REFUSED, f"{self.name} cannot reply")

    def find(self, post_uid: str, *, since: datetime, channel: str | None = None, thread: str = "") -> Posted | None:
        """It cannot be searched."""
        raise Undelivered(Trouble.REFUSED, f"{self.name} cannot be searched")

    def check(self) -> None:
        """Do nothing: only a post can try it."""
