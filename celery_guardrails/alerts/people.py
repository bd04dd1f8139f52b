"""What people do about alerts: acknowledge one, silence some for a while, and take both back. Each is audited.

Owns which alert or silence is meant, what is refused, and that the change, its reply in the thread and its entry in the
audit trail are one transaction. It must not know how a person asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from uuid import uuid4

from celery_guardrails import clock
from celery_guardrails.alerts.engine import LIVE, step
from celery_guardrails.alerts.event import Acknowledged, EngineEvent, Unacknowledged
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.service import change_of
from celery_guardrails.alerts.stored import EVERY_STATE, every_group
from celery_guardrails.errors import AlertRefused, nearest
from celery_guardrails.store import alert, audit, silence
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.alert_change import apply_changes
from celery_guardrails.store.audit import AuditEntry
from celery_guardrails.store.engine import Store
from celery_guardrails.store.silence import Silence

__all__ = [
    "LONGEST_SILENCE",
    "Actor",
    "acknowledge",
    "end_silence",
    "find_alert",
    "new_silence",
    "unacknowledge",
]

LONGEST_SILENCE = timedelta(days=7)
_TRIES = 5


@dataclass(frozen=True)
class Actor:
    """Who acts, and why, as the audit trail keeps it."""

    by: str
    reason: str = ""


def find_alert(store: Store, alert_id: str) -> tuple[GroupRow, AlertGroup]:
    """The alert with this id, or whose id begins so.

    Raises:
        AlertRefused: there is none, or more than one.
        StoreError: the archive cannot be read.
    """
    begins = alert_id.strip().lower()
    with store.read() as conn:
        every = every_group(conn)
    found = [(row, group) for row, group in every if begins and group.alert_id.startswith(begins)]
    if not found:
        raise AlertRefused(f"there is no alert {alert_id}: `guardrails alerts list` shows their ids")
    if len(found) > 1:
        listed = ", ".join(sorted(group.alert_id for _, group in found[:5]))
        raise AlertRefused(f"several alerts begin with {alert_id}: {listed}")
    return found[0]


def acknowledge(store: Store, rules: Rules, alert_id: str, actor: Actor, lasts: timedelta, now: datetime) -> AlertGroup:
    """Note that somebody takes care of an alert; it ends after `lasts` if it still fails, or when severity rises.

    Raises:
        AlertRefused: there is no such alert, it is not open, or `lasts` is not between a minute and 7 days.
        StoreError: the archive cannot be read or written.
    """
    if not timedelta(minutes=1) <= lasts <= LONGEST_SILENCE:
        raise AlertRefused(f"an acknowledgement lasts from 1 minute to {clock.shown(LONGEST_SILENCE)}")
    event = Acknowledged(actor.by, now + lasts)
    return _act(store, rules, alert_id, event, AuditEntry(now, actor.by, "acknowledge", "", actor.reason))


def unacknowledge(store: Store, rules: Rules, alert_id: str, actor: Actor, now: datetime) -> AlertGroup:
    """Note that somebody no longer takes care of an alert.

    Raises:
        AlertRefused: there is no such alert, or nobody has acknowledged it.
        StoreError: the archive cannot be read or written.
    """
    event = Unacknowledged(actor.by)
    return _act(store, rules, alert_id, event, AuditEntry(now, actor.by, "unacknowledge", "", actor.reason))


def new_silence(
    store: Store,
    wanted: Silence,
    known_tasks: Iterable[str],
    *,
    now: datetime,
) -> Silence:
    """Silence the alerts of a task or of a pattern of tasks until an instant.

    Args:
        store: the archive.
        wanted: the silence; its `id` is made here.
        known_tasks: the application's tasks; those that have an alert are known, too.
        now: this instant.

    Raises:
        AlertRefused: it has no end, an end that is past or too far away, no reason, or no known task.
        StoreError: the archive cannot be read or written.
    """
    if not wanted.reason.strip():
        raise AlertRefused("a silence needs a reason: whoever sees it later wants to know why")
    if wanted.until <= now:
        raise AlertRefused("a silence has an end that is still to come")
    if wanted.until > now + LONGEST_SILENCE:
        raise AlertRefused(f"a silence lasts {clock.shown(LONGEST_SILENCE)} at most: what is longer is forgotten")
    made = replace(wanted, id=uuid4().hex[:12])
    with store.begin() as conn:
        known = {*known_tasks, *(row.task for row in alert.load_groups(conn, states=EVERY_STATE))}
        if not any(fnmatchcase(task, made.task) for task in known):
            near = nearest(made.task, known)
            hint = f": did you mean {near}?" if near else ""
            raise AlertRefused(f"no task that the application or an alert has matches {made.task}{hint}")
        silence.add(conn, made)
        after = {"task": made.task, "until": made.until, "fingerprint": made.fingerprint, "queue": made.queue}
        audit.append(conn, AuditEntry(now, made.created_by, "silence", made.id, made.reason, after=after))
    return made


def end_silence(store: Store, silence_id: str, actor: Actor, now: datetime) -> Silence:
    """End a silence now.

    Raises:
        AlertRefused: no silence that lasts has this id, or begins so, or several do.
        StoreError: the archive cannot be read or written.
    """
    with store.begin() as conn:
        begins = silence_id.strip().lower()
        found = [one for one in silence.lasting(conn, now) if begins and one.id.startswith(begins)]
        if len(found) != 1:
            words = "no silence that lasts" if not found else "more than one silence"
            raise AlertRefused(f"{words} has the id {silence_id}: `guardrails alerts silences` lists them")
        if not silence.end(conn, found[0].id, actor.by, now):
            raise AlertRefused(f"the silence {found[0].id} has ended meanwhile")
        audit.append(conn, AuditEntry(now, actor.by, "unsilence", found[0].id, actor.reason))
    return found[0]


def _act(store: Store, rules: Rules, alert_id: str, event: EngineEvent, entry: AuditEntry) -> AlertGroup:
    """Step an alert, and store it with what it notifies and the entry; again if a guardian was quicker."""
    for _ in range(_TRIES):
        row, group = find_alert(store, alert_id)
        if group.state not in LIVE:
            raise AlertRefused(f"alert {group.alert_id} of {group.task} is {group.state}: nothing needs anybody's care")
        if isinstance(event, Unacknowledged) and group.acknowledged is None:
            raise AlertRefused(f"alert {group.alert_id} of {group.task} is not acknowledged")
        after, intents = step(group, event, entry.at, rules)
        audited = replace(entry, target=group.alert_id, before=_shown(group), after=_shown(after))
        change = change_of(after, row, intents, entry.at)
        if apply_changes(store, [change], entry.at, [audited]) is not None:
            return after
    raise AlertRefused(f"alert {alert_id} changes all the time: try again")


def _shown(group: AlertGroup) -> dict[str, object]:
    held = group.acknowledged
    return {"task": group.task, "state": str(group.state)} | ({"until": held.until, "by": held.by} if held else {})
