"""What the engine wants to notify: the kind of the notification and the named reason for it, as data.

The outbox stores intents, and the poster delivers them. It must not know how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Intent", "Kind", "Notice"]


class Kind(str, Enum):
    """How to notify: a message in the channel, a change of that message, or a reply in its thread."""

    POST = "post"
    EDIT = "edit"
    REPLY = "reply"

    def __str__(self) -> str:
        return self.value


class Notice(str, Enum):
    """Why the group notifies.

    `opened` a new problem; `growth` more of the same; `updated` letters were requeued, recovered or discarded;
    `worse_total` the total has doubled at least, and grown by ten; `resolved` no new dead letter for the quiet time;
    `reopened` the task fails again soon after.
    """

    OPENED = "opened"
    GROWTH = "growth"
    UPDATED = "updated"
    WORSE_TOTAL = "worse_total"
    RESOLVED = "resolved"
    REOPENED = "reopened"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Intent:
    """One notification to deliver; (group, `period`, `kind`, `ordinal`) names it once and for ever.

    `broadcast` sends a reply to the channel as well. `facts` are the figures of this instant that a reply's text
    needs (`total`, `base`, `dead`): the poster renders a notification only when it sends it.
    """

    kind: Kind
    notice: Notice
    period: int
    ordinal: int
    broadcast: bool = False
    facts: Mapping[str, int] = field(default_factory=dict)
