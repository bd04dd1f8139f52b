"""Who else is asked when nobody acknowledges an alert: pure, steps that were fixed when the group opened.

The steps are repeated twice at most, and only if failures went on since the last one. It must not know how a step is
delivered.
"""
# on its own: rules by themselves, as in worse.py

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from celery_guardrails.alerts.group import AlertGroup, Escalation
from celery_guardrails.alerts.rules import EscalationStep, Rules

__all__ = ["begin", "due", "take"]

_REPEATS = 2


def begin(rules: Rules, group: AlertGroup, now: datetime) -> Escalation | None:
    """The escalation of a group that opens now, or whose acknowledgement or silence ends now."""
    return Escalation(rules.escalation, now, grown=group.grown) if rules.escalation else None


def due(group: AlertGroup) -> datetime | None:
    """When the next step is due; `None`: there is none, or somebody has acknowledged the group."""
    held = group.escalation
    if held is None or group.acknowledged is not None or held.taken >= len(held.steps):
        return None
    if held.round and not held.taken and not _went_on(group, held):
        return None
    return held.started_at + held.steps[held.taken].after


def take(group: AlertGroup, now: datetime) -> tuple[AlertGroup, EscalationStep | None]:
    """The group with its next step taken, and that step; `None` where none is due."""
    held, at = group.escalation, due(group)
    if held is None or at is None or now < at:
        return group, None
    step = held.steps[held.taken]
    further = replace(held, taken=held.taken + 1, grown=group.grown)
    if further.taken == len(held.steps) and held.round < _REPEATS:
        further = replace(further, taken=0, round=held.round + 1, started_at=now)
    return replace(group, escalation=further), step


def _went_on(group: AlertGroup, held: Escalation) -> bool:
    return group.holds or group.grown > held.grown
