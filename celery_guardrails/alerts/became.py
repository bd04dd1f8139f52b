"""What became of a group's dead letters: how many are in which state, and who has requeued some since the last look.

Owns which letters are a group's, and when requeues are told of: together, once nobody has requeued more for ten
seconds. It must not know how a group reacts.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypedDict

from celery_guardrails.alerts.condition import OWN_HEALTH
from celery_guardrails.alerts.event import EngineEvent, LettersChanged, PutBack
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.policy.decision import Reason
from celery_guardrails.store import alert
from celery_guardrails.store.alert import Requeued

__all__ = ["became", "has_letters"]

_SETTLED = timedelta(seconds=10)
"""So long after the last requeue they are told of."""
_LONGEST = timedelta(minutes=1)
"""So long after the first one they are told of in any case."""
_MOST_PEOPLE = 3
_MOST_ENTRIES = 500
"""So many new entries of the audit trail are read again at each look, before the group notes how far it has read."""


class _Meant(TypedDict, total=False):
    task: str
    reason: str
    fingerprint: str | None


def has_letters(group: AlertGroup) -> bool:
    """Whether there may be dead letters of this group in the archive."""
    return group.members is None and group.task != OWN_HEALTH


def became(conn: Any, group: AlertGroup, now: datetime, *, flush: bool = False) -> list[EngineEvent]:
    """What has become of a group's letters by now.

    Args:
        conn: a transaction.
        group: the group.
        now: this instant.
        flush: do not wait until nobody requeues more.
    """
    meant: _Meant = {"task": group.task, "fingerprint": group.fingerprint}
    if group.unknown_names is not None:
        meant = {"reason": Reason.UNKNOWN_TASK.value}
    states = alert.letter_states(conn, group.environment, **meant)
    names = ("dead", "requeued", "recovered", "discarded")
    changed: EngineEvent = LettersChanged(**{name: states.get(name, 0) for name in names})
    return [changed, *_put_back(conn, group, meant, now, flush=flush)]


def _put_back(conn: Any, group: AlertGroup, meant: _Meant, now: datetime, *, flush: bool) -> list[PutBack]:
    latest = alert.latest_audit_entry(conn)
    if group.audited is None:
        return [PutBack(latest)]  # what was requeued before there was an alert is no answer to it
    if latest <= group.audited:
        return []
    found = alert.requeues(conn, group.environment, after=group.audited, **meant)
    if not found:
        return [PutBack(latest)] if latest > group.audited + _MOST_ENTRIES else []
    first, last = min(one.first_at for one in found), max(one.last_at for one in found)
    if not flush and now < last + _SETTLED and now < first + _LONGEST:
        return []
    return [PutBack(latest, one.by, one.reason, one.letters) for one in _few(found)]


def _few(found: list[Requeued]) -> list[Requeued]:
    """One for each person and reason; where they are many, one for all."""
    if len(found) <= _MOST_PEOPLE:
        return found
    people = list(dict.fromkeys(one.by for one in found))
    more = f" and {len(people) - _MOST_PEOPLE} more" if len(people) > _MOST_PEOPLE else ""
    letters = sum(one.letters for one in found)
    by = ", ".join(people[:_MOST_PEOPLE]) + more
    return [Requeued(by, f"{len(found)} different reasons", letters, found[0].first_at, found[-1].last_at)]
