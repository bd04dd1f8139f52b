"""When a group speaks: a pure function from a group, an event and an instant to the group and its intents.

idle -> pending (group_wait) -> open (one message, edited in place) -> quiet -> resolved, and back to open when it
fails again soon. It reads no clock, knows no sink and no store. Figures are kept by `group`, words by `render`.
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
"""This many dead letters shorten the wait before the first message, as critical severity does."""

_Step = tuple[AlertGroup, list[Intent]]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LIVE = (GroupState.OPEN, GroupState.QUIET)


def step(group: AlertGroup, event: EngineEvent, now: datetime, rules: Rules) -> _Step:
    """What becomes of the group, and what is to be said.

    Args:
        group: as the last step left it; `AlertGroup.idle` the first time.
        event: a dead letter or new figures of the letters' states, which are only counted, or a tick, at which it
            speaks, so that one message says what came together. A dead letter that was counted before must not be
            passed again: the store sees to that by `ref_id`.
        now: this instant, aware UTC; never before the last step's.
        rules: the times, and whether the sink can edit.
    """
    if isinstance(event, AlertEvent):
        return _count(group, event, now, rules), []
    if isinstance(event, LettersChanged):
        return _note_letters(group, event), []
    return _speak(group, now, rules, flush=event.flush)


def worse_total(group: AlertGroup) -> bool:
    """Rule (a): the total is at least double, and at least ten more, than at the last message in the channel."""
    return group.total >= max(2 * group.base, group.base + 10)


def next_due(group: AlertGroup, rules: Rules) -> datetime | None:
    """When a tick can next make this group speak, or `None` when only a new dead letter can."""
    if group.state is GroupState.PENDING:
        return _wait_ends(group, rules)
    if group.state is GroupState.RESOLVED and group.unsaid and rules.can_edit and group.edited_at is not None:
        return group.edited_at + rules.edit_interval
    if group.state not in _LIVE or group.seen_at is None:
        return None
    dues = [group.seen_at + rules.quiet]
    if group.state is GroupState.OPEN:
        dues.append(group.seen_at + _settle(rules))
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
    # A period whose message never got out is not closed: starting another would lose the alert.
    return not group.posted or group.resolved_at is None or now < group.resolved_at + rules.reopen_within


def _note_letters(group: AlertGroup, letters: LettersChanged) -> AlertGroup:
    if letters == group.letters:
        return group
    return replace(group, letters=letters, unsaid=group.unsaid or group.state is not GroupState.IDLE)


def _speak(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
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
    if now >= group.seen_at + _settle(rules):
        group = replace(group, state=GroupState.QUIET)
    return _grow(group, now, rules, flush=flush)


def _wait_ends(group: AlertGroup, rules: Rules) -> datetime:
    urgent = group.critical or group.total - group.base >= URGENT_COUNT
    wait = min(rules.group_wait_urgent, rules.group_wait) if urgent else rules.group_wait
    return (group.pending_at or _EPOCH) + wait


def _settle(rules: Rules) -> timedelta:
    """A group is quiet once its last edit must be out."""
    return min(rules.edit_interval, rules.quiet)


def _open(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    reopened = group.resolved_at is not None
    if not reopened:
        group = replace(group, state=GroupState.OPEN, pending_at=None)
        return _say(group, now, Notice.OPENED, Kind.POST)
    group = replace(group, state=GroupState.OPEN, pending_at=None, resolved_at=None)
    if not rules.can_edit:
        return _say(group, now, Notice.REOPENED, Kind.POST)
    return _say_in_thread(group, now, Notice.REOPENED, broadcast=_may_post(group, now, rules))


def _resolve(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    group = replace(group, state=GroupState.RESOLVED, resolved_at=now)
    if not rules.can_edit:
        return _say(group, now, Notice.RESOLVED, Kind.POST)
    return _say_in_thread(group, now, Notice.RESOLVED, broadcast=False)


def _grow(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    worse = worse_total(group)
    grew = group.total > group.base or group.again > group.again_base
    if (worse or not rules.can_edit) and grew and _may_post(group, now, rules):
        if not rules.can_edit:
            return _say(group, now, Notice.WORSE_TOTAL if worse else Notice.GROWTH, Kind.POST)
        return _say_in_thread(group, now, Notice.WORSE_TOTAL, broadcast=True)
    return _edit(group, now, rules, flush=flush)


def _edit(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    if not (group.unsaid and rules.can_edit and group.edited_at is not None):
        return group, []
    if not flush and now < group.edited_at + rules.edit_interval:
        return group, []
    notice = Notice.GROWTH if group.state is not GroupState.RESOLVED else Notice.UPDATED
    return _intend(replace(group, edited_at=now, unsaid=False), Kind.EDIT, notice)


def _may_post(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    """Whether the last message in the channel is long enough ago: what got worse does not wait for the cooldown."""
    least = rules.worse_after if worse_total(group) else rules.cooldown
    return group.spoke_at is None or now >= group.spoke_at + least


def _say(group: AlertGroup, now: datetime, notice: Notice, kind: Kind) -> _Step:
    said, intents = _intend(group, kind, notice)
    return _spoken(said, now), intents


def _say_in_thread(group: AlertGroup, now: datetime, notice: Notice, *, broadcast: bool) -> _Step:
    edited, edits = _intend(group, Kind.EDIT, notice)
    said, replies = _intend(edited, Kind.REPLY, notice, broadcast=broadcast)
    if broadcast:
        return _spoken(said, now), edits + replies
    return replace(said, edited_at=now, unsaid=False), edits + replies


def _spoken(group: AlertGroup, now: datetime) -> AlertGroup:
    return replace(group, base=group.total, again_base=group.again, spoke_at=now, edited_at=now, unsaid=False)


def _intend(group: AlertGroup, kind: Kind, notice: Notice, *, broadcast: bool = False) -> _Step:
    ordinal = group.ordinals.get(kind.value, 0)
    facts = {"total": group.total, "base": group.base}
    if group.letters is not None:
        facts["dead"] = group.letters.dead
    intent = Intent(kind, notice, group.period, ordinal, broadcast, facts)
    return replace(group, ordinals={**group.ordinals, kind.value: ordinal + 1}), [intent]
