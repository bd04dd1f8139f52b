"""What the engine wants to notify: the kind of the notification and the named reason for it, as data.

The outbox stores intents, and the poster delivers them. It must not know how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Intent", "Kind", "Notice"]


class Kind(str, Enum):
    """How to notify.

    `post`: a message in the channel; `edit`: a change of that message; `reply`: a reply in its thread; `escalation`: a
    message of its own in the channel that `facts["channel"]` names.
    """

    POST = "post"
    EDIT = "edit"
    REPLY = "reply"
    ESCALATION = "escalation"

    def __str__(self) -> str:
        return self.value


class Notice(str, Enum):
    """Why the group notifies.

    `opened`: a new problem; `growth`: more of the same; `updated`: letters were requeued, recovered or discarded.
    It got worse: `worse_total`: the total has doubled at least, and grown by ten; `worse_rate`: three times as many in
    five minutes; `new_error`: an error that was not there before; `severity_rose`; `new_signal`: another kind of
    trouble. `reminder`: it goes on, and nobody has acknowledged it; `escalated`: likewise, so somebody else is asked.
    `acknowledged`, `unacknowledged`: somebody takes care of it, or no longer does; `silenced`; `silence_ended`: it went
    on meanwhile. `requeued`: somebody requeued letters. `resolved`: no new failure for the quiet time; `reopened`: it
    fails again soon after; `digest`: many tasks began to fail at once.
    """

    OPENED = "opened"
    GROWTH = "growth"
    UPDATED = "updated"
    WORSE_TOTAL = "worse_total"
    WORSE_RATE = "worse_rate"
    NEW_ERROR = "new_error"
    SEVERITY_ROSE = "severity_rose"
    NEW_SIGNAL = "new_signal"
    REMINDER = "reminder"
    ESCALATED = "escalated"
    ACKNOWLEDGED = "acknowledged"
    UNACKNOWLEDGED = "unacknowledged"
    SILENCED = "silenced"
    SILENCE_ENDED = "silence_ended"
    REQUEUED = "requeued"
    RESOLVED = "resolved"
    REOPENED = "reopened"
    DIGEST = "digest"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Intent:
    """One notification to deliver; (group, `period`, `kind`, `ordinal`) names it once and for ever.

    `broadcast` sends a reply to the channel as well. `facts` are the figures of this instant that a reply's text
    needs (`total`, `base`, `dead`, `by`, `mention` and the like, JSON-safe): the poster renders a notification only
    when it sends it.
    """

    kind: Kind
    notice: Notice
    period: int
    ordinal: int
    broadcast: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_loud(self) -> bool:
        """Whether it puts something new into a channel."""
        return self.kind in (Kind.POST, Kind.ESCALATION) or self.broadcast
