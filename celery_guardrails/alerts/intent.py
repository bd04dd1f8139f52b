"""What the engine wants said: the kind of notification and the named reason for it, as data.

It must not know how anything is delivered; the outbox stores intents and the poster acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Intent", "Kind", "Notice"]


class Kind(str, Enum):
    """How it is said: a message in the channel, a change of that message, or a reply in its thread."""

    POST = "post"
    EDIT = "edit"
    REPLY = "reply"

    def __str__(self) -> str:
        return self.value


class Notice(str, Enum):
    """Why it is said.

    `opened` a new problem; `growth` more of the same; `updated` letters were requeued, recovered or discarded;
    `worse_total` rule (a); `resolved` nothing new for the quiet time; `reopened` it fails again soon after.
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
    needs (`total`, `base`, `dead`), because a message itself is rendered when it is sent.
    """

    kind: Kind
    notice: Notice
    period: int
    ordinal: int
    broadcast: bool = False
    facts: Mapping[str, int] = field(default_factory=dict)
