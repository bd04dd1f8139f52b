"""The rules by which alert groups notify: what is one group, how long it waits, how often it edits and posts.

Owns `Rules`, which the engine takes instead of the whole settings. It must not know where settings are read from.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import timedelta

from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.threshold import DeadLetterThreshold
from celery_guardrails.settings import AlertSettings

__all__ = ["LONGEST_QUIET", "EscalationStep", "Rules"]

LONGEST_QUIET = timedelta(hours=24)
_NEVER = sys.maxsize
"""So many dead letters open a group where a policy says that they are no alert."""


@dataclass(frozen=True)
class EscalationStep:
    """One step of an escalation, which is taken where nobody has acknowledged the alert.

    Args:
        after: time since the alert opened.
        mention: whom the message in the alert's thread and channel mentions; Slack's own form, such as `<@U012AB>`.
        channel: another channel, which gets a message of its own. One of both is set.
    """

    after: timedelta
    mention: str = ""
    channel: str = ""


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
        reminder: how long after the last message in the channel people are reminded of a group that still fails.
        acknowledge_for: how long an acknowledgement lasts while it still fails.
        quiet: without a new failure for this long, a group is resolved.
        reopen_within: a group that fails again this soon after it was resolved continues its message and thread.
        count, within: so many dead letters within this time open a group.
        escalation: the steps, soonest first.
        storm_groups, storm_within: when more groups than this open within this time in one environment, the further
            ones become one digest.
        muted: the task's policy wants no alerts: its groups only count.
        can_edit: whether the sink can change a message that it posted (a webhook cannot).
    """

    group_by: tuple[str, ...] = ("task",)
    group_wait: timedelta = timedelta(seconds=30)
    group_wait_urgent: timedelta = timedelta(seconds=5)
    edit_interval: timedelta = timedelta(seconds=60)
    cooldown: timedelta = timedelta(minutes=30)
    worse_interval: timedelta = timedelta(minutes=5)
    reminder: timedelta = timedelta(hours=4)
    acknowledge_for: timedelta = timedelta(hours=4)
    quiet: timedelta = timedelta(minutes=15)
    reopen_within: timedelta = timedelta(hours=1)
    count: int = 1
    within: timedelta = timedelta(minutes=5)
    escalation: tuple[EscalationStep, ...] = ()
    storm_groups: int = 10
    storm_within: timedelta = timedelta(minutes=5)
    muted: bool = False
    can_edit: bool = True

    @property
    def worse_after(self) -> timedelta:
        """How long after its last message in the channel a group that got worse may post there again."""
        return min(self.worse_interval, self.cooldown)

    def of_task(self, word: TaskAlerts | None, window: timedelta) -> Rules:
        """These rules for one task.

        Args:
            word: what its policy says about its alerts.
            window: how far its attempts may be apart in all: it is resolved no sooner, at most after 24 h.
        """
        if word is None and window <= self.quiet:
            return self
        quiet = max(self.quiet, min(window, LONGEST_QUIET))
        if word is None:
            return replace(self, quiet=quiet)
        threshold = word.threshold(DeadLetterThreshold(count=self.count, within=self.within), "dead_letter")
        if threshold is None:
            return replace(self, quiet=quiet, muted=word.muted, count=_NEVER)
        return replace(self, quiet=quiet, count=threshold.count, within=threshold.within)

    @classmethod
    def from_settings(cls, settings: AlertSettings, *, can_edit: bool = True) -> Rules:
        """The rules that these settings and this sink's abilities make."""
        dead = settings.thresholds.dead_letter
        return cls(
            group_by=settings.group_by,
            group_wait=settings.group_wait,
            group_wait_urgent=settings.group_wait_urgent,
            edit_interval=settings.edit_interval,
            cooldown=settings.cooldown,
            reminder=settings.reminder,
            acknowledge_for=settings.acknowledge_for,
            quiet=settings.quiet,
            reopen_within=settings.reopen_within,
            count=dead.count,
            within=dead.within,
            escalation=tuple(
                EscalationStep(step.after, step.mention or "", step.channel or "")
                for step in sorted(settings.escalation, key=lambda step: step.after)
            ),
            storm_groups=settings.storm.groups,
            storm_within=settings.storm.within,
            can_edit=can_edit,
        )
