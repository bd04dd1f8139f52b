"""The rules by which alert groups notify: what is one group, how long it waits, how often it edits and posts.

Owns `Rules`, which the engine takes instead of the whole settings. It must not know where settings are read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from celery_guardrails.settings import AlertSettings

__all__ = ["Rules"]


@dataclass(frozen=True)
class Rules:
    """When a group notifies.

    Args:
        group_by: `("task",)`, or `("task", "error")` for a group of its own for each fingerprint.
        group_wait: from the first dead letter to the first message, so that the message counts what dies with it.
        group_wait_urgent: the same when severity is critical or 50 letters are dead already.
        edit_interval: the least time between two edits of a message.
        cooldown: the least time between two messages in the channel about one group that did not get worse.
        worse_interval: the same for a group that did; a shorter `cooldown` replaces it.
        quiet: without a new dead letter for this long, a group is resolved.
        reopen_within: a group that fails again this soon after it was resolved continues its message and thread.
        can_edit: whether the sink can change a message that it posted (a webhook cannot).
    """

    group_by: tuple[str, ...] = ("task",)
    group_wait: timedelta = timedelta(seconds=30)
    group_wait_urgent: timedelta = timedelta(seconds=5)
    edit_interval: timedelta = timedelta(seconds=60)
    cooldown: timedelta = timedelta(minutes=30)
    worse_interval: timedelta = timedelta(minutes=5)
    quiet: timedelta = timedelta(minutes=15)
    reopen_within: timedelta = timedelta(hours=1)
    can_edit: bool = True

    @property
    def worse_after(self) -> timedelta:
        """How long after its last message in the channel a group that got worse may post there again."""
        return min(self.worse_interval, self.cooldown)

    @classmethod
    def from_settings(cls, settings: AlertSettings, *, can_edit: bool = True) -> Rules:
        """The rules that these settings and this sink's abilities make."""
        return cls(
            group_by=settings.group_by,
            group_wait=settings.group_wait,
            group_wait_urgent=settings.group_wait_urgent,
            edit_interval=settings.edit_interval,
            cooldown=settings.cooldown,
            quiet=settings.quiet,
            reopen_within=settings.reopen_within,
            can_edit=can_edit,
        )
