"""When a group notifies: a pure function from a group, an event and an instant to the group and its intents.

    idle -> pending (group_wait) -> open <-> acknowledged -> quiet -> resolved, and open again when it fails again soon

Silenced, inhibited and digested groups count as ever, and put nothing new into the channel. It must not know the clock,
a sink or the store. `group` keeps the figures, `worse` and `escalation` have the rules, `render` has the words.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from celery_guardrails.alerts import escalation
from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.event import (
    Acknowledged,
    AlertEvent,
    EngineEvent,
    LettersChanged,
    MembersChanged,
    PutBack,
    StillFailing,
    Tick,
    Unacknowledged,
)
from celery_guardrails.alerts.group import Acknowledgement, AlertGroup, Base, GroupState, Members
from celery_guardrails.alerts.intent import Intent, Kind, Notice
from celery_guardrails.alerts.rules import LONGEST_QUIET, EscalationStep, Rules
from celery_guardrails.alerts.window import within
from celery_guardrails.alerts.worse import AT_ONCE, worse

__all__ = ["LIVE", "URGENT_COUNT", "next_due", "opens", "quiet_time", "step"]

URGENT_COUNT = 50
"""So many dead letters shorten the wait before the first message, as critical severity does."""
LIVE = (GroupState.OPEN, GroupState.ACKNOWLEDGED, GroupState.QUIET)
"""The states of a group that people know of, or would know of were it not silenced."""

_Step = tuple[AlertGroup, list[Intent]]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INSTANTS = ("pending_at", "opened_at", "seen_at", "spoke_at", "edited_at", "resolved_at")


def step(group: AlertGroup, event: EngineEvent, now: datetime, rules: Rules) -> _Step:
    """The group after the event, and the notifications to send.

    Args:
        group: as the last step left it; `AlertGroup.idle` the first time.
        event: all but a tick and what people do is only counted. At a tick the group notifies, so that one message
            shows all that came together. Do not pass a dead letter or a condition that was counted before: the store
            knows it by its `ref_id`.
        now: this instant, aware UTC. A clock that was set back makes nothing wait: instants ahead count as now.
        rules: the times and thresholds, and whether the sink can edit.
    """
    if isinstance(event, AlertEvent):
        return _begun(_continued(group, now, rules).add(event, now, rules.within), now), []
    if isinstance(event, Condition):
        return _note(group, event, now, rules), []
    if isinstance(event, LettersChanged):
        return _note_letters(group, event), []
    if isinstance(event, PutBack):
        return _put_back(group, event, now, rules)
    if isinstance(event, MembersChanged):
        return _note_members(group, event, now, rules), []
    if isinstance(event, StillFailing):
        return (_begun(replace(group, seen_at=now), now) if group.state in LIVE else group), []
    if isinstance(event, Acknowledged):
        return _acknowledge(group, event, now, rules)
    if isinstance(event, Unacknowledged):
        return _unacknowledge(group, event, now, rules)
    return _notify(_by_this_clock(group, now), now, rules, event)


def quiet_time(group: AlertGroup, now: datetime, rules: Rules) -> timedelta:
    """Without a failure for this long, the group is resolved: longer for one that flaps, at most 24 hours."""
    if not group.total and not group.members:
        return min(rules.edit_interval, rules.quiet)  # only conditions, which say themselves that they have ended
    flaps = group.flapping(now)
    factor = 4 if flaps >= 6 else 2 if flaps >= 3 else 1
    return max(rules.quiet, min(factor * rules.quiet, LONGEST_QUIET))


def opens(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool = False) -> bool:
    """Whether the next tick opens this group."""
    if group.state is not GroupState.PENDING or not _is_enough(group, now, rules):
        return False
    return flush or now >= _wait_ends(group, rules)


def next_due(group: AlertGroup, now: datetime, rules: Rules) -> datetime | None:
    """When a tick can next make this group notify; `None`: only a new event can."""
    if group.state is GroupState.PENDING:
        return _wait_ends(group, rules) if _is_enough(group, now, rules) else _forgotten_at(group, rules)
    edit = None
    if group.unsaid and rules.can_edit and group.edited_at is not None:
        edit = group.edited_at + rules.edit_interval
    if group.state is GroupState.RESOLVED:
        return edit
    if group.state not in LIVE or group.seen_at is None:
        return None
    dues = [edit]
    if not group.holds:
        dues += [] if _waits_for_silence(group) else [group.seen_at + quiet_time(group, now, rules)]
        dues += [group.seen_at + _quiet_after(rules)] if group.state is not GroupState.QUIET else []
    if group.acknowledged is not None and group.state is not GroupState.QUIET:
        dues.append(group.acknowledged.until)
    if _is_quietened(group, rules):
        dues.append(group.silenced_until if group.muted_at is not None else None)
    else:
        dues += [escalation.due(group), _reminder_due(group, rules)]
        reason = worse(group, now)
        if group.spoke_at is not None and reason is not None:
            dues.append(group.spoke_at + (timedelta(0) if reason in AT_ONCE else rules.worse_after))
    return min((due for due in dues if due is not None), default=None)


def _continued(group: AlertGroup, now: datetime, rules: Rules) -> AlertGroup:
    """The group in the period in which it is to count."""
    if group.state is GroupState.RESOLVED and not _continues(group, now, rules):
        return group.next_period()
    return group


def _begun(group: AlertGroup, now: datetime) -> AlertGroup:
    """The group after it has counted something: pending, or no longer quiet."""
    if group.state in (GroupState.IDLE, GroupState.RESOLVED):
        return replace(group, state=GroupState.PENDING, pending_at=now)
    if group.state is GroupState.QUIET:
        return replace(group, state=_loud_state(group))
    return group


def _loud_state(group: AlertGroup) -> GroupState:
    return GroupState.OPEN if group.acknowledged is None else GroupState.ACKNOWLEDGED


def _continues(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    # A period whose message was never posted goes on: a new period would lose the alert.
    told = group.posted or group.digested
    return not told or group.resolved_at is None or now < group.resolved_at + rules.reopen_within


def _note(group: AlertGroup, event: Condition, now: datetime, rules: Rules) -> AlertGroup:
    if event.holds:
        return _begun(_continued(group, now, rules).note(event, now), now)
    return group.note(event, now)


def _note_letters(group: AlertGroup, letters: LettersChanged) -> AlertGroup:
    if letters == group.letters:
        return group
    return replace(group, letters=letters, unsaid=group.unsaid or group.state is not GroupState.IDLE)


def _note_members(group: AlertGroup, event: MembersChanged, now: datetime, rules: Rules) -> AlertGroup:
    members = Members(event.groups, event.largest)
    if members == group.members and event.total == group.total:
        return group
    if event.total <= group.total and event.groups <= (group.members.groups if group.members else 0):
        return replace(group, members=members, total=event.total, unsaid=True)
    group = _continued(group, now, rules)
    grown = replace(
        group, members=members, total=event.total, unsaid=True, seen_at=now, last_at=now, first_at=group.first_at or now
    )
    return _begun(grown, now)


def _put_back(group: AlertGroup, event: PutBack, now: datetime, rules: Rules) -> _Step:
    group = replace(group, audited=max(event.audited, group.audited or 0))
    if not event.letters or group.state in (GroupState.IDLE, GroupState.PENDING):
        return group, []
    facts = {"by": event.by, "why": event.reason, "letters": event.letters}
    return _reply_in_thread(group, now, rules, Notice.REQUEUED, **facts)


def _acknowledge(group: AlertGroup, event: Acknowledged, now: datetime, rules: Rules) -> _Step:
    if group.state not in LIVE:
        return group, []
    held = replace(group, acknowledged=Acknowledgement(event.by, now, event.until), escalation=None)
    held = replace(held, state=held.state if held.state is GroupState.QUIET else GroupState.ACKNOWLEDGED)
    return _reply_in_thread(held, now, rules, Notice.ACKNOWLEDGED, by=event.by, until=event.until.timestamp())


def _unacknowledge(group: AlertGroup, event: Unacknowledged, now: datetime, rules: Rules) -> _Step:
    if group.acknowledged is None:
        return group, []
    return _reply_in_thread(_without_acknowledgement(group), now, rules, Notice.UNACKNOWLEDGED, by=event.by)


def _without_acknowledgement(group: AlertGroup) -> AlertGroup:
    free = replace(group, acknowledged=None, unsaid=True)
    return replace(free, state=_loud_state(free) if free.state is not GroupState.QUIET else free.state)


def _by_this_clock(group: AlertGroup, now: datetime) -> AlertGroup:
    """The group without instants that lie ahead: a clock was set back, and must not make it wait for hours."""
    ahead: dict[str, Any] = {name: now for name in _INSTANTS if (at := getattr(group, name)) is not None and at > now}
    return replace(group, **ahead) if ahead else group


def _notify(group: AlertGroup, now: datetime, rules: Rules, tick: Tick) -> _Step:
    known_until, group = group.silenced_until, _covered(group, rules, tick)
    if group.silenced_until not in (None, known_until) and group.state in LIVE:
        until = group.silenced_until.timestamp() if group.silenced_until else 0.0
        return _reply_in_thread(group, now, rules, Notice.SILENCED, until=until)
    if group.state not in LIVE and _uncovered(group, rules, tick):
        group = replace(group, muted_at=None, silenced_until=None)
    if group.state is GroupState.PENDING:
        return _wait(group, now, rules, tick)
    if group.state is GroupState.RESOLVED:
        return _edit(group, now, rules, flush=tick.flush)
    if group.state not in LIVE:
        return group, []
    since = timedelta(0) if group.holds else now - (group.seen_at or _EPOCH)
    if since >= _quiet_after(rules):
        group = replace(group, state=GroupState.QUIET)
    if _is_void(group, now):
        group = _with_escalation(_without_acknowledgement(group), now, rules)
    if _uncovered(group, rules, tick):
        return _sum_up(group, now, rules)
    if not group.holds and since >= quiet_time(group, now, rules) and not _waits_for_silence(group):
        return _resolve(group, now, rules)
    return _grow(group, now, rules, flush=tick.flush)


def _covered(group: AlertGroup, rules: Rules, tick: Tick) -> AlertGroup:
    """The group with the silence or the inhibition that begins for it."""
    if group.state is not GroupState.PENDING and group.state not in LIVE:
        return group
    if tick.silenced_until is not None and group.silenced_until != tick.silenced_until:
        group = replace(group, silenced_until=tick.silenced_until, unsaid=True)
    if (tick.silenced_until is not None or tick.inhibited or rules.muted) and group.muted_at is None:
        return replace(group, muted_at=group.grown if group.spoke_at is not None else 0)
    return group


def _uncovered(group: AlertGroup, rules: Rules, tick: Tick) -> bool:
    """Whether the silence or the inhibition of the group has ended."""
    return group.muted_at is not None and tick.silenced_until is None and not tick.inhibited and not rules.muted


def _is_quietened(group: AlertGroup, rules: Rules) -> bool:
    """Whether the group may put nothing new into the channel."""
    return group.muted_at is not None or rules.muted or (group.digested and group.spoke_at is None)


def _waits_for_silence(group: AlertGroup) -> bool:
    """Whether failures under a silence were not reported yet: the group must not end before the silence does."""
    return group.silenced_until is not None and group.muted_at is not None and group.grown > group.muted_at


def _sum_up(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    """At the end of a silence or an inhibition: one summary if failures went on."""
    meanwhile, silenced = group.grown - (group.muted_at or 0), group.silenced_until is not None
    group = replace(group, muted_at=None, silenced_until=None, unsaid=True)
    group = _with_escalation(group, now, rules)
    if not (group.holds or meanwhile > 0) or (group.digested and group.spoke_at is None):
        return _edit(group, now, rules, flush=False)
    if silenced:
        return _say(group, now, rules, Notice.SILENCE_ENDED, meanwhile=meanwhile)
    return _post(group, now, Notice.OPENED) if group.spoke_at is None else _edit(group, now, rules, flush=False)


def _is_void(group: AlertGroup, now: datetime) -> bool:
    """Whether an acknowledgement has ended: its time is over and it still fails, or it got more severe."""
    held = group.acknowledged
    if held is None or worse(group, now) is Notice.SEVERITY_ROSE:
        return held is not None
    return now >= held.until and group.state is not GroupState.QUIET


def _wait(group: AlertGroup, now: datetime, rules: Rules, tick: Tick) -> _Step:
    if opens(group, now, rules, flush=tick.flush):
        return _open(group, now, rules, tick)
    forgotten_at = _forgotten_at(group, rules)
    if not group.holds and forgotten_at is not None and now >= forgotten_at:
        # too few came within the threshold's time; they stay counted
        before = GroupState.IDLE if group.resolved_at is None else GroupState.RESOLVED
        return replace(group, state=before, pending_at=None), []
    return group, []


def _is_enough(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    """Whether the threshold of dead letters is reached, or a condition holds."""
    if group.holds or group.members is not None:
        return True
    if rules.count <= 1:
        return group.total > 0
    return within(group.counted, now, rules.within) >= rules.count


def _forgotten_at(group: AlertGroup, rules: Rules) -> datetime | None:
    """When a group that has not enough for a message waits no longer."""
    return None if group.seen_at is None else group.seen_at + max(rules.within, rules.quiet)


def _wait_ends(group: AlertGroup, rules: Rules) -> datetime:
    if group.members is not None:
        return group.pending_at or _EPOCH  # its groups have waited
    urgent = group.critical or group.total - group.base >= URGENT_COUNT
    wait = min(rules.group_wait_urgent, rules.group_wait) if urgent else rules.group_wait
    return (group.pending_at or _EPOCH) + wait


def _quiet_after(rules: Rules) -> timedelta:
    """How long after its last dead letter a group is quiet: by then its last edit is due."""
    return min(rules.edit_interval, rules.quiet)


def _open(group: AlertGroup, now: datetime, rules: Rules, tick: Tick) -> _Step:
    reopened = group.resolved_at is not None
    group = replace(group, state=GroupState.OPEN, pending_at=None, resolved_at=None, opened_at=now)
    group = _with_escalation(group, now, rules)
    if reopened:
        group = group.with_flap(now)
    if tick.digested:
        return replace(group, digested=True), []
    group = replace(group, digested=False)
    if _is_quietened(group, rules):
        return _edit(group, now, rules, flush=False)
    if not reopened:
        return _post(group, now, Notice.DIGEST if group.members is not None else Notice.OPENED)
    if not rules.can_edit or group.spoke_at is None:
        return _post(group, now, Notice.REOPENED)
    return _reply(group, now, Notice.REOPENED, broadcast=_may_post(group, now, rules))


def _with_escalation(group: AlertGroup, now: datetime, rules: Rules) -> AlertGroup:
    return replace(group, escalation=escalation.begin(rules, group, now))


def _resolve(group: AlertGroup, now: datetime, rules: Rules) -> _Step:
    quietened = _is_quietened(group, rules)
    lasted = quiet_time(group, now, rules)
    group = replace(
        group, state=GroupState.RESOLVED, resolved_at=now, acknowledged=None, escalation=None, muted_at=None,
        silenced_until=None,
    )  # fmt: skip
    if quietened:
        return _edit(group, now, rules, flush=True)
    if not rules.can_edit:
        return _post(group, now, Notice.RESOLVED, quiet=lasted.total_seconds())
    return _reply(group, now, Notice.RESOLVED, broadcast=False, quiet=lasted.total_seconds())


def _grow(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    if _is_quietened(group, rules):
        return _edit(group, now, rules, flush=flush)
    reason = worse(group, now)
    if reason is not None and (reason in AT_ONCE or _may_post(group, now, rules)):
        return _say(group, now, rules, reason)
    further, taken = escalation.take(group, now)
    if taken is not None:
        return _escalate(further, taken, now, rules)
    due = _reminder_due(group, rules)
    if due is not None and now >= due:
        return _say(group, now, rules, Notice.REMINDER)
    return _edit(group, now, rules, flush=flush)


def _escalate(group: AlertGroup, taken: EscalationStep, now: datetime, rules: Rules) -> _Step:
    """Ask somebody else; a step without a channel of its own is a message in the group's, and counts as one."""
    facts: dict[str, Any] = {"mention": taken.mention, "channel": taken.channel, "after": taken.after.total_seconds()}
    if rules.can_edit and not taken.channel:
        return _reply(group, now, Notice.ESCALATED, broadcast=True, **facts)
    asked, intents = _intend(group, Kind.ESCALATION, Notice.ESCALATED, **facts)
    return (asked if taken.channel else _mark_posted(asked, now)), intents


def _reminder_due(group: AlertGroup, rules: Rules) -> datetime | None:
    """When people are to be reminded: failures went on since the last message, and nobody has acknowledged them."""
    if group.spoke_at is None or group.acknowledged is not None:
        return None
    went_on = group.holds or group.total > group.base or group.again > group.again_base
    return group.spoke_at + rules.reminder if went_on else None


def _edit(group: AlertGroup, now: datetime, rules: Rules, *, flush: bool) -> _Step:
    if not (group.unsaid and rules.can_edit and group.edited_at is not None):
        return group, []
    if not flush and now < group.edited_at + rules.edit_interval:
        return group, []
    notice = Notice.GROWTH if group.state is not GroupState.RESOLVED else Notice.UPDATED
    return _intend(replace(group, edited_at=now, unsaid=False), Kind.EDIT, notice)


def _may_post(group: AlertGroup, now: datetime, rules: Rules) -> bool:
    """Whether the last message in the channel is long enough ago; a group that got worse waits a shorter time."""
    least = rules.worse_after if worse(group, now) is not None else rules.cooldown
    return group.spoke_at is None or now >= group.spoke_at + least


def _say(group: AlertGroup, now: datetime, rules: Rules, notice: Notice, **facts: Any) -> _Step:
    """Put something new into the channel: the period's first message, or a reply that the channel shows, too."""
    if not rules.can_edit or group.spoke_at is None:
        return _post(group, now, notice, **facts)
    return _reply(group, now, notice, broadcast=True, **facts)


def _post(group: AlertGroup, now: datetime, notice: Notice, **facts: Any) -> _Step:
    posted, posts = _intend(group, Kind.POST, notice, **facts)
    return _mark_posted(posted, now), posts


def _reply(group: AlertGroup, now: datetime, notice: Notice, *, broadcast: bool, **facts: Any) -> _Step:
    edited, edits = _intend(group, Kind.EDIT, notice)
    replied, replies = _intend(edited, Kind.REPLY, notice, broadcast=broadcast, **facts)
    if broadcast:
        return _mark_posted(replied, now), edits + replies
    return replace(replied, edited_at=now, unsaid=False), edits + replies


def _reply_in_thread(group: AlertGroup, now: datetime, rules: Rules, notice: Notice, **facts: Any) -> _Step:
    """Reply in the thread alone; nothing where there is no message to reply to."""
    if group.spoke_at is None or not rules.can_edit:
        return replace(group, unsaid=True), []
    return _reply(group, now, notice, broadcast=False, **facts)


def _mark_posted(group: AlertGroup, now: datetime) -> AlertGroup:
    errors = {fingerprint: error.count for fingerprint, error in group.errors.items()}
    base = Base(group.rate(now), group.severity, group.signals, errors)
    return replace(
        group,
        base=group.total,
        again_base=group.again,
        spoke_at=now,
        edited_at=now,
        unsaid=False,
        spoken=base,
    )


def _intend(group: AlertGroup, kind: Kind, notice: Notice, *, broadcast: bool = False, **facts: Any) -> _Step:
    ordinal = group.ordinals.get(kind.value, 0)
    known = {"total": group.total, "base": group.base, **facts}
    if group.letters is not None:
        known["dead"] = group.letters.dead
    intent = Intent(kind, notice, group.period, ordinal, broadcast, known)
    return replace(group, ordinals={**group.ordinals, kind.value: ordinal + 1}), [intent]
