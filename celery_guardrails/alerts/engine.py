"""When a group notifies: a pure function from a group, an event and an instant to the group and its intents.

idle -> pending (group_wait) -> open (one message, edited in place) -> quiet -> resolved, and back to open when it
fails again soon. It must not know the clock, a sink or the store. `group` keeps the figures, `render` has the words.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from celery_guardrails.alerts.event import AlertEvent, EngineEvent, LettersChanged
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Intent, Kind, Notice
from celery_guardrails.alerts.rules import Rules

__all__ = ["URGENT_COUNT", "next_due", "step", "worse_total"]

URGENT_COUNT = 50
"""So many dead letters shorten the wait before the first message, as critical severity does."""

_Step = tuple[AlertGroup, list[Intent]]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LIVE = (GroupState.OPEN, GroupState.QUIET)


def step(group: AlertGroup, event: EngineEvent, now: datetime, rules: Rules) -> _Step:
    """The group after the event, and the notifications to send.

    Args:
        group: as the last step left it; `AlertGroup.idle` the first time.
        event: a dead letter and new states of letters are only counted. At a tick the group notifies, so that one
            message shows all that came together. Do not pass a dead letter that was counted before: the store
            knows it by its `ref_id`.
        now: this instant, aware UTC; never before the last step's.
        rules: the times, and whether the sink can edit.
    """
    if isinstance(event, AlertEvent):
        return _count(group, event, now, rules), []
    if isinstance(event, LettersChanged):
        return _note_letters(group, event), []
    return _notify(group, now, rules, flush=event.flush)


def worse_total(group: AlertGroup) -> bool:
    """Whether the total is at least double, and at least ten more, than at the last message in the channel."""
    return group.total >= max(2 * group.base, group.base + 10)


def next_due(group: AlertGroup, rules: Rules) -> datetime | None:
    """When a tick can next make this group notify; `None`: only a new dead letter can."""
    if group.state is GroupState.PENDING:
        return _wait_ends(group, rules)
    if group.state is GroupState.RESOLVED and group.unsaid and rules.can_edit and group.edited_at is not None:
        return group.edited_at + rules.edit_interval
    if group.state not in _LIVE or group.seen_at is None:
        return None
    dues = [group.seen_at + rules.quiet]
    if group.state is GroupState.OPEN:
        dues.append(group.seen_at + _quiet_after(rules))
    if group.unsaid and rules.can_edit and group.edited_at is not None:
        dues.append(group.edited_at + rules.edit_interval)
    if group.spoke_at is not None:
        if worse_total(group):
            dues.append(group.spoke_at + rules.worse_after)
        elif not rules.can_edit and (group.total > group.base or group.again > group.again_base):
            dues.append(group.spoke_at + rules.cooldown)
    return min(dues)


def _count(group: AlertGroup, event: AlertEvent, now: datetime, rules: Rules) -> AlertGroup:
    if group.state is GroupState.RESOLVED and not _continues(group, now, rules):
        group = group.next_period()
    group = group.add(event, now)
    if group.state in (GroupState.IDLE, GroupState.RESOLVED):
        return replace(group, state=GroupState.PENDING, pending_at=now)
    if group.state is GroupState.QUIET:
        return replace(group, state=GroupState.OPEN)
    return group


def _continues(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    # A period whose message was never posted goes on: a new period would lose the alert.
    return not group.posted or group.resolved_at is None or now < group.resolved_at + rules.reopen_within


def _note_letters(group: AlertGroup, letters: LettersChanged) -> AlertGroup:
    if letters == group.letters:
        return group
    return replace(group, letters=letters, unsaid=group.unsaid or group.state is not GroupState.IDLE)


def _notify(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    if group.state is GroupState.PENDING:
        if flush or now >= _wait_ends(group, rules):
            return _open(group, now, rules)
        return group, []
    if group.state is GroupState.RESOLVED:
        return _edit(group, now, rules, flush=flush)
    if group.state not in _LIVE or group.seen_at is None:
        return group, []
    if now >= group.seen_at + rules.quiet:
        return _resolve(group, now, rules)
    if now >= group.seen_at + _quiet_after(rules):
        group = replace(group, state=GroupState.QUIET)
    return _grow(group, now, rules, flush=flush)


def _wait_ends(group: AlertGroup, rules: Rules) -> datetime:
    urgent = group.critical or group.total - group.base >= URGENT_COUNT
    wait = min(rules.group_wait_urgent, rules.group_wait) if urgent else rules.group_wait
    return (group.pending_at or _EPOCH) + wait


def _quiet_after(rules: Rules) -> timedelta:
    """How long after its last dead letter a group is quiet: by then its last edit is due."""
    return min(rules.edit_interval, rules.quiet)


def _open(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    reopened = group.resolved_at is not None
    if not reopened:
        group = replace(group, state=GroupState.OPEN, pending_at=None)
        return _post(group, now, Notice.OPENED)
    group = replace(group, state=GroupState.OPEN, pending_at=None, resolved_at=None)
    if not rules.can_edit:
        return _post(group, now, Notice.REOPENED)
    return _reply(group, now, Notice.REOPENED, broadcast=_may_post(group, now, rules))


def _resolve(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    group = replace(group, state=GroupState.RESOLVED, resolved_at=now)
    if not rules.can_edit:
        return _post(group, now, Notice.RESOLVED)
    return _reply(group, now, Notice.RESOLVED, broadcast=False)


def _grow(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    worse = worse_total(group)
    grew = group.total > group.base or group.again > group.again_base
    if (worse or not rules.can_edit) and grew and _may_post(group, now, rules):
        if not rules.can_edit:
            return _post(group, now, Notice.WORSE_TOTAL if worse else Notice.GROWTH)
        return _reply(group, now, Notice.WORSE_TOTAL, broadcast=True)
    return _edit(group, now, rules, flush=flush)


def _edit(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    if not (group.unsaid and rules.can_edit and group.edited_at is not None):
        return group, []
    if not flush and now < group.edited_at + rules.edit_interval:
        return group, []
    notice = Notice.GROWTH if group.state is not GroupState.RESOLVED else Notice.UPDATED
    return _intend(replace(group, edited_at=now, unsaid=False), Kind.EDIT, notice)


def _may_post(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    """Whether the last message in the channel is long enough ago; a group that got worse waits a shorter time."""
    least = rules.worse_after if worse_total(group) else rules.cooldown
    return group.spoke_at is None or now >= group.spoke_at + least


def _post(group: AlertGroup, now: datetime, notice: Notice) -> _Step:
    posted, posts = _intend(group, Kind.POST, notice)
    return _mark_posted(posted, now), posts


def _reply(group: AlertGroup, now: datetime, notice: Notice, *, broadcast: bool) -> _Step:
    edited, edits = _intend(group, Kind.EDIT, notice)
    replied, replies = _intend(edited, Kind.REPLY, notice, broadcast=broadcast)
    if broadcast:
        return _mark_posted(replied, now), edits + replies
    return replace(replied, edited_at=now, unsaid=False), edits + replies


def _mark_posted(group: AlertGroup, now: datetime) -> AlertGroup:
    return replace(group, base=group.total, again_base=group.again, spoke_at=now, edited_at=now, unsaid=False)


def _intend(group: AlertGroup, kind: Kind, notice: Notice, *, broadcast: bool = False) -> _Step:
    ordinal = group.ordinals.get(kind.value, 0)
    facts = {"total": group.total, "base": group.base}
    if group.letters is not None:
        facts["dead"] = group.letters.dead
    intent = Intent(kind, notice, group.period, ordinal, broadcast, facts)
    return replace(group, ordinals={**group.ordinals, kind.value: ordinal + 1}), [intent]
